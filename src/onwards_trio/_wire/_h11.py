"""Both codecs over h11, which parses and writes; `Guard` sees to it that only strict HTTP gets to it."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Generic, TypeVar, cast

import h11

from onwards_core import HeaderFields, Headers
from onwards_trio._wire import ClientEvent, Malformed, RequestHead, ResponseHead, ServerEvent, Signal
from onwards_trio._wire._guard import FIELD_LIMIT, FOLDED, HEAD_LIMIT, Framing, declared_framing
from onwards_trio._wire._reader import (
    BAD_BODY,
    BAD_VERSION,
    NOT_HTTP,
    OLD_CHUNKED,
    SWITCHED,
    Reader,
    fault_in_request,
    without_length,
)

_Head = TypeVar("_Head", h11.Request, h11.Response | h11.InformationalResponse)

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


class _Reader(Reader, Generic[_Head]):
    def __init__(
        self,
        role: type[h11.CLIENT] | type[h11.SERVER],
        head_limit: int = HEAD_LIMIT,
        field_limit: int = FIELD_LIMIT,
    ) -> None:
        super().__init__(head_limit, field_limit)
        self._h11 = h11.Connection(role)
        self._until_close = False

    def _next_message(self) -> None:
        self._h11.start_next_cycle()
        self._in_body = self._ended = False

    def _read_head(self) -> tuple[_Head, HeaderFields, Framing | None] | Signal | Malformed:
        """The next head, its fields, and how it says that its body ends."""
        raw = self._raw_head()
        if not isinstance(raw, bytes):
            return raw
        if b"\r\n " in raw or b"\r\n\t" in raw:
            return self._broken(FOLDED)
        fields = HeaderFields(_fields(raw))
        framing = declared_framing(fields, fields.by_name)
        if isinstance(framing, Malformed):
            return self._broken(framing)
        self._h11.receive_data(raw)
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError:
            return self._broken(NOT_HTTP)
        return cast("_Head", event), fields, framing  # What h11 reads at this point depends on the role alone.

    def _begin_body(self, framing: Framing) -> None:
        super()._begin_body(framing)
        self._until_close = framing == "until_close"

    def _read_body(self) -> bytes | Signal | Malformed:
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError:
                return self._broken(BAD_BODY)
            if isinstance(event, h11.Data):
                return bytes(event.data)
            if isinstance(event, h11.EndOfMessage):
                self._ended = True
                return Signal.END
            piece = self._guard.body()
            if isinstance(piece, Malformed):
                return self._broken(piece)
            if piece:
                self._h11.receive_data(piece)
            elif not self._guard.eof:
                return Signal.NEED_DATA
            elif self._until_close:
                self._h11.receive_data(b"")
            else:
                return self._truncated()

    def _send(self, event: Callable[..., h11.Event], **fields: object) -> bytes:
        try:
            return self._h11.send(event(**fields)) or b""
        except h11.LocalProtocolError:
            pass
        # Outside of the handler, so that h11's message is not even in the traceback: it quotes header values, which
        # may be credentials.
        raise ValueError("this can't be sent as HTTP/1.1")


class H11ServerCodec(_Reader[h11.Request]):
    """Implements `ServerCodec`."""

    def __init__(self, head_limit: int = HEAD_LIMIT, field_limit: int = FIELD_LIMIT) -> None:
        super().__init__(h11.SERVER, head_limit, field_limit)
        self._method = b""
        self._bodiless = False

    @property
    def buffered(self) -> int:
        return len(self._guard)

    def next_event(self) -> ServerEvent:
        if self._fault:
            return self._fault
        if self._ended:
            return Signal.END
        if self._in_body:
            return self._read_body()
        read = self._read_head()
        if not isinstance(read, tuple):
            return read
        request, headers, framing = read
        self._method = request.method  # before any fault: h11 knows too that the answer to HEAD has no body
        fault = _fault_in_version(request, framing) or fault_in_request(
            request.method.decode(), request.target, headers.by_name
        )
        if fault:
            return self._broken(fault)
        self._begin_body(framing or 0)
        without_length(headers)
        return RequestHead(
            method=request.method.decode(),
            target=request.target,
            headers=headers,
            http_1_0=request.http_version == b"1.0",
            content_length=framing if isinstance(framing, int) else None,
            expects_continue=self._h11.they_are_waiting_for_100_continue,
        )

    def continue_100(self) -> bytes:
        return self._send(h11.InformationalResponse, status_code=100, headers=[], reason=b"Continue")

    def respond(self, status: int, headers: Headers, body: bytes, *, close: bool = False) -> bytes:
        length = (b"content-length", b"%d" % len(body))
        return b"".join([self.start(status, [*headers, length], close=close), self.data(body), self.finish()])

    def start(self, status: int, headers: Headers, *, close: bool = False) -> bytes:
        self._bodiless = self._method == b"HEAD" or status in (204, 304)
        if status == 204:
            headers = [field for field in headers if field[0] != b"content-length"]
        if close or not self._ended:  # What is left of an unfinished request would be taken for the next one.
            headers = [*headers, (b"connection", b"close")]
        return self._send(h11.Response, status_code=status, headers=headers, reason=_REASONS.get(status, b""))

    def data(self, data: bytes) -> bytes:
        return b"" if self._bodiless else self._send(h11.Data, data=data)

    def finish(self) -> bytes:
        return self._send(h11.EndOfMessage)

    @property
    def keep_alive(self) -> bool:
        return self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    def next_cycle(self) -> None:
        self._method = b""
        self._next_message()


class H11ClientCodec(_Reader[h11.Response | h11.InformationalResponse]):
    """Implements `ClientCodec`."""

    def __init__(self) -> None:
        super().__init__(h11.CLIENT)
        self._method = ""

    def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> bytes:
        if self._ended:
            self._next_message()
        self._method = method
        head = self._send(h11.Request, method=method, target=target, headers=headers)
        return b"".join([head, self._send(h11.Data, data=body), self._send(h11.EndOfMessage)])

    def next_event(self) -> ClientEvent:
        if self._fault:
            return self._fault
        if self._ended:
            return Signal.END
        if self._in_body:
            return self._read_body()
        while True:
            read = self._read_head()
            if not isinstance(read, tuple):
                return read
            response, headers, framing = read
            if fault := _fault_in_version(response, framing):
                return self._broken(fault)
            if response.status_code >= 200:
                break
            if response.status_code == 101:
                return self._broken(SWITCHED)
        if response.status_code > 599:
            return self._broken(NOT_HTTP)
        if self._method == "HEAD" or response.status_code in (204, 304):
            framing = 0
        self._begin_body("until_close" if framing is None else framing)
        return ResponseHead(response.status_code, headers)

    @property
    def reusable(self) -> bool:
        keep_alive = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        return self._ended and keep_alive and not self._guard and not self._guard.eof


def _fault_in_version(
    head: h11.Request | h11.Response | h11.InformationalResponse, framing: Framing | None
) -> Malformed | None:
    if head.http_version not in (b"1.0", b"1.1"):
        return BAD_VERSION
    if framing == "chunked" and head.http_version == b"1.0":
        return OLD_CHUNKED
    return None


def _fields(raw: bytes) -> Headers:
    """The fields as they came: h11 makes one of several that are alike, and small letters of some values."""
    lines = [line.partition(b":") for line in raw.split(b"\r\n")[1:-2]]
    return [(name.lower(), value.strip(b" \t")) for name, _, value in lines]
