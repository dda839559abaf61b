"""Signs of life: what a process tells the others with each, by way of the store, and what it hears of them."""

from typing import Final

import attrs

from onwards_core._health import Health
from onwards_core._lease_calls import Beat, Beaten, Load

_MICRO: Final = 1_000_000


@attrs.frozen
class LeaseTerms:
    """What a process has agreed on with all others."""

    process: str
    """Its name, which no other has or had."""
    lease: float = 10.0
    """Seconds after which permits of a process that gives no sign of life are free again."""
    local: bool = True
    """Whether to go on by itself when the store is away."""
    share_load: bool = False
    """Whether the load of providers is counted over all processes."""

    @property
    def beat(self) -> float:
        """Seconds between two signs of life."""
        return min(0.5, self.lease / 10)

    @property
    def grace(self) -> float:
        """Seconds within which everybody has said what is held, when the store is back. Those who were cut off connect
        anew meanwhile."""
        return 4 * self.beat

    @property
    def pause(self) -> float:
        """Seconds for which nothing is given out beyond what is lent when the store does not answer: it may be back.
        Longer than the silence that tells the store that it was away from all, also where our clock runs fast."""
        return 3.1 * self.beat


class Beats:
    """Call `beat` for what to tell, and `heard` with the reply.

    held: how many requests are under way here, by identity.
    """

    def __init__(self, terms: LeaseTerms, health: Health, held: dict[str, int]) -> None:
        self.terms = terms
        self.last: Beaten | None = None
        """What the store last said about all processes; None: it never answered."""
        self._health = health
        self._held = held
        self._told: dict[str, int] = {}
        """Our load, as the others know it."""
        self._theirs: dict[str, int] = {}

    def beat(self, now: float, config: str, *, said: bool = True, last: bool = False) -> Beat:
        terms, loads = self.terms, tuple[Load, ...]()
        if terms.share_load:
            self._told = {name: count for name, count in self._held.items() if name.startswith("provider ")}
            loads = tuple(Load(*each) for each in self._told.items())
        lease, grace = 0 if last else round(terms.lease * _MICRO), round(terms.grace * _MICRO)
        knew, heard = (self.last.store, self.last.mark) if self.last is not None else ("", "")
        return Beat(terms.process, lease, grace, config, knew, heard, said, self._health.absences(now), loads)

    def heard(self, reply: Beaten, now: float) -> None:
        self.last = reply
        self._health.heard(reply.absences, now)
        if self.terms.share_load:
            self._theirs = {load.identity: load.count for load in reply.loads}

    def load(self, identity: str) -> int:
        """How many requests are under way at a provider: here, and elsewhere as far as that is known.

        What came on top here since the others told of theirs came there as well, as all decide by the same rule and
        know the same: or they would all run to whoever had the least, until they hear of each other again.
        """
        ours = self._held.get(identity, 0)
        if not self.terms.share_load or self.last is None:
            return ours
        since = max(0, ours - self._told.get(identity, 0))
        return ours + self._theirs.get(identity, 0) + since * (self.last.processes - 1)
