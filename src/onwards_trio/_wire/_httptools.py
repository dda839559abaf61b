"""Both codecs over httptools, whose parser is llhttp in C; `Guard` sees to it that only strict HTTP gets to it.

Each head has a parser of its own, and each chunked body another one, so nothing that llhttp makes of a head (a
connection that is upgraded, a response that has no body) has a say in where a message ends: that is `Guard`'s.

Heads are written as lines, which takes a tenth of the time of building them with h11.
"""

import math
import re
import string
from http import HTTPStatus
from typing import Final, Self, TypeAlias

import httptools

from onwards_core import HeaderFields, Headers
from onwards_core._immutable import immutable
from onwards_trio._wire import ClientEvent, Malformed, RequestHead, ResponseHead, ServerEvent, Signal
from onwards_trio._wire._guard import FIELD_LIMIT, HEAD_LIMIT, LENGTH, TEXT, Framing, declared_framing
from onwards_trio._wire._reader import (
    BAD_BODY,
    NOT_HTTP,
    OLD_CHUNKED,
    SWITCHED,
    Reader,
    fault_in_request,
    without_length,
)

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b" % (status, status.phrase.encode("ascii")) for status in HTTPStatus
}
_Parser: TypeAlias = httptools.HttpRequestParser | httptools.HttpResponseParser
# llhttp is generous with blanks and versions.
_REQUEST_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r]*)?\r\n")
# What the parts of a head consist of. To look for anything else takes a third of the time of a regular expression.
_PRINTABLE = bytes(range(0x20, 0x7F))
_TOKEN = b"!#$%&'*+.^_`|~-" + (string.digits + string.ascii_letters).encode()


class _Found:
    """What llhttp finds in a head, beside its first line."""

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


@immutable
class _Sent:
    """The head of a request that leaves its connection open. A client sends the same again and again, but for the
    number of bytes that follow; such a one need not be parsed."""

    _before: bytes
    _after: bytes
    """What stands before and after that number."""
    method: str
    target: bytes
    headers: HeaderFields

    @classmethod
    def of(cls, raw: bytes, length: bytes, method: str, target: bytes, headers: HeaderFields) -> Self:
        """length: the value of its only Content-Length."""
        start = raw.index(length, raw.lower().index(b"\r\ncontent-length:"))
        return cls(raw[:start], raw[start + len(length) :], method, target, headers)

    def length_in(self, raw: bytes) -> int | None:
        """The number of bytes that follow this head; None if it is not the same but for that."""
        if not (raw.startswith(self._before) and raw.endswith(self._after)):
            return None
        length = raw[len(self._before) : -len(self._after)]
        return int(length) if LENGTH.fullmatch(length) else None


