"""Both drivers in this process, on clocks that jump to what comes next: a minute takes no time, and times are exact.

The Trio driver runs under Trio's mock clock, over streams in memory. The asyncio example runs in a loop that looks at
its sockets, and where there is nothing to do, takes the time as passed; its sockets are pairs in this machine's
memory, where what was sent is there to be read at once.
"""

import asyncio
import importlib.util
import json
import re
import selectors
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Any
from unittest import mock

import attrs
import trio
import trio.testing

from onwards_core import Exchange, Gateway, Record, Request, Snapshot, load_config
from onwards_trio._drive import forward
from onwards_trio._probe import Prober
from onwards_trio._reply import Reply
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._wire import RequestHead
from onwards_trio._wire._h11 import H11ServerCodec
from tests.conformance.support.process import ROOT
from tests.trio.upstream_support import Line, read_request

REFUSING, FAR = "refusing", "far"
"""Hosts: one that takes no connections, and one to which none comes about."""


@attrs.frozen
class Call:
    """A request at a provider."""

    host: str
    path: str
    at: float


Steps = Sequence[bytes | float]
"""What a provider does: it sends pieces, and waits so many seconds. Then it closes the connection."""

Answer = Callable[[Call], Steps]


def saying(status: int = 200, body: bytes = b"{}", **fields: str) -> bytes:
    """A whole answer."""
    fields = {"content-type": "application/json", "connection": "close", **fields}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


def beginning(*events: bytes) -> bytes:
    """An event stream's head and these events, without an end."""
    head = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return head + b"".join(map(chunk, events))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@attrs.frozen
class Ask:
    """A client's request."""

    at: float = 0.0
    fields: Mapping[str, str] = attrs.field(factory=dict)
    members: Mapping[str, Any] = attrs.field(factory=dict)
    path: str = "/v1/chat/completions"

    @property
    def message(self) -> bytes:
        body = json.dumps({"model": "model", **self.members})
        fields = {"host": "h", "content-length": f"{len(body)}", "connection": "close", **self.fields}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.path} HTTP/1.1\r\n{lines}\r\n{body}".encode()


@attrs.frozen
class Told:
    """What became of a client's request."""

    record: Record
    answer: bytes
    ended: float
    """When the client had it all."""

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ")[1])

    @property
    def outcomes(self) -> list[tuple[str, str | None]]:
        """Who was tried, or left out, and what came of it."""
        return [(attempt.provider, attempt.outcome) for attempt in self.record.attempts]

    @property
    def times(self) -> list[float]:
        """When each attempt began, after the request came."""
        return [attempt.started - self.record.started for attempt in self.record.attempts]


def play(driver: str, config: Any, answer: Answer, *asked: Ask, probing: bool = False) -> list[Told]:
    """Send the requests at their times; what became of each.

    probing: also ask providers how they are, as long as there are requests.
    """
    loaded = load_config(json.dumps(config).encode())
    gateway = Gateway(Snapshot.compile(loaded, hash_key=b"k" * 32), random=Random(1))
    told = _DRIVERS[driver](gateway, answer, asked, probing)
    assert gateway.ledger.permits_out() == 0
    return [told[index] for index in range(len(asked))]


# Trio


