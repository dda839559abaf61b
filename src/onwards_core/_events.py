"""What goes into an `Exchange`: what became of the action that it asked for last.

A closed union of immutable classes: drivers construct them, the exchange matches on them.
"""

from typing import Literal, TypeAlias

import attrs

from onwards_core._immutable import immutable
from onwards_core._ledger import Permit, Refusal

Headers: TypeAlias = list[tuple[bytes, bytes]]
"""Header fields in the order received; names in lower case, values without outer white space."""


class HeaderFields(list[tuple[bytes, bytes]]):
    """`Headers` that are not changed any more, and what was found out about them.

    A client sends the same ones with each request of a connection. A driver that sees that gives the same object again,
    so that nothing has to be found out twice.
    """

    __slots__ = ("by_name", "found")

    def __init__(self, headers: Headers) -> None:
        super().__init__(headers)
        self.by_name = dict(headers)
        """Of a field that is repeated, the last value."""
        self.found: object = None
        """What the gateway's checks found out."""

    def joined(self, name: bytes) -> bytes:
        """The values of all fields with this name, as a list of them is written; empty without any."""
        if len(self.by_name) == len(self):
            return self.by_name.get(name, b"")
        return b", ".join([value for each, value in self if each == name])


def _fields(headers: Headers) -> HeaderFields:
    return headers if type(headers) is HeaderFields else HeaderFields(headers)


FailureReason: TypeAlias = Literal[
    "connect",
    "connect_timeout",
    "head_timeout",
    "first_content_timeout",
    "idle_timeout",
    "reset",
    "protocol",
    "too_large",
    "no_resources",
]
"""Why there is no (complete) answer.

`connect`: no connection could be made, TLS included. The timeouts: the provider's `connect_timeout`, `head_timeout` or
`idle_timeout` passed; `first_content_timeout` is the exchange's own finding. `reset`: the provider closed or reset the
connection. `protocol`: what it sent is not HTTP. `too_large`: a collected body is over its limit. `no_resources`: the
driver itself lacks memory for the body, or files for a connection, at the moment.
"""


@immutable
class Request:
    """One client request, read completely."""

    method: str
    target: bytes
    """Path and query as they stood in the request line."""
    headers: HeaderFields = attrs.field(converter=_fields)
    """What they say about the body's framing does not matter."""
    body: bytes = attrs.field(default=b"", repr=False)
    scheme: str = "http"
    """What the client spoke to us: `http` or `https`."""
    received: float = 0.0
    """When it came, in seconds of Unix time."""

    def __repr__(self) -> str:
        # Header values hold clients' keys: they stay out of logs and tracebacks.
        return f"<Request {self.method} with {len(self.headers)} headers and {len(self.body)} bytes>"


@immutable
class Acquired:
    """Answer to `Acquire`: what the claim's outcome is."""

    outcome: Permit | Refusal


@immutable
class UpstreamResponded:
    """Answer to `SendUpstream`: the provider's response head has arrived; its body is still unread."""

    status: int
    headers: HeaderFields = attrs.field(repr=False, converter=_fields)


@immutable
class UpstreamFailed:
    """Answer to `SendUpstream`, `CollectBody` or `ReadBody`: there is no response, or its body did not end properly."""

    reason: FailureReason


@immutable
class BodyCollected:
    """Answer to `CollectBody`: the whole body, at most as long as the action's limit."""

    body: bytes = attrs.field(repr=False)


@immutable
class BodyRead:
    """Answer to `ReadBody`: the next piece of the body."""

    data: bytes = attrs.field(repr=False)
    ended: bool
    """Whether the body has come to its proper end with it."""


@immutable
class WaitOver:
    """Answer to `Wait`, and to `ReadBody` if nothing came in its time."""


@immutable
class PassedOn:
    """Answer to `PassOn`: the client has it."""


Event: TypeAlias = Acquired | UpstreamResponded | UpstreamFailed | BodyCollected | BodyRead | WaitOver | PassedOn
