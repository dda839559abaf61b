"""HTTP/1.1 over keep-alive connections of our own, one stack of idle ones per origin.

A connection belongs to one exchange at a time. It goes back on its stack only when both messages ended properly
and not a byte is left over; in all other cases it is closed, so an answer can't reach another request.

The connection that was used last is taken first: it is the least likely to have been closed by its provider.
Since that can still happen while our request is under way, a reused connection that ends before one byte of
response is replaced by a fresh one, once.
"""

import math
from collections import Counter, deque
from types import TracebackType
from typing import Final, Self, TypeAlias
from weakref import WeakSet

import trio

from onwards_core import HttpPoolConfig, Provider, SendUpstream, TlsConfig
from onwards_trio._tcp import TcpStream
from onwards_trio._upstream._connect import Connect, open_connection
from onwards_trio._upstream._protocol import UpstreamError, no_connection
from onwards_trio._wire import ClientCodec, Malformed, ResponseHead, Signal
from onwards_trio._wire._choose import Codecs, codecs

DEADLINE_GRAIN: Final = 1.0
"""Seconds that a wait for more of a body may exceed its timeout."""

Origin: TypeAlias = tuple[str, str, int, TlsConfig | None]
"""Scheme, host, port, and how it is secured."""


class _Silence(UpstreamError):
    """The connection ended before one byte of response."""

    def __init__(self) -> None:
        super().__init__("reset")


class _Connection:
    def __init__(self, origin: Origin, stream: TcpStream, codec: ClientCodec) -> None:
        self.origin = origin
        self.codec = codec
        self.idle_until = 0.0
        self.deadline = math.inf
        self.timed_out = False
        self.stream = stream
        self._unsent: memoryview | bytes = b""
        self._answered = False

    def reusable(self) -> bool:
        """Whether both messages have ended properly. Reads on to the end of the response if that is here already."""
        if self._unsent:
            return False
        while isinstance(event := self.codec.next_event(), bytes):
            pass  # What a provider had to say beside a status that led to the next one.
        return event is Signal.END and self.codec.reusable

    def begin(self, request: SendUpstream) -> bool:
        """Send as much of the request as can be sent at once. False: call `send_rest` beside reading the answer."""
        self._answered = False
        data = self.codec.request(request.method, request.target, request.headers, request.body)
        self._unsent = data  # unless something is sent
        try:
            sent = self.stream.send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True  # The provider may have answered before it stopped listening: reading will tell.
        self._unsent = memoryview(data)[sent:] if sent < len(data) else b""
        return not self._unsent

    async def send_rest(self) -> None:
        try:
            await self.stream.send_all(self._unsent)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        self._unsent = b""

    async def read(self) -> None:
        try:
            data = await self.stream.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            if self.timed_out:
                raise UpstreamError("idle_timeout") from error
            raise self._ended() from error
        self._answered = self._answered or bool(data)
        self.codec.receive(data)

    async def read_head(self) -> ResponseHead:
        while True:
            await self.read()
            event = self.codec.next_event()
            if isinstance(event, ResponseHead):
                return event
            if isinstance(event, Malformed):
                raise failure(event)
            if event is not Signal.NEED_DATA:
                raise self._ended()

    def _ended(self) -> UpstreamError:
        return UpstreamError("reset") if self._answered else _Silence()


def failure(fault: Malformed) -> UpstreamError:
    return UpstreamError("reset" if fault.truncated else "protocol")


