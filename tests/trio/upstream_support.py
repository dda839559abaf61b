"""Providers for the transports' tests: scripts at the other end of streams in memory or of real sockets."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from onwards_core import HttpPoolConfig, SendUpstream, TlsConfig, Url
from onwards_core._ledger import Limit
from onwards_core._snapshot import Provider
from onwards_trio._upstream import Answer, Transport, UpstreamError
from onwards_trio._wire import RequestHead, Signal
from onwards_trio._wire._h11 import H11ServerCodec

Script = Callable[[trio.abc.Stream], Awaitable[None]]

CONNECT_TIMEOUT = 10.0
BODY_TIMEOUT = 300.0
IDLE_TIME = 90.0
IDLE_LIMIT = 100

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def request_to(
    host: str = "provider",
    port: int = 80,
    *,
    scheme: str = "http",
    method: str = "POST",
    target: bytes = b"/v1/chat/completions",
    body: bytes = b"{}",
    http2: bool = False,
    proxy: str | None = None,
    tls: TlsConfig | None = None,
    head_timeout: float | None = None,
) -> SendUpstream:
    """A request as the core makes it."""
    return SendUpstream(
        provider=Provider(
            identity=host,
            label=host,
            url=Url(scheme=scheme, host=host, port=port, path=b""),
            authority=host.encode(),
            auth_header=b"authorization",
            credential=None,
            model=None,
            limit=Limit(identity=host),
            sanitize=False,
            response_headers={},
            http2=http2,
            proxy=proxy,
            tls=tls,
            connect_timeout=CONNECT_TIMEOUT,
            head_timeout=head_timeout,
            first_content_timeout=None,
            idle_timeout=BODY_TIMEOUT,
            http_pool=HttpPoolConfig(max_idle_per_host=IDLE_LIMIT, idle_timeout_secs=IDLE_TIME),
            trusted=False,
            propagate_trace_context=False,
        ),
        method=method,
        target=target,
        headers=[(b"host", host.encode()), (b"content-length", b"%d" % len(body))],
        body=body,
    )


async def ask(transport: Transport, request: SendUpstream) -> tuple[int, bytes]:
    """Send the request and read the whole answer."""
    async with aclosing(await transport.send(request)) as answer:
        return answer.status, await read_all(answer)


async def read_all(answer: Answer) -> bytes:
    body = b""
    while piece := await answer.receive():
        body += piece
    return body


async def read_request(stream: trio.abc.Stream) -> tuple[RequestHead, bytes]:
    """The next request on a provider's end of a connection."""
    codec = H11ServerCodec()
    body = b""
    head = None
    while True:
        event = codec.next_event()
        match event:
            case RequestHead():
                head = event
            case bytes():
                body += event
            case Signal.NEED_DATA:
                codec.receive(await stream.receive_some())
            case Signal.END:
                assert head is not None
                return head, body
            case _:
                raise EOFError(event)


async def answer_all(stream: trio.abc.Stream) -> None:
    """Answers each request with `OK`, until the client closes."""
    while True:
        await answer_once(stream)


async def answer_once(stream: trio.abc.Stream) -> None:
    await read_request(stream)
    await stream.send_all(OK)


async def play(script: Script, stream: trio.abc.Stream) -> None:
    """Serve a connection by the script; the client may leave at any time."""
    async with stream:
        with suppress(EOFError, trio.BrokenResourceError):
            await script(stream)


class Line(trio.abc.Stream):
    """The client's end of a connection in memory; knows whether it was closed."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.closed = False
        self._stream = stream

    def send_nowait(self, data: bytes) -> int:
        return 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    def has_something_to_read(self) -> bool:
        return False

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    def close(self) -> None:
        self.closed = True
        self._stream.send_stream.close()
        self._stream.receive_stream.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


class Network:
    """Connections in memory: the n-th one is served by the n-th script, further ones by the last."""

    def __init__(self, nursery: trio.Nursery, *scripts: Script, lockstep: bool = False) -> None:
        self.lines: list[Line] = []
        self._nursery = nursery
        self._scripts = scripts
        self._pair = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair

    async def connect(self, scheme: str, host: str, port: int, tls: TlsConfig | None) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        client, server = self._pair()
        script = self._scripts[min(len(self.lines), len(self._scripts) - 1)]
        self.lines.append(Line(client))
        self._nursery.start_soon(play, script, server)
        return self.lines[-1]

    @property
    def open(self) -> int:
        return sum(not line.closed for line in self.lines)


def over_tls(authority: trustme.CA, script: Script, *, name: str = "127.0.0.1", compatible: bool = False) -> Script:
    """The script behind TLS with a certificate for this name; `compatible`: closing says no goodbye."""
    context = server_context(authority, name)
    context.set_alpn_protocols(["http/1.1"])

    async def wrapped(stream: trio.abc.Stream) -> None:
        async with trio.SSLStream(stream, context, server_side=True, https_compatible=compatible) as tls:
            await tls.do_handshake()
            assert tls.selected_alpn_protocol() == "http/1.1"
            await script(tls)

    return wrapped


def server_context(authority: trustme.CA, name: str = "127.0.0.1") -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # A cut is not to look like an end.
    authority.issue_cert(name).configure_cert(context)
    return context


@asynccontextmanager
async def listening(script: Script) -> AsyncIterator[int]:
    """A provider at a port of this machine that serves each connection by the script."""
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(play, script), [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def saying(*pieces: bytes) -> Script:
    """Answers one request with these pieces, then closes."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        for piece in pieces:
            await stream.send_all(piece)

    return script


def keeping_open(*pieces: bytes) -> Script:
    """Answers one request with these pieces, then waits for the client to close."""

    async def script(stream: trio.abc.Stream) -> None:
        await saying(*pieces)(stream)
        assert await stream.receive_some() == b""

    return script


async def fails(awaitable: Awaitable[object]) -> str:
    with pytest.raises(UpstreamError) as raised:
        await awaitable
    return raised.value.reason


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task has been running for the n-th time."""

    def __init__(self, task: trio.lowlevel.Task, scope: trio.CancelScope, step: int) -> None:
        self._task = task
        self._scope = scope
        self._step = step

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._step -= 1
            if self._step == 0:
                self._scope.cancel()


async def cancelled_at(step: int, function: Callable[..., Awaitable[object]], *arguments: object) -> bool:
    """Run the function, and cancel it when it was resumed for the `step`-th time. False: it ended before."""
    scope = trio.CancelScope()

    async def victim() -> None:
        with scope:
            await function(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(victim)
        [task] = nursery.child_tasks
        instrument = CancelAt(task, scope, step)
        trio.lowlevel.add_instrument(instrument)
    trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught
