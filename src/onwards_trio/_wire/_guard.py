"""The strict gate before a lenient parser.

What one party reads as the end of a message and another as its middle lets an attacker smuggle a request past
whoever stands between them, so a proxy must never guess. h11 forgives a bare LF, folded lines and
Content-Length beside Transfer-Encoding; `Guard` hands bytes over only once they are known to hold none of these.

It decides where each message ends, so bytes of the next one stay here until it's their turn. Nothing is searched
twice: `_searched` remembers how far the search for a line's or a head's end has come.
"""

import re
from collections.abc import Mapping
from typing import Literal, TypeAlias

from onwards_core import Headers
from onwards_trio._wire import Malformed

HEAD_LIMIT = 64 * 1024
"""Bytes of a head, or of the trailer section after a chunked body; of a request's head the config says."""
FIELD_LIMIT = 200
"""Header fields of a head or of a trailer section; as before."""
_CHUNK_LINE_LIMIT = 256
"""Bytes of a chunk's size line; what stands there beside the size is never used."""

Framing: TypeAlias = int | Literal["chunked", "until_close"]
"""How a body ends: after so many bytes, by its last chunk, or with the connection."""

# What lines of text consist of, beside their ends.
TEXT = bytes([ord("\t"), *range(0x20, 0x7F), *range(0x80, 0x100)])
# Control characters, LF without CR, CR without LF. A CR at the end of what has arrived is not judged yet.
_FORBIDDEN = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r[^\n]")
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_CHUNK_LINE = re.compile(rb'([0-9A-Fa-f]{1,16})(?:;%b(?:=(?:%b|"[^"\\\r]*"))?)*\r\n' % (_TOKEN, _TOKEN))
LENGTH = re.compile(rb"[0-9]{1,18}")
_FRAMING_FIELDS = frozenset((b"content-length", b"transfer-encoding"))
_FRAMING_TRAILER = re.compile(rb"\r\n(?:content-length|transfer-encoding):", re.IGNORECASE)


def declared_framing(headers: Headers, fields: Mapping[bytes, bytes]) -> Framing | Malformed | None:
    """How the body ends by the headers of a message; None when they don't say. `fields`: the same by name."""
    coding, length = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    if coding is length is None:
        return None
    several = len(fields) < len(headers) or (coding is not None and length is not None)
    if several and sum(name in _FRAMING_FIELDS for name, _ in headers) > 1:
        return Malformed(400, "There is more than one Content-Length or Transfer-Encoding.")
    if length is None:
        if coding is not None and coding.lower() == b"chunked":
            return "chunked"
        return Malformed(400, "The only Transfer-Encoding that is understood is 'chunked'.")
    return int(length) if LENGTH.fullmatch(length) else Malformed(400, "The Content-Length is not a number.")


def is_text(lines: bytes) -> bool:
    """Whether there are no control characters in complete lines, but CR and LF in pairs."""
    # Counting takes a tenth of the time of a search.
    return len(lines.translate(None, TEXT)) == 2 * lines.count(b"\r\n")


FOLDED = Malformed(400, "A header field is folded over several lines.")


