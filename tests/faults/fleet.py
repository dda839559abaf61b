"""Several gateways with several workers each, that share limits in a store; a provider that notes what it sees, and
clients that ask for more than is allowed. All of it can fail."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random

import h11
import trio

from onwards_core import LeaseTerms
from tests.faults.promises import Allowance, Request, Span, first_after, joined, most_at_once, most_beyond, outside
from tests.trio.gateway_support import Client

LEASE = 2.0
TERMS = LeaseTerms("any", LEASE)
WORKERS = 2
RATES = {"slow": (40, 10), "stocked": (120, 120)}
"""For each alias, requests a second and burst. Of the second one gateways are lent a stock."""
AT_ONCE = 12


class Gateway:
    """One gateway: a parent and its workers, or one process."""

    def __init__(self, number: int, processes: int = WORKERS) -> None:
        self.number = number
        self._processes = processes
        self.port = 0
        self.workers: dict[int, int] = {}
        """Process ids, by number."""
        self.ready = 0
        """How many workers there ever were."""
        self.lines: list[str] = []
        self.away: dict[str, float] = {}
        """Which workers are by themselves, since when."""
        self.alone: list[Span] = []
        """When workers were by themselves."""
        self._changed = trio.Event()

    async def run(self, config: Path, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until it ends; has started when it listens."""
        command = [sys.executable, "-m", "onwards_trio", "serve", "-f", config, "--host", "127.0.0.1", "-p", "0"]
        command += ["--no-metrics", "--no-watch", "--log-format", "json", "--workers", self._processes]
        self.process = await trio.lowlevel.open_process([*map(str, command)], stderr=subprocess.PIPE)
        rest = b""
        try:
            async for data in self.process.stderr:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._read(line.decode())
                    if self.port and (self._processes == 1 or self.ready >= self._processes):
                        task_status.started()
                        task_status = trio.TASK_STATUS_IGNORED
                self._changed.set()
                self._changed = trio.Event()
        finally:
            with trio.CancelScope(shield=True):
                self.process.kill()
                await self.process.wait()
            for since in self.away.values():
                self.alone.append((since, trio.current_time()))

    def _read(self, line: str) -> None:
        self.lines.append(line)
        told = json.loads(line)
        message = told["message"]
        if found := re.search(r"worker (\d+) is ready, process (\d+)", message):
            self.workers[int(found[1])] = int(found[2])
            self.ready += 1
        elif found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", message):
            self.port = int(found[1])
        elif found := re.search(r"(worker \d+) has crashed", message):
            self._is_back(found[1], trio.current_time())
        elif "limits can't be reached" in message:
            self.away.setdefault(told["process"], self._when(told))
        elif "limits is back" in message:
            self._is_back(told["process"], self._when(told))

    def _is_back(self, process: str, at: float) -> None:
        if (since := self.away.pop(process, None)) is not None:
            self.alone.append((since, at))

    def _when(self, told: dict[str, str]) -> float:
        return in_our_time(datetime.fromisoformat(told["time"]).timestamp())

    @property
    def errors(self) -> list[str]:
        """Lines about what is none of the faults."""
        expected = r'"level":"(info|debug)"|limits can\'t be reached|has crashed'
        return [line for line in self.lines if not re.search(expected, line)]

    async def become(self, ready: int) -> None:
        """Until there were so many workers."""
        with trio.fail_after(30):
            while self.ready < ready:
                await self._changed.wait()

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes; the parent first, which else would think its workers dead."""
        for pid in (self.process.pid, *self.workers.values()):
            os.kill(pid, number)


class Fleet:
    """What happens, and what came of it. Begin with `running`."""

    def __init__(self, seed: int, folder: Path, state: dict[str, object], gateways: int = 3) -> None:
        self.random = Random(seed)
        self.gateways = [Gateway(number) for number in range(gateways)]
        self.requests: list[Request] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.kills: list[list[float]] = [[] for _ in self.gateways]
        """When a gateway's processes were killed."""
        self.absences: list[list[Span]] = [[] for _ in self.gateways]
        """When a gateway could not be heard by the store, since either of them was stopped."""
        self.stops: list[list[Span]] = [[] for _ in self.gateways]
        """Those of them that were the gateway's own."""
        self.outages: list[Span] = []
        """When the store gave nothing to anybody."""
        self.refills: list[float] = []
        self.forgotten: list[Span] = []
        """What was written then a replica did not know when it became the primary, perhaps."""
        self.under_way = 0
        self._stopped = 0.0
        """When all clients left."""
        self._full = trio.Event()
        self._config = folder / "config.json"
        self._state = {"lease_seconds": LEASE, **state}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=256)
            nursery.start_soon(partial(trio.serve_listeners, self._provide, [listener]))
            providers = [{"url": f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"}]
            targets: dict[str, object] = {
                alias: {"rate_limit": {"requests_per_second": rate, "burst_size": burst}, "providers": providers}
                for alias, (rate, burst) in RATES.items()
            }
            targets["held"] = {"concurrency_limit": {"max_concurrent_requests": AT_ONCE}, "providers": providers}
            self._config.write_text(json.dumps({"targets": targets, "state": self._state}))
            async with trio.open_nursery() as starting:
                for gateway in self.gateways:
                    starting.start_soon(nursery.start, gateway.run, self._config)
            async with trio.open_nursery() as load:
                # One gateway has most of the load, so that it is lent stocks.
                for alias, clients, pause in (("slow", 8, 0.02), ("stocked", 12, 0.02), ("held", 24, 0.05)):
                    for _ in range(clients):
                        load.start_soon(self._ask, alias, pause)
                yield
                self._stopped = trio.current_time()
                load.cancel_scope.cancel()
            for gateway in self.gateways:
                gateway.process.terminate()
            with trio.move_on_after(10):
                for gateway in self.gateways:
                    await gateway.process.wait()
            nursery.cancel_scope.cancel()

    # Clients and providers

    async def _ask(self, alias: str, pause: float) -> None:
        while True:
            gateway = self.random.choices(self.gateways, [6, 2, 1][: len(self.gateways)])[0]
            async with AsyncExitStack() as stack:
                try:
                    stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", gateway.port))
                except OSError:
                    await trio.sleep(pause)
                    continue
                client = Client(stream)
                for _ in range(self.random.randrange(1, 40)):
                    status = await self._exchange(client, alias, gateway.number)
                    if status is None:
                        break
                    await trio.sleep(0 if status == 200 else pause)

    async def _exchange(self, client: Client, alias: str, gateway: int) -> int | None:
        """The status, if the connection is good for another one."""
        holds = self.random.choice([0.05, 0.1, 0.2, 0.2, 3.0]) if alias == "held" else 0.0
        request = Request(alias, gateway, holds, trio.current_time())
        self.requests.append(request)
        body = b'{"model": "%b"}' % alias.encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Number: %d\r\nContent-Length: %d\r\n\r\n"
        with trio.move_on_after(self.random.choice([0.7, 1.5, 5.0])) as scope:
            try:
                answer = await client.ask(head % (len(self.requests) - 1, len(body)) + body)
            except (trio.BrokenResourceError, h11.RemoteProtocolError, AssertionError):
                request.broken = True
                self.statuses[alias, 0] += 1
                return None
        if scope.cancelled_caught:
            request.left = trio.current_time()
            return None
        request.broken = not answer.whole
        self.statuses[alias, answer.status] += 1
        return answer.status if answer.whole and answer.headers.get(b"connection") != b"close" else None

    async def _provide(self, stream: trio.SocketStream) -> None:
        head = b""
        try:
            while data := await stream.receive_some(65536):
                head += data
                if not head.endswith(b"}"):  # of the body
                    continue
                [number] = re.findall(rb"x-number: (\d+)", head, re.IGNORECASE)
                head = b""
                request = self.requests[int(number)]
                request.seen = trio.current_time()
                if request.alias == "held" and not await self._hold(request, stream):
                    return
                request.done = trio.current_time()
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        except trio.BrokenResourceError:
            pass

    async def _hold(self, request: Request, stream: trio.SocketStream) -> bool:
        """Whether there is still somebody who waits for the answer."""
        self.under_way += 1
        if self.under_way == AT_ONCE:
            self._full.set()
            self._full = trio.Event()
        try:
            with trio.move_on_after(request.holds) as scope:
                await stream.receive_some(1)
        finally:
            self.under_way -= 1
        return scope.cancelled_caught

    # What is promised

    async def all_permits(self, within: float) -> float:
        """Until all are held at the same time. Gives how long that took: seconds."""
        start = trio.current_time()
        if self.under_way < AT_ONCE:
            with trio.fail_after(within):
                await self._full.wait()
        return trio.current_time() - start

    def beyond(self, alias: str) -> float:
        """By how many requests the rate was exceeded in the worst of all windows."""
        spans = [
            (each.sent, each.seen)
            for each in self.requests
            if each.alias == alias
            and each.seen is not None
            and not any(start <= each.seen <= end for start, end in self.forgotten)
        ]
        rate, burst = RATES[alias]
        by_themselves = chain.from_iterable(gateway.alone for gateway in self.gateways)
        alone = outside(((start + TERMS.pause, end) for start, end in by_themselves), self.outages)
        # One gateway fails at a time, so nobody knows of fewer processes than those of the others.
        share = 1 / ((len(self.gateways) - 1) * WORKERS)
        return most_beyond(spans, Allowance(rate, burst, self.refills, alone, share))

    def beyond_as_seen(self, alias: str) -> float:
        """The same with the provider's times alone, as if nothing had travelled and nothing failed."""
        rate, burst = RATES[alias]
        seen = [each.seen for each in self.requests if each.alias == alias and each.seen is not None]
        return most_beyond([(at, at) for at in seen], Allowance(rate, burst))

    def most_held(self) -> int:
        """The most permits that were certainly held at the same time."""
        return most_at_once(self._held(each) for each in self.requests if each.alias == "held" and each.seen)

    def _held(self, request: Request) -> Span:
        assert request.seen is not None
        ends = [request.done, request.left, self._stopped]
        if request.broken:
            ends.append(first_after(self.kills[request.gateway], request.seen))
        alone = self.gateways[request.gateway].alone
        absences = [*self.absences[request.gateway], *alone]
        dead = chain(_dead(absences), _dead(self.stops[request.gateway]))
        ends += [dies for dies, back in dead if request.seen < dies <= back]
        # Who is cut off alone may have its share beside what others get.
        if any(dead <= request.seen <= back for dead, back in _dead(outside(alone, self.outages))):
            ends.append(request.seen)
        return request.seen, min(end for end in ends if end is not None)


def in_our_time(wall: float) -> float:
    """On Trio's clock. Between two looks at clocks this process may have to wait, the less often the more looks."""
    return wall + max(trio.current_time() - time.time() for _ in range(10))


def _dead(absences: Iterable[Span]) -> Iterator[Span]:
    """When somebody is taken for dead: who was not heard of for as long as the lease. The last sign of life may be a
    beat older, and the next one a beat late. Who is stopped while the store is away was not heard of all that time."""
    silent, shortest = joined(absences, within=TERMS.beat), LEASE - 2 * TERMS.beat
    return ((start + shortest, end) for start, end in silent if end - start > shortest)