class _Chunks:
    """Undoes the chunks of one body."""

    def __init__(self) -> None:
        self.complete = False
        self.broken = False
        self._data: list[bytes] = []
        self._parser = httptools.HttpRequestParser(self)
        self._parser.feed_data(b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._data.append(data)

    def on_message_complete(self) -> None:
        self.complete = True

    def feed(self, framed: bytes) -> bytes:
        """The data in it, up to its end or the first fault."""
        try:
            self._parser.feed_data(framed)
        except httptools.HttpParserError:
            self.broken = True
        data = b"".join(self._data)
        self._data.clear()
        return data


class _Reader(Reader):
    def __init__(self, head_limit: int = HEAD_LIMIT, field_limit: int = FIELD_LIMIT) -> None:
        super().__init__(head_limit, field_limit)
        self._framing: Framing = 0
        self._left: float = 0  # bytes of a body without chunks
        self._chunks: _Chunks | None = None
        self._closes = False

    def _parse(
        self, raw: bytes, parser: type[_Parser], http_1_0: bool
    ) -> tuple[HeaderFields, Framing | None] | Malformed:
        """The headers of a message, and how its body ends."""
        found = _Found()
        try:
            parser(found).feed_data(raw)
        except httptools.HttpParserUpgrade:
            pass  # What comes after the head is a body like any other.
        except httptools.HttpParserError:
            return self._broken(NOT_HTTP)
        headers = HeaderFields(found.headers)
        framing = declared_framing(headers, headers.by_name)
        if isinstance(framing, Malformed):
            return self._broken(framing)
        if framing == "chunked" and http_1_0:
            return self._broken(OLD_CHUNKED)
        self._closes = http_1_0 or (b"connection" in headers.by_name and _closes(headers))
        return headers, framing

    def _begin_body(self, framing: Framing) -> None:
        super()._begin_body(framing)
        self._framing = framing
        self._chunks = _Chunks() if framing == "chunked" else None
        self._left = 0 if framing == "chunked" else math.inf if framing == "until_close" else framing

    def _read_body(self) -> bytes | Signal | Malformed:
        while self._left or (self._chunks and not self._chunks.complete):
            if self._chunks and self._chunks.broken:
                return self._broken(BAD_BODY)
            piece = self._guard.body()
            if isinstance(piece, Malformed):
                return self._broken(piece)
            if not piece:
                if not self._guard.eof:
                    return Signal.NEED_DATA
                if self._framing != "until_close":
                    return self._truncated()
                break
            if self._chunks is None:
                self._left -= len(piece)
                return piece
            if data := self._chunks.feed(piece):
                return data
        self._ended = True
        return Signal.END


class HttptoolsServerCodec(_Reader):
    """Implements `ServerCodec`."""

    def __init__(self, head_limit: int = HEAD_LIMIT, field_limit: int = FIELD_LIMIT) -> None:
        super().__init__(head_limit, field_limit)
        self._last: _Sent | None = None
        self._method = ""
        self._http_1_0 = False
        self._bodiless = False
        self._chunked = False
        self._unsent: int | None = None  # bytes that the answer's body still has to have
        self._finished = False

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
        raw = self._raw_head()
        if not isinstance(raw, bytes):
            return raw
        last = self._last
        if last is not None and (length := last.length_in(raw)) is not None:
            self._method = last.method
            self._begin_body(length)
            return RequestHead(last.method, last.target, last.headers, False, length, False)
        return self._parse_head(raw)

    def _parse_head(self, raw: bytes) -> RequestHead | Malformed:
        line = _REQUEST_LINE.match(raw)
        if line is None:
            return self._broken(NOT_HTTP)
        self._method = line[1].decode("ascii")
        target = line[2]
        self._http_1_0 = line[3] == b"0"
        parsed = self._parse(raw, httptools.HttpRequestParser, self._http_1_0)
        if isinstance(parsed, Malformed):
            return parsed
        headers, framing = parsed
        fields = headers.by_name
        if b"host" in fields:
            if len(fields) < len(headers) and len([name for name, _ in headers if name == b"host"]) > 1:
                return self._broken(NOT_HTTP)
        elif not self._http_1_0:
            return self._broken(NOT_HTTP)
        fault = fault_in_request(self._method, target, fields)
        if fault:
            return self._broken(fault)
        self._begin_body(framing or 0)
        length = without_length(headers)
        expects_continue = b"expect" in fields and not self._http_1_0 and _expects_continue(headers)
        self._last = None
        if length is not None and not self._closes and not expects_continue:
            self._last = _Sent.of(raw, length, self._method, target, headers)
        return RequestHead(
            method=self._method,
            target=target,
            headers=headers,
            http_1_0=self._http_1_0,
            content_length=framing if isinstance(framing, int) else None,
            expects_continue=expects_continue,
        )

    def continue_100(self) -> bytes:
        return b"HTTP/1.1 100 Continue\r\n\r\n"

    def respond(self, status: int, headers: Headers, body: bytes, *, close: bool = False) -> bytes:
        length = (b"content-length", b"%d" % len(body))
        return self.start(status, [*headers, length], close=close) + self.data(body) + self.finish()

    def start(self, status: int, headers: Headers, *, close: bool = False) -> bytes:
        self._bodiless = self._method == "HEAD" or status in (204, 304)
        if status == 204:
            headers = [field for field in headers if field[0] != b"content-length"]
        lengths = [value for name, value in headers if name == b"content-length"]
        self._unsent = int(lengths[0]) if lengths else None
        self._chunked = not (lengths or self._bodiless or self._http_1_0)
        # What is left of an unfinished request would be taken for the next one.
        self._closes |= close or not self._ended or (self._http_1_0 and not lengths)
        added = [(b"transfer-encoding", b"chunked")] if self._chunked else []
        if self._closes:
            added.append((b"connection", b"close"))
        return _head(_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status, headers + added)

    def data(self, data: bytes) -> bytes:
        if self._bodiless or not data:
            return b""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._unsent is not None:
            self._unsent -= len(data)
            if self._unsent < 0:
                raise ValueError("this can't be sent as HTTP/1.1")
        return data

    def finish(self) -> bytes:
        if self._unsent and not self._bodiless:
            raise ValueError("this can't be sent as HTTP/1.1")
        self._finished = True
        return b"0\r\n\r\n" if self._chunked else b""

    @property
    def keep_alive(self) -> bool:
        return self._finished and self._ended and not self._closes

    def next_cycle(self) -> None:
        self._method = ""
        self._in_body = self._ended = self._finished = False


class HttptoolsClientCodec(_Reader):
    """Implements `ClientCodec`."""

    def __init__(self) -> None:
        super().__init__()
        self._method = ""

    def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> bytes:
        self._in_body = self._ended = False
        self._method = method
        if not target or b" " in target:
            raise ValueError("this can't be sent as HTTP/1.1")
        return _head(b"%b %b HTTP/1.1" % (method.encode("ascii"), target), headers) + body

    def next_event(self) -> ClientEvent:
        if self._fault:
            return self._fault
        if self._ended:
            return Signal.END
        if self._in_body:
            return self._read_body()
        while True:
            raw = self._raw_head()
            if not isinstance(raw, bytes):
                return raw
            line = _STATUS_LINE.match(raw)
            if line is None:
                return self._broken(NOT_HTTP)
            parsed = self._parse(raw, httptools.HttpResponseParser, line[1] == b"0")
            if isinstance(parsed, Malformed):
                return parsed
            status = int(line[2])
            if status >= 200:
                break
            if status == 101:
                return self._broken(SWITCHED)
        headers, framing = parsed
        if self._method == "HEAD" or status in (204, 304):
            framing = 0
        self._begin_body("until_close" if framing is None else framing)
        return ResponseHead(status, headers)

    @property
    def reusable(self) -> bool:
        at_end = self._ended and self._framing != "until_close"
        return at_end and not self._closes and not self._guard and not self._guard.eof


def _closes(headers: Headers) -> bool:
    values = [value for name, value in headers if name == b"connection"]
    if values == [b"keep-alive"]:
        return False
    return b"close" in [token.strip(b" \t") for token in b",".join(values).lower().split(b",")]


def _expects_continue(headers: Headers) -> bool:
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in headers)


def _head(first_line: bytes, headers: Headers) -> bytes:
    """The head, if it is exactly these lines. Raises `ValueError`, which quotes nothing: values may be credentials."""
    head = b"\r\n".join([first_line, *map(b": ".join, headers), b"", b""])
    names = [name for name, _ in headers]
    if (
        head.translate(None, TEXT) != b"\r\n" * (len(headers) + 2)
        or first_line.translate(None, _PRINTABLE)
        or b"".join(names).translate(None, _TOKEN)
        or b"" in names
    ):
        raise ValueError("this can't be sent as HTTP/1.1")
    return head
