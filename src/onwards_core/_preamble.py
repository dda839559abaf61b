"""The beginning of an event stream, before its first content: held back, since another provider may still be tried.

Before content come comments and events that only say that an answer is under way. Once there is content, the stream
is the answer. A stream that turns out to be an error, or ends without any content, is none.
"""

import enum
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from onwards_core._decoding import CannotDecode, Decoder
from onwards_core._embedded import embedded_error
from onwards_core._sse import Framer

MAX_EVENTS: Final = 8
MAX_BYTES: Final = 16 * 1024
MAX_SECONDS: Final = 2.0
"""So much is held back at most, and for so long. Then the stream is the answer, too."""

# OpenAI's Responses, Anthropic's Messages.
_PREAMBLES = frozenset(("response.created", "response.queued", "response.in_progress", "message_start", "ping"))
_NOTHING = frozenset((b"null", b'""', b"[]"))


class _Choice(msgspec.Struct, gc=False):
    delta: dict[str, Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def empty(self) -> bool:
        if self.text or self.finish_reason:
            return False
        return all(name == "role" or bytes(value) in _NOTHING for name, value in (self.delta or {}).items())


class _Event(msgspec.Struct, gc=False):
    type: str | UnsetType = UNSET
    choices: list[_Choice] | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Event).decode


def _is_preamble(event: bytes) -> bool:
    """Whether an event has no content, as far as we know its kind."""
    try:
        found = _decode(event)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    if found.choices is UNSET:
        return found.type in _PREAMBLES
    return all(choice.empty for choice in found.choices)


class Found(enum.Enum):
    """What a beginning turned out to be."""

    CONTENT = enum.auto()
    NOTHING = enum.auto()
    """It has ended, without any content."""
    TOO_MUCH = enum.auto()
    """More than is held back, and no content yet."""


def _found(event: bytes | None) -> Found | int | None:
    """What an event is, if it is no preamble; None for a comment."""
    if event is None:
        return None
    if event.strip() == b"[DONE]":
        return Found.NOTHING
    if (status := embedded_error(event)) is not None:
        return status
    return None if _is_preamble(event) else Found.CONTENT


class Preamble:
    """Call `feed` for each piece of the body until it finds something, and `take` for what was held back.

    decoder: undoes the body's `content-encoding`; None if it has none.
    """

    def __init__(self, decoder: Decoder | None = None) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._events = 0
        self._found: Found | int | None = None
        self._was_too_much = False
        self._decoder = decoder
        self._framer = Framer()

    def take(self) -> bytes:
        data = b"".join(self._pieces)
        self._pieces.clear()
        return data

    def feed(self, data: bytes, *, ended: bool) -> Found | int | None:
        """What there is now; an integer is the status that an error names. None: nothing yet.

        However the bytes are cut: what comes after too many events is found after `TOO_MUCH` was.
        """
        self._pieces.append(data)
        self._size += len(data)
        for event in self._framed(data, ended=ended):
            if self._found is None and (found := _found(event)) is not None:
                self._found = found
            self._events += self._found is None
        if ended and self._found is None:
            self._found = Found.NOTHING
        too_much = self._events > MAX_EVENTS or (self._found is None and self._size > MAX_BYTES)
        if too_much and self._found is not Found.CONTENT and (self._found is None or not self._was_too_much):
            self._was_too_much = True
            return Found.TOO_MUCH
        return self._found

    def _framed(self, data: bytes, *, ended: bool) -> list[bytes | None]:
        try:
            text = b"".join(self._decoder.feed(data)) if self._decoder else data
        except CannotDecode:
            return [b""]  # Whoever has to look into it will say so.
        events = self._framer.feed(text)
        return events + self._framer.finish() if ended else events
