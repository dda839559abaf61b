"""Listeners, and the connections that came in through them, until they are drained."""

import socket
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from onwards_core import Record
from onwards_trio._connection import Connection, Handler
from onwards_trio._fault import log_fault
from onwards_trio._tcp import TcpListener, TcpStream, open_tcp_listeners
from onwards_trio._wire._choose import Codecs, codecs

SEND_STALL: Final = 120.0
"""Seconds that a client may take nothing of what is sent to it, where the system can watch over that."""


DEADLINE_GRAIN: Final = 1.0
"""Seconds that a connection may exceed its deadline."""


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


class Server:
    """An HTTP/1.1 server: run `serve` in a task; `drain` ends it.

    handle: answers each request; see `forward`.
    observe: gets the record of each request once that is answered, or its client gone.
    drain_seconds: how long requests under way may take to finish.
    http: what reads and writes HTTP.
    """

    def __init__(
        self,
        handle: Handler,
        *,
        observe: Callable[[Record], None] = lambda _: None,
        drain_seconds: float = 30.0,
        http: Codecs | None = None,
    ) -> None:
        self.draining = False
        self._handle = handle
        self._observe = observe
        self._drain_seconds = drain_seconds
        self._http = http or codecs()
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
                with self._accepting:
                    # When the process is out of file descriptors, this waits a moment and tries again.
                    await trio.serve_listeners(self._serve_connection, listeners, handler_nursery=connections)
                connections.cancel_scope.deadline = trio.current_time() + self._drain_seconds
            watch.cancel_scope.cancel()

    def drain(self) -> None:
        """Stop listening, close idle connections, let requests under way finish, and refuse new ones meanwhile."""
        self.draining = True
        self._accepting.cancel()
        for connection in self._connections:
            connection.drain()

    async def _serve_connection(self, stream: TcpStream) -> None:
        connection = Connection(stream, self._http.server(), self._handle, self._observe, draining=self.draining)
        self._connections.add(connection)
        try:
            await connection.run()
        except Exception as fault:  # noqa: BLE001  # A bug ends the connection that met it, and no other.
            log_fault(fault)
        finally:
            self._connections.remove(connection)

    async def _end_late_ones(self) -> None:
        """One task for the deadlines of all connections: a cancel scope for each step would cost far more."""
        while True:
            await trio.sleep(DEADLINE_GRAIN)
            now = trio.current_time()
            for connection in self._connections:
                if connection.deadline <= now:
                    connection.cancel()
