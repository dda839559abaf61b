"""The `usage` in answers that pass by: how many tokens they took.

It is looked for once, at the end, in the last bytes of the body: OpenAI and all who speak its protocol put it behind
the answer's text, streamed or not. Inside of a JSON string its quotes would be escaped, so nothing that a model
writes is taken for it.
"""

import json
import re
from collections import deque
from typing import Final

import msgspec

from onwards_core._actions import Transform
from onwards_core._decoding import CannotDecode, Decoder, decoder
from onwards_core._record import Record, Usage
from onwards_core._sse import MAX_EVENT, Framer

TAIL: Final = 16 * 1024
"""Bytes of a body, at least, that are kept until its end."""

_ENDPOINTS: Final = (b"/completions", b"/embeddings", b"/responses")
_NAME: Final = b'"usage"'
_LONGEST: Final = 4096
"""Bytes of a `usage`, details included."""
_raw_decode = json.JSONDecoder().raw_decode


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct):
    """As chat completions, completions and embeddings have it, and as responses have it."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None

    def usage(self) -> Usage | None:
        given = self.prompt_tokens if self.prompt_tokens is not None else self.input_tokens
        if given is None:
            return None
        details = self.prompt_tokens_details or self.input_tokens_details
        return Usage(given, self.completion_tokens or self.output_tokens or 0, (details and details.cached_tokens) or 0)


class _End(msgspec.Struct):
    """The end of an object, from its `usage` on."""

    usage: _Counts


_decode_end = msgspec.json.Decoder(_End).decode


def find_usage(tail: bytes) -> Usage | None:
    """The last `usage` in the end of a JSON body, or of an event stream of them."""
    at = tail.rfind(_NAME)
    while at >= 0:
        try:
            usage = _counts_at(tail, at).usage()
        except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
            usage = None
        if usage is not None:
            return usage
        at = tail.rfind(_NAME, 0, at)
    return None


def _counts_at(tail: bytes, at: int) -> _Counts:
    """The value of the member whose name stands there. Raises `ValueError`, `RecursionError`."""
    if tail[-1:] == b"}" and len(tail) - at <= _LONGEST:  # a whole body, no event stream
        try:
            return _decode_end(b"{" + tail[at:]).usage  # This takes a third of the time.
        except (msgspec.DecodeError, RecursionError):
            pass  # It is not a member of the outermost object.
    value = tail[at + len(_NAME) : at + _LONGEST].decode(errors="replace").lstrip()
    if not value.startswith(":"):
        raise ValueError("this is no member's name")
    found, _ = _raw_decode(value[1:].lstrip())
    return msgspec.convert(found, _Counts)


def tells_usage_if_asked(record: Record) -> bool:
    """Whether a stream of this endpoint has a `usage` only for those who ask for it in `stream_options`."""
    return record.path.endswith(b"/completions")


class UsageReader:
    """Looks for what an exchange took. Call `watch` for the answer's transform, or `read` for a whole body; then
    `close`, which notes in the record what was found."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._watched: Watched | None = None

    def watch(self, transform: Transform | None, encoding: bytes | None) -> "Transform | None":
        """The transform (None: the body passes as it is), such that the end of what goes into it is remembered.

        encoding: the body's `content-encoding`.
        """
        if not self._record.path.endswith(_ENDPOINTS):
            return transform
        try:
            self._watched = Watched(transform, None if encoding is None else decoder(encoding))
        except CannotDecode:
            return transform
        return self._watched

    def read(self, body: bytes) -> None:
        """Look into a whole body."""
        if self._record.path.endswith(_ENDPOINTS):
            self._record.usage = find_usage(body[-TAIL:])

    def close(self) -> None:
        if self._watched is not None:
            self._record.usage = find_usage(self._watched.tail())
            self._watched = None


class Watched:
    """A transform that remembers the end of what goes into another one; None: of what passes as it is.

    decoder: undoes the body's `content-encoding` for that; None if it has none.
    """

    def __init__(self, transform: Transform | None, decoder: Decoder | None) -> None:
        self._transform = transform
        self._decoder = decoder
        self._readable = True
        self._pieces: deque[bytes] = deque()
        self._size = 0

    @property
    def failed(self) -> bool:
        """As the other one's."""
        return self._transform is not None and self._transform.failed

    def tail(self) -> bytes:
        """What is remembered: at least `TAIL` bytes, if there were so many."""
        return b"".join(self._pieces)

    def feed(self, data: bytes) -> bytes:
        if self._decoder is None:
            self._remember(data)
        elif self._readable:
            try:
                for piece in self._decoder.feed(data):
                    self._remember(piece)
            except CannotDecode:
                self._readable = False
        return data if self._transform is None else self._transform.feed(data)

    def _remember(self, piece: bytes) -> None:
        pieces = self._pieces
        pieces.append(piece)
        self._size += len(piece)
        while self._size - len(pieces[0]) >= TAIL:
            self._size -= len(pieces.popleft())

    def finish(self) -> bytes:
        return b"" if self._transform is None else self._transform.finish()

    def abort(self) -> bytes:
        return b"" if self._transform is None else self._transform.abort()


_EVENT_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: dict[str, msgspec.Raw]


class HideUsage:
    """A transform that leaves out, of what another one gives, the event that has nothing but a `usage`.

    All other events pass byte for byte, each as soon as it is complete. Those longer than 1 MiB pass unseen.
    """

    def __init__(self, transform: Transform) -> None:
        self._transform = transform
        self._rest = b""
        """The beginning of an event."""

    @property
    def failed(self) -> bool:
        """As the other one's."""
        return self._transform.failed

    def feed(self, data: bytes) -> bytes:
        return self._pass(self._transform.feed(data))

    def finish(self) -> bytes:
        data = self._pass(self._transform.finish())
        return data if _is_only_usage(self._rest) else data + self._take_rest()

    def abort(self) -> bytes:
        return self._take_rest() + self._transform.abort()

    def _take_rest(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest

    def _pass(self, data: bytes) -> bytes:
        # Only the line end that the rest ends with can be part of an event's end that was cut.
        searched = max(0, len(self._rest) - 2)
        data = self._rest + data
        passed = []
        start = 0
        for end in _EVENT_END.finditer(data, searched):
            event = data[start : end.end()]
            if not _is_only_usage(event):
                passed.append(event)
            start = end.end()
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT:
            passed.append(self._take_rest())
        return b"".join(passed)


def _is_only_usage(event: bytes) -> bool:
    if _NAME not in event:
        return False
    framed = Framer().feed(event + b"\n\n")
    try:
        return len(framed) == 1 and framed[0] is not None and not _decode_chunk(framed[0].decode()).choices
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


_decode_chunk = msgspec.json.Decoder(_Chunk).decode
