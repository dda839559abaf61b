"""What limits that gateways share promise, held to what clients and providers saw. No constant stands for travel.

A request is granted after its client has sent it and before its provider sees it. So the requests that were certainly
granted within a window are those that were sent and seen in it, and the promise about rates is broken only if those are
too many. (By Hall's theorem the other way round, too: if no window has too many, then there are moments of granting
that keep the promise.) A permit is certainly held from the moment at which the provider sees the request until it is
about to send the end of its answer, its client is about to leave, or its worker is about to be killed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

import attrs

Span = tuple[float, float]
"""From, until."""


@attrs.define
class Request:
    """What became of it. Times are those of one clock; None: it did not happen."""

    alias: str
    gateway: int
    holds: float
    """Seconds until the provider answers."""
    sent: float
    seen: float | None = None
    done: float | None = None
    """Just before the provider sent its answer."""
    left: float | None = None
    """Just before the client closed its connection, tired of waiting."""
    broken: bool = False
    """The connection broke."""


@attrs.define
class Allowance:
    """How many requests may be granted between two moments: `burst + rate * t`, and what failures add to it."""

    rate: float
    burst: int
    refills: list[float] = attrs.field(factory=list)
    """When a store that had lost its data began to grant: its buckets are full."""
    alone: list[Span] = attrs.field(factory=list)
    """When a process went on by itself although others may have reached the store: it adds its share, one at a time."""
    share: float = 0.0
    """Of the rate: what such a process has."""

    def until(self, end: float) -> float:
        return self._grown(end) + sum(start < end for start, _ in self.alone)

    def before(self, start: float) -> float:
        """Of a window: what may be granted in it is `until` its end, less this, and the burst."""
        return self._grown(start) + sum(end <= start for _, end in self.alone)

    def _grown(self, at: float) -> float:
        by_themselves = sum(max(0.0, min(at, end) - start) for start, end in self.alone)
        refilled = self.burst * sum(refill < at for refill in self.refills)
        return self.rate * (at + self.share * by_themselves) + refilled


def most_beyond(spans: Sequence[Span], allowance: Allowance) -> float:
    """By how many requests the worst of all windows exceeds what is allowed. spans: from sent to seen, of each."""
    spans = sorted(spans, key=lambda span: span[1])
    seen = [end for _, end in spans]
    points = [(start, allowance.until(end)) for start, end in spans]
    worst = 0.0
    for begin in {start for start, _ in spans}:
        within = [until for start, until in points[bisect_left(seen, begin) :] if start >= begin]
        most = max(count - until for count, until in enumerate(within, 1))
        worst = max(worst, most + allowance.before(begin) - allowance.burst)
    return worst


def most_at_once(spans: Iterable[Span]) -> int:
    """How many of them there are at most at the same time."""
    changes = sorted((at, change) for start, end in spans if end > start for at, change in ((start, 1), (end, -1)))
    most = count = 0
    for _, change in changes:
        count += change
        most = max(most, count)
    return most


def outside(spans: Iterable[Span], others: Iterable[Span]) -> list[Span]:
    """What of `spans` is in none of the others."""
    found = list(spans)
    for begin, finish in others:
        cut = [((start, min(end, begin)), (max(start, finish), end)) for start, end in found]
        found = [(start, end) for pieces in cut for start, end in pieces if start < end]
    return found


def joined(spans: Iterable[Span], within: float) -> list[Span]:
    """Those that overlap, or follow within so many seconds, as one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + within:
            found[-1] = found[-1][0], max(found[-1][1], end)
        else:
            found.append((start, end))
    return found


def first_after(times: Iterable[float], at: float) -> float | None:
    """times: in order."""
    times = list(times)
    index = bisect_right(times, at)
    return times[index] if index < len(times) else None
