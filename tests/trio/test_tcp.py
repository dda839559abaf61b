"""Streams and listeners of our own keep the promises of Trio's."""

import errno
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from onwards_trio._tcp import TcpListener, TcpStream, TlsStream, open_tcp_listeners, open_tcp_stream
from tests.trio.gateway_support import tcp_pair
from tests.trio.upstream_support import server_context


async def test_what_is_sent_arrives() -> None:
    """Whole and in order, also when it is more than the system takes at once."""
    data = bytes(range(256)) * 100_000
    ours, theirs = tcp_pair()
    received = bytearray()
    async with ours, theirs, trio.open_nursery() as nursery:

        async def send() -> None:
            await ours.send_all(data)
            await ours.send_eof()

        nursery.start_soon(send)
        while piece := await theirs.receive_some():
            received += piece
    assert received == data


async def test_sending_at_once_says_how_much() -> None:
    """What does not fit is not waited for."""
    ours, theirs = tcp_pair()
    async with ours, theirs:
        assert ours.send_nowait(b"12345") == 5
        data = bytes(100_000_000)
        sent = ours.send_nowait(data)
        assert 0 < sent < len(data)
        while ours.send_nowait(data):
            pass
        with trio.move_on_after(0):
            await ours.wait_send_all_might_not_block()
            raise AssertionError


async def test_a_receive_lets_others_run() -> None:
    """Also when there is always something to read."""
    ours, theirs = tcp_pair()
    async with ours, theirs:
        await theirs.send_all(b"123")
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                await ours.receive_some(1)


async def test_cancelled_operations_lose_nothing() -> None:
    """A receive that was cancelled has taken nothing."""
    ours, theirs = tcp_pair()
    async with ours, theirs:
        with trio.CancelScope() as scope:
            scope.cancel()
            await ours.receive_some()
        assert scope.cancelled_caught
        await theirs.send_all(b"1")
        assert await ours.receive_some() == b"1"


