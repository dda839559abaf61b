"""Listeners, and the connections that came in through them, until they are drained."""

import ipaddress
import logging
import math
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeVar

import attrs
import trio

from onwards_core import Record, Request, ServerConfig, overloaded
from onwards_trio._connection import Connection, Handler, Screen, Service
from onwards_trio._fault import log_fault
from onwards_trio._tcp import TcpListener, TcpStream, TlsStream, open_tcp_listeners
from onwards_trio._wire._choose import Codecs, codecs

SEND_STALL: Final = 120.0
"""Seconds that a client may take nothing of what is sent to it, where the system can watch over that."""


HANDSHAKE_TIME: Final = 15.0
"""Seconds for TLS to be set up with a client."""

DEADLINE_GRAIN: Final = 1.0
"""Seconds that a connection may exceed its deadline."""

_log = logging.getLogger("onwards.server")
# Connections that are ended in a row before others get their time: thousands may become late at once.
_ENDED_AT_ONCE = 32
_WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings of connections that are turned away."""


async def open_listeners(host: str, port: int) -> list[TcpListener]:
    """Listen on each address that `host` stands for. Port 0: one that the system chooses.

    Raises `OSError`; its `strerror` says all that a user wants to know.
    """
    try:
        listeners = await open_tcp_listeners(host, port)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    for listener in listeners:
        # Connections inherit these.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SEND_STALL * 1000))
    return listeners


Listener = TypeVar("Listener", bound=trio.abc.Listener[TcpStream])


@contextmanager
def _calm_log() -> Iterator[None]:
    """Trio tells of each time that it can't accept a connection, ten times a second and with a traceback."""
    log = logging.getLogger("trio.serve_listeners")
    told = -math.inf

    def once_in_a_while(record: logging.LogRecord) -> bool:
        nonlocal told
        now = trio.current_time()
        if now - told < _WARNING_INTERVAL:
            return False
        told = now
        record.exc_info = None
        return True

    log.addFilter(once_in_a_while)
    try:
        yield
    finally:
        log.removeFilter(once_in_a_while)


