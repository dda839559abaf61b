"""What limits mean, said as slowly and exactly as can be, to hold the ledger against."""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from onwards_core._ledger import Limit, Rate

SECOND = 10**9


class Bucket:
    """A bucket of tokens that is full at first, and is filled with one token each interval."""

    def __init__(self, rate: Rate, at: int) -> None:
        self._rate = rate
        self._tokens = Fraction(rate.burst)
        self._at = at

    def tokens(self, at: int) -> Fraction:
        """How many tokens there are at a time, in nanoseconds."""
        return min(Fraction(self._rate.burst), self._tokens + Fraction(at - self._at, self._rate.interval))

    def take(self, at: int) -> None:
        """Take one token."""
        self._tokens = self.tokens(at) - 1
        self._at = at


class SlowLedger:
    """The ledger's promises, with a bucket for each rate and a count for each identity."""

    def __init__(self) -> None:
        self.held = Counter[str]()
        self._buckets: dict[tuple[str, Rate], Bucket] = {}

    def acquire(self, limits: Sequence[Limit], at: int) -> str | None:
        """Take of all the limits, or say which kind refused."""
        buckets = [
            self._buckets.setdefault((limit.identity, limit.rate), Bucket(limit.rate, at))
            for limit in limits
            if limit.rate is not None
        ]
        if any(bucket.tokens(at) < 1 for bucket in buckets):
            return "rate_limit"
        if any(limit.permits is not None and self.held[limit.identity] >= limit.permits for limit in limits):
            return "concurrency_limit_exceeded"
        for bucket in buckets:
            bucket.take(at)
        self.held.update(limit.identity for limit in limits)
        return None

    def release(self, identities: Sequence[str]) -> None:
        """Give permits back."""
        self.held.subtract(identities)
