"""TCP without detours: what can be done at once is done at once.

Trio's own streams go through the scheduler for each operation, which costs more than the system call itself. These
do so only when the system would make them wait, and after `_TURNS` operations in a row, so that a connection which
always has something to do leaves time for the others.

That a send which does not wait is no checkpoint has a second use: what follows it, such as giving permits back, has
happened before any other task can notice that the data was sent.
"""

import errno
import socket
import struct
from typing import Any, Final

import trio

READ_SIZE: Final = 64 * 1024
"""Bytes to ask for where the caller does not say."""

_TURNS = 32
# Errors of `accept` that are about one connection, which failed before it was taken.
_CONNECTION_FAILED = frozenset((errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH))


class TcpStream(trio.abc.HalfCloseableStream):
    """A connected socket. Errors are those that Trio's streams raise."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self._turns = _TURNS

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await self._take_turn()
        while True:
            try:
                return self.socket.recv(max_bytes or READ_SIZE)
            except BlockingIOError:
                await self._wait(trio.lowlevel.wait_readable)
            except OSError as error:
                raise _mapped(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._take_turn()
        rest: bytes | bytearray | memoryview = data
        while True:
            try:
                sent = self.socket.send(rest)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise _mapped(error) from error
            if sent == len(rest):
                return
            rest = memoryview(rest)[sent:]
            await self._wait(trio.lowlevel.wait_writable)

    async def wait_send_all_might_not_block(self) -> None:
        await self._wait(trio.lowlevel.wait_writable)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise _mapped(error) from error

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once, without waiting for anything. May be called again."""
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()

    def reset_on_close(self) -> None:
        """Let the peer see a reset instead of a proper end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def has_something_to_read(self) -> bool:
        """Whether a read would not wait: there is data, the peer has closed, or the connection is broken."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    async def _take_turn(self) -> None:
        self._turns -= 1
        if not self._turns:
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()

    async def _wait(self, wait: Any) -> None:
        self._turns = _TURNS
        try:
            await wait(self.socket)
        except (OSError, ValueError) as error:  # ValueError: the socket is closed.
            raise _mapped(error) from error


class TcpListener(trio.abc.Listener[TcpStream]):
    """A listening socket. Accepts without a pause as long as connections are waiting."""

    def __init__(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self.socket = listening
        self._turns = _TURNS

    async def accept(self) -> TcpStream:
        self._turns -= 1
        if not self._turns:
            self._turns = _TURNS
            await trio.lowlevel.checkpoint()
        while True:
            try:
                connected, _ = self.socket.accept()
                return TcpStream(connected)
            except BlockingIOError:
                try:
                    await trio.lowlevel.wait_readable(self.socket)
                except ValueError as error:
                    raise trio.ClosedResourceError("the listener is closed") from error
            except OSError as error:
                if self.socket.fileno() == -1:
                    raise trio.ClosedResourceError("the listener is closed") from error
                if error.errno not in _CONNECTION_FAILED:
                    raise

    async def aclose(self) -> None:
        if self.socket.fileno() != -1:
            trio.lowlevel.notify_closing(self.socket)
            self.socket.close()
        await trio.lowlevel.checkpoint()


async def open_tcp_listeners(host: str, port: int) -> list[TcpListener]:
    """Listen on each address that `host` stands for, with as long a backlog as the system allows. Raises `OSError`."""
    return [TcpListener(_taken(listener.socket)) for listener in await trio.open_tcp_listeners(port, host=host)]


async def open_tcp_stream(host: str, port: int) -> TcpStream:
    """Connect to the first of the host's addresses that answers. Raises `OSError`."""
    return TcpStream(_taken((await trio.open_tcp_stream(host, port)).socket))


def _taken(made_by_trio: trio.socket.SocketType) -> socket.socket:
    return socket.socket(fileno=made_by_trio.detach())


def _mapped(error: Exception) -> Exception:
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.EBADF):
        return trio.ClosedResourceError("this stream was closed")
    return trio.BrokenResourceError(f"the connection broke: {error}")
