"""What a process was lent of limits that it shares, and how long it may use it."""

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from onwards_core._lease_calls import Pace
from onwards_core._ledger import Permit, Rate

SHARE: Final = 20
"""One part in so many of a limit may lie unused, while somebody is refused."""
_LIFETIME: Final = 0.05
"""Seconds that a stock of tokens may be used."""
_SHORTEST: Final = 0.005
"""Seconds. A stock that could not even be used for so long is not worth having."""
_HORIZON: Final = 0.6
"""The part of its lifetime for which a stock should last."""
_LOW: Final = 0.2
"""The part of a stock at which the next one is fetched,"""
_LOW_AT_MOST: Final = 0.5
"""and where that would come too late."""
_RECENT: Final = 0.1
"""Seconds to which demand looks back."""


class LentPermit(Permit):
    """released: is told each identity."""

    __slots__ = ("_released",)

    def __init__(self, held: dict[str, int], identities: list[str], released: Callable[[str], None]) -> None:
        super().__init__(held, identities)
        self._released = released

    def release(self) -> None:
        identities = self._identities
        super().release()
        for identity in identities:
            self._released(identity)


@attrs.frozen
class _Lot:
    """Tokens that came together."""

    count: int
    until: int
    """How long they are good, by the store's clock."""
    since: float
    good_until: float
    """The same, and when they were asked for, by ours."""


@attrs.define(eq=False)
class Tokens:
    """What is lent of a rate."""

    rate: Rate
    pace: Pace
    lifetime: float
    """Of a stock: seconds. 0: there is none."""
    stock: deque[_Lot] = attrs.field(factory=deque)
    ready: int = 0
    """Just granted to those that wait."""
    unused: tuple[int, int] | None = None
    """How many go back, and from when on they lose their worth."""
    refused_until: float = 0.0
    owed: tuple[int, int, int] | None = None
    """For how much time tokens are used without asking, since when, and until when."""
    local_full_at: float | None = None
    """While the store is away: when the next token comes."""
    _taken: int = 0
    _since: float = 0.0
    _demand: float = 0.0
    """Tokens a second."""
    _low: int = 0
    """How many have to be left, or the next stock would come too late."""

    @classmethod
    def of(cls, rate: Rate, now: float) -> "Tokens":
        lifetime = min(_LIFETIME, rate.interval * rate.burst / 1e9 / SHARE)
        return cls(rate, Pace.of(rate), lifetime if lifetime >= _SHORTEST else 0.0, since=now)

    def in_stock(self, now: float) -> int:
        stock = self.stock
        while stock and stock[0].good_until <= now:
            stock.popleft()
        return sum(lot.count for lot in stock)

    def put_in_stock(self, count: int, until: int, since: float, good_until: float) -> None:
        self.stock.append(_Lot(count, until, since, good_until))

    def take(self) -> bool:
        """One. False: there is none."""
        self._taken += 1
        if self.ready:
            self.ready -= 1
        elif self.stock:
            lot = self.stock[0]
            if lot.count > 1:
                self.stock[0] = attrs.evolve(lot, count=lot.count - 1)
            else:
                self.stock.popleft()
        else:
            return False
        return True

    def is_low(self, left: int) -> bool:
        return left <= self._low

    def target(self, now: float, trip: float) -> int:
        """How many to have in stock, by recent demand. trip: seconds that the next one takes to come."""
        elapsed = now - self._since
        if elapsed > 0:
            self._demand += min(1.0, elapsed / _RECENT) * (self._taken / elapsed - self._demand)
            self._taken, self._since = 0, now
        # What comes too late to be used is lost to all, so less is wanted of a store that is slow.
        lasts = max(0.0, min(self.lifetime * _HORIZON, self.lifetime - trip))
        self._low = int(self._demand * min(max(lasts * _LOW, trip), lasts * _LOW_AT_MOST))
        return int(self._demand * lasts)

    def give_up_old(self, now: float) -> None:
        """What has lain in stock for longer than it should last is not needed."""
        while self.stock and now - self.stock[0].since > self.lifetime * _HORIZON:
            lot = self.stock.popleft()
            if now < lot.good_until:
                self.put_back(lot.count, lot.until)

    def put_back(self, count: int, worth_until: int) -> None:
        if self.unused is not None:
            count, worth_until = self.unused[0] + count, min(self.unused[1], worth_until)
        self.unused = (count, worth_until)


@attrs.define(eq=False)
class Permits:
    """What is lent of a concurrency limit."""

    limit: int
    count: int = 0
    over: int = 0
    """Of those, how many are too many, and not to be used again."""
    good_until: float = 0.0
    renew_at: float = 0.0
    refused_until: float = 0.0
    contended: bool = False
    """Whether somebody was refused lately, here or elsewhere."""
    peak: int = 0
    """The most that were in use since the last look."""

    @property
    def usable(self) -> int:
        """How many may be in use for another one to be given out."""
        return min(self.count - self.over, self.limit)

    def drop_what_is_over(self, used: int) -> None:
        """Others have it. A store that then loses its data would not know so, if it were told that it is held."""
        dropped = min(self.over, max(0, self.count - used))
        self.count -= dropped
        self.over -= dropped

    def surplus(self, used: int, processes: int) -> int:
        """How many there are that others should have."""
        if self.over:
            return max(0, self.count - used)
        at_hand = self.limit // SHARE // processes if self.contended else max(0, self.peak - used)
        return max(0, self.count - used - at_hand)
