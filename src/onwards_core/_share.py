"""A process's own part of all limits, for while the store of limits is away.

All parts together have to be one: who is new has one only when all others know of it, and who was stopped for long has
lost it, since they may have met in a new store meanwhile.
"""

import math

from onwards_core._beats import LeaseTerms
from onwards_core._lease_calls import Beaten


class Share:
    """Call `awake` at least once a beat, and `heard` with what the store says."""

    def __init__(self, terms: LeaseTerms) -> None:
        self.ours = False
        """Whether there is one."""
        self._terms = terms
        self._place: tuple[int, int] | None = None
        """How many processes there were when all was well, and our rank among them."""
        self._from = math.inf
        """When all others know of us."""
        self._awake_at = -math.inf

    def awake(self, now: float) -> None:
        """It shows that this process was not stopped."""
        if self.overslept(now):
            self.ours = False
            self._from = math.inf
        self._awake_at = now

    def overslept(self, now: float) -> bool:
        """Whether we were stopped for longer than others wait for us to say what we hold."""
        return now - self._awake_at > self._terms.grace

    def heard(self, reply: Beaten, now: float) -> None:
        if reply.opens_in:
            return
        # Each of the others has heard of us after a beat of its own; one may just have been stopped.
        self._from = min(self._from, now + self._terms.beat + self._terms.grace)
        if now >= self._from:
            self.ours = True
        if self.ours:
            self._place = (reply.processes, reply.rank)

    def permits(self, limit: int) -> int:
        """So many of a concurrency limit."""
        if self._place is None or not self.ours:
            return 0
        processes, rank = self._place
        share, rest = divmod(limit, processes)
        return share + (rank < rest)

    def parts(self, burst: int) -> int:
        """Into how many a rate falls."""
        assert self._place is not None  # or there never was a share
        return min(self._place[0], burst)

    def has_part(self, burst: int) -> bool:
        """Whether one of those is ours: where there are more processes than tokens in a bucket, not all have one."""
        return self._place is not None and self._place[1] < burst
