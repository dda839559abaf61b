"""Several processes that share a store of limits, on a virtual clock, and what is to hold of all of them together."""

import math

import attrs

from onwards_core._beats import LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Call, HoldPermits, Reply, TakeTokens
from onwards_core._lease_store import LeaseStore
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Claim, Limit, Permit, Rate, Refusal


@attrs.define(eq=False)
class Exchange:
    """One that was let through."""

    process: "Process"
    permit: Permit
    limit: Limit
    began_at: int
    written_off: bool = False
    """The lease of its process was over for a while: whoever decides took it for dead."""
    ends_at: float = math.inf


class Process:
    """A process with a clock of its own."""

    def __init__(self, fleet: "Fleet", name: str, *, offset: int, drift: float, lease: float, local: bool) -> None:
        self.fleet = fleet
        self.name = name
        self.offset, self.drift = offset, drift
        self.ledger = LeasedLedger(LeaseTerms(name, lease, local), Health())
        self.waiting: list[tuple[Claim, Limit]] = []
        self.asked_at: int | None = None
        """Since when a batch is under way."""
        self.replies: list[Reply] | None = None
        self.calls: list[Call] = []
        self.applied_at = 0
        self.awake_at = fleet.at
        """When it last wanted to talk to the store, and so was not stopped."""

    @property
    def now(self) -> float:
        return self.offset + self.fleet.at * (1 + self.drift) / 1e6

    def request(self, limit: Limit) -> Permit | Refusal | Claim:
        found = self.ledger.acquire([limit], self.now)
        if isinstance(found, Permit):
            self.fleet.granted(self, found, limit, self.fleet.at)
        elif isinstance(found, Claim):
            self.waiting.append((found, limit))
        return found

    def ask(self) -> bool:
        """Send a batch off."""
        assert self.asked_at is None
        self.calls = self.ledger.collect(self.now)
        self.awake_at = self.fleet.at
        if self.calls:
            self.asked_at = self.fleet.at
        return bool(self.calls)

    def arrive(self) -> None:
        """The batch is with the store."""
        self.replies = self.fleet.apply(self.calls)
        self.applied_at = self.fleet.at

    def answered(self) -> None:
        assert self.replies is not None
        replies, self.replies, self.asked_at = self.replies, None, None
        self.ledger.replied(replies, self.now)
        self._collect_decided(self.applied_at)

    def lose(self) -> None:
        self.replies, self.asked_at = None, None
        self.ledger.lost(self.now)
        self._collect_decided(self.fleet.at)

    def _collect_decided(self, at: int) -> None:
        still = []
        for claim, limit in self.waiting:
            if claim.outcome is None:
                still.append((claim, limit))
            elif isinstance(claim.outcome, Permit):
                # What was waited for is granted by the store: its time counts.
                self.fleet.granted(self, claim.outcome, limit, at)
        self.waiting = still


