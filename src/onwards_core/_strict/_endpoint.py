"""One endpoint in strict mode: what it takes, and what it gives."""

import re
from collections.abc import Callable

import attrs
import msgspec
from msgspec import Raw

from onwards_core._decoding import Decoder
from onwards_core._embedded import embedded_error
from onwards_core._sanitize import SanitizeEvents
from onwards_core._strict._fields import Answer, Fields
from onwards_core._strict._standard import standard_error, standard_status

_encode = msgspec.json.Encoder().encode

# What decoding raises. `UnicodeError`: msgspec does not look at the text inside `Raw`, so `bytes.decode` checks it
# first. `RecursionError`: nested too deep.
_NOT_PARSABLE = (msgspec.DecodeError, UnicodeError, RecursionError)

# In a whole text. An empty object of some schemas takes 400 bytes.
_MAX_OBJECTS = 250_000

# What is wrong with a field, said of the object that holds it.
_OF_FIELD = re.compile(r"(.*?)(?: in)? field `(.*)`")


@attrs.frozen
class Fault:
    """What is wrong with a request."""

    param: str | None
    """Its place, as OpenAI writes it: `messages[2].content`; None if it is the body as a whole."""
    message: str
    """A sentence for the caller."""


class Endpoint:
    """The schemas of one endpoint: its request, its whole answer, and the data of one of its answer's events."""

    def __init__(self, request: type[Fields], answer: type[Answer], event: type[Answer]) -> None:
        self._decode_request = msgspec.json.Decoder(request).decode
        self._decode_answer = msgspec.json.Decoder(answer).decode
        self._decode_event = msgspec.json.Decoder(event).decode

    def check_request(self, body: bytes) -> Fault | None:
        """The first thing in a request that no provider could understand."""
        if body.count(b"{") + body.count(b"[") > _MAX_OBJECTS:
            return Fault(None, "The body has too many objects and lists.")
        try:
            self._decode_request(body)
        except msgspec.ValidationError as error:
            return _fault(str(error))
        except _NOT_PARSABLE:
            return Fault(None, "The body is not valid JSON.")
        return None

    def whole(self, body: bytes, model: str, default_id: str, created: int) -> bytes | None:
        """A plain answer with nothing but the schema's fields; None if it can't be parsed or is an error.

        `body` is decoded by its `content-encoding`, and its length limited by the caller. The other arguments are
        those of `events`.
        """
        if body.count(b"{") > _MAX_OBJECTS:
            return None
        try:
            answer = self._decode_answer(body.decode())
        except _NOT_PARSABLE:
            return None
        if answer.may_be_error() and embedded_error(body) is not None:
            return None
        answer.complete(Raw(_encode(model)), default_id, created)
        return _encode(answer)

    def events(
        self, model: str, default_id: str, created: int, decoder: Decoder | None, *, trusted: bool
    ) -> "StrictEvents":
        """A new transform for an event stream.

        model: what the client asked for.
        default_id, created: for what lacks an `id` or the time of its creation (in seconds of Unix time).
        decoder: undoes the body's `content-encoding`; None if it has none.
        trusted: whether the provider's error events pass as they are.
        """
        return StrictEvents(self._decode_event, model, default_id, created, decoder, trusted=trusted)


class StrictEvents(SanitizeEvents):
    """The transform for the event stream of one endpoint. Only whole events come out, and no comments.

    What can't be parsed and is no error is a failure; a `[DONE]` passes, but is never added. Events of a type that
    the schema does not know are left out. An untrusted provider's error becomes the standard one for its status.
    """

    def __init__(
        self,
        decode: Callable[[str], Answer],
        model: str,
        default_id: str,
        created: int,
        decoder: Decoder | None,
        *,
        trusted: bool,
    ) -> None:
        super().__init__(model, default_id, created, decoder)
        self._decode = decode
        self._trusted = trusted

    def _sanitize(self, events: list[bytes | None]) -> bytes:
        out = []
        for event in events:
            if event is None:
                continue
            if event.strip() == b"[DONE]":
                out.append(b"data: [DONE]\n\n")
                continue
            try:
                answer = self._decode(event.decode())
            except _NOT_PARSABLE:
                answer = None
            if answer is None or answer.may_be_error():
                status = embedded_error(event)
                if status is not None:
                    out.append(self._error(event, status, answer))
                    continue
                if answer is None:
                    self.failed = True
                    return b"".join(out)
            answer.complete(self._model, self._default_id, self._created)
            head = answer.head()
            if head is not None:
                # Several `data:` lines leave their line breaks between the tokens of raw values.
                out.append(b"%bdata: %b\n\n" % (head, _encode(answer).replace(b"\n", b" ")))
        self.failed = self._framer.failed
        return b"".join(out)

    def _error(self, event: bytes, status: int, answer: Answer | None) -> bytes:
        if self._trusted:
            head = answer and answer.head()
            return b"%bdata: %b\n\n" % (head or b"", event.replace(b"\n", b"\ndata: "))
        return b"data: %b\n\n" % standard_error(standard_status(status))


def _fault(error: str) -> Fault:
    """What msgspec found: "Expected `str`, got `int` - at `$.messages[0].content`"."""
    message, found, place = error.rpartition(" - at `$")
    if not found:
        message, place = error, ""
    param = place.removesuffix("`").removeprefix(".")
    if of_field := _OF_FIELD.fullmatch(message):
        message = "This field is required" if of_field[1] == "Object missing required" else of_field[1]
        param = f"{param}.{of_field[2]}" if param else of_field[2]
    # Some messages quote a value, which may be long.
    return Fault(param or None, f"{message[:200]}.")
