"""One transport for all providers: each request takes the way that its provider needs."""

from collections.abc import Awaitable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from onwards_core import SendUpstream
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._upstream._httpcore import HttpcoreTransport
from onwards_trio._upstream._protocol import Answer, Transport


class Transports:
    """Implements `Transport`: httpcore for HTTP/2, which needs TLS, and for proxies; else our own connections."""

    def __init__(self, direct: Transport | None = None, httpcore: Transport | None = None) -> None:
        self._direct = direct or DirectTransport()
        self._httpcore = httpcore or HttpcoreTransport()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._direct)
        await self._stack.enter_async_context(self._httpcore)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(type, value, traceback)

    def send(self, request: SendUpstream) -> Awaitable[Answer]:
        provider = request.provider
        if provider.proxy or (provider.http2 and provider.url.scheme == "https"):
            return self._httpcore.send(request)
        return self._direct.send(request)