class DirectTransport:
    """Implements `Transport`; `connect` is how connections are opened, `http` what reads and writes on them."""

    def __init__(self, connect: Connect | None = None, http: Codecs | None = None) -> None:
        self._connect = connect or open_connection
        self._http = http or codecs()
        self._idle: dict[Origin, deque[_Connection]] = {}  # the one used last is on the right
        self._reading: set[_Connection] = set()  # who waits for more of a body
        self._all: WeakSet[_Connection] = WeakSet()
        self.opened: Counter[str] = Counter()
        self.reused: Counter[str] = Counter()

    def connections(self) -> tuple[Counter[str], Counter[str]]:
        idle: Counter[str] = Counter()
        for origin, connections in self._idle.items():
            idle[origin[1]] += len(connections)
        alive = Counter(each.origin[1] for each in self._all if each.stream.socket.fileno() != -1)
        return alive - idle, idle

    async def __aenter__(self) -> Self:
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        self._nursery.start_soon(self._reap)
        return self

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._nursery.cancel_scope.cancel()
        for idle in self._idle.values():
            while idle:
                idle.pop().stream.close()
        # Without the exception: it's not from a task of this nursery, and is not to be wrapped in a group.
        await self._nursery_manager.__aexit__(None, None, None)

    async def send(self, request: SendUpstream) -> "DirectAnswer":
        url = request.provider.url
        origin = (url.scheme, url.host, url.port, request.provider.tls)
        reused = self._take(origin)
        if reused:
            self.reused[url.host] += 1
            try:
                return await self._ask(reused, request)
            except _Silence:
                pass
        return await self._ask(await self._open(origin, request.provider.connect_timeout), request)

    def _take(self, origin: Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()
            expired = connection.idle_until <= trio.current_time()
            # What came unasked must not be taken for the answer to the next request.
            if not expired and not connection.stream.has_something_to_read():
                return connection
            connection.stream.close()
        return None

    async def _open(self, origin: Origin, timeout: float) -> _Connection:
        with trio.move_on_after(timeout):
            try:
                connection = _Connection(origin, await self._connect(*origin), self._http.client())
            except (OSError, trio.BrokenResourceError) as error:
                raise no_connection(error) from error
            self._all.add(connection)
            self.opened[origin[1]] += 1
            return connection
        raise UpstreamError("connect_timeout")

    async def _ask(self, connection: _Connection, request: SendUpstream) -> "DirectAnswer":
        try:
            if not connection.begin(request):
                # The provider may answer, and even stop reading, before it has got all of this.
                self._nursery.start_soon(connection.send_rest)
            if request.provider.head_timeout is None:  # as by default, where a cancel scope would be work for nothing
                head = await connection.read_head()
            else:
                head = await _head_in_time(connection, request.provider.head_timeout)
        except BaseException:
            connection.stream.close()
            raise
        return DirectAnswer(self, connection, head, request.provider)

    async def read(self, connection: _Connection, timeout: float) -> None:
        """Read more of a body, for at most so many seconds: `_reap` interrupts it by closing the connection.

        One task that watches all reads costs less than a cancel scope around each.
        """
        connection.deadline = trio.current_time() + timeout
        self._reading.add(connection)
        try:
            await connection.read()
        finally:
            self._reading.discard(connection)

    def release(self, connection: _Connection, limits: HttpPoolConfig) -> None:
        """Keep the connection for the next request if that is safe, else close it."""
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        if connection.reusable() and len(idle) < limits.max_idle_per_host:
            connection.idle_until = trio.current_time() + limits.idle_timeout_secs
            idle.append(connection)
        else:
            connection.stream.close()

    async def _reap(self) -> None:
        """Close what has waited too long, for more of a body or for its next request."""
        while True:
            await trio.sleep(DEADLINE_GRAIN)
            now = trio.current_time()
            for connection in [each for each in self._reading if each.deadline <= now]:
                connection.timed_out = True
                connection.stream.close()
            for idle in self._idle.values():
                while idle and idle[0].idle_until <= now:
                    idle.popleft().stream.close()


async def _head_in_time(connection: _Connection, timeout: float) -> ResponseHead:
    with trio.move_on_after(timeout):
        return await connection.read_head()
    raise UpstreamError("head_timeout")


class DirectAnswer:
    """Implements `Answer`."""

    def __init__(
        self, transport: DirectTransport, connection: _Connection, head: ResponseHead, provider: Provider
    ) -> None:
        self.status = head.status
        self.headers = head.headers
        self.ended = False
        self._transport = transport
        self._connection: _Connection | None = connection
        self._provider = provider

    def receive_nowait(self) -> bytes:
        assert self._connection is not None
        pieces: list[bytes] = []  # What came in one read goes on in one piece.
        while not self.ended:
            event = self._connection.codec.next_event()
            if isinstance(event, bytes):
                pieces.append(event)
            elif event is Signal.END:
                self.ended = True
            elif event is Signal.NEED_DATA or pieces:  # A fault comes up again when the pieces are gone.
                break
            else:
                raise failure(event) if isinstance(event, Malformed) else UpstreamError("protocol")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def receive(self) -> bytes:
        assert self._connection is not None
        while not (data := self.receive_nowait()) and not self.ended:
            await self._transport.read(self._connection, self._provider.idle_timeout)
        return data

    async def receive_until(self, until: float) -> bytes | None:
        with trio.move_on_at(until):
            return await self.receive()
        return None

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._transport.release(connection, self._provider.http_pool)
