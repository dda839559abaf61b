"""Opening connections to providers, and the limits that both transports have in common."""

import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import trio

from onwards_trio._tcp import TcpStream, open_tcp_stream

CONNECT_TIMEOUT = 10.0
"""Seconds for everything that comes before the request: TCP, TLS, proxy."""
BODY_TIMEOUT = 300.0
"""Seconds without a byte, in the middle of a body. There is no limit for the head: models think."""
IDLE_TIME = 90.0
"""Seconds that a connection waits for its next request."""
IDLE_LIMIT = 100
"""Idle connections per origin."""

Connect: TypeAlias = Callable[[str, str, int], Awaitable[trio.abc.Stream]]
"""Opens a connection to scheme, host and port. Raises `OSError` or `trio.BrokenResourceError`."""


async def open_tcp(host: str, port: int) -> TcpStream:
    stream = await open_tcp_stream(host, port)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


async def start_tls(
    stream: trio.abc.Stream, context: ssl.SSLContext, host: str | None
) -> trio.SSLStream[trio.abc.Stream]:
    """Shake hands over `stream`; on failure that is closed."""
    # A missing close_notify is an error: a body that ends with its connection might have been cut.
    tls = trio.SSLStream(stream, context, server_hostname=host)
    try:
        await tls.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return tls


def tcp_or_tls(context: ssl.SSLContext) -> Connect:
    """Connections over the network: plain TCP for `http`, verified by `context` for `https`."""

    async def connect(scheme: str, host: str, port: int) -> trio.abc.Stream:
        tcp = await open_tcp(host, port)
        return tcp if scheme == "http" else await start_tls(tcp, context, host)

    return connect


def under_tls(stream: trio.abc.Stream) -> trio.abc.Stream:
    """The stream that closes without a goodbye, which would have to be waited for."""
    while isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream


def is_stale(transport: trio.abc.Stream) -> bool:
    """Whether an idle connection was closed by its provider, or said something unasked, as far as that can be seen
    without waiting."""
    return isinstance(transport, TcpStream) and transport.has_something_to_read()
