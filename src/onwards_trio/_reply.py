"""The answer to one request on its way to the client."""

from collections.abc import Callable

import trio

from onwards_core import Headers, Record, Respond
from onwards_trio._wire import ServerCodec


class ClientGone(Exception):
    """The client closed or reset its connection before it had the whole answer."""


class Reply:
    """Either `respond`, or `start`, any number of `send`, then `finish` or `break_off`. At last `close`.

    Each but `start` waits until the data is in the hands of the operating system, and raises `ClientGone`. What went
    out and when is noted in `record`.
    """

    def __init__(
        self,
        stream: trio.abc.SendStream,
        codec: ServerCodec,
        record: Record,
        *,
        http_1_0: bool = False,
        last: Callable[[], bool] = lambda: False,
        hold: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.record = record
        self.hold = hold
        """Asks whether so many more bytes of bodies may be held in memory until the answer is over."""
        self.client_gone = False
        self.begun = False
        self.needs_reset = False
        """Whether the answer was cut such that only a reset connection tells it from a whole one."""
        self._stream = stream
        self._codec = codec
        self._http_1_0 = http_1_0
        self._last = last
        """Whether no further request will be read on this connection."""
        self._head = b""
        """What `start` left to be sent with what comes next."""
        self._is_stream = False
        """Whether it is an event stream, whose pieces are timed."""

    @property
    def complete(self) -> bool:
        return self.record.outcome == "ok"

    async def respond(self, answer: Respond) -> None:
        headers = [*answer.headers, self._request_id()]
        data = self._codec.respond(answer.status, headers, answer.body, close=self._last())
        self._begin(answer.status)
        await self._write(data, 0 if self.record.method == "HEAD" else len(answer.body))
        self.record.outcome = "ok"

    def start(self, status: int, headers: Headers) -> None:
        """Set the head, which goes out with the first piece. `send` an empty one if that may take time."""
        self._head = self._codec.start(status, [*headers, self._request_id()], close=self._last())
        self._begin(status)
        self._is_stream = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")
        # Where HTTP/1.0 gets no length, the end of the connection is the end of the body, whole or not.
        self.needs_reset = self._http_1_0 and all(name != b"content-length" for name, _ in headers)

    async def send(self, data: bytes) -> None:
        await self._write(self._codec.data(data) if data else b"", len(data))

    async def finish(self, data: bytes = b"") -> None:
        """The proper end, after a last piece of the body."""
        await self._write((self._codec.data(data) if data else b"") + self._codec.finish(), len(data))
        self.needs_reset = False
        self.record.outcome = "ok"

    async def break_off(self, data: bytes = b"") -> None:
        """Stop such that the answer does not look complete; `data` tells the client so, if it can be told."""
        self.record.outcome = "broken"
        await self.send(data)
        if data:
            self.needs_reset = False

    def close(self) -> float:
        """The record is final after this. Gives the time."""
        self.record.ended = now = trio.current_time()
        if self.record.outcome is None:
            self.record.outcome = "client_gone" if self.client_gone else "broken"
        return now

    def _request_id(self) -> tuple[bytes, bytes]:
        return b"x-request-id", self.record.request_id.encode("ascii")

    def _begin(self, status: int) -> None:
        self.begun = True
        self.record.status = status

    async def _write(self, data: bytes, body_bytes: int) -> None:
        if self._head:
            data = self._head + data
            self._head = b""
        if not data:
            return
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self.client_gone = True
            raise ClientGone from None
        record = self.record
        if record.first_byte is None:
            record.first_byte = trio.current_time()
        record.bytes_sent += body_bytes
        if self._is_stream and body_bytes:
            record.count_event(trio.current_time())
