"""TCP without detours: what can be done at once is done at once.

Trio's own streams go through the scheduler twice for most operations, which costs more than the system call itself.
Here a receive waits first, since in a conversation nothing has come yet, and a send waits only when the system would
make it. So a connection that always has something to do still leaves time for the others at each receive.

That a send which does not wait is no checkpoint has a second use: what follows it, such as giving permits back, has
happened before any other task can notice that the data was sent.
"""

import errno
import ipaddress
import os
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from onwards_trio._input import input_of

READ_SIZE: Final = 120 * 1024
"""Bytes to ask for where the caller does not say. Just less than glibc fetches from the system, and gives back, each
time: a body of 100 KB costs a quarter less CPU time than with 64 KB or with 256."""

# Connections that are accepted in a row before others get their time.
_ACCEPTS = 32
# Errors of `accept` that are about one connection, which failed before it was taken.
_CONNECTION_FAILED = frozenset((errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH))


_Result = TypeVar("_Result")


class TcpStream(trio.abc.HalfCloseableStream):
    """A connected socket. Errors are those that Trio's streams raise."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        with suppress(OSError):  # The peer may have left by now; and tests use other kinds of sockets.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connected
        self._input = input_of(connected)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = max_bytes or READ_SIZE
        while True:
            await self._input.wait()
            try:
                data = socket.socket.recv(self.socket, size)  # the bytes themselves, also below TLS
            except BlockingIOError:
                self._input.drained()
            except OSError as error:
                raise _mapped(error) from error
            else:
                if len(data) < size:
                    self._input.drained()
                return data

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much as the system takes at once: how many bytes that was."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _mapped(error) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sent = self.send_nowait(data)
        if sent == len(data):
            return
        rest = memoryview(data)
        while sent < len(rest):
            rest = rest[sent:]
            await _wait(trio.lowlevel.wait_writable, self.socket)
            sent = self.send_nowait(rest)

    async def wait_send_all_might_not_block(self) -> None:
        await _wait(trio.lowlevel.wait_writable, self.socket)

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
            self._input.close()
            trio.lowlevel.notify_closing(self.socket)  # who waits to send
            self.socket.close()

    def hand_over(self) -> socket.socket:
        """The socket, for another stream."""
        self._input.close()
        return self.socket

    def on_hangup(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, once, when the peer closes its side."""
        self._input.on_hangup(callback)

    def reset_on_close(self) -> None:
        """Let the peer see a reset instead of a proper end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def has_something_to_read(self) -> bool:
        """Whether a read would not wait: there is data, the peer has closed, or the connection is broken.

        As of the last time that Trio looked for input.
        """
        return self._input.ready and not self._is_empty()

    def _is_empty(self) -> bool:
        try:
            # Not the method of a TLS socket, which can't look without reading.
            socket.socket.recv(self.socket, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False


class TlsStream(TcpStream):
    """A connected socket with TLS on it, from `start_tls`.

    That a connection ended without a goodbye is an error: what it carried might have been cut.
    """

    socket: ssl.SSLSocket
    _reset = False
    _said_goodbye = False

    @classmethod
    async def start_client(cls, below: TcpStream, context: ssl.SSLContext, host: str | None) -> "TlsStream":
        """Shake hands. `below` is not to be used any more; on failure it is closed. Raises `OSError`."""
        return await cls._start(below, context, server_hostname=host)

    @classmethod
    async def start_server(cls, below: TcpStream, context: ssl.SSLContext) -> "TlsStream":
        """The same from the other side."""
        return await cls._start(below, context, server_side=True)

    @classmethod
    async def _start(cls, below: TcpStream, context: ssl.SSLContext, **role: Any) -> "TlsStream":
        # Set by some versions of Python, with which a cut would look like an end.
        context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        try:
            wrapped = context.wrap_socket(
                below.hand_over(), do_handshake_on_connect=False, suppress_ragged_eofs=False, **role
            )
        except BaseException:
            below.close()
            raise
        stream = cls(wrapped)
        try:
            await stream._retried(wrapped.do_handshake)
        except BaseException:
            stream.close()
            raise
        return stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._said_goodbye:
            return await super().receive_some(max_bytes)
        size = max_bytes or READ_SIZE
        if not self.socket.pending():
            await self._input.wait()
        try:
            data = await self._retried(lambda: self.socket.recv(size))
        except ssl.SSLZeroReturnError:
            return b""
        except OSError as error:
            raise _mapped(error) from error
        if self._is_empty():  # TLS reads one record at a time, and there may be more.
            self._input.drained()
        return data

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self.socket.send(data)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise _mapped(error) from error

    async def send_eof(self) -> None:
        """TLS ends both ways: what is received after this is encrypted, and good for nothing but to see its end."""
        await trio.lowlevel.checkpoint()
        self._say_goodbye()

    def reset_on_close(self) -> None:
        self._reset = True
        super().reset_on_close()

    def close(self) -> None:
        if self.socket.fileno() != -1 and not self._reset:
            self._say_goodbye()
        super().close()

    def has_something_to_read(self) -> bool:
        return bool(self.socket.pending()) or super().has_something_to_read()

    def _say_goodbye(self) -> None:
        """Tell the peer that nothing more will come, without waiting for anything."""
        self._said_goodbye = True
        with suppress(OSError, ValueError):  # The handshake may have failed, or the peer be gone.
            self.socket.unwrap()

    async def _retried(self, step: Callable[[], _Result]) -> _Result:
        """The result of `step`, whatever TLS has to wait for before it."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._input.drained()
                await self._input.wait()
            except ssl.SSLWantWriteError:
                await _wait(trio.lowlevel.wait_writable, self.socket)


class TcpListener(trio.abc.Listener[TcpStream]):
    """A listening socket. Accepts without a pause as long as connections are waiting."""

    def __init__(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self.socket = listening
        self._accepts_left = _ACCEPTS

    async def accept(self) -> TcpStream:
        self._accepts_left -= 1
        if not self._accepts_left:
            self._accepts_left = _ACCEPTS
            await trio.lowlevel.checkpoint()
        while True:
            try:
                connected, _ = self.socket.accept()
                return TcpStream(connected)
            except BlockingIOError:
                await self.somebody_waits()
            except OSError as error:
                if error.errno not in _CONNECTION_FAILED:
                    raise (_mapped(error) if self.socket.fileno() == -1 else error) from error

    async def somebody_waits(self) -> None:
        """Returns when there seems to be a connection to accept."""
        await _wait(trio.lowlevel.wait_readable, self.socket)

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
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return TcpStream(_taken((await trio.open_tcp_stream(host, port)).socket))
    # With one address there is no race between several, which costs three times as much as the connection.
    connecting = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6)
    try:
        connecting.setblocking(False)
        with suppress(BlockingIOError):
            connecting.connect((host, port))
        await trio.lowlevel.wait_writable(connecting)
        failure = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, os.strerror(failure))
        return TcpStream(connecting)
    except BaseException:
        connecting.close()
        raise


def _taken(made_by_trio: trio.socket.SocketType) -> socket.socket:
    return socket.socket(fileno=made_by_trio.detach())


async def _wait(wait: Any, connected: socket.socket) -> None:
    try:
        await wait(connected)
    except (OSError, ValueError) as error:  # ValueError: the socket is closed.
        raise _mapped(error) from error


def _mapped(error: Exception) -> Exception:
    if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno == errno.EBADF):
        return trio.ClosedResourceError("this stream was closed")
    return trio.BrokenResourceError(f"the connection broke: {error}")
