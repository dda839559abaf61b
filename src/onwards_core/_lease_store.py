"""The store's side of limits that several processes share: who took how much, and who is alive.

One of these, in a process of its own or in the parent of all, decides for everybody, and by its own clock. What Redis
does instead in Lua (`onwards_trio/_store/*.lua`) is the same, line by line; tests hold the two to each other.

Rates: the state of a bucket is the moment at which it will be full again (see `_ledger`). A stock of tokens is taken
now but used later, which must not let more through in any window than `burst + rate * t`. A bucket must not
fill up while tokens from it are still about: so while they can be used, its full moment is at least as far away as
they are worth. That is what `now + lifetime` sees to: what is nearly full gives up `lifetime` of its refill. Tokens
that come back are worth what they cost, less the time that has passed since: it may have refilled the bucket already.

Permits: each process says how many it holds, and that counts until its lease is over.

A store that is empty has two ways to be new. If all who come are new as well, nobody holds anything, and it waits for a
moment only. If one of them knew another store, the data is lost. Who is well says within that moment what it holds and
used; who is silent can't, but what it was lent is over after a lease. So rates go on after that moment, and nobody is
given a permit until a lease after the first call.

A store that is away from all may come back with its data. Processes go on by themselves then, but only after a pause.
With each sign of life a process tells of the last answer that it got; if that becomes older than the pause for all of
them, some may have used their share. So whoever calls first after that, nobody gets anything until all had the time to
say what they used; whoever is silent may have used the rest of what came into the buckets meanwhile, so they are empty
then. The permits that it was lent stay counted for a lease from then on. If it may have used those of its share too,
which nobody does before a lease is over, nobody is given any until all that were known have said again what they hold,
or that lease is over. Whoever was out alone, while others were answered, goes on at once: that was its own affair.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final, assert_never

import attrs

from onwards_core._lease_calls import (
    LISTED,
    Absence,
    Beat,
    Beaten,
    Call,
    HoldPermits,
    InForce,
    Load,
    PermitsHeld,
    Reply,
    TakeTokens,
    TokensTaken,
)

CONTENDED: Final = 1_000_000
"""Microseconds for which a refusal is remembered."""
KEPT: Final = 600_000_000
"""Microseconds for which a full bucket is remembered, for what is owed from before the store was away."""


def silence(grace: int) -> int:
    """After how long it is certain that nobody got an answer: each process tells twice in that time that it got one,
    and no process goes on by itself before."""
    return grace * 3 // 4


@attrs.define
class _Held:
    count: int
    turn: int
    until: int


@attrs.define
class _Process:
    until: int
    said_at: int
    """When it had said what it holds, for certain."""
    config: str
    loads: tuple[Load, ...]


class LeaseStore:
    """`apply` each call; `prune` now and then.

    name: tells it from another one; processes that hear a new one say again what they hold. None: it is the moment of
    the first call, and then everybody holds back until all had the time to say what they still hold.
    """

    def __init__(self, name: str | None = None) -> None:
        self._name = name
        self._began = self._opens_at = self._permits_at = 0
        """When it was first called; from when on it gives anything, and permits, which is not earlier."""
        self._emptied_at: int | None = None
        """Until when processes went on by themselves, which empties all buckets."""
        self._answered_at: int | None = None
        """When somebody certainly had an answer. None: there is nobody."""
        self._away_at: int | None = None
        """When it was last found out that it was away from all."""
        self._settles_at = 0
        """From when on it gives out permits then, if some stay silent."""
        self._grace = self._lease = 0
        self._full_at: dict[str, int] = {}
        self._permits: dict[str, dict[str, _Held]] = {}
        self._refused_at: dict[str, int] = {}
        self._processes: dict[str, _Process] = {}
        """By age."""
        self._absences: dict[tuple[str, str], int] = {}

    def apply(self, call: Call, now: int) -> Reply:
        """now: microseconds, on any clock that never goes back."""
        self._notice_absence(call, now)
        match call:
            case TakeTokens():
                return self._tokens(call, now)
            case HoldPermits():
                return self._hold(call, now)
            case Beat():
                return self._beat(call, now)
            case _:
                assert_never(call)

    def _notice_absence(self, call: Call, now: int) -> None:
        if self._answered_at is None or not self._grace:
            return
        if isinstance(call, Beat) and call.knew == self._name:
            self._answered_at = max(self._answered_at, min(int(call.heard), now))
        if now <= max(self._answered_at, self._away_at or 0) + silence(self._grace):
            return
        if isinstance(call, Beat) and not self._processes.keys() - {call.process}:
            self._answered_at = now
            return
        self._away_at = now
        self._opens_at = self._emptied_at = self._settles_at = now + self._grace
        if now - self._answered_at > self._lease // 2 + silence(self._grace):
            self._settles_at = now + max(self._grace, self._lease)

    def _tokens(self, call: TakeTokens, now: int) -> TokensTaken:
        pace = call.pace
        full_at = self._full_at.get(call.bucket, 0)
        if call.owed:
            empty = call.owed_until + pace.slack + pace.cost(1)
            full_at = max(full_at, min(max(full_at, call.owed_since) + call.owed, empty))
        worth = call.returned * pace.time // pace.tokens - max(0, now - call.returned_from)
        empty = 0 if self._emptied_at is None else self._emptied_at + pace.slack + pace.cost(1)
        full_at = max(full_at - max(0, worth), empty, now)
        latest = now + pace.slack
        granted = stocked = wait = 0
        if call.wanted and full_at <= latest:
            granted = min(call.wanted, pace.affordable(latest - full_at) + 1)
            full_at += pace.cost(granted)
        if granted < call.wanted:
            wait = full_at - latest
        else:
            aged = max(full_at, now + call.lifetime)
            if call.stock and aged <= latest:
                stocked = min(call.stock, pace.affordable(latest - aged) + 1)
                full_at = aged + pace.cost(stocked)
        self._full_at[call.bucket] = full_at
        return TokensTaken(now, granted, stocked, wait)

    def _hold(self, call: HoldPermits, now: int) -> PermitsHeld:
        self._meet(call, now, knew_another=self._name is None)
        holders = self._permits.setdefault(call.identity, {})
        if self._away_at is None or now >= self._away_at + self._lease:
            for process in [process for process, held in holders.items() if held.until <= now]:
                del holders[process]
        opens_in = max(0, max(self._permits_at, self._settles_at) - now)
        granted = stocked = 0
        mine = holders.get(call.process)
        others = sum(held.count for process, held in holders.items() if process != call.process)
        if mine is None or mine.turn < call.turn:
            free = 0 if opens_in else max(0, call.limit - others - call.holds)
            granted = min(call.wanted, free)
            if granted < call.wanted:
                self._refused_at[call.identity] = now
            else:
                stocked = min(call.stock, free - granted)
            mine = holders[call.process] = _Held(call.holds + granted + stocked, call.turn, now + call.lease)
        contended = now - self._refused_at.get(call.identity, -CONTENDED) < CONTENDED
        return PermitsHeld(now, granted, stocked, contended, opens_in, max(0, others + mine.count - call.limit))

    def _meet(self, call: HoldPermits | Beat, now: int, *, knew_another: bool) -> None:
        self._grace = call.grace
        if call.lease:
            self._lease = call.lease
        if self._name is None:
            self._name, self._began = str(now), now
            self._opens_at = self._permits_at = now + call.grace
        if self._answered_at is None:
            self._answered_at = now
        if knew_another:
            self._permits_at = max(self._permits_at, self._began + call.lease)

    def _beat(self, call: Beat, now: int) -> Beaten:
        self._meet(call, now, knew_another=call.knew not in ("", self._name))
        assert self._name is not None  # since they have met
        if now >= self._settles_at:
            self._processes = {name: process for name, process in self._processes.items() if process.until > now}
        if call.lease:
            said_at = now
            if call.knew:
                said_at = min(int(call.heard), now) if call.said and call.knew == self._name else 0
            self._processes[call.process] = _Process(now + call.lease, said_at, call.config, call.loads)
        else:
            self._processes.pop(call.process, None)
        if not self._processes:  # Whoever comes next has nobody to wait for.
            self._answered_at = None
        if self._away_at is not None and all(each.said_at >= self._away_at for each in self._processes.values()):
            self._settles_at = self._opens_at
        for absence in call.absences:
            key = absence.kind, absence.identity
            self._absences[key] = max(self._absences.get(key, 0), now + absence.time)
        self._absences = {key: until for key, until in self._absences.items() if until > now}
        return Beaten(
            now,
            self._name,
            str(now),
            len(self._processes),
            list(self._processes).index(call.process) if call.lease else 0,
            max(0, self._opens_at - now),
            max(0, max(self._permits_at, self._settles_at) - now),
            len({process.config for process in self._processes.values()}),
            tuple(self._in_force()),
            tuple(Absence(*key, until - now) for key, until in sorted(self._absences.items())),
            tuple(self._loads_beside(call.process)),
        )

    def _in_force(self) -> Iterable[InForce]:
        having: dict[str, list[str]] = {}
        for name, process in self._processes.items():
            having.setdefault(process.config, []).append(name)
        for config in sorted(having, key=lambda config: -len(having[config]))[:LISTED]:
            names = having[config]
            yield InForce(config, len(names), tuple(names[:LISTED]) if len(having) > 1 else ())

    def _loads_beside(self, process: str) -> Iterable[Load]:
        total = Counter[str]()
        for name, other in self._processes.items():
            if name != process:
                total.update({load.identity: load.count for load in other.loads})
        return (Load(*load) for load in sorted(total.items()))

    def forget(self, process: str) -> None:
        """The process has certainly ended: what it held is free at once."""
        self._processes.pop(process, None)
        for holders in self._permits.values():
            holders.pop(process, None)

    def prune(self, now: int) -> None:
        """Forget what is as good as new."""
        self._full_at = {bucket: full_at for bucket, full_at in self._full_at.items() if full_at > now - KEPT}
        self._permits = {
            identity: holders
            for identity, holders in self._permits.items()
            if any(held.until + 2 * self._lease > now for held in holders.values())
        }
        self._refused_at = {identity: at for identity, at in self._refused_at.items() if identity in self._permits}
