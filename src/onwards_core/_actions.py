"""What comes out of an `Exchange`: what its driver has to do next.

A closed union of immutable classes. `StreamThrough`, `Respond` and `BreakOff` are the last ones. Nothing of a provider
reaches the client before one of them or `PassOn`; from there on there is no fallback any more.
"""

from typing import Protocol, TypeAlias

import attrs

from onwards_core._events import Headers
from onwards_core._immutable import immutable
from onwards_core._ledger import Claim
from onwards_core._snapshot import Provider


class Transform(Protocol):
    """Looks into an answer's body on its way to the client.

    Call `feed` for each piece that arrived, and `finish` when the body ended properly. If it broke off, or `failed`
    is true after one of them, call `abort` instead of going on. Each returns the bytes to send now.
    """

    @property
    def failed(self) -> bool:
        """True once the body can't be passed on any further: call `abort`, send what it gives, then break off."""

    def feed(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    def abort(self) -> bytes: ...


@immutable
class SendUpstream:
    """Send this request to the provider; answer with `UpstreamResponded` or `UpstreamFailed`.

    A response that is still open from an earlier attempt is to be discarded first.
    """

    provider: Provider
    method: str
    target: bytes
    """Path and query, ready for the request line."""
    headers: Headers = attrs.field(repr=False)
    """Complete, `host` and `content-length` included."""
    body: bytes = attrs.field(repr=False)


@immutable
class Acquire:
    """Wait until the claim is decided, and answer with `Acquired`; if nobody waits any more, withdraw it. Only where
    limits are shared with other processes."""

    claim: Claim = attrs.field(repr=False)


@immutable
class CollectBody:
    """Read the open response's body to its end; answer with `BodyCollected` or `UpstreamFailed`."""

    limit: int
    """In bytes; a longer body is `UpstreamFailed("too_large")`."""


@immutable
class ReadBody:
    """Read the next piece of the open response's body; answer with `BodyRead`, `UpstreamFailed` or `WaitOver`."""

    until: float | None
    """When to stop waiting: seconds on the driver's clock."""


@immutable
class Wait:
    """Do nothing until then, and answer with `WaitOver`. An open response is to be discarded at once."""

    until: float
    """Seconds on the driver's clock."""


@immutable
class PassOn:
    """Begin the answer with this head and the first bytes of its body; answer with `PassedOn`."""

    status: int
    headers: Headers = attrs.field(repr=False)
    """Without `content-length`."""
    data: bytes = attrs.field(repr=False)


@immutable
class StreamThrough:
    """Pass the open response on: this head, unless the answer was begun already; then `data`, which was read of the
    body, and the rest as it arrives, both through `transform` if there is one.

    When the body breaks off, or the transform fails, the client's connection is closed so that the answer
    does not look complete.
    """

    status: int
    headers: Headers = attrs.field(repr=False)
    """Without framing: `content-length` only where the body passes unchanged."""
    transform: Transform | None
    data: bytes = attrs.field(repr=False, default=b"")


@immutable
class Respond:
    """Send this whole answer; an open response is to be discarded."""

    status: int
    headers: Headers = attrs.field(repr=False)
    """Without `content-length`, which follows from the body."""
    body: bytes
    code: str | None = None
    """Of the error, if it is one that the gateway answers in its own name."""


@immutable
class BreakOff:
    """Send these last bytes of an answer that was begun, and close the connection such that it does not look
    complete; an open response is to be discarded."""

    data: bytes


Action: TypeAlias = Acquire | SendUpstream | CollectBody | ReadBody | Wait | PassOn | StreamThrough | Respond | BreakOff


@immutable
class KeepAlive:
    """What a driver sends to a client that waits for long; see `Exchange.keep_alive`."""

    interval: float
    """Seconds."""
    status: int
    headers: Headers = attrs.field(repr=False)
    comment: bytes
