"""Opening connections to providers."""

import socket
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from onwards_core import TlsConfig
from onwards_trio._tcp import TcpStream, TlsStream, open_tcp_stream
from onwards_trio._tls import provider_context

Connect: TypeAlias = Callable[[str, str, int, TlsConfig | None], Awaitable[TcpStream]]
"""Opens a connection to scheme, host and port. Raises `OSError` or `trio.BrokenResourceError`."""


async def open_tcp(host: str, port: int) -> TcpStream:
    stream = await open_tcp_stream(host, port)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


async def open_connection(scheme: str, host: str, port: int, tls: TlsConfig | None) -> TcpStream:
    """Implements `Connect` over the network: plain TCP for `http`, TLS with HTTP/1.1 for `https`."""
    stream = await open_tcp(host, port)
    if scheme == "http":
        return stream
    return await TlsStream.start_client(stream, provider_context(tls, "http/1.1"), host)