async def test_a_closed_stream_says_so() -> None:
    """To whoever waits for it, and to whoever comes later."""
    ours, theirs = tcp_pair()
    async with theirs, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.receive_some()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        ours.close()
        ours.close()
        await ours.aclose()
        for operation in (ours.receive_some, ours.send_eof, ours.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
        with pytest.raises(trio.ClosedResourceError):
            await ours.send_all(b"x")


async def test_a_reset_is_a_broken_stream() -> None:
    """For receiving and for sending; and one can see it without reading."""
    ours, theirs = tcp_pair()
    async with ours:
        theirs.reset_on_close()
        theirs.close()
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
    ours, theirs = tcp_pair()
    async with ours:
        theirs.reset_on_close()
        theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        assert ours.has_something_to_read()


async def test_looking_takes_nothing() -> None:
    """Whether there is something to read is seen without reading it: data, or the end."""
    ours, theirs = tcp_pair()
    async with ours, theirs:
        assert not ours.has_something_to_read()
        await theirs.send_all(b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert ours.has_something_to_read()
        assert await ours.receive_some() == b"1"
        assert not ours.has_something_to_read()
        await theirs.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert ours.has_something_to_read()
        assert await ours.receive_some() == b""


# Listeners


async def test_connecting_to_an_address() -> None:
    """It says why it failed, and leaves nothing open when it is cancelled."""
    listener = (await open_tcp_listeners("127.0.0.1", 0))[0]
    address = listener.socket.getsockname()
    async with listener:
        with trio.CancelScope() as scope:
            scope.cancel()
            await open_tcp_stream(*address)
        assert scope.cancelled_caught
        async with await open_tcp_stream("localhost", address[1]) as stream:
            assert stream.socket.getpeername() == address
    with pytest.raises(ConnectionRefusedError):
        await open_tcp_stream(*address)


async def test_many_connections_are_accepted_in_a_row() -> None:
    """Without one being lost, and with time for others in between."""
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    passes = 0

    async def others() -> None:
        nonlocal passes
        while True:
            passes += 1
            await trio.lowlevel.checkpoint()

    async with listener, trio.open_nursery() as nursery:
        clients = [await open_tcp_stream(*listener.socket.getsockname()) for _ in range(100)]
        nursery.start_soon(others)
        await trio.lowlevel.checkpoint()
        before = passes
        for client in clients:
            accepted = await listener.accept()
            assert accepted.socket.getpeername() == client.socket.getsockname()
            accepted.close()
            client.close()
        assert passes > before
        nursery.cancel_scope.cancel()


class _Failing:
    """A listening socket whose next accept fails."""

    def __init__(self, listening: socket.socket, error: OSError) -> None:
        self._listening = listening
        self._errors = [error]

    def accept(self) -> tuple[socket.socket, object]:
        if self._errors:
            raise self._errors.pop()
        return self._listening.accept()

    def __getattr__(self, name: str) -> object:
        return getattr(self._listening, name)


async def test_a_connection_that_failed_before_it_was_taken_is_passed_over() -> None:
    """The next one is accepted."""
    (real,) = await open_tcp_listeners("127.0.0.1", 0)
    async with (
        TcpListener(_Failing(real.socket, OSError(errno.ECONNABORTED, "gone"))) as listener,
        await open_tcp_stream(*real.socket.getsockname()),
    ):
        (await listener.accept()).close()


async def test_other_errors_of_accept_are_raised() -> None:
    """Such as having no file descriptors left, which the server waits for."""
    (real,) = await open_tcp_listeners("127.0.0.1", 0)
    async with TcpListener(_Failing(real.socket, OSError(errno.EMFILE, "too many"))) as listener:
        with pytest.raises(OSError, match="too many"):
            await listener.accept()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


# TLS


@asynccontextmanager
async def tls_pair(authority: trustme.CA) -> AsyncIterator[tuple[TlsStream, trio.SSLStream]]:
    """Our end, and one of Trio's own for the peer."""
    ours, theirs = tcp_pair()
    peer = trio.SSLStream(theirs, server_context(authority), server_side=True)
    started: list[TlsStream] = []

    async def start() -> None:
        started.append(await TlsStream.start_client(ours, ssl.create_default_context(), "127.0.0.1"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        nursery.start_soon(peer.do_handshake)
    yield started[0], peer
    started[0].close()
    await trio.aclose_forcefully(peer)


async def test_tls_carries_what_is_sent(authority: trustme.CA) -> None:
    """Both ways, also when it is more than the system takes at once."""
    data = bytes(range(256)) * 50_000
    async with tls_pair(authority) as (ours, peer), trio.open_nursery() as nursery:

        async def echo() -> None:
            received = bytearray()
            while len(received) < len(data):
                received += await peer.receive_some()
            await peer.send_all(received)

        nursery.start_soon(echo)
        await ours.send_all(data)
        received = bytearray()
        while len(received) < len(data):
            received += await ours.receive_some(10_000)
        assert received == data


async def test_tls_tells_an_end_from_a_cut(authority: trustme.CA) -> None:
    """A goodbye is the end of the stream; without one it is broken."""
    async with tls_pair(authority) as (ours, peer):
        with trio.CancelScope() as scope:
            scope.cancel()
            await peer.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await ours.receive_some()
    async with tls_pair(authority) as (ours, peer), trio.open_nursery() as nursery:
        nursery.start_soon(peer.unwrap)
        assert await ours.receive_some() == b""
        ours.close()
        nursery.cancel_scope.cancel()


async def test_tls_says_goodbye_and_waits_for_the_peers_end(authority: trustme.CA) -> None:
    """The peer sees the end of what was sent; what it had sent before is no error."""
    async with tls_pair(authority) as (ours, theirs):
        await theirs.send_all(b"on its way")
        await ours.send_eof()
        assert await theirs.receive_some() == b""
        await trio.aclose_forcefully(theirs)
        while await ours.receive_some():
            pass


@pytest.mark.parametrize("reset", [False, True])
async def test_tls_that_is_closed_says_so(authority: trustme.CA, reset: bool) -> None:
    """Unless the peer is to take it for a broken connection."""
    async with tls_pair(authority) as (ours, theirs):
        if reset:
            ours.reset_on_close()
        ours.close()
        if reset:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()
        else:
            assert await theirs.receive_some() == b""


async def test_tls_that_cannot_start_closes_the_connection(authority: trustme.CA) -> None:
    """With nothing to verify, or a peer that does not speak TLS."""
    ours, theirs = tcp_pair()
    async with theirs:
        with pytest.raises(ValueError, match="server_hostname"):
            await TlsStream.start_client(ours, ssl.create_default_context(), None)
        assert await theirs.receive_some() == b""
    ours, theirs = tcp_pair()
    async with theirs:
        await theirs.send_all(b"220 mail.example\r\n")
        with pytest.raises(OSError, match="SSL"):
            await TlsStream.start_client(ours, ssl.create_default_context(), "127.0.0.1")


async def test_tls_that_is_cancelled_closes_the_connection(authority: trustme.CA) -> None:
    """In the middle of its handshake."""
    ours, theirs = tcp_pair()
    async with theirs:
        with trio.CancelScope() as scope:
            scope.cancel()
            await TlsStream.start_client(ours, ssl.create_default_context(), "127.0.0.1")
        assert scope.cancelled_caught
        while await theirs.receive_some():
            pass


async def test_sending_over_a_broken_tls_connection(authority: trustme.CA) -> None:
    """Is a broken stream, as it is without TLS."""
    async with tls_pair(authority) as (ours, peer):
        peer.transport_stream.reset_on_close()
        await trio.aclose_forcefully(peer)
        with pytest.raises(trio.BrokenResourceError):
            await ours.send_all(b"x")
    assert isinstance(ours, TcpStream)
