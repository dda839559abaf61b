"""One transport for all providers: each request takes the way that its provider needs."""

from collections import Counter
from collections.abc import Awaitable, Iterable
from importlib import import_module
from types import TracebackType
from typing import Self

import trio

from onwards_core import SendUpstream
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._upstream._protocol import Answer, Transport


class Transports:
    """Implements `Transport`: httpcore for HTTP/2, which needs TLS, and for proxies; else our own connections.

    httpcore is imported when the first provider needs it: that takes a tenth of the time that a start takes.
    """

    def __init__(self, direct: Transport | None = None, httpcore: Transport | None = None) -> None:
        self._direct = direct or DirectTransport()
        self._httpcore = httpcore
        self._opened: Transport | None = None  # of httpcore
        self._opening = trio.Lock()

    async def __aenter__(self) -> Self:
        await self._direct.__aenter__()
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        try:
            # Without the exception: it's not from a task of this nursery, and is not to be wrapped in a group.
            await self._nursery_manager.__aexit__(None, None, None)
        finally:
            await self._direct.__aexit__(type, value, traceback)

    @property
    def opened(self) -> Counter[str]:
        return _sum(each.opened for each in self._both())

    @property
    def reused(self) -> Counter[str]:
        return _sum(each.reused for each in self._both())

    def connections(self) -> tuple[Counter[str], Counter[str]]:
        active, idle = zip(*(each.connections() for each in self._both()), strict=True)
        return _sum(active), _sum(idle)

    def _both(self) -> list[Transport]:
        return [self._direct] if self._httpcore is None else [self._direct, self._httpcore]

    def send(self, request: SendUpstream) -> Awaitable[Answer]:
        provider = request.provider
        if provider.proxy or (provider.http2 and provider.url.scheme == "https"):
            return self._send_by_httpcore(request)
        return self._direct.send(request)

    async def _send_by_httpcore(self, request: SendUpstream) -> Answer:
        if self._opened is None:
            async with self._opening:
                if self._opened is None:
                    self._opened = await self._nursery.start(self._keep_open)
        return await self._opened.send(request)

    async def _keep_open(self, task_status: trio.TaskStatus[Transport]) -> None:
        if self._httpcore is None:
            module = await trio.to_thread.run_sync(import_module, "onwards_trio._upstream._httpcore")
            self._httpcore = module.HttpcoreTransport()
        async with self._httpcore as transport:
            task_status.started(transport)
            await trio.sleep_forever()


def _sum(counters: Iterable[Counter[str]]) -> Counter[str]:
    """With zeros, which `+` would leave out: a host that has no connections now is worth telling."""
    total: Counter[str] = Counter()
    for each in counters:
        total.update(each)
    return total
