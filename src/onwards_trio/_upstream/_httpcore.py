"""HTTP/2 and upstream proxies, over httpcore's connection classes.

httpcore's own pool is not used: it searches through all connections for each request, and loses slots when
requests are cancelled. In its place there is one stack per origin and proxy, of the connections that have room for
another exchange: an HTTP/1.1 one when it's idle, an HTTP/2 one as long as the provider allows more streams.

An exchange that ends early takes its connection out of use. Alone on it, it closes it; otherwise the provider is
told to stop that stream, and the connection is closed with the last of the other exchanges.
"""

import logging
import math
import re
from collections import Counter
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias
from urllib.parse import unquote, urlsplit

import h2.events
import h2.exceptions
import httpcore
import socksio
import trio
from h2.errors import ErrorCodes
from h2.settings import SettingCodes
from hyperframe.frame import RstStreamFrame

from onwards_core import FailureReason, Headers, HttpPoolConfig, Provider, SendUpstream, TlsConfig
from onwards_trio._tls import provider_context
from onwards_trio._upstream._httpcore_io import Wire
from onwards_trio._upstream._protocol import UpstreamError, no_connection

# At DEBUG these would log header values and the proxy's password.
for _name in ("httpcore", "hpack"):
    logging.getLogger(_name).setLevel(logging.INFO)

# httpcore allows itself no more streams than that on a connection.
_STREAM_LIMIT = 100

_Key: TypeAlias = tuple[str, str, int, bool, str | None, TlsConfig | None]
"""Scheme, host, port, whether to offer HTTP/2, proxy, how it is secured."""

_FAULTS = (
    httpcore.ConnectionNotAvailable,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    h2.exceptions.H2Error,  # comes through where httpcore reads a body
    socksio.SOCKSError,
    trio.BrokenResourceError,  # from a TLS handshake
    OSError,  # from connecting
    ValueError,  # a status that is no number; addresses that socksio can't read
)

_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class _Unprocessed(UpstreamError):
    """The request has not been processed, as far as that can be seen."""

    def __init__(self) -> None:
        super().__init__("reset")


class _Link:
    """A connection, and what httpcore doesn't keep track of. opened: counts those that are made, by host."""

    def __init__(self, key: _Key, limits: HttpPoolConfig, opened: Counter[str]) -> None:
        self.key = key
        self.limits = limits
        self.wire = Wire()
        self.connection = _connection(key, self.wire)
        self.exchanges = 0
        self.capacity = 1  # until an HTTP/2 provider says how many streams it allows
        self.idle_until = 0.0
        self.retired = False
        self.is_open = False
        self._opened = opened

    def note_open(self) -> None:
        """It is connected, proxies and TLS included."""
        if not self.is_open:
            self.is_open = True
            self._opened[self.key[1]] += 1

    @property
    def has_room(self) -> bool:
        return not self.retired and self.exchanges < self.capacity and self.connection.is_available()

    @property
    def expired(self) -> bool:
        return not self.exchanges and (self.idle_until <= trio.current_time() or self.wire.stale)


def _connection(key: _Key, wire: Wire) -> httpcore.AsyncConnectionInterface:
    scheme, host, port, http2, proxy, tls = key
    # One of its own: httpcore sets in it what to offer, for each connection anew.
    context = provider_context(tls, "http/1.1", "h2")
    origin = httpcore.Origin(scheme.encode(), host.encode(), port)
    if proxy is None:
        return httpcore.AsyncHTTPConnection(origin, ssl_context=context, http2=http2, network_backend=wire)
    url = urlsplit(proxy)
    auth = (unquote(url.username), unquote(url.password or "")) if url.username else None
    # httpcore makes a proxy's connections in the pool's class only; none is ever opened in this pool.
    kind = httpcore.AsyncSOCKSProxy if url.scheme.startswith("socks5") else httpcore.AsyncHTTPProxy
    address = httpcore.URL(scheme=url.scheme, host=url.hostname or "", port=url.port, target="/")
    pool = kind(address, proxy_auth=auth, ssl_context=context, http2=http2, network_backend=wire)
    return pool.create_connection(origin)


class _Body:
    """A request's body in one piece; no generator, since a cancellation would leave that behind unfinished."""

    def __init__(self, body: bytes) -> None:
        self._pieces = iter([body])

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


