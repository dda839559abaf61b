"""What the codecs have in common when they receive, whichever parser they use."""

import re
from collections.abc import Mapping
from functools import lru_cache

from onwards_core import HeaderFields
from onwards_core._request import safe_target
from onwards_trio._wire import Malformed, Signal
from onwards_trio._wire._guard import Framing, Guard

NOT_HTTP = Malformed(400, "This is not valid HTTP/1.1.")
BAD_VERSION = Malformed(400, "The only HTTP versions that are understood are 1.0 and 1.1.")
BAD_BODY = Malformed(400, "The body is not framed as HTTP/1.1 wants it.")
OLD_CHUNKED = Malformed(400, "HTTP/1.0 has no Transfer-Encoding.")
SWITCHED = Malformed(400, "The protocol can't be switched.")

# What the parsers know, and what means anything to APIs.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Reader:
    """Heads and bodies in, until the message's end or the first fault."""

    def __init__(self, head_limit: int, field_limit: int) -> None:
        self._guard = Guard(head_limit, field_limit)
        self._in_body = False
        self._ended = False
        self._fault: Malformed | None = None

    def receive(self, data: bytes | bytearray) -> None:
        if self._fault is None:
            self._guard.receive(data)

    def _raw_head(self) -> bytes | Signal | Malformed:
        raw = self._guard.head()
        if isinstance(raw, Malformed):
            return self._broken(raw)
        if raw is None:
            if not self._guard.eof:
                return Signal.NEED_DATA
            return self._truncated() if self._guard else Signal.CLOSED
        return raw

    def _begin_body(self, framing: Framing) -> None:
        self._guard.begin_body(framing)
        self._in_body = True

    def _broken(self, fault: Malformed) -> Malformed:
        self._fault = fault
        return fault

    def _truncated(self) -> Malformed:
        return self._broken(Malformed(400, "The connection was closed in the middle of a message.", truncated=True))


# A host and perhaps a port: RFC 9110, section 7.2. A comma could stand between two of them.
_HOST = re.compile(rb"(?:[!$&'()*+;=._~%0-9A-Za-z-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


@lru_cache(maxsize=1024)
def _is_host(value: bytes) -> bool:
    """Cached: clients name the same few hosts over and over."""
    return bool(_HOST.fullmatch(value))


def without_length(headers: HeaderFields) -> bytes | None:
    """Takes a Content-Length out of what was just read, since `RequestHead` says it, and gives its value."""
    value = headers.by_name.pop(b"content-length", None)
    if value is not None:
        headers.remove((b"content-length", value))
    return value


def fault_in_request(method: str, target: bytes, fields: Mapping[bytes, bytes]) -> Malformed | None:
    """fields: the header by names; it has one Host at most."""
    if method not in _METHODS:
        return Malformed(400, "The method is not available.")
    if not safe_target(target):
        return Malformed(400, "The request target has to be a plain absolute path, with a query or without.")
    if b"upgrade" in fields:
        return SWITCHED
    if not _is_host(fields.get(b"host", b"")):
        return Malformed(400, "The Host is not the name of one.")
    return None
