"""The network below httpcore's connections: our way of connecting, and of surviving a cancellation."""

import math
import ssl
from collections.abc import Iterable
from typing import Any

import httpcore
import trio

from onwards_trio._tcp import TcpStream, TlsStream
from onwards_trio._upstream._connect import open_tcp

_WRITE_TIMEOUT = 10.0


class Wire(httpcore.AsyncNetworkBackend):
    """The backend of a single httpcore connection; keeps what that has opened."""

    def __init__(self) -> None:
        self.received = 0
        """Bytes, on the outermost layer."""
        self.ended = False
        """Whether the peer has closed its side."""
        self.stream: Stream | None = None

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.stream = Stream(await open_tcp(host, port), self)
        return self.stream

    @property
    def stale(self) -> bool:
        return self.stream is None or self.stream.stream.has_something_to_read()

    async def close(self) -> None:
        """Close at once, whatever httpcore thinks of its connection."""
        if self.stream:
            await self.stream.aclose()


class Stream(httpcore.AsyncNetworkStream):
    """Timeouts are not looked at: exchanges have cancel scopes."""

    def __init__(self, stream: TcpStream, wire: Wire) -> None:
        self.stream = stream
        self._wire = wire
        self._write_lock = trio.Lock()
        # Half a frame, or a header block that is lost after compressing it, would break all other exchanges on the
        # connection, so there a cancellation has to wait for the write. An HTTP/1.1 connection is closed instead.
        self._is_shared = isinstance(stream, TlsStream) and stream.socket.selected_alpn_protocol() == "h2"

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            data = await self.stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise httpcore.ReadError from error
        self._wire.received += len(data)
        self._wire.ended = self._wire.ended or not data
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        limit = _WRITE_TIMEOUT if self._is_shared else math.inf
        with trio.move_on_after(limit, shield=self._is_shared):
            async with self._write_lock:
                try:
                    await self.stream.send_all(buffer)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise httpcore.WriteError from error
                else:
                    return
        await self.aclose()
        raise httpcore.WriteError

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self._wire.stream = Stream(await TlsStream.start_client(self.stream, ssl_context, server_hostname), self._wire)
        return self._wire.stream

    def get_extra_info(self, info: str) -> Any:
        """What httpcore wants of it is the TLS layer, for the protocol agreed upon."""
        return self.stream.socket if info == "ssl_object" and isinstance(self.stream, TlsStream) else None