class _Progress:
    """What httpcore tells about one exchange, in its `trace` extension."""

    def __init__(self, link: _Link, provider: Provider) -> None:
        self.waiting = trio.CancelScope(deadline=trio.current_time() + provider.connect_timeout)
        """For the connection, then for the head of the answer."""
        self.begun = False
        self.stream_id: int | None = None
        """Of an HTTP/2 stream that the provider knows of."""
        self.provider = provider
        self._link = link

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        match event:
            case "http11.send_request_headers.started" | "http2.send_request_headers.started":
                if info["request"].method != b"CONNECT":  # That one is for the proxy.
                    self.begun = True
                    self._link.note_open()
                    self.waiting.deadline = trio.current_time() + (self.provider.head_timeout or math.inf)
                    self._stream_id = info.get("stream_id")
            case "http2.send_request_headers.complete":
                self.stream_id = self._stream_id
            case "http2.receive_remote_settings.complete":
                allowed = info["return_value"].changed_settings.get(SettingCodes.MAX_CONCURRENT_STREAMS)
                if allowed and allowed.new_value:
                    self._link.capacity = min(allowed.new_value, _STREAM_LIMIT)


def _reason(error: Exception, link: _Link) -> FailureReason:
    cause = error.args[0] if error.args else None
    lost = link.wire.ended or isinstance(error, httpcore.NetworkError) or isinstance(cause, h2.events.Event)
    return "reset" if lost else "protocol"


def _checked_headers(response: httpcore.Response) -> Headers:
    """The fields in lower case. Raises `UpstreamError` for what could not be sent on: HTTP/2 can carry anything."""
    headers = [(name.lower(), value.strip(b" \t")) for name, value in response.headers]
    names = [name for name, _ in headers]
    if (
        not 200 <= response.status <= 599
        or not all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers)
        or (b"content-length" in names and b"transfer-encoding" in names)
    ):
        raise UpstreamError("protocol")
    return headers


async def _respond(link: _Link, request: SendUpstream, progress: _Progress) -> httpcore.Response:
    scheme, host, port, *_ = link.key
    http_request = httpcore.Request(
        request.method,
        httpcore.URL(scheme=scheme, host=host, port=port, target=request.target),
        headers=request.headers,
        content=_Body(request.body),
        extensions={"trace": progress},
    )
    with progress.waiting:
        return await link.connection.handle_async_request(http_request)
    raise UpstreamError("head_timeout" if progress.begun else "connect_timeout")


class HttpcoreTransport:
    """Implements `Transport`."""

    def __init__(self) -> None:
        self._roomy: dict[_Key, list[_Link]] = {}  # the one used last is last
        self._links: set[_Link] = set()  # all that are not closed
        self.opened: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()

    def connections(self) -> tuple[Counter[str], Counter[str]]:
        active: Counter[str] = Counter()
        idle: Counter[str] = Counter()
        for link in self._links:
            if link.is_open:
                (active if link.exchanges else idle)[link.key[1]] += 1
        return active, idle

    async def __aenter__(self) -> Self:
        self._nursery_manager = trio.open_nursery()
        self.nursery = await self._nursery_manager.__aenter__()
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(None, None, None)
        with trio.CancelScope(shield=True):  # Nothing in here waits: closing is forceful.
            for links in self._roomy.values():
                while links:
                    await self._close(links.pop())

    async def send(self, request: SendUpstream) -> "HttpcoreAnswer":
        provider = request.provider
        url = provider.url
        key = (url.scheme, url.host, url.port, provider.http2, provider.proxy, provider.tls)
        reused = await self._take(key)
        if reused:
            self.reused[url.host] += 1
            try:
                return await self._ask(reused, request)
            except _Unprocessed:
                pass
        try:
            fresh = _Link(key, provider.http_pool, self.opened)
        except (KeyError, ValueError) as error:  # The proxy's URL is none.
            raise UpstreamError("connect") from error
        self._links.add(fresh)
        return await self._ask(fresh, request)

    async def _take(self, key: _Key) -> _Link | None:
        links = self._roomy.get(key)
        while links:
            link = links[-1]
            if link.has_room and not link.expired:
                return link
            links.pop()
            if not link.exchanges:
                await self._close(link)
        return None

    async def _close(self, link: _Link) -> None:
        self._links.discard(link)
        await link.wire.close()

    async def _ask(self, link: _Link, request: SendUpstream) -> "HttpcoreAnswer":
        progress = _Progress(link, request.provider)
        received = link.wire.received
        link.exchanges += 1
        self._sort(link)
        try:
            answer = HttpcoreAnswer(self, link, progress, await _respond(link, request, progress))
        except _FAULTS as error:
            await self.release(link, progress, complete=False)
            if isinstance(error, httpcore.ConnectionNotAvailable):
                raise _Unprocessed from None
            if not progress.begun:
                raise no_connection(error) from None
            reason = _reason(error, link)
            if reason == "reset" and link.wire.received == received:
                raise _Unprocessed from None
            raise UpstreamError(reason) from None
        except BaseException:
            await self.release(link, progress, complete=False)
            raise
        self._sort(link)  # By now an HTTP/2 provider has told its capacity.
        return answer

    async def release(self, link: _Link, progress: _Progress, *, complete: bool) -> None:
        """One exchange on the connection is over. Unless it was complete, there will be no others."""
        link.exchanges -= 1
        link.retired = link.retired or not complete
        link.idle_until = trio.current_time() + link.limits.idle_timeout_secs
        self._sort(link)
        if link.exchanges:
            if not complete and progress.stream_id and link.wire.stream:
                frame = RstStreamFrame(progress.stream_id, error_code=ErrorCodes.CANCEL)
                with suppress(httpcore.WriteError):
                    await link.wire.stream.write(frame.serialize())
        elif link not in self._roomy[link.key]:
            await self._close(link)

    def _sort(self, link: _Link) -> None:
        """Put the connection on top of its stack, or take it away if it has no room."""
        links = self._roomy.setdefault(link.key, [])
        if link in links:
            links.remove(link)
        idle = sum(not other.exchanges for other in links)
        if link.has_room and (link.exchanges or idle < link.limits.max_idle_per_host):
            links.append(link)