class Guard:
    """In turns: `head` until it gives one, `begin_body`, then `body` until the parser has seen the body's end."""

    def __init__(self, head_limit: int, field_limit: int) -> None:
        self._head_limit = head_limit
        self._field_limit = field_limit
        self._buffer = b""
        self._searched = 0  # how much of the unfinished line or head at the buffer's start was looked at
        self._framing: Framing = 0
        self._left = 0  # bytes that may still pass unseen: of the body, or of a chunk with the CRLF after it
        self._last_chunk = False
        self.eof = False

    def __len__(self) -> int:
        return len(self._buffer)

    def receive(self, data: bytes | bytearray) -> None:
        if data:
            # Most of what arrives meets an empty buffer, and need not be copied.
            self._buffer = self._buffer + data if self._buffer else bytes(data)
        else:
            self.eof = True

    def head(self) -> bytes | Malformed | None:
        """The next head with its blank line, or None while it is not complete."""
        if not self._searched:  # Nearly always all of it comes at once.
            blank = self._buffer.find(b"\r\n\r\n", 0, self._head_limit)
            raw = self._buffer[: blank + 4]
            if blank >= 0 and is_text(raw) and raw.count(b"\n") - 2 <= self._field_limit:
                self._buffer = self._buffer[blank + 4 :]
                return raw
        end = self._end_of(b"\r\n\r\n", 0, self._head_limit)
        return (self._too_many_fields(0, end) or self._take(end)) if isinstance(end, int) else end

    def begin_body(self, framing: Framing) -> None:
        self._framing = framing
        self._left = framing if isinstance(framing, int) else 0
        self._last_chunk = False

    def body(self) -> bytes | Malformed:
        """What has arrived of the body and may go to the parser, chunk framing included; `b""`: nothing yet."""
        if self._framing == "chunked":
            return self._chunks()
        if self._framing == "until_close":
            return self._take(len(self._buffer))
        data = self._take(self._left)
        self._left -= len(data)
        return data

    def _chunks(self) -> bytes | Malformed:
        good = 0  # everything before this may go
        while good < len(self._buffer):
            if self._left:  # The parser checks the CRLF after a chunk's data itself.
                step = min(self._left, len(self._buffer) - good)
                self._left -= step
                good += step
                continue
            end = self._trailers(good) if self._last_chunk else self._chunk_line(good)
            if isinstance(end, Malformed) and not good:
                return end
            if not isinstance(end, int):  # Not complete, or a fault that will come up again when the rest has gone.
                break
            good = end
            if self._last_chunk and not self._left:
                break
        return self._take(good)

    def _chunk_line(self, start: int) -> int | Malformed | None:
        end = self._end_of(b"\r\n", start, _CHUNK_LINE_LIMIT)
        if not isinstance(end, int):
            return end
        line = _CHUNK_LINE.fullmatch(self._buffer, start, end)
        if line is None:
            return Malformed(400, "A chunk of the body has no proper size.")
        size = int(line[1], 16)
        if size:
            self._left = size + 2
            return end
        self._last_chunk = True
        return self._trailers(start)

    def _trailers(self, start: int) -> int | Malformed | None:
        """The last chunk and the trailer section are built like a head: a line, fields, a blank line."""
        end = self._end_of(b"\r\n\r\n", start, self._head_limit)
        if not isinstance(end, int):
            return end
        if self._buffer.find(b"\r\n ", start, end) >= 0 or self._buffer.find(b"\r\n\t", start, end) >= 0:
            return FOLDED
        if _FRAMING_TRAILER.search(self._buffer, start, end):
            return Malformed(400, "A trailer says how the body is framed.")
        return self._too_many_fields(start, end) or end

    def _end_of(self, mark: bytes, start: int, limit: int) -> int | Malformed | None:
        """Where what begins at `start` ends with its `mark`; None while that has not come."""
        stop = start + limit
        searched = start + self._searched
        found = self._buffer.find(mark, max(start, searched - len(mark) + 1), stop)
        end = found + len(mark) if found >= 0 else min(stop, len(self._buffer))
        seen_whole = found >= 0 and not self._searched
        if not (seen_whole and is_text(self._buffer[start:end])) and _FORBIDDEN.search(
            self._buffer, max(start, searched - 1), end
        ):
            return Malformed(400, "There is a control character or an incomplete line end among lines of text.")
        if found >= 0:
            self._searched = 0
            return end
        if len(self._buffer) > stop:
            return Malformed(431, "A line or a header section is too large.")
        self._searched = end - start
        return None

    def _too_many_fields(self, start: int, end: int) -> Malformed | None:
        too_many = self._buffer.count(b"\n", start, end) - 2 > self._field_limit
        return Malformed(431, "There are too many header fields.") if too_many else None

    def _take(self, count: int) -> bytes:
        if count >= len(self._buffer):  # as for most bodies, which then need not be copied
            taken, self._buffer = self._buffer, b""
            return taken
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken
