"""Thousands of exchanges with the program, with providers and clients that fail in every way, by a seeded schedule.

Each exchange ends as its faults say that it must: in a whole answer, an honest error, or a break that its client can
see; no answer is ever another one's; and in the end nothing is left of any of them.

`FAULT_EXCHANGES=200000 FAULT_SEED=7 pytest tests/faults` runs longer, or differently. With `FAULT_RATE=250` it starts
that many exchanges a second, and so reloads each second.
"""

import json
import os
import re
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from random import Random
from statistics import linear_regression

import pytest
import trio

from tests.faults import providers
from tests.faults.providers import BEHAVIOURS, BROKEN, FAILED, RETRIED, Provider
from tests.trio.gateway_support import Answered, Client
from tests.trio.program_support import read_until, running

EXCHANGES = int(os.environ.get("FAULT_EXCHANGES", "10000"))
SEED = int(os.environ.get("FAULT_SEED", "1"))
RATE = float(os.environ.get("FAULT_RATE", "inf"))
EXCHANGES_PER_RELOAD = 250
CLIENTS = 40
IDLE = 10

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


def config(ports: list[int], generation: int) -> str:
    """Two providers in order of priority, the second one for whatever the first one can't do."""
    limit = {"concurrency_limit": {"max_concurrent_requests": 10 * CLIENTS}}
    pool = {
        "strategy": "priority",
        "fallback": {"enabled": True, "on_status": [429, 5]},
        "request_timeout_secs": 5,  # On a busy machine, also our providers may take a second.
        "providers": [{"url": f"http://127.0.0.1:{port}/", "onwards_key": f"k{generation}", **limit} for port in ports],
        **limit,
    }
    return json.dumps({"targets": {"m": pool}, "http_pool": {"max_idle_per_host": IDLE}})


Expected = tuple[int, bytes | None, bool]
"""Status, body (None: any), and whether the answer is whole."""


def expected(plan: list[str], nonce: bytes, name: str = "") -> list[Expected]:
    """What may come of the behaviours in the plan, one for each provider that is left; `name`: of the one before."""
    if not plan:
        return [(504 if name == "silent" else 502, None, True)]
    name, *others = plan
    behaviour = BEHAVIOURS[name]
    if behaviour in FAILED or (behaviour in RETRIED and others):
        return expected(others, nonce, name)
    if behaviour in RETRIED:
        return [(429 if behaviour is providers.busy else 503, providers.body(nonce), True)]
    if behaviour is providers.reset_stream:  # A reset may overtake what came before it.
        return [(200, None, False), *expected(others, nonce, name)]
    if behaviour in (*BROKEN, providers.cut_stream):
        return [(200, None, False)]
    if behaviour is providers.streamed:
        return [(200, b"".join(providers.events(nonce)), True)]
    if behaviour is providers.refusing:
        return [(400, providers.body(nonce), True)]
    return [(200, nonce if behaviour is providers.bytewise else providers.body(nonce), True)]


class Schedule:
    """What the clients do, and what came of it."""

    def __init__(self, port: int, count: int, reload: Callable[[], None]) -> None:
        self.port = port
        self.reload = reload
        self.left = count
        self._next_start = trio.current_time()
        self.outcomes: Counter[str] = Counter()
        self._random = Random(SEED)
        self._names = [name for name in BEHAVIOURS if name != "silent"] * 40 + ["silent"]

    async def client(self) -> None:
        while self.left > 0:
            client = Client(await trio.open_tcp_stream("127.0.0.1", self.port))
            with suppress(trio.BrokenResourceError):
                async with client.stream:
                    while self.left > 0 and await self._exchange(client):
                        pass

    async def _exchange(self, client: Client) -> bool:
        """One exchange; whether the connection is good for another one."""
        self.left -= 1
        if not self.left % EXCHANGES_PER_RELOAD:
            self.reload()
        self._next_start += 1 / RATE
        await trio.sleep_until(self._next_start)
        # The first provider mostly works, as in life: otherwise nothing but its faults would be seen.
        plan = [self._random.choice(self._names), self._random.choice(self._names)]
        nonce = b"%032x" % self._random.getrandbits(128)
        content = b'{"model":"m","n":"%b"}' % nonce
        fields = b"Host: h\r\nX-Plan: %b\r\nX-Nonce: %b\r\n" % (" ".join(plan).encode(), nonce)
        request = b"POST /v1/chat/completions HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (
            fields,
            len(content),
            content,
        )
        match self._random.randrange(20):
            case 0:
                return await self._leave(client, request[: self._random.randrange(len(request))], "left while sending")
            case 1:
                return await self._leave(client, request, "left while waiting")
            case 2:
                await client.stream.send_all(request)
                await client.stream.receive_some(self._random.randrange(1, 200))
                return await self._leave(client, b"", "left while receiving")
            case 3:
                return await self._malformed(client, request)
            case 4:
                for start in range(0, len(request), 40):
                    await client.stream.send_all(request[start : start + 40])
                return self._check(plan, nonce, await client.answer())
            case _:
                return self._check(plan, nonce, await client.ask(request))

    async def _leave(self, client: Client, sent: bytes, how: str) -> bool:
        await client.stream.send_all(sent)
        self.outcomes[how] += 1
        return False

    async def _malformed(self, client: Client, request: bytes) -> bool:
        broken = self._random.choice(
            [
                request.replace(b"Content-Length", b"Content-Length : 1\r\nContent-Length"),
                request.replace(b"Host: h\r\n", b""),
                request.replace(b"\r\nX-Plan", b"\nX-Plan"),
                request.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length"),
                request.replace(b"HTTP/1.1", b"HTTP/3.0"),
                request.replace(b" /v1", b" http://elsewhere.example/v1"),
                request.replace(b"/v1/", b"/v1/%2e%2e/"),
                request.replace(b"POST", b"TRACE"),
            ]
        )
        answer = await client.ask(broken)
        assert answer.status == 400
        assert answer.code == "bad_request"
        self.outcomes["malformed"] += 1
        return False

    def _check(self, plan: list[str], nonce: bytes, answer: Answered) -> bool:
        alike = [each for each in expected(plan, nonce) if (each[0], each[2]) == (answer.status, answer.whole)]
        assert alike, (plan, answer.status, answer.whole)
        status, content, whole = alike[0]
        if content is not None:
            assert answer.body == content, plan
        elif whole:
            assert answer.code == ("gateway_timeout" if status == 504 else "bad_gateway"), plan
        else:
            assert b"poison" not in answer.body
            told = b'"bad_gateway"' in answer.body
            assert told or BEHAVIOURS[plan[0]] in BROKEN or BEHAVIOURS[plan[1]] in BROKEN, plan
        self.outcomes["whole" if whole and status == 200 else "error" if whole else "broken off"] += 1
        return whole and answer.headers.get(b"connection") != b"close"


