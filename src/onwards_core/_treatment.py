"""What is done to a provider's answer: nothing, what `sanitize_response` says, or what strict mode wants."""

from random import Random
from typing import ClassVar, Final, TypeAlias

import attrs

from onwards_core._actions import Transform
from onwards_core._admission import Admission
from onwards_core._decoding import Decoder
from onwards_core._errors import upstream_error
from onwards_core._sanitize import PassEvents, SanitizeEvents, sanitize_completion
from onwards_core._snapshot import Provider
from onwards_core._strict import Endpoint, standard_error, standard_status


@attrs.frozen
class Untouched:
    """Whatever it is, it goes through."""

    looks_inside: ClassVar[bool] = False
    """Whether anything is done to a 2xx answer."""
    keeps: ClassVar[frozenset[bytes] | None] = None
    """The only headers of a provider that go with a body of ours. None: all."""

    def error(self, status: int) -> tuple[int, bytes] | None:
        """Which status and body stand in for an error with this status. None: it goes through as it is."""
        return None

    def events(self, decoder: Decoder | None) -> Transform | None:
        """For an event stream. `decoder`: undoes its `content-encoding`."""
        # What is compressed can't be ended with an event of ours.
        return None if decoder else PassEvents()


@attrs.frozen
class GenericErrors(Untouched):
    """As `sanitize_response` wants it for other endpoints than chat completions."""

    def error(self, status: int) -> tuple[int, bytes]:
        return status, upstream_error(status)


@attrs.frozen
class Sanitized:
    """Chat completions, as `sanitize_response` wants them. What is not in the schema is left out.

    model: what the client asked for.
    default_id, created: for answers that lack an `id` or a `created` (in seconds of Unix time).
    """

    _model: str
    _default_id: str
    _created: int
    looks_inside: ClassVar[bool] = True
    keeps: ClassVar[frozenset[bytes] | None] = None

    def error(self, status: int) -> tuple[int, bytes]:
        return status, upstream_error(status)

    def whole(self, body: bytes) -> bytes | None:
        """A plain answer's body, after decoding. None: there is no way to make one of it."""
        return sanitize_completion(body, self._model, self._default_id, self._created)

    def events(self, decoder: Decoder | None) -> Transform:
        return SanitizeEvents(self._model, self._default_id, self._created, decoder)


@attrs.frozen
class Strict:
    """As strict mode wants it. The arguments are those of `Sanitized`; trusted: whether errors go through."""

    _endpoint: Endpoint
    _trusted: bool
    _model: str
    _default_id: str
    _created: int
    looks_inside: ClassVar[bool] = True
    keeps: ClassVar[frozenset[bytes] | None] = frozenset((b"date", b"retry-after", b"retry-after-ms"))

    def error(self, status: int) -> tuple[int, bytes] | None:
        if self._trusted:
            return None
        status = standard_status(status)
        return status, standard_error(status)

    def whole(self, body: bytes) -> bytes | None:
        return self._endpoint.whole(body, self._model, self._default_id, self._created)

    def events(self, decoder: Decoder | None) -> Transform:
        return self._endpoint.events(self._model, self._default_id, self._created, decoder, trusted=self._trusted)


Treatment: TypeAlias = Untouched | GenericErrors | Sanitized | Strict
"""What is done to the answers of one provider."""

UNTOUCHED: Final = Untouched()
_GENERIC_ERRORS: Final = GenericErrors()


def treatment(admission: Admission, provider: Provider, path: bytes, created: int, random: Random) -> Treatment:
    """What is to be done to this provider's answers, if anything is. random: for ids that are missing."""
    if admission.endpoint is not None:
        default_id = f"gen-{random.getrandbits(96):024x}"
        return Strict(admission.endpoint, provider.trusted, admission.model, default_id, created)
    if not path.endswith(b"/chat/completions"):
        return _GENERIC_ERRORS
    return Sanitized(admission.model, f"chatcmpl-{random.getrandbits(96):024x}", created)
