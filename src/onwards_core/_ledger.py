"""What is spent and held: rate tokens and permits, by identity.

The ledger knows no config: every check brings its limits along. So counters outlive a reload, and a new limit counts
what was already under way.

Rates follow the generic cell rate algorithm (GCRA): the state of a limiter is one number, its theoretical
arrival time (TAT), the moment at which its bucket will be full again. A request is let through if the bucket holds a
token now, and pushes the TAT on by one token's interval. Times are whole nanoseconds: sums of floats drift.
"""

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Literal, TypeAlias

import attrs

_SECOND = 1_000_000_000

RefusalCode: TypeAlias = Literal["rate_limit", "concurrency_limit_exceeded", "service_unavailable"]


@attrs.frozen
class Rate:
    """At most `burst` requests at once, and one more each `interval`."""

    interval: int
    """Nanoseconds per token."""
    burst: int
    slack: int = attrs.field(init=False)
    """How far in the future the TAT may be: nanoseconds."""

    @slack.default
    def _(self) -> int:
        return (self.burst - 1) * self.interval

    @classmethod
    def per_second(cls, rate: float, burst: int | None = None) -> "Rate":
        """`burst` defaults to the rate, rounded up. The interval is rounded up: never faster than asked for."""
        return cls(interval=math.ceil(_SECOND / Fraction(rate)), burst=burst or math.ceil(rate))


@attrs.frozen
class Limit:
    """The limits of one key, pool or provider."""

    identity: str = attrs.field(repr=False)
    """Whose they are. The same identity means the same counters, also after a reload."""
    rate: Rate | None = None
    permits: int | None = None
    """How many exchanges may be under way at once."""
    bucket: str = attrs.field(init=False, repr=False)
    """Names the rate's state. A limiter whose numbers change starts anew, hence they are part of it."""

    @bucket.default
    def _(self) -> str:
        return f"{self.identity} {self.rate}"

    @property
    def whose(self) -> str:
        """What kind of thing is limited: the first word of its identity."""
        return self.identity.partition(" ")[0]


@attrs.frozen
class Refusal:
    """A limit does not allow the request now."""

    code: RefusalCode
    retry_after: float
    """Seconds until it is worth another try."""
    by: str
    """Whose limit it is: `key`, `pool` or `provider`."""


class Permit:
    """The permits of one admission or attempt. Give them back with `release`, which may be called again."""

    __slots__ = ("_held", "_identities")

    def __init__(self, held: dict[str, int], identities: list[str]) -> None:
        self._held = held
        self._identities = identities

    def release(self) -> None:
        identities, self._identities = self._identities, []
        for identity in identities:
            left = self._held[identity] - 1
            if left:
                self._held[identity] = left
            else:
                del self._held[identity]


class Claim:
    """Whether there is enough for a request is not known yet: somebody has to be asked (see `_leases`).

    Set `on_decided`, and call `withdraw` if nobody waits for the outcome any more.
    """

    def __init__(self, limits: tuple[Limit, ...]) -> None:
        self.limits = limits
        self.outcome: Permit | Refusal | None = None
        self.on_decided: Callable[[], None] = lambda: None
        self.withdrawn = False

    def decide(self, outcome: Permit | Refusal) -> None:
        self.outcome = outcome
        self.on_decided()

    def withdraw(self) -> None:
        """Give back what was taken, now or later."""
        self.withdrawn = True
        if isinstance(self.outcome, Permit):
            self.outcome.release()


class Ledger:
    """Call `acquire`, and `release` on what it gives; `prune` now and then."""

    # When a permit may come back nobody knows: clients are told to try again after this many seconds.
    _CONCURRENCY_RETRY = 1.0

    def __init__(self) -> None:
        self._full_at: dict[str, int] = {}
        self._held: dict[str, int] = {}

    def acquire(self, limits: Sequence[Limit], now: float) -> Permit | Refusal | Claim:
        """Take one token and one permit from each of `limits`, or, if any of them refuses, from none. Here that is
        known at once; a ledger that shares limits with others may give a claim."""
        refusal = self.refusal(limits, now)
        if refusal is not None:
            return refusal
        full_at, held = self._full_at, self._held
        at = round(now * _SECOND)
        identities = []
        for limit in limits:
            identity = limit.identity
            identities.append(identity)
            # Counted whether or not there is a limit: one that a reload adds then knows what is under way.
            held[identity] = held.get(identity, 0) + 1
            if limit.rate:
                full_at[limit.bucket] = max(full_at.get(limit.bucket, at), at) + limit.rate.interval
        return Permit(held, identities)

    def refusal(self, limits: Sequence[Limit], now: float) -> Refusal | None:
        """Why `acquire` would refuse now."""
        at = round(now * _SECOND)
        longest, slowest, full = 0, None, None
        for limit in limits:
            if limit.rate is not None:
                wait = self._full_at.get(limit.bucket, at) - at - limit.rate.slack
                if wait > longest:
                    longest, slowest = wait, limit
            if limit.permits is not None and full is None and self._held.get(limit.identity, 0) >= limit.permits:
                full = limit
        if slowest is not None:
            return Refusal("rate_limit", longest / _SECOND, slowest.whose)
        if full is not None:
            return Refusal("concurrency_limit_exceeded", self._CONCURRENCY_RETRY, full.whose)
        return None

    def is_full(self, limit: Limit, now: float) -> bool:
        """Whether a request would be refused now, as far as is known."""
        return self.refusal((limit,), now) is not None

    def load(self, identity: str) -> int:
        """How many requests are under way at a provider."""
        return self._held.get(identity, 0)

    def permits_out(self, identity: str | None = None) -> int:
        """How many permits are held, of one identity or in all."""
        return sum(self._held.values()) if identity is None else self._held.get(identity, 0)

    def tokens_left(self, limit: Limit, now: float) -> float | None:
        """How many requests the rate limit would let through at once, fractions of one included. None: it has none."""
        if limit.rate is None:
            return None
        at = round(now * _SECOND)
        owed = max(0, self._full_at.get(limit.bucket, at) - at)
        return max(0.0, limit.rate.burst - owed / limit.rate.interval)

    def prune(self, now: float) -> None:
        """Forget the limiters whose buckets are full again: they are as good as new."""
        at = round(now * _SECOND)
        self._full_at = {bucket: full_at for bucket, full_at in self._full_at.items() if full_at > at}