class Server:
    """An HTTP/1.1 server: run `serve` in a task; `drain` ends it.

    handle: answers each request; see `forward`.
    screen: refuses requests before their bodies are read; see `screening`.
    begin: gets each request, with its new record.
    observe: gets the record of each request once that is answered, or its client gone.
    limits: those that hold for the connections that come now.
    room: for how many connections the system has files, whatever the limits say.
    drain_seconds: how long requests under way may take to finish.
    http: what reads and writes HTTP.
    tls: the context for the connections that come now; None: they are plain.
    left: called whenever a connection that was accepted is over.
    """

    def __init__(
        self,
        handle: Handler,
        *,
        screen: Screen = lambda *_: None,
        begin: Callable[[Request, Record], None] | None = None,
        observe: Callable[[Record], None] = lambda _: None,
        limits: Callable[[], ServerConfig] = ServerConfig,
        room: float = math.inf,
        drain_seconds: float = 30.0,
        http: Codecs | None = None,
        tls: Callable[[], ssl.SSLContext] | None = None,
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self.draining = False
        """Whether it was told to: it wants no more requests, but may still take them."""
        self._takes_no_more = False
        self._linger = 0.0
        self._left = left
        self._limits = limits
        self._room = room
        self._drain_seconds = drain_seconds
        self._http = http or codecs()
        self._tls = tls
        self._service = Service(handle, screen, begin, observe, scheme="https" if tls else "http")
        self._clients: Counter[str] = Counter()  # open connections by address
        self._count = 0
        self._warned = -math.inf
        self._accepting = trio.CancelScope()
        self._connections: set[Connection] = set()

    def under_way(self) -> list[Record]:
        """The requests that are being answered."""
        return [connection.reply.record for connection in self._connections if connection.reply is not None]

    async def serve(self, listeners: list[Listener]) -> None:
        """Accept connections, and close the listeners in the end. Returns when it is drained."""
        async with trio.open_nursery() as watch:
            watch.start_soon(self._end_late_ones)
            async with trio.open_nursery() as connections:
                with self._accepting, _calm_log():
                    # When the process is out of file descriptors, this waits a moment and tries again.
                    await trio.serve_listeners(self._serve_connection, listeners, handler_nursery=connections)
                if self._linger:
                    watch.start_soon(self._drain_later)
                else:
                    self._drain_connections()
                connections.cancel_scope.deadline = trio.current_time() + self._linger + self._drain_seconds
            watch.cancel_scope.cancel()

    def drain(self, delay: float = 0.0) -> None:
        """Want no more requests, and after so many seconds stop listening, close idle connections, let requests under
        way finish, and refuse new ones meanwhile."""
        self.draining = True
        self._accepting.deadline = trio.current_time() + delay
        if not delay:
            self._drain_connections()

    def retire(self, linger: float) -> None:
        """Stop listening, since another process goes on: answer one more request on each connection, so that no client
        finds one closed that it was about to use; after so many seconds, drain the rest."""
        self.draining = True
        self._linger = linger
        self._accepting.cancel()
        for connection in self._connections:
            connection.retire()

    async def _drain_later(self) -> None:
        await trio.sleep(self._linger)
        self._drain_connections()

    def _drain_connections(self) -> None:
        self._takes_no_more = True
        for connection in self._connections:
            connection.drain()

    async def _serve_connection(self, stream: TcpStream) -> None:
        try:
            await self._admit(stream)
        finally:
            self._left()

    async def _admit(self, stream: TcpStream) -> None:
        limits = self._limits()
        address = _address(stream)
        client = _chosen_by_one(address)
        most = limits.connections_per_address
        if self._count >= min(limits.connections, self._room) or (most is not None and self._clients[client] >= most):
            self._turn_away(stream)
            return
        self._count += 1
        self._clients[client] += 1
        try:
            await self._serve_stream(stream, address, limits)
        except Exception as fault:  # noqa: BLE001  # A bug ends the connection that met it, and no other.
            log_fault(fault)
        finally:
            self._count -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    async def _serve_stream(self, stream: TcpStream, address: str | None, limits: ServerConfig) -> None:
        if self._tls is not None:
            secured = await _shake_hands(stream, self._tls())
            if secured is None:
                return
            stream = secured
        connection = Connection(
            stream,
            self._http.server(limits.head_bytes, limits.head_fields),
            attrs.evolve(self._service, limits=limits),
            client=address,
            draining=self._takes_no_more,
            retiring=bool(self._linger),
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.remove(connection)

    def _turn_away(self, stream: TcpStream) -> None:
        """Say that there is no room, if that can be said at once."""
        now = trio.current_time()
        if now - self._warned >= _WARNING_INTERVAL:
            self._warned = now
            _log.warning("connections are turned away: %d are open", self._count)
        if self._tls is None:
            answer, codec = overloaded(), self._http.server(1, 1)
            with suppress(trio.BrokenResourceError):
                stream.send_nowait(codec.respond(answer.status, answer.headers, answer.body, close=True))
        stream.close()

    async def _end_late_ones(self) -> None:
        """One task for the deadlines of all connections: a cancel scope for each step would cost far more."""
        while True:
            await trio.sleep(DEADLINE_GRAIN)
            now = trio.current_time()
            late = [connection for connection in self._connections if connection.deadline <= now]
            for start in range(0, len(late), _ENDED_AT_ONCE):
                for connection in late[start : start + _ENDED_AT_ONCE]:
                    if connection.deadline <= now:
                        connection.expire()
                await trio.lowlevel.checkpoint()


def _address(stream: TcpStream) -> str | None:
    """Where a connection is from."""
    try:
        return str(ipaddress.ip_address(stream.socket.getpeername()[0]))
    except (OSError, ValueError, IndexError):  # It has left, or is no network connection.
        return None


def _chosen_by_one(address: str | None) -> str:
    """The addresses that one client can choose from at will: an IPv4 address alone, the network of an IPv6 one."""
    if address is None or ":" not in address:
        return address or ""
    return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))


async def _shake_hands(stream: TcpStream, context: ssl.SSLContext) -> TlsStream | None:
    """None if the client can't, or does not in time."""
    with trio.move_on_after(HANDSHAKE_TIME):
        try:
            return await TlsStream.start_server(stream, context)
        except (OSError, trio.BrokenResourceError) as error:
            _log.debug("a TLS handshake failed: %s", type(error).__name__)
    return None