class Fleet:
    """The store, the processes, and the sequential model: all that was granted, in one list."""

    def __init__(self, store: LeaseStore) -> None:
        self.at = 1_000_000_000_000
        self.store = store
        self.processes: list[Process] = []
        self.grants: dict[str, list[int]] = {}
        self.exchanges: list[Exchange] = []
        self.leases: dict[tuple[str, str], int] = {}
        """When the lease of permits is over, by identity and process."""
        self.forgotten: set[tuple[str, str]] = set()
        """The same that a store knew of which lost its data, as long as the new one was not told."""
        self.knew: set[str] = set()
        """Processes that heard a store which lost its data."""
        self.short_until: int | None = None
        """When a store that was empty may give out permits, if nobody has told it that there was another one; 0:
        somebody has, and it waits until all leases are over."""
        self.duration = math.inf
        """How long exchanges take that begin now: microseconds."""

    def apply(self, calls: list[Call]) -> list[Reply]:
        replies = []
        for call in calls:
            if not isinstance(call, TakeTokens):
                if self.short_until is None:
                    self.short_until = self.at + call.grace
                if call.process in self.knew and self.at < self.short_until:
                    self.short_until = 0
            replies.append(self.store.apply(call, self.at))
            if isinstance(call, HoldPermits):
                self.leases[call.identity, call.process] = self.at + call.lease
                self.forgotten.discard((call.identity, call.process))
        return replies

    def apply_late(self, calls: list[Call]) -> None:
        """Nobody waits for the replies. A lease that is said to go on late does not bring anybody back to life."""
        for call in calls:
            self.store.apply(call, self.at)

    def pass_time(self, microseconds: int) -> None:
        self.at += microseconds
        if self.forgets():
            self.leases.update(dict.fromkeys(self.forgotten & self.leases.keys(), self.at))
        for exchange in self.exchanges:
            process = exchange.process
            over = self.leases.get((exchange.limit.identity, process.name), 0)
            silent = self.at - process.awake_at >= process.ledger.terms.lease * 1e6
            if over <= self.at and (silent or exchange.began_at <= over):
                exchange.written_off = True

    def forgets(self) -> bool:
        """Nobody but new processes has told the store what is held, in time: the others are taken for dead."""
        return bool(self.short_until) and self.at >= self.short_until

    def lose_data(self) -> None:
        """What follows is a new beginning for rates. What was lent before is used up, or too old."""
        self.pass_time(50_000)
        self.store = LeaseStore()
        self.forgotten |= set(self.leases)
        self.knew |= {process.name for process in self.processes if process.ledger.fleet is not None}
        self.short_until = None
        self.grants.clear()

    def granted(self, process: Process, permit: Permit, limit: Limit, at: int) -> None:
        is_forgotten = (limit.identity, process.name) in self.forgotten and self.forgets()
        self.exchanges.append(Exchange(process, permit, limit, self.at, is_forgotten, self.at + self.duration))
        if limit.rate is not None:
            grants = self.grants.setdefault(limit.bucket, [])
            grants.append(at)
        if limit.permits is not None:
            held = [each for each in self.exchanges if each.limit.identity == limit.identity and not each.written_off]
            assert len(held) <= limit.permits, f"{len(held)} at once"

    def check_rates(self, limit: Limit) -> None:
        """In each window, `burst + rate * t` at most. Each grant is held to the one that comes `burst` or more before,
        with a bucket that is emptied grant by grant."""
        rate = limit.rate
        if rate is None:
            return
        full_at = 0  # nanoseconds
        for at in sorted(self.grants.get(limit.bucket, ())):
            full_at = max(full_at, at * 1000)
            assert full_at - at * 1000 <= rate.slack, f"{limit} is exceeded at {at}"
            full_at += rate.interval

    def end(self, exchange: Exchange) -> None:
        self.exchanges.remove(exchange)
        exchange.permit.release()

    def crash(self, process: Process) -> None:
        self.processes.remove(process)
        self.exchanges = [exchange for exchange in self.exchanges if exchange.process is not process]


RATE = Limit("rate", Rate.per_second(100, 10))
PERMITS = Limit("permits", permits=2)


class Talker:
    """Takes everything to the store at once."""

    def __init__(self, ledger: LeasedLedger, store: LeaseStore | None = None) -> None:
        self.ledger = ledger
        self.store = store or LeaseStore("the store")

    def talk(self, now: float) -> list:
        calls = self.ledger.collect(now)
        self.ledger.replied([self.store.apply(call, round(now * 1e6)) for call in calls], now)
        return calls


def ledger(**terms) -> LeasedLedger:
    return LeasedLedger(LeaseTerms("p", **terms), Health())


def in_touch(**terms) -> Talker:
    """For long enough to have a share."""
    talker = Talker(ledger(**terms))
    talker.store._opens_at = -3_000_000
    for at in (-3.0, -2.0, -1.0, 0.0):
        talker.talk(at)
    return talker
