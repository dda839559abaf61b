"""Opening connections to providers, and the limits that both transports have in common."""

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from onwards_trio._tcp import TcpStream, TlsStream, open_tcp_stream

CONNECT_TIMEOUT = 10.0
"""Seconds for everything that comes before the request: TCP, TLS, proxy."""
BODY_TIMEOUT = 300.0
"""Seconds without a byte, in the middle of a body. There is no limit for the head: models think."""
IDLE_TIME = 90.0
"""Seconds that a connection waits for its next request."""
IDLE_LIMIT = 1000
"""Idle connections per origin."""

Connect: TypeAlias = Callable[[str, str, int], Awaitable[TcpStream]]
"""Opens a connection to scheme, host and port. Raises `OSError` or `trio.BrokenResourceError`."""


async def open_tcp(host: str, port: int) -> TcpStream:
    stream = await open_tcp_stream(host, port)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


def tcp_or_tls(context: ssl.SSLContext) -> Connect:
    """Connections over the network: plain TCP for `http`, verified by `context` for `https`."""

    async def connect(scheme: str, host: str, port: int) -> TcpStream:
        tcp = await open_tcp(host, port)
        return tcp if scheme == "http" else await TlsStream.start(tcp, context, host)

    return connect
