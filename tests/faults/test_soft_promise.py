"""What one gateway has no use for is soon there for another: while somebody is refused, no more than a twentieth of a
concurrency limit lies unused. Real gateways, a real store, and a provider that holds what it gets."""

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.faults.fleet import Gateway
from tests.trio.gateway_support import Client
from tests.trio.store_support import needs_server, store_server

LIMIT = 40
PROMISED = LIMIT - LIMIT // 20
CLIENTS = 60
"""Of each gateway: more than the limit."""
PAUSE = 0.2
"""Seconds until a client who was refused comes again."""
PATIENCE = 20.0
"""Seconds for what takes some tenths of one."""
BODY = b'{"model": "held"}'

pytestmark = [needs_server, pytest.mark.skipif(sys.platform != "linux", reason="needs workers")]


class Pair:
    """Two gateways, clients that come and leave, and a provider that answers when it is told to."""

    def __init__(self, processes: int) -> None:
        self.gateways = [Gateway(number, processes) for number in range(2)]
        self.held = Counter[int]()
        """Exchanges that the provider has not answered, by gateway."""
        self.most = 0
        """Of both together, ever."""
        self.refused = [0, 0]
        """Requests, by gateway, since it was last set to nothing."""
        self._answered = [trio.Event(), trio.Event()]
        self._unwanted = [trio.Event(), trio.Event()]
        self._changed = trio.Event()

    @asynccontextmanager
    async def running(self, folder: Path, url: str) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=256)
            nursery.start_soon(partial(trio.serve_listeners, self._provide, [listener]))
            pool = {
                "concurrency_limit": {"max_concurrent_requests": LIMIT},
                "providers": [{"url": f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"}],
            }
            config = folder / "config.json"
            config.write_text(json.dumps({"targets": {"held": pool}, "state": {"url": url}}))
            async with trio.open_nursery() as starting:
                for gateway in self.gateways:
                    starting.start_soon(nursery.start, gateway.run, config)
            async with trio.open_nursery() as self._clients:
                yield
                self.leave(0)
                self.leave(1)
            for gateway in self.gateways:
                gateway.process.terminate()
            for gateway in self.gateways:
                await gateway.process.wait()
            nursery.cancel_scope.cancel()

    def come(self, number: int) -> None:
        """Clients of this gateway, who want more than there is, again and again."""
        self.refused[number] = 0
        self._answered[number] = trio.Event()
        self._unwanted[number] = trio.Event()
        for _ in range(CLIENTS):
            self._clients.start_soon(self._ask, number, self._unwanted[number])

    def leave(self, number: int) -> None:
        """What is held of this gateway ends, and its clients want nothing more."""
        self._unwanted[number].set()
        self._answered[number].set()
        self.held[number] = 0

    def answer(self, number: int) -> None:
        """What is held of this gateway ends; its clients want more."""
        self._answered[number].set()
        self._answered[number] = trio.Event()
        self.held[number] = 0

    async def until(self, holds: Callable[[], bool]) -> float:
        """Gives how many seconds that took."""
        start = trio.current_time()
        with trio.fail_after(PATIENCE):
            while not holds():
                await self._changed.wait()
        return trio.current_time() - start

    async def _ask(self, number: int, unwanted: trio.Event) -> None:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nX-Gateway: %d\r\nContent-Length: %d\r\n\r\n"
        async with await trio.open_tcp_stream("127.0.0.1", self.gateways[number].port) as stream:
            client = Client(stream)
            while not unwanted.is_set():
                answer = await client.ask(head % (number, len(BODY)) + BODY)
                if answer.status != 200:
                    assert (answer.status, answer.code) == (429, "concurrency_limit_exceeded")
                    self.refused[number] += 1
                    self._tell()
                    with trio.move_on_after(PAUSE):
                        await unwanted.wait()

    async def _provide(self, stream: trio.SocketStream) -> None:
        request = b""
        while data := await stream.receive_some(65536):
            request += data
            if request.endswith(BODY):
                number = int(request.lower().partition(b"x-gateway: ")[2][:1])
                request = b""
                answered = self._answered[number]
                if not answered.is_set():
                    self.held[number] += 1
                    self.most = max(self.most, self.held.total())
                    self._tell()
                await answered.wait()
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


@pytest.mark.parametrize("processes", [1, 2])
async def test_permits_follow_demand(processes: int, tmp_path: Path) -> None:
    """Demand moves from one gateway to the other, and back, and then both want more than there is. Each time as many
    exchanges as promised are under way again; there never are more than the limit allows."""
    with store_server(tmp_path) as store:
        pair = Pair(processes)
        async with pair.running(tmp_path, store.url):
            pair.come(0)
            took = [await pair.until(lambda: pair.held[0] >= PROMISED)]
            for had, wants in ((0, 1), (1, 0)):
                pair.come(wants)
                await pair.until(lambda wants=wants: pair.refused[wants] >= CLIENTS)
                pair.leave(had)
                took.append(await pair.until(lambda wants=wants: pair.held[wants] >= PROMISED))
            pair.come(1)
            for _ in range(5):
                await pair.until(lambda: min(pair.refused) > 0)
                pair.refused = [0, 0]
                pair.answer(0)
                pair.answer(1)
                took.append(await pair.until(lambda: pair.held.total() >= PROMISED))
    print(f"seconds until {PROMISED} of {LIMIT} were in use: {[round(each, 2) for each in took]}")
    assert pair.most <= LIMIT
    assert [line for gateway in pair.gateways for line in gateway.errors] == []
