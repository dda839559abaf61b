"""What happens to an answer's body on its way to the client.

`PassEvents` leaves an event stream as it is and only knows how to break it off. `SanitizeEvents` and
`sanitize_completion` keep nothing but the fields of OpenAI's chat completions, streamed and plain: whatever
a provider adds, or says in comments and errors, stays here.
"""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from onwards_core._decoding import CannotDecode, Decoder
from onwards_core._errors import broken_stream_event
from onwards_core._sse import Framer

# A single value. Providers differ in its exact type (a float for `created`, say), and clients get by; an object
# in its place could hold anything.
_Scalar = str | int | float | bool | UnsetType | None


# The structs below say what is kept, and need no garbage collection as none of them can hold a cycle. `Raw` is
# kept whole and byte for byte; UNSET, which is what was absent, is absent again when encoded.
class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: _Scalar = UNSET
    cache_write_tokens: _Scalar = UNSET
    audio_tokens: _Scalar = UNSET
    image_tokens: _Scalar = UNSET
    text_tokens: _Scalar = UNSET


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: _Scalar = UNSET
    audio_tokens: _Scalar = UNSET
    text_tokens: _Scalar = UNSET
    accepted_prediction_tokens: _Scalar = UNSET
    rejected_prediction_tokens: _Scalar = UNSET


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Scalar = UNSET
    completion_tokens: _Scalar = UNSET
    total_tokens: _Scalar = UNSET
    prompt_tokens_details: _PromptDetails | UnsetType | None = UNSET
    completion_tokens_details: _CompletionDetails | UnsetType | None = UNSET


class _Choice(msgspec.Struct, gc=False):
    index: _Scalar = UNSET
    finish_reason: _Scalar = UNSET
    logprobs: Raw | UnsetType = UNSET


class _ChunkChoice(_Choice, gc=False):
    delta: Raw | UnsetType = UNSET


class _CompletionChoice(_Choice, gc=False):
    message: Raw | UnsetType = UNSET


class _Answer(msgspec.Struct, gc=False, kw_only=True):
    id: _Scalar = UNSET
    object: _Scalar = UNSET
    created: _Scalar = UNSET
    model: Raw | UnsetType = UNSET
    service_tier: _Scalar = UNSET
    system_fingerprint: _Scalar = UNSET
    moderation: Raw | UnsetType = UNSET
    usage: _Usage | UnsetType | None = UNSET

    def complete(self, model: Raw, default_id: str, created: int, kind: str) -> None:
        """Set the model, and what the schema requires but the provider left out."""
        self.model = model
        if self.id is UNSET or self.id is None:
            self.id = default_id
        if self.created is UNSET or self.created is None:
            self.created = created
        if self.object is UNSET or self.object is None:
            self.object = kind


class _Chunk(_Answer, gc=False, kw_only=True):
    choices: list[_ChunkChoice]
    obfuscation: _Scalar = UNSET


class _Completion(_Answer, gc=False, kw_only=True):
    choices: list[_CompletionChoice]
    metadata: Raw | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode
_decode_chunk = msgspec.json.Decoder(_Chunk).decode
_decode_completion = msgspec.json.Decoder(_Completion).decode

# What decoding raises. `UnicodeError`: msgspec does not look at the text inside `Raw`, so `bytes.decode` checks
# it first. `RecursionError`: nested too deep.
_NOT_PARSABLE = (msgspec.DecodeError, UnicodeError, RecursionError)


class PassEvents:
    """The transform for an event stream that nobody has to look into: each byte passes as it is."""

    failed = False

    def __init__(self) -> None:
        self._tail = b"\n\n"  # the last three bytes: the longest end of an event that matters is \n\r\n

    def feed(self, data: bytes) -> bytes:
        self._tail = data[-3:] if len(data) >= 3 else (self._tail + data)[-3:]
        return data

    def finish(self) -> bytes:
        return b""

    def abort(self) -> bytes:
        between_events = self._tail.replace(b"\r\n", b"\n").replace(b"\r", b"\n").endswith(b"\n\n")
        return broken_stream_event() if between_events else b"\n\n" + broken_stream_event()


class SanitizeEvents:
    """The transform for a stream of chat completion chunks. Only whole events come out.

    A comment becomes an empty one: it keeps the connection alive, but its text is the provider's. What can't be
    parsed, and that includes a provider's error event, is a failure; a `[DONE]` passes, but is never added.
    `failed` may become true in `finish` too.

    model: what the client asked for.
    default_id, created: for chunks that lack an `id` or a `created` (in seconds of Unix time).
    decoder: undoes the body's `content-encoding`; None if it has none.
    """

    def __init__(self, model: str, default_id: str, created: int, decoder: Decoder | None = None) -> None:
        self.failed = False
        self._model = Raw(_encode(model))
        self._default_id = default_id
        self._created = created
        self._decoder = decoder
        self._framer = Framer()

    def feed(self, data: bytes) -> bytes:
        if self._decoder is None:
            return self._sanitize(self._framer.feed(data))
        out = []
        try:
            for piece in self._decoder.feed(data):
                out.append(self._sanitize(self._framer.feed(piece)))
                if self.failed:
                    break
        except CannotDecode:
            self.failed = True
        return b"".join(out)

    def finish(self) -> bytes:
        if self._decoder is not None and not self._decoder.complete:
            self.failed = True
            return b""
        return self._sanitize(self._framer.finish())

    def abort(self) -> bytes:
        return broken_stream_event()

    def _sanitize(self, events: list[bytes | None]) -> bytes:
        out = []
        for event in events:
            if event is None:
                out.append(b":\n\n")
            elif event.strip() == b"[DONE]":
                out.append(b"data: [DONE]\n\n")
            else:
                try:
                    chunk = _decode_chunk(event.decode())
                except _NOT_PARSABLE:
                    self.failed = True
                    return b"".join(out)
                chunk.complete(self._model, self._default_id, self._created, "chat.completion.chunk")
                # Several `data:` lines leave their line breaks between the tokens of raw values.
                out.append(b"data: %b\n\n" % _encode(chunk).replace(b"\n", b" "))
        self.failed = self._framer.failed
        return b"".join(out)


def sanitize_completion(body: bytes, model: str, default_id: str, created: int) -> bytes | None:
    """A plain chat completion with nothing but the schema's fields; None if it can't be parsed.

    The arguments are those of `SanitizeEvents`.
    """
    try:
        completion = _decode_completion(body.decode())
    except _NOT_PARSABLE:
        return None
    completion.complete(Raw(_encode(model)), default_id, created, "chat.completion")
    return _encode(completion)
