"""Limits that workers share through their parent: over the channel, and in the whole program."""

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from onwards_core._lease_calls import Absence, Beat, Beaten, HoldPermits, Pace, PermitsHeld, TakeTokens, TokensTaken
from onwards_core._lease_store import LeaseStore
from onwards_trio._channel import Channel
from onwards_trio._store import StoreError
from onwards_trio._store._embedded import NAME, EmbeddedStore, ParentStore
from tests.trio.gateway_support import tcp_pair
from tests.trio.program_support import read_until, running

LEASE = 10_000_000
BEAT = Beat("one", LEASE, 0, "config", absences=(Absence("open", "provider", 1000),))
HOLD = HoldPermits("limit", 3, "one", 1, 0, 2, 1, LEASE, 0)
TAKE = TakeTokens("bucket", Pace(1000, 1, 4000), 2, stock=1, lifetime=500)


async def test_calls_over_a_channel(autojump_clock: trio.testing.MockClock) -> None:
    """Each kind is answered as by the core's store; who has ended holds nothing, and is no process any more."""
    store = EmbeddedStore()
    answer = store.answer()
    ours, theirs = tcp_pair()
    parent, worker = Channel(ours, {NAME: answer}), Channel(theirs, {})
    now = round(trio.current_time() * 1e6)
    model = LeaseStore("workers")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parent.run)
        nursery.start_soon(worker.run)
        async with ParentStore(worker).connected() as talk:
            replies = await talk([BEAT, HOLD, TAKE])
            assert list(map(type, replies)) == [Beaten, PermitsHeld, TokensTaken]
            assert replies == [model.apply(call, now) for call in (BEAT, HOLD, TAKE)]
            other = store.answer()
            await talk([Beat("two", LEASE, 0, "config")])
            store.forget(other)
            assert (await talk([BEAT]))[0].processes == 2
            store.forget(answer)
            free = HoldPermits("limit", 3, "three", 1, 0, 3, 0, LEASE, 0)
            assert (await EmbeddedStore.answer(store)(_encoded([(1, free)])))[0].granted == 3
        nursery.cancel_scope.cancel()


def _encoded(calls: list[object]) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(calls))


async def test_a_parent_that_has_gone() -> None:
    """It is a store that can't be reached."""
    ours, theirs = tcp_pair()
    worker = Channel(theirs, {})
    ours.close()
    await worker.run()
    async with ParentStore(worker).connected() as talk:
        with pytest.raises(StoreError, match="limits: "):
            await talk([BEAT])


# The whole program


class Provider(ThreadingHTTPServer):
    """Holds each request back until `go_on`, and counts those that it holds."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Holding)
        self.go_on = threading.Event()
        self.came = threading.Semaphore(0)
        self.count = 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Whoever asked was killed."""


class _Holding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.count += 1
        self.server.came.release()
        self.server.go_on.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider
        provider.go_on.set()
        provider.shutdown()


@contextmanager
def gateway(provider: Provider, folder: Path, **limits: object) -> Iterator[tuple[int, str, object]]:
    config = folder / "config.json"
    url = f"http://127.0.0.1:{provider.server_address[1]}/"
    config.write_text(json.dumps({"targets": {"m": {"providers": [{"url": url}], **limits}}}))
    words = ["serve", "-f", config, "--host", "127.0.0.1", "-p", "0", "--no-metrics", "--no-watch", "--workers", "2"]
    with running(*words, seconds=90) as process:
        log = read_until(process, "listening on http")
        yield int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", log)[1]), log, process


def ask(port: int, statuses: list[int]) -> None:
    with closing(HTTPConnection("127.0.0.1", port, timeout=40)) as connection:
        connection.request("POST", "/v1/chat/completions", b'{"model": "m"}', {"Content-Type": "application/json"})
        try:
            response = connection.getresponse()
        except ConnectionError:  # Its worker was killed.
            statuses.append(0)
            return
        response.read()
        statuses.append(response.status)


def asking(port: int, number: int) -> tuple[list[threading.Thread], list[int]]:
    """Clients, each on a connection of its own."""
    statuses: list[int] = []
    clients = [threading.Thread(target=ask, args=(port, statuses)) for _ in range(number)]
    for client in clients:
        client.start()
    return clients, statuses


def test_permits_are_shared(provider: Provider, tmp_path: Path) -> None:
    """Over both workers never more than the limit are under way; what a killed worker held is free at once."""
    with gateway(provider, tmp_path, concurrency_limit={"max_concurrent_requests": 3}) as (port, log, process):
        clients, statuses = asking(port, 24)
        for _ in range(3):
            assert provider.came.acquire(timeout=20)
        while len(statuses) < 21:
            clients[0].join(0.01)
        assert (set(statuses), provider.count) == ({429}, 3)
        workers = [int(pid) for pid in re.findall(r"is ready, process (\d+)", log)]
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        read_until(process, "worker . is ready")
        read_until(process, "worker . is ready")
        for client in clients:
            client.join()
        assert sorted(statuses)[:4] == [0, 0, 0, 429]
        provider.go_on.set()
        again: list[int] = []
        for _ in range(5):
            ask(port, again)
        assert again == [200] * 5


def test_rates_are_shared(provider: Provider, tmp_path: Path) -> None:
    """Over both workers no more than the burst, when there is nearly nothing behind it."""
    provider.go_on.set()
    with gateway(provider, tmp_path, rate_limit={"requests_per_second": 0.001, "burst_size": 7}) as (port, _, _):
        clients, statuses = asking(port, 40)
        for client in clients:
            client.join()
    assert sorted(statuses) == [200] * 7 + [429] * 33
    assert provider.count == 7
