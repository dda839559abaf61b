"""The load generator: raw bytes over asyncio's protocols, made for the few messages that the stub sends.

Each answer is checked: anything but status 200 and a whole body raises `WrongAnswer`, so nothing else gets measured.
"""

import asyncio
import time
from typing import Protocol

import attrs
from messages import ANSWER_BODY, HOST, STAMP_LENGTH, STAMP_START, STREAM_END

_STATUS_200 = b"HTTP/1.1 200 "
_PATIENCE = 30.0
"""Seconds that answers may be late before a run fails."""


class WrongAnswer(Exception):
    """Something came that the stub had not sent, or nothing."""


@attrs.frozen
class Measured:
    """What became of one run."""

    count: int
    """Requests answered, or events received."""
    seconds: float
    delays: list[float] = attrs.field(repr=False)
    """Seconds from request to answer, or from an event's departure to its arrival."""

    def quantile(self, part: float) -> float:
        return sorted(self.delays)[min(int(part * len(self.delays)), len(self.delays) - 1)]


class Load(Protocol):
    """Call `connect`, `warm_up` and `run`, in this order, and `close` in any case."""

    async def connect(self) -> None: ...
    async def warm_up(self) -> None: ...
    async def run(self) -> Measured: ...
    def close(self) -> None: ...


class _Connection(asyncio.Protocol):
    """Its load hears of each end of an answer through `_Load.ended`."""

    def __init__(self, load: "_Load", message: bytes) -> None:
        self.load = load
        self.message = message
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.fail("the connection was closed")

    def send(self) -> None:
        self.started = time.perf_counter()
        self.transport.write(self.message)


class _Load:
    """What both kinds of load share: connections, and waiting until all is done or something went wrong."""

    kind: type[_Connection]

    def __init__(self, port: int, message: bytes, connections: int) -> None:
        self._port = port
        self._message = message
        self._count = connections
        self._connections: list[_Connection] = []
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def connect(self) -> None:
        """One after the other, so that the listener's backlog plays no part."""
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, connection = await loop.create_connection(lambda: self.kind(self, self._message), HOST, self._port)
            self._connections.append(connection)

    def close(self) -> None:
        self._done.cancel()
        for connection in self._connections:
            connection.transport.abort()

    def fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(WrongAnswer(why))

    async def _finish(self, seconds: float) -> None:
        """Start all connections, and wait until each has ended."""
        self._done = asyncio.get_running_loop().create_future()
        self._under_way = len(self._connections)
        for connection in self._connections:
            connection.send()
        try:
            async with asyncio.timeout(seconds + _PATIENCE):
                await self._done
        except TimeoutError:
            raise WrongAnswer("no answer, or not the right one") from None

    def _ended(self) -> None:
        """One connection has nothing more to do."""
        self._under_way -= 1
        if not self._under_way and not self._done.done():
            self._done.set_result(None)


class _RequestConnection(_Connection):
    load: "Requests"

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(ANSWER_BODY) and self.received.startswith(_STATUS_200):
            self.received = b""
            self.load.answered(self)
        elif len(self.received) > len(_STATUS_200) and not self.received.startswith(_STATUS_200):
            self.load.fail(self.received.decode("latin-1"))


class Requests(_Load):
    """A closed loop: each connection sends a request when the last one was answered.

    It ends after `seconds`, or with the answer to the last of `limit` requests.
    """

    kind = _RequestConnection

    def __init__(self, port: int, message: bytes, connections: int, limit: int, seconds: float) -> None:
        super().__init__(port, message, connections)
        self._limit = limit
        self._seconds = seconds

    async def warm_up(self) -> None:
        await self._run(self._count, self._seconds)

    async def run(self) -> Measured:
        return await self._run(max(self._limit, self._count), self._seconds)

    async def _run(self, limit: int, seconds: float) -> Measured:
        self._delays: list[float] = []
        self._to_send = limit - self._count
        started = time.perf_counter()
        self._until = started + seconds
        await self._finish(seconds)
        return Measured(len(self._delays), time.perf_counter() - started, self._delays)

    def answered(self, connection: _RequestConnection) -> None:
        now = time.perf_counter()
        self._delays.append(now - connection.started)
        if self._to_send > 0 and now < self._until:
            self._to_send -= 1
            connection.send()
        else:
            self._ended()


class _StreamConnection(_Connection):
    load: "Streams"
    events = 0

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        if not self.events:
            self.received += data
            if not _STATUS_200.startswith(self.received[: len(_STATUS_200)]):
                self.load.fail(self.received.decode("latin-1"))
        # No event is longer than what is kept, and none that was counted is counted again.
        self.events += data.count(b"\n\n")
        stamp = data.rfind(STAMP_START)
        if stamp >= 0 and len(digits := data[stamp + len(STAMP_START) :][:STAMP_LENGTH]) == STAMP_LENGTH:
            self.load.delays.append((now - int(digits)) / 1e9)
        if data.endswith(STREAM_END):
            self.load.stream_ended(self)


class Streams(_Load):
    """So many streams at once, each one request, with so many events."""

    kind = _StreamConnection

    def __init__(self, port: int, message: bytes, streams: int, events: int, seconds: float) -> None:
        super().__init__(port, message, streams)
        self._events = events
        self._seconds = seconds
        self.delays: list[float] = []

    async def warm_up(self) -> None:
        """Nothing: a stream is opened once and measured from its beginning."""

    async def run(self) -> Measured:
        started = time.perf_counter()
        await self._finish(self._seconds)
        return Measured(self._events * self._count, time.perf_counter() - started, self.delays)

    def stream_ended(self, stream: _StreamConnection) -> None:
        if stream.events != self._events:
            self.fail(f"{stream.events} events instead of {self._events}")
        self._ended()
