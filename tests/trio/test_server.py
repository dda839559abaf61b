"""Listening and draining."""

import errno
import logging
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from onwards_core import Record, Request, Respond
from onwards_trio._drive import forward
from onwards_trio._reply import Reply
from onwards_trio._server import Server, open_listeners
from tests.trio.gateway_support import Accepting, Client, Scripted, ScriptedTransport, gateway, pool, post, tcp_pair

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


async def ok(request: Request, reply: Reply) -> None:
    await reply.respond(Respond(200, [], b"ok"))


class Running:
    """A server on a port of its own, and clients for it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server = server
        self.port = port
        self.over = trio.Event()

    async def client(self) -> Client:
        return Client(await trio.open_tcp_stream("127.0.0.1", self.port))


@asynccontextmanager
async def running(server: Server) -> AsyncIterator[Running]:
    """Ends with the server, which the test has to drain."""
    listeners = await open_listeners("127.0.0.1", 0)
    run = Running(server, listeners[0].socket.getsockname()[1])

    async def serve() -> None:
        await server.serve(listeners)
        run.over.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield run


async def test_serves_many_clients_at_once() -> None:
    """One that waits for its answer holds up no other."""
    go_on = trio.Event()

    async def handle(request: Request, reply: Reply) -> None:
        if request.target == b"/wait":
            await go_on.wait()
        await ok(request, reply)

    records: list[Record] = []
    server = Server(handle, observe=records.append)
    async with running(server) as run:
        slow, quick = await run.client(), await run.client()
        async with slow.stream, quick.stream:
            await slow.stream.send_all(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
            while not server.under_way():
                await trio.lowlevel.checkpoint()
            assert (await quick.ask(GET)).body == b"ok"
            assert b"/wait" in [record.path for record in server.under_way()]
            go_on.set()
            assert (await slow.answer()).body == b"ok"
            server.drain()
    assert [record.path for record in records] == [b"/", b"/wait"]
    assert server.under_way() == []


async def test_greedy_clients_starve_nobody() -> None:
    """A hundred that always have more to ask are answered in turns with one that asks now and then."""
    answered = 0

    async def handle(request: Request, reply: Reply) -> None:
        nonlocal answered
        answered += 1
        await ok(request, reply)

    async def ask_on_and_on(stream: trio.SocketStream) -> None:
        while True:
            await stream.send_all(GET * 500)

    async def be_greedy() -> None:
        async with (await run.client()).stream as stream, trio.open_nursery() as nursery:
            nursery.start_soon(ask_on_and_on, stream)
            while await stream.receive_some():
                pass

    server = Server(handle, drain_seconds=0)
    async with running(server) as run, trio.open_nursery() as greedy:
        for _ in range(100):
            greedy.start_soon(be_greedy)
        polite = await run.client()
        async with polite.stream:
            for _ in range(5):
                before = answered
                assert (await polite.ask(GET)).body == b"ok"
                assert answered - before < 1500  # each greedy one a few times
        greedy.cancel_scope.cancel()
        server.drain()


async def test_a_port_that_is_taken_is_named() -> None:
    """The error says in one line what could not be done."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{port}: ") as caught:
            await open_listeners("127.0.0.1", port)
    assert caught.value.errno == errno.EADDRINUSE


async def test_an_address_of_another_machine_is_named() -> None:
    """The same for an address that can't be listened on."""
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1:0: "):
        await open_listeners("192.0.2.1", 0)


async def test_connections_inherit_their_options() -> None:
    """Small writes go out at once, and a client that vanished does not stay forever."""
    (listener,) = await open_listeners("127.0.0.1", 0)
    async with (
        listener,
        await trio.testing.open_stream_to_socket_listener(listener),
        await listener.accept() as stream,
    ):
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000


async def test_survives_running_out_of_file_descriptors(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """It says so, once and without a traceback, waits a moment and goes on."""
    ours, theirs = tcp_pair()
    server = Server(ok)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, [Accepting(*[OSError(errno.EMFILE, "too many")] * 20, ours)])
        async with theirs:
            assert (await Client(theirs).ask(GET)).body == b"ok"
        server.drain()
    (line,) = caplog.records
    assert "EMFILE" in line.getMessage()
    assert line.exc_info is None


async def test_a_bug_in_a_connection_ends_that_one_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is wrong with one client, the others are served."""

    def observe(record: Record) -> None:
        if record.path == b"/fault":
            raise ZeroDivisionError

    server = Server(ok, observe=observe)
    async with running(server) as run:
        first, second = await run.client(), await run.client()
        async with first.stream, second.stream:
            assert (await first.ask(b"GET /fault HTTP/1.1\r\nHost: h\r\n\r\n")).body == b"ok"
            assert await first.rest() == b""
            assert (await second.ask(GET)).body == b"ok"
        server.drain()
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "ZeroDivisionError" in line.getMessage()


async def test_drain() -> None:
    """No new connections, idle ones end, and a request under way gets its whole answer before the server ends."""
    transport = ScriptedTransport(Scripted(200, (b"1", 0.0, b"2")))
    served = gateway(m=pool("a"))
    go_on = trio.Event()
    handle = forward(served, transport)

    async def held(request: Request, reply: Reply) -> None:
        await go_on.wait()
        await handle(request, reply)

    server = Server(held)
    async with running(server) as run:
        idle, busy = await run.client(), await run.client()
        async with idle.stream, busy.stream:
            await busy.stream.send_all(post())
            while not server.under_way():
                await trio.lowlevel.checkpoint()
            server.drain()
            assert server.draining
            assert await idle.rest() == b""
            with pytest.raises(OSError, match="connect"):
                await run.client()
            assert not run.over.is_set()
            go_on.set()
            got = await busy.answer()
            assert (got.body, got.whole, got.headers[b"connection"]) == (b"12", True, b"close")
            assert await busy.rest() == b""
            await run.over.wait()
    assert served.ledger.permits_out() == 0


async def test_a_drain_may_begin_later(mock_clock: trio.testing.MockClock) -> None:
    """Until then it is not ready, but serves."""
    server = Server(ok)
    async with running(server) as run:
        client = await run.client()
        server.drain(5.0)
        assert server.draining
        async with client.stream, (await run.client()).stream as late:
            assert (await client.ask(GET)).headers.get(b"connection") != b"close"
            assert (await Client(late).ask(GET)).body == b"ok"
            mock_clock.jump(5.0)
            assert await client.rest() == b""
            with pytest.raises(OSError, match="connect"):
                await run.client()


async def test_drain_does_not_wait_forever(autojump_clock: trio.testing.MockClock) -> None:
    """What is not done after the given time is cut: visibly, and with all that it holds given back."""
    records: list[Record] = []
    transport = ScriptedTransport(Scripted(200, (b"piece", math.inf)))
    served = gateway(m=pool("a"))
    server = Server(forward(served, transport), observe=records.append, drain_seconds=7.0)
    ours, theirs = tcp_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, [Accepting(ours)])
        await theirs.send_all(post())
        await trio.testing.wait_all_tasks_blocked()
        server.drain()
        start = trio.current_time()
        got = await Client(theirs).answer()
        assert (got.body, got.whole) == (b"piece", False)
        assert trio.current_time() - start == pytest.approx(7.0)
    theirs.close()
    assert [record.outcome for record in records] == ["broken"]
    assert transport.open == 0
    assert served.ledger.permits_out() == 0


async def test_drain_before_it_serves() -> None:
    """It listens no more, and ends at once."""
    server = Server(ok)
    server.drain()
    async with running(server):
        pass