class Process:
    """What can be seen of the gateway from outside."""

    def __init__(self, pid: int, metrics_port: int) -> None:
        self.pid = pid
        self._metrics_port = metrics_port

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def memory(self) -> int:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def under_way(self) -> tuple[int, int]:
        """Requests, and tasks of the event loop."""
        connection = HTTPConnection("127.0.0.1", self._metrics_port, timeout=20)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        pending = re.findall(r"^onwards_http_requests_pending\{.*\} (.*)$", text, re.MULTILINE)
        [tasks] = re.findall(r"^onwards_event_loop_tasks (.*)$", text, re.MULTILINE)
        return sum(map(int, map(float, pending))), int(float(tasks))


@pytest.mark.parametrize(("codec", "count"), [("httptools", EXCHANGES), ("h11", EXCHANGES // 5)])
async def test_each_exchange_ends_as_it_must(
    codec: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # Its lines are covered elsewhere, and faster.
    async with trio.open_nursery() as serving:
        ports = []
        for number in range(2):
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
            ports.append(listener.socket.getsockname()[1])
            serving.start_soon(trio.serve_listeners, Provider(number).serve, [listener])
        file = tmp_path / "config.json"
        file.write_text(config(ports, 0))
        address = ["--host", "127.0.0.1", "-p", "0", "--metrics-port", "0", "--http-codec", codec]
        with running("serve", "-f", file, *address, seconds=60 + count / 100) as program:
            said = await trio.to_thread.run_sync(read_until, program, "listening on")
            metrics, port = map(int, re.findall(r"http://127\.0\.0\.1:(\d+)", said))
            process = Process(program.pid, metrics)
            faults: list[str] = []
            last_lines: deque[str] = deque(maxlen=100)  # for whoever looks into a failure

            def listen() -> None:
                for line in program.stdout:
                    last_lines.append(line)
                    if re.search(r"internal error|ERROR|Traceback", line):
                        faults.append(line)

            serving.start_soon(partial(trio.to_thread.run_sync, listen))
            before, tasks = process.descriptors(), process.under_way()[1]
            seen: list[tuple[int, int, int]] = []  # exchanges, bytes of memory, descriptors

            def reload() -> None:
                seen.append((count - schedule.left, process.memory(), process.descriptors()))
                new = file.with_suffix(".new")
                new.write_text(config(ports, len(seen)))
                new.replace(file)
                program.send_signal(signal.SIGHUP)

            start = trio.current_time()
            schedule = Schedule(port, count, reload)
            try:
                async with trio.open_nursery() as clients:
                    for _ in range(CLIENTS):
                        clients.start_soon(schedule.client)
            except BaseException:
                print("".join(last_lines))
                raise
            # After half of them it has what it needs.
            exchanges, memory, descriptors = zip(*seen[len(seen) // 2 :], strict=True)
            print(dict(schedule.outcomes), f"reloads: {len(seen)}, {trio.current_time() - start:.0f} seconds")
            slope = linear_regression(exchanges, memory).slope
            print(f"memory: {memory[0]} to {memory[-1]} bytes, {slope:.1f} for each exchange")
            slope = linear_regression(exchanges, descriptors).slope
            print(
                f"descriptors: {before}, then {min(descriptors)} to {max(descriptors)}, {slope:.6f} for each exchange"
            )
            # Clients have closed; the gateway needs a moment to see that, and keeps some connections to providers.
            with trio.fail_after(20):
                while process.under_way() > (0, tasks) or process.descriptors() > before + 2 * IDLE:
                    await trio.lowlevel.checkpoint()
            assert memory[-1] - memory[0] < 8_000_000
            program.terminate()
            assert await trio.to_thread.run_sync(partial(program.wait, timeout=20)) == 0
        assert not faults
        assert sum(schedule.outcomes.values()) >= 0.99 * count
        assert min(schedule.outcomes[kind] for kind in ("whole", "error", "broken off", "malformed")) > count / 100
        serving.cancel_scope.cancel()