class _Reading:
    """A wait for the next piece of a body that outlasts whoever waits for it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.data = b""
        self.error: Exception | None = None


class HttpcoreAnswer:
    """Implements `Answer`."""

    def __init__(
        self, transport: HttpcoreTransport, link: _Link, progress: _Progress, response: httpcore.Response
    ) -> None:
        self.status = response.status
        self.headers = _checked_headers(response)
        self._transport = transport
        self._link = link
        self._progress = progress
        self._response = response
        self._body = response.aiter_stream()
        self.ended = False
        self._closed = False
        self._failure: FailureReason | None = None
        self._reading: _Reading | None = None

    def receive_nowait(self) -> bytes:
        return b""  # httpcore can't tell.

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        complete = False
        try:
            if self._reading is not None:
                self._reading.scope.cancel()
                with trio.move_on_after(1, shield=True):
                    await self._reading.over.wait()
            if self.ended:
                await self._response.aclose()
                complete = True
            else:
                await self._drop_body()
        finally:
            await self._transport.release(self._link, self._progress, complete=complete)

    async def _drop_body(self) -> None:
        """End httpcore's generators, cancelled instead of closed: closing one leaves those inside of it behind."""
        with suppress(*_FAULTS), trio.CancelScope() as scope:
            scope.cancel()
            async for _ in self._body:
                pass

    async def receive(self) -> bytes:
        if self._reading is None:
            return await self._receive()
        await self._reading.over.wait()
        reading, self._reading = self._reading, None
        if reading.error is not None:
            raise reading.error
        return reading.data

    async def receive_until(self, until: float) -> bytes | None:
        # In a task of its own, since httpcore can't go on with what was interrupted.
        if self._reading is None:
            self._reading = _Reading()
            self._transport.nursery.start_soon(self._read_aside, self._reading)
        with trio.move_on_at(until):
            return await self.receive()
        return None

    async def _read_aside(self, reading: "_Reading") -> None:
        with reading.scope:
            try:
                reading.data = await self._receive()
            except Exception as error:  # noqa: BLE001  # Whoever waits for it gets it, and nobody else.
                reading.error = error
        reading.over.set()

    async def _receive(self) -> bytes:
        if self._failure:
            raise UpstreamError(self._failure)
        self._failure = "idle_timeout"  # And once interrupted, a body can't be read on.
        with trio.move_on_after(self._progress.provider.idle_timeout):
            try:
                async for piece in self._body:
                    if piece:
                        self._failure = None
                        return piece
                self.ended = True
                self._failure = None
            except _FAULTS as error:
                self._failure = _reason(error, self._link)
        if self._failure:
            raise UpstreamError(self._failure)
        return b""
