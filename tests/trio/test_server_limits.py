"""What clients may take up: connections, requests, bytes; and that a refused body is not waited for."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from onwards_core import Gateway, Record, Request, Respond, ServerConfig
from onwards_trio._drive import screening
from onwards_trio._reply import Reply
from onwards_trio._server import Server, _address, _chosen_by_one, open_listeners
from onwards_trio._tcp import TcpStream
from onwards_trio._wire._choose import NAMES, codecs
from tests.core.gateway_support import gateway
from tests.trio.gateway_support import Client, tcp_pair

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def ok(request: Request, reply: Reply) -> None:
    await reply.respond(Respond(200, [], b"%d" % len(request.body)))


@asynccontextmanager
async def served(server: Server) -> AsyncIterator[int]:
    """The port of a server that is drained in the end."""
    listeners = await open_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, listeners)
        yield listeners[0].socket.getsockname()[1]
        server.drain()


async def client(port: int) -> Client:
    return Client(await trio.open_tcp_stream("127.0.0.1", port))


def limited(**limits: object) -> Server:
    return Server(ok, limits=lambda: ServerConfig(**limits))


LIMITED = {
    "in all": {"limits": lambda: ServerConfig(connections=2)},
    "per address": {"limits": lambda: ServerConfig(connections_per_address=2)},
    "by the system": {"room": 2},
}


@pytest.mark.parametrize("limit", LIMITED.values(), ids=LIMITED)
@pytest.mark.parametrize("codec", NAMES)
async def test_connections_beyond_the_limit_are_turned_away(
    limit: dict[str, Any], codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    """They are told so, the others are not disturbed, and who leaves makes room. The log says it once a minute."""
    server = Server(ok, http=codecs(codec), **limit)
    with caplog.at_level(logging.WARNING, "onwards.server"):
        async with served(server) as port:
            first, second = await client(port), await client(port)
            async with second.stream:
                async with first.stream:
                    for one in (first, second):
                        assert (await one.ask(GET)).status == 200
                    for _ in range(2):
                        refused = await client(port)
                        async with refused.stream:
                            answer = await refused.answer()
                            assert (answer.status, answer.code) == (503, "overloaded")
                            assert answer.headers[b"retry-after"] == b"1"
                            assert answer.headers[b"connection"] == b"close"
                    assert (await second.ask(GET)).status == 200
                while True:  # until the server has seen that the first one left
                    third = await client(port)
                    async with third.stream:
                        if (await third.ask(GET)).status == 200:
                            break
    assert [record.getMessage() for record in caplog.records] == ["connections are turned away: 2 are open"]


async def test_addresses_of_clients() -> None:
    """Are known as they are; IPv6 ones count by the network in which anyone can have as many as he wants."""

    class Socket:
        def __init__(self, *name: object) -> None:
            self.getpeername = lambda: name

    def address(*name: object) -> str | None:
        stream = TcpStream.__new__(TcpStream)
        stream.socket = Socket(*name)
        return _address(stream)

    assert address("192.0.2.7", 1) == _chosen_by_one("192.0.2.7") == "192.0.2.7"
    assert address("2001:db8:1:2:3:4:5:6", 1, 0, 0) == "2001:db8:1:2:3:4:5:6"
    assert _chosen_by_one("2001:db8:1:2:3:4:5:6") == _chosen_by_one("2001:db8:1:2::") == "2001:db8:1:2::/64"
    assert _chosen_by_one("fe80::1%eth0") == "fe80::/64"
    assert address() is address("somewhere") is None
    assert _chosen_by_one(None) == ""


async def test_requests_of_a_connection() -> None:
    """The answer to the last one says that it is."""
    async with served(limited(requests_per_connection=2)) as port:
        one = await client(port)
        async with one.stream:
            assert b"connection" not in (await one.ask(GET)).headers
            assert (await one.ask(GET)).headers[b"connection"] == b"close"
            assert await one.rest() == b""


@pytest.mark.parametrize("codec", NAMES)
@pytest.mark.parametrize("limits", [{"head_bytes": 100}, {"head_fields": 3}])
async def test_heads(codec: str, limits: dict[str, int]) -> None:
    """One that is larger than the config allows is a 431."""
    server = Server(ok, limits=lambda: ServerConfig(**limits), http=codecs(codec))
    async with served(server) as port:
        for fields, status in ((b"", 200), (b"a: b\r\n" * 20, 431)):
            one = await client(port)
            async with one.stream:
                assert (await one.ask(b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n" % fields)).status == status


async def test_the_memory_for_bodies() -> None:
    """It is shared by all; when it is used up there is a 503, and it comes back with each answer and each refusal."""
    go_on = trio.Event()

    async def wait(request: Request, reply: Reply) -> None:
        if request.target == b"/wait":
            await go_on.wait()
        await ok(request, reply)

    def upload(target: bytes, size: int) -> bytes:
        return b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (target, size, bytes(size))

    server = Server(wait, limits=lambda: ServerConfig(body_memory_bytes=100_000))
    memory = server._service.memory
    async with served(server) as port:
        holding, other = await client(port), await client(port)
        async with holding.stream, other.stream:
            await holding.stream.send_all(upload(b"/wait", 60_000))
            while not server.under_way():
                await trio.lowlevel.checkpoint()
            assert memory.used == 60_000
            refused = await other.ask(upload(b"/", 60_000))
            assert (refused.status, refused.code) == (503, "overloaded")
            assert refused.headers[b"retry-after"] == b"1"
            third = await client(port)
            async with third.stream:
                assert (await third.ask(upload(b"/", 40_000))).body == b"40000"
            go_on.set()
            assert (await holding.answer()).body == b"60000"
            assert (await holding.ask(upload(b"/", 100_000))).body == b"100000"
    assert memory.used == 0


async def test_bodies_and_times_are_the_configs(autojump_clock: trio.testing.MockClock) -> None:
    """Other than the defaults."""
    async with served(limited(body_bytes=10, idle_timeout_secs=5)) as port:
        one = await client(port)
        async with one.stream:
            answer = await one.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n")
            assert (answer.status, answer.code) == (413, "payload_too_large")
        idle = await client(port)
        async with idle.stream:
            before = trio.current_time()
            assert await idle.rest() == b""
            assert 5 <= trio.current_time() - before <= 7


def closed() -> Gateway:
    return gateway({"m": {"url": "http://p/"}}, global_keys=["sk"])


UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: h\r\n%bContent-Length: 4\r\n%b\r\n"
KEY = b"Authorization: Bearer sk\r\n"
EXPECT = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize("expect", [b"", EXPECT])
async def test_a_body_is_not_waited_for_without_a_key(expect: bytes) -> None:
    """Nobody who has no key that opens anything can make the gateway hold a body."""
    async with served(Server(ok, screen=screening(closed()))) as port:
        one = await client(port)
        async with one.stream:
            answer = await one.ask(UPLOAD % (b"", expect))
            assert (answer.status, answer.code) == (401, "unauthenticated")
            assert answer.headers[b"connection"] == b"close"


async def test_a_body_is_asked_for_when_key_and_limits_allow_it() -> None:
    """`100 Continue` comes after that."""
    async with served(Server(ok, screen=screening(closed()))) as port:
        one = await client(port)
        async with one.stream:
            await one.stream.send_all(UPLOAD % (KEY, EXPECT))
            assert await one.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await one.stream.send_all(b"body")
            assert (await one.answer()).body == b"4"


async def test_a_body_that_is_here_is_not_screened() -> None:
    """That would be work done twice."""

    def screen(head: Request, record: Record) -> Respond | None:
        raise AssertionError

    async with served(Server(ok, screen=screen)) as port:
        one = await client(port)
        async with one.stream:
            assert (await one.ask(UPLOAD % (b"", b"") + b"body")).body == b"4"


async def test_who_left_has_no_address() -> None:
    """A connection that is gone by the time it is looked at counts for nobody."""
    ours, theirs = tcp_pair()
    ours.close()
    assert _address(ours) is None
    await theirs.aclose()