def _run_trio(gateway: Gateway, answer: Answer, asked: Sequence[Ask], probing: bool) -> dict[int, Told]:
    told: dict[int, Told] = {}

    async def provide(host: str, stream: trio.abc.Stream) -> None:
        async with stream:
            with suppress(EOFError, trio.BrokenResourceError):
                head, _ = await read_request(stream)
                for step in answer(Call(host, head.target.decode(), trio.current_time())):
                    if isinstance(step, bytes):
                        await stream.send_all(step)
                    else:
                        await trio.sleep(step)

    async def ask(index: int, transport: DirectTransport) -> None:
        await trio.sleep_until(asked[index].at)
        ours, theirs = trio.testing.memory_stream_pair()
        codec = H11ServerCodec()
        codec.receive(asked[index].message)
        head = codec.next_event()
        assert isinstance(head, RequestHead)
        body = b""
        while isinstance(piece := codec.next_event(), bytes):
            body += piece
        request = Request(head.method, head.target, head.headers, body)
        reply = Reply(ours, codec, Record.of(request, trio.current_time()))
        await forward(gateway, transport)(request, reply)
        ended = reply.close()
        await ours.aclose()
        received = b"".join([piece async for piece in theirs])
        told[index] = Told(reply.record, received, ended)

    async def main() -> None:
        async with trio.open_nursery() as others:

            async def connect(scheme: str, host: str, port: int, tls: object) -> Line:
                if host == REFUSING:
                    raise ConnectionRefusedError
                if host == FAR:
                    await trio.sleep_forever()
                ours, theirs = trio.testing.memory_stream_pair()
                others.start_soon(provide, host, theirs)
                return Line(ours)

            async with DirectTransport(connect) as transport:
                if probing:
                    others.start_soon(Prober(gateway, transport).run)
                async with trio.open_nursery() as clients:
                    for index in range(len(asked)):
                        clients.start_soon(ask, index, transport)
                others.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return told


# asyncio


def _load_example() -> Any:
    spec = importlib.util.spec_from_file_location("asyncio_gateway", ROOT / "docs/examples/asyncio_gateway.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_EXAMPLE = _load_example()
_open_streams = asyncio.open_connection


class _Selector(selectors.DefaultSelector):
    """Waits for nothing: its time jumps instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "nothing will ever happen"
            self.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


class _Witness:
    """Stands before the gateway for one request."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.record: Record

    def admit(self, request: Request, now: float) -> Exchange:
        exchange = self._gateway.admit(request, now)
        self.record = exchange.record
        return exchange


async def _provide(host: str, sock: socket.socket, answer: Answer) -> None:
    reader, writer = await _open_streams(sock=sock)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        if length := re.search(rb"content-length: (\d+)", head, re.IGNORECASE):
            await reader.readexactly(int(length[1]))
        path = head.split(b" ")[1].decode()
        for step in answer(Call(host, path, asyncio.get_running_loop().time())):
            if isinstance(step, bytes):
                writer.write(step)
                await writer.drain()
            else:
                await asyncio.sleep(step)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


def _run_asyncio(gateway: Gateway, answer: Answer, asked: Sequence[Ask], probing: bool) -> dict[int, Told]:
    told: dict[int, Told] = {}
    others: list[asyncio.Task[None]] = []

    async def connect(host: str, port: int, **_: object) -> Any:
        if host == REFUSING:
            raise ConnectionRefusedError
        if host == FAR:
            await asyncio.Future()
        ours, theirs = socket.socketpair()
        others.append(asyncio.create_task(_provide(host, theirs, answer)))
        return await _open_streams(sock=ours)

    async def ask(index: int) -> None:
        await asyncio.sleep(asked[index].at)
        ours, theirs = socket.socketpair()
        witness = _Witness(gateway)
        serving = asyncio.create_task(_EXAMPLE.serve_client(witness, *await _open_streams(sock=ours)))
        reader, writer = await _open_streams(sock=theirs)
        writer.write(asked[index].message)
        received = await reader.read()
        ended = asyncio.get_running_loop().time()
        writer.close()
        await serving
        told[index] = Told(witness.record, received, ended)

    async def main() -> None:
        if probing:
            others.append(asyncio.create_task(_EXAMPLE.probe_all(gateway)))
        async with asyncio.TaskGroup() as clients:
            for index in range(len(asked)):
                clients.create_task(ask(index))
        for task in others:
            task.cancel()
        for result in await asyncio.gather(*others, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), result

    with mock.patch.object(asyncio, "open_connection", connect), asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(main())
    return told


_DRIVERS = {"trio": _run_trio, "asyncio": _run_asyncio}
