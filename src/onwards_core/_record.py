"""What happened in one exchange. Metrics and logs read it; nothing in it is secret."""

from bisect import bisect_left
from typing import ClassVar, Final, Literal, Self, TypeAlias

import attrs

from onwards_core._events import Request
from onwards_core._immutable import immutable

Outcome: TypeAlias = Literal["ok", "broken", "client_gone"]
Verdict: TypeAlias = Literal["ok", "client_error", "refused", "provider_error", "client_gone", "broken"]

_REFUSALS: Final = frozenset(
    (
        "unauthenticated",
        "forbidden",
        "rate_limit",
        "concurrency_limit_exceeded",
        "overloaded",
        "service_unavailable",
    )
)
_PROVIDERS_FAULT: Final = frozenset(("bad_gateway", "gateway_timeout"))
# Refusals of a provider that are about the operator's account with it, not about the client.
_OPERATORS_AFFAIR: Final = frozenset((401, 402, 403, 407, 408, 429))


@immutable
class Usage:
    """Tokens of one exchange, as the provider counted them."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    """Those of the input that it had seen before."""


@attrs.define
class Attempt:
    """One try at a provider. Times are those of the driver's monotonic clock, in seconds."""

    provider: str
    """Its label."""
    started: float
    ended: float | None = None
    """When the response head, or the failure, was there; of an answer that broke off, when it did."""
    outcome: str | None = None
    """`ok`; `status_503` (any status from 400 on); `embedded_429` (an error in a 2xx answer, and the status that it
    names); `empty` (a 2xx answer without content); a `FailureReason`. And if it was not tried at all:
    `refused_locally`, `circuit_open`, `paused`."""
    response_id: str | None = None
    """What the provider calls the attempt: the `x-request-id` of its answer."""


@attrs.define
class Record:
    """One request and its answer. The core fills the first part, the transport the second."""

    GAP_SECONDS: ClassVar = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
    """Upper bounds of the buckets of `gaps`, which belong to them."""

    method: str
    path: bytes
    started: float
    alias: str | None = None
    """None until the request named an alias that exists."""
    key: str | None = None
    """The name of the key's definition, if it has one."""
    attempts: list[Attempt] = attrs.field(factory=list)
    status: int | None = None
    """None as long as there is no answer."""
    first_content: float | None = None
    """When the first content of an event stream was there, for those that are looked into."""
    code: str | None = None
    """Of the error that the gateway answered in its own name; None: it did not."""
    refused_by: str | None = None
    """Whose limit refused it: `key`, `pool`, `provider` or `server`. With `code` it says which limit."""
    usage: Usage | None = None
    """None: the answer said nothing about it."""
    request_id: str = ""
    """The client's `x-request-id`, or a new one; the answer carries it."""
    trace_id: str | None = None
    """Of the trace that the exchange is part of, in hexadecimal digits. None: it is not traced."""
    trace: object = attrs.field(default=None, repr=False, eq=False)
    """What the transport keeps of that trace while the exchange goes on."""

    client: str | None = None
    """The address that its connection is from: of the client, or of a proxy before the gateway."""
    first_byte: float | None = None
    """When the first byte of the answer left."""
    first_event: float | None = None
    """When the first piece of an event stream's body left."""
    last_event: float | None = None
    gaps: list[int] | None = None
    """How many times between two pieces of an event stream's body fell into each bucket; the last one takes what is
    longer than all of `GAP_SECONDS`. None: there were no two."""
    ended: float | None = None
    bytes_sent: int = 0
    """Of the body."""
    outcome: Outcome | None = None
    """`ok`: whole, errors included; `broken`: cut off; `client_gone`: the client did not wait for it."""

    def count_event(self, now: float) -> None:
        """A piece of an event stream's body left."""
        if self.last_event is None:
            self.first_event = now
        else:
            if self.gaps is None:
                self.gaps = [0] * (len(self.GAP_SECONDS) + 1)
            self.gaps[bisect_left(self.GAP_SECONDS, now - self.last_event)] += 1
        self.last_event = now

    @classmethod
    def of(cls, request: Request, now: float) -> Self:
        """A new one for a request that came now."""
        return cls(request.method, request.target.partition(b"?")[0], now)

    def answered(self, code: str | None) -> None:
        """Note the code of an answer that is the gateway's own."""
        self.code = code
        if code == "overloaded":
            self.refused_by = "server"

    @property
    def verdict(self) -> Verdict:
        """What became of the exchange, and whose doing it was; of a record that is final.

        `client_gone`, `broken`: as `outcome`; `broken` is also a fault of the gateway's own. `refused`: by a key check,
        a limit, a pool without providers or a shutdown. `client_error`: the request was wrong, as the gateway or the
        provider found. `provider_error`: the provider failed, or refused what the operator has to settle with it.
        """
        if self.outcome in ("client_gone", "broken") or self.code == "internal_error":
            return "client_gone" if self.outcome == "client_gone" else "broken"
        status = self.status or 0
        if self.code is not None:
            if self.code in _REFUSALS:
                return "refused"
            return "provider_error" if self.code in _PROVIDERS_FAULT else "client_error"
        if status < 400:
            return "ok"
        return "provider_error" if status >= 500 or status in _OPERATORS_AFFAIR else "client_error"
