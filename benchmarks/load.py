"""The load generator: raw bytes over asyncio's protocols, made for the few messages that the stub sends.

Each answer is checked: anything but status 200 and a whole body raises `WrongAnswer`, so nothing else gets measured.
"""

import asyncio
import itertools
import math
import re
import time
from collections.abc import Callable, Iterable
from typing import Self

import attrs
from messages import ANSWER_BODY, HOST, OK, REFUSED, STAMP_LENGTH, STAMP_START, STREAM_END

_PATIENCE = 60.0
"""Seconds that answers may be late before a run fails."""


_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


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


def _is_whole(answer: bytes) -> bool:
    """Whether the body is complete: the stub's own, or what a gateway made of it."""
    if answer.endswith(ANSWER_BODY):
        return True
    head, blank, body = answer.partition(b"\r\n\r\n")
    length = _LENGTH.search(head)
    return bool(blank and length and len(body) == int(length[1]))


class _Connection(asyncio.Protocol):
    """Sends the next of `messages` when it is told to, and hands over what comes back."""

    def __init__(
        self, messages: Iterable[bytes], received: Callable[["_Connection", bytes], None], lost: Callable[[], None]
    ) -> None:
        self.messages = itertools.cycle(messages)
        self.started = 0.0
        self.buffer = b""
        self.events = 0
        self._received = received
        self._lost = lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._received(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost()

    def send(self) -> None:
        self.started = time.perf_counter()
        self.transport.write(next(self.messages))


class _Load:
    """Connections, and waiting until all is done or something went wrong. Each sends its messages in turns."""

    _EXPECTED: tuple[bytes, ...] = (OK,)
    """What an answer begins with."""

    def __init__(self, port: int, message: bytes, connections: int, *, others: Iterable[bytes] = ()) -> None:
        self._port = port
        self._messages = [message, *others]
        self._count = connections
        self._connections: list[_Connection] = []

    async def __aenter__(self) -> Self:
        """Connect, one after the other, so that the listener's backlog plays no part."""
        for _ in range(self._count):
            await self._connect()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._done.cancel()
        for connection in self._connections:
            connection.transport.abort()

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = loop.create_future()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._messages, self._received, lambda: self._fail("the connection was closed")),
            HOST,
            self._port,
        )
        self._connections.append(connection)

    def _received(self, connection: _Connection, data: bytes) -> None:
        raise NotImplementedError

    async def _finish(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds + _PATIENCE):
                await self._done
        except TimeoutError:
            raise WrongAnswer("no answer, or not the whole one") from None

    def _fail(self, why: str) -> None:
        if not self._done.done():
            self._done.set_exception(WrongAnswer(why))

    def _succeed(self) -> None:
        if not self._done.done():
            self._done.set_result(None)

    def _check(self, answer: bytes) -> None:
        if not answer.startswith(tuple(begin[: len(answer)] for begin in self._EXPECTED)):
            self._fail(answer.decode("latin-1"))


class Requests(_Load):
    """Plain requests, each answered before its connection sends the next."""

    async def run(self, seconds: float, *, per_second: float | None = None) -> Measured:
        """For so long. Without `per_second`, each connection sends its next request when it has got its answer; with
        it, requests are sent at that pace by whichever connection is free, and wait counts as delay."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._delays: list[float] = []
        self._under_way = 0
        self._idle: list[_Connection] | None = None if per_second is None else list(self._connections)
        self._late: list[float] = []  # when the requests were due that no connection was free for
        started = time.perf_counter()
        if per_second is None:
            self._until = started + seconds
            for connection in self._connections:
                self._send(connection)
        else:
            self._until = math.inf  # Until all have been sent, no answer is the last one.
            await self._pace(self._idle or [], started, started + seconds, per_second)
        await self._finish(seconds)
        return Measured(len(self._delays), time.perf_counter() - started, self._delays)

    async def _pace(self, idle: list[_Connection], started: float, until: float, per_second: float) -> None:
        for number in itertools.count():
            due = started + number / per_second
            if due >= until:
                break
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            if idle:
                self._send(idle.pop(), due)
            else:
                self._late.append(due)
        self._until = 0.0  # Nothing is to come: the last answer ends it, which may be there already.
        if not self._under_way:
            self._succeed()

    def _send(self, connection: _Connection, due: float | None = None) -> None:
        self._under_way += 1
        connection.send()
        if due is not None:
            connection.started = due

    def _received(self, connection: _Connection, data: bytes) -> None:
        connection.buffer += data
        if not connection.buffer.startswith(self._EXPECTED) or not _is_whole(connection.buffer):
            self._check(connection.buffer)
            return
        self._answered(connection, time.perf_counter())

    def _answered(self, connection: _Connection, now: float) -> None:
        connection.buffer = b""
        self._delays.append(now - connection.started)
        self._under_way -= 1
        if self._idle is not None:
            if self._late:
                self._send(connection, self._late.pop(0))
            else:
                self._idle.append(connection)
        elif now < self._until:
            self._send(connection)
        if not self._under_way and now >= self._until:
            self._succeed()


class Limited(Requests):
    """The same, where some may be refused by a limit."""

    _EXPECTED = (OK, REFUSED)

    def __init__(self, port: int, message: bytes, connections: int) -> None:
        super().__init__(port, message, connections)
        self.granted: list[float] = []
        self.refused: list[float] = []
        """When each was, by `time.perf_counter`."""

    def _answered(self, connection: _Connection, now: float) -> None:
        (self.granted if connection.buffer.startswith(OK) else self.refused).append(now)
        super()._answered(connection, now)


class Streams(_Load):
    """So many streams at once, each one request."""

    async def run(self, events: int, interval: float) -> Measured:
        """Until each has got so many events; delays are those of the events."""
        self._begin(events)
        started = time.perf_counter()
        for connection in self._connections:
            connection.send()
        await self._finish(events * interval)
        return Measured(events * self._count, time.perf_counter() - started, self._delays)

    async def open(self, interval: float) -> Measured:
        """Until each has got its first event; delays are those from request to first event."""
        self._begin(1)
        self._opening = True
        started = time.perf_counter()
        for connection in self._connections:
            connection.send()
        await self._finish(interval)
        return Measured(self._count, time.perf_counter() - started, self._delays)

    def _begin(self, events: int) -> None:
        self._done = asyncio.get_running_loop().create_future()
        self._events = events
        self._delays: list[float] = []
        self._under_way = self._count
        self._opening = False

    def _received(self, connection: _Connection, data: bytes) -> None:
        now = time.monotonic_ns()
        if not connection.buffer:
            self._check(data)
        # What was cut in two is put together again; the end of an event is counted with its second half.
        text = connection.buffer + data
        found = text.count(b"\n\n") - connection.buffer.count(b"\n\n")
        connection.buffer = text[-len(STREAM_END) + 1 :]
        if self._opening:
            if found and not connection.events:
                self._delays.append(time.perf_counter() - connection.started)
                self._ended()
        elif (stamp := data.rfind(STAMP_START)) >= 0:
            digits = data[stamp + len(STAMP_START) :][:STAMP_LENGTH]
            if len(digits) == STAMP_LENGTH:
                self._delays.append((now - int(digits)) / 1e9)
        connection.events += found
        if not self._opening and text.endswith(STREAM_END):
            if connection.events != self._events:
                self._fail(f"{connection.events} events instead of {self._events}")
            self._ended()

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._succeed()
