"""A process's side of limits that it shares with others: a ledger that spends what it was lent.

How it works
============

`acquire` decides at once as long as what it needs was lent already: tokens in stock, permits at hand. If not, it gives
a `Claim`, and that is decided when the store has answered. Whoever talks to the store calls `collect` for what to ask,
then `replied`, or `lost` when there was no answer; one at a time. Everything that waits goes into one batch.

What is lent can't be used for longer than the store believes. Its end is reckoned from before the call that brought
it, on this process's own clock, which has to run no more than a hundredth slower than the store's. So a process that
was stopped, or cut off, uses nothing that others may have got in the meantime.

    in touch    Tokens: a stock follows recent demand. Permits: as many as are in use, and a few at hand.
    away        The store does not answer. Whatever was lent stays good until its end. Beyond that, with `local`: each
                process lets through its share of the last known number of processes, starting a moment later from an
                empty bucket: who is back within that moment goes on as if nothing had happened. Permits beyond those
                lent only when the lease is over, since until then others may hold theirs. Without `local`, or without a
                share, requests are refused (see `_share`).
    holding     The store is back, or lost its data, and lets nobody take anything until all had time to say what they
                hold and what they used. Until then it is as if it were away. Where it lost its data, nobody gets a
                permit either until whatever was lent to those who are silent is over.

Exchanges that are under way are never ended on the store's account. When a lease is over (the process was stopped, or
alone cut off) others may have got its permits; as soon as it is in touch again, what it still holds counts, also
beyond the limit, and nobody gets any until there is room again.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import attrs

from onwards_core._beats import Beats, LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import (
    Beat,
    Beaten,
    Call,
    HoldPermits,
    PermitsHeld,
    Reply,
    TakeTokens,
    TokensTaken,
)
from onwards_core._ledger import Claim, Ledger, Limit, Permit, Rate, Refusal
from onwards_core._lent import LentPermit, Permits, Tokens
from onwards_core._share import Share

_TICK: Final = 0.02
"""Seconds between two looks at tokens that are lent and not used."""
_LULL: Final = 0.1
"""Seconds after which permits are given back that were not used."""
_DRIFT: Final = 0.99
"""How much of its time something lent is used: clocks do not run alike."""
_AGAIN: Final = 0.005
"""Seconds after which a store that refused is asked again."""
_MICRO: Final = 1_000_000

_SHORT: Final = Refusal("rate_limit", 0.0, "")
"""There is nothing at hand: the store has to be asked."""
_AWAY_RETRY: Final = 1.0
"""Seconds after which it is worth another try when the store is away."""

_Asked: TypeAlias = tuple[Call, Tokens | Permits | None]


@attrs.frozen
class _Batch:
    """What was asked, and for whom."""

    at: float
    asked: list[_Asked]
    claims: list[Claim]
    says: bool = False
    """Whether it says which permits are held."""


class LeasedLedger(Ledger):
    """A ledger for one of several processes.

    health: what it knows of providers is told to the others.
    """

    def __init__(self, terms: LeaseTerms, health: Health) -> None:
        super().__init__()
        self.terms = terms
        self.wake: Callable[[], None] = lambda: None
        """Is called when there is something to ask that should not wait for `next_look`."""
        self._beats = Beats(terms, health, self._held)
        self._grace = _micro(terms.grace)
        self._tokens: dict[str, Tokens] = {}
        self._permits: dict[str, Permits] = {}
        self._claims: list[Claim] = []
        self._batch = _Batch(0.0, [], [])
        self._turn = 0
        self._due = False
        self._due_tokens: set[str] = set()
        self._due_permits: set[str] = set()
        self._stocked: set[str] = set()
        self._holding: set[str] = set()
        self._share = Share(terms)
        self._local: list[Tokens] = []
        """Whatever was used by ourselves since the store was last in touch."""
        self._next_beat = -math.inf
        self._trip = 0.0  # seconds from a question to its answer, lately: a busy process hears late
        self._next_look = self._next_return = 0.0
        self._lost_at: float | None = None
        self._opens_at = 0.0
        """When everybody may take something again, at the latest."""
        self._permits_at = 0.0
        """The same, for permits."""
        self._local_until = 0.0
        """The same, at the earliest."""
        self._unsaid = False
        """Whether the store does not know, or not any more, which permits are held."""

    # Deciding

    def acquire(self, limits: Sequence[Limit], now: float) -> Permit | Refusal | Claim:
        found = self._verdict(limits, now)
        if found is None:
            return self._take(limits, now)
        if found is not _SHORT:
            return found
        claim = Claim(tuple(limits))
        self._claims.append(claim)
        self._ask()
        return claim

    def refusal(self, limits: Sequence[Limit], now: float) -> Refusal | None:
        found = self._verdict(limits, now)
        return None if found is _SHORT else found

    def load(self, identity: str) -> int:
        return self._beats.load(identity)

    def is_full(self, limit: Limit, now: float) -> bool:
        taken = self.terms.share_load and limit.permits is not None and self.load(limit.identity) >= limit.permits
        return taken or super().is_full(limit, now)

    @property
    def away(self) -> bool:
        """Whether it goes on by itself, as the store did not answer."""
        return self._lost_at is not None

    @property
    def fleet(self) -> Beaten | None:
        """What the store last said about all processes; None: it never answered."""
        return self._beats.last

    def in_touch(self, now: float) -> bool:
        """Whether the store is there and gives something."""
        return self.fleet is not None and self._lost_at is None and now >= self._opens_at

    def tokens_left(self, limit: Limit, now: float) -> float | None:
        """How many are lent and not used; what others have, or nobody, only the store knows."""
        if limit.rate is None:
            return None
        tokens = self._tokens.get(limit.bucket)
        return float(tokens.in_stock(now)) if tokens is not None else 0.0

    def prune(self, now: float) -> None:
        """Forget what is as good as new."""
        busy = {call.bucket for call, _ in self._batch.asked if isinstance(call, TakeTokens)}
        busy |= self._due_tokens | self._stocked
        self._tokens = {
            bucket: tokens
            for bucket, tokens in self._tokens.items()
            if bucket in busy or tokens.local_full_at is not None or tokens.refused_until > now
        }
        self._permits = {
            identity: permits
            for identity, permits in self._permits.items()
            if permits.count or self._held.get(identity) or identity in self._due_permits | self._holding
        }

    def _verdict(self, limits: Sequence[Limit], now: float) -> Refusal | None:
        """Why not; `_SHORT`: that only the store can say."""
        found: list[Refusal] = []
        for limit in limits:
            if limit.rate is not None and (why := self._rate_verdict(limit, limit.rate, now)):
                found.append(why)
            if limit.permits is not None and (why := self._permits_verdict(limit, limit.permits, now)):
                found.append(why)
        return max(found, key=_weight) if found else None

    def _rate_verdict(self, limit: Limit, rate: Rate, now: float) -> Refusal | None:
        bucket = limit.bucket
        tokens = self._tokens.get(bucket)
        if tokens is None:
            tokens = self._tokens[bucket] = Tokens.of(rate, now)
        if tokens.ready:
            return None
        if left := tokens.in_stock(now):
            if tokens.is_low(left) and self.in_touch(now):
                self._due_tokens.add(bucket)
                self._ask()
            return None
        if not self.in_touch(now):
            return self._local_rate_verdict(tokens, limit.whose, now)
        if tokens.refused_until > now:
            return Refusal("rate_limit", tokens.refused_until - now, limit.whose)
        return _SHORT

    def _permits_verdict(self, limit: Limit, most: int, now: float) -> Refusal | None:
        identity = limit.identity
        permits = self._permits.get(identity)
        if permits is None:
            permits = self._permits[identity] = Permits(most)
        permits.limit = most
        used = self._held.get(identity, 0)
        if used < permits.usable and now < permits.good_until:
            return None
        if not self.in_touch(now):
            return self._local_permits_verdict(permits, used, limit.whose, now)
        if max(permits.refused_until, self._permits_at) > now:
            return Refusal("concurrency_limit_exceeded", self._CONCURRENCY_RETRY, limit.whose)
        return _SHORT

    def _take(self, limits: Sequence[Limit], now: float) -> Permit:
        identities = []
        for limit in limits:
            identity = limit.identity
            identities.append(identity)
            used = self._held[identity] = self._held.get(identity, 0) + 1
            if limit.rate is not None:
                tokens = self._tokens[limit.bucket]
                if not tokens.take():
                    self._take_locally(limit.bucket, tokens, now)
            if limit.permits is not None:
                permits = self._permits[identity]
                permits.peak = max(permits.peak, used)
        return LentPermit(self._held, identities, self._released)

    def _released(self, identity: str) -> None:
        permits = self._permits.get(identity)
        if permits is None or not (permits.contended or permits.over) or self.fleet is None:
            return
        if permits.surplus(self._held.get(identity, 0), self.fleet.processes):
            self._due_permits.add(identity)
            self._ask()

    def _ask(self) -> None:
        if not self._due:
            self._due = True
            self.wake()

    # By ourselves

    def _can_go_on(self, now: float) -> bool:
        if not self.terms.local or not self._share.ours or self._share.overslept(now):
            return False
        return self._lost_at is not None or now < self._local_until

    def _local_rate_verdict(self, tokens: Tokens, whose: str, now: float) -> Refusal | None:
        """Our share is one token every so often. Where there are more processes than tokens in a bucket, not all
        have one."""
        if not self._can_go_on(now):
            return Refusal("service_unavailable", _AWAY_RETRY, whose)
        if not self._share.has_part(tokens.rate.burst):
            return Refusal("rate_limit", self.terms.beat, whose)
        if tokens.local_full_at is None:
            tokens.local_full_at = now + self._local_interval(tokens)
            self._local.append(tokens)
        earliest = tokens.local_full_at
        if self._lost_at is not None:
            earliest = max(earliest, self._lost_at + self.terms.pause)
        wait = earliest - now
        return Refusal("rate_limit", wait, whose) if wait > 0 else None

    def _local_interval(self, tokens: Tokens) -> float:
        return tokens.rate.interval * self._share.parts(tokens.rate.burst) / 1e9

    def _take_locally(self, bucket: str, tokens: Tokens, now: float) -> None:
        tokens.local_full_at = now + self._local_interval(tokens)
        if self._lost_at is None and tokens.owed is None:  # The store is there, and only holds everything back.
            assert self.fleet is not None  # as it has answered
            self._owe(bucket, tokens, self.fleet.now, 0)

    def _owe(self, bucket: str, tokens: Tokens, since: int, trip: int) -> None:
        """What we used and will use by ourselves counts in the store, as if we had used all of our share."""
        assert self.fleet is not None  # as it has answered
        until = self.fleet.now + max(trip, self.fleet.opens_in)
        tokens.owed = ((until - since) // self._share.parts(tokens.rate.burst) + tokens.pace.cost(1), since, until)
        self._due_tokens.add(bucket)
        self._ask()

    def _local_permits_verdict(self, permits: Permits, used: int, whose: str, now: float) -> Refusal | None:
        if not self._can_go_on(now):
            return Refusal("service_unavailable", _AWAY_RETRY, whose)
        # Until the lease is over others hold what was lent to them, and how much that is we don't know.
        over = self._lost_at is not None and now >= self._lost_at + self.terms.lease / _DRIFT
        if over and used < self._share.permits(permits.limit):
            return None
        return Refusal("concurrency_limit_exceeded", self._CONCURRENCY_RETRY, whose)

    # Talking to the store

    def next_look(self) -> float:
        """When to call `collect` again, if nothing happens before."""
        lent = self._stocked or self._holding
        return min(self._next_beat, self._next_look) if lent and self._lost_at is None else self._next_beat

    def awake(self, now: float) -> None:
        """Call it at least once a beat, also while nothing can be asked: it shows that this process was not stopped."""
        self._share.awake(now)

    def collect(self, now: float, config: str = "") -> list[Call]:
        """What to ask now. If there is anything, `replied` or `lost` has to follow.

        config: what tells the one in force from others.
        """
        self.awake(now)
        self._due = False
        asked: list[_Asked] = []
        claims: list[Claim] = []
        says = False
        if now >= self._next_beat:
            self._next_beat = now + self.terms.beat
            asked.append((self._beats.beat(now, config, said=not self._unsaid), None))
            # There is one trip at a time, so without them the next stock could come too late.
            self._due_tokens |= self._stocked
        if self.fleet is not None and self._lost_at is None:
            open_ = self.in_touch(now)
            if open_:
                claims, self._claims = [claim for claim in self._claims if not claim.withdrawn], []
                for tokens in self._local:
                    tokens.local_full_at = None
                self._local = []
            wanted = Counter(limit for claim in claims for limit in claim.limits)
            if now >= self._next_look:
                self._look(now)
            asked += self._token_calls(wanted, now, open_)
            asked += self._permit_calls(wanted, now, open_)
            says = self._unsaid
        self._batch = _Batch(now, asked, claims if asked else [], says)
        if not asked:  # What they wait for has come back meanwhile, and no reply will follow.
            self._decide(claims, now)
        return [call for call, _ in asked]

    def _look(self, now: float) -> None:
        self._next_look = now + _TICK
        for bucket in list(self._stocked):
            tokens = self._tokens[bucket]
            tokens.give_up_old(now)
            if not tokens.stock:
                self._stocked.discard(bucket)
            if tokens.unused:
                self._due_tokens.add(bucket)
        if now >= self._next_return:
            self._next_return = now + _LULL
            self._due_permits |= self._holding

    def _token_calls(self, wanted: Counter[Limit], now: float, open_: bool) -> Iterator[_Asked]:
        needs = {limit.bucket: count for limit, count in wanted.items() if limit.rate is not None}
        buckets, self._due_tokens = self._due_tokens.union(needs), set()
        for bucket in buckets:
            tokens = self._tokens[bucket]
            left = tokens.in_stock(now) - needs.get(bucket, 0)
            unused, from_ = tokens.unused or (0, 0)
            # Who gives some back had too many.
            stock = max(0, tokens.target(now, self._trip) - max(0, left)) if open_ and (left < 0 or not unused) else 0
            owed = tokens.owed or (0, 0, 0)
            tokens.unused = None
            if left < 0 or stock or unused or tokens.owed:
                lifetime = _micro(tokens.lifetime)
                yield (
                    TakeTokens(bucket, tokens.pace, max(0, -left), stock, lifetime, unused, from_, *owed),
                    tokens,
                )

    def _permit_calls(self, wanted: Counter[Limit], now: float, open_: bool) -> Iterator[_Asked]:
        needs = {limit.identity: count for limit, count in wanted.items() if limit.permits is not None}
        identities, self._due_permits = self._due_permits.union(needs), set()
        for identity in identities:
            permits, used, need = self._permits[identity], self._held.get(identity, 0), needs.get(identity, 0)
            before = permits.count
            if now >= permits.good_until:  # Others may have got it by now, also what is in use.
                mine = 0 if open_ or not self.terms.local else self._share.permits(permits.limit)
                permits.count = max(used, mine)
                permits.over = permits.count - mine
            permits.drop_what_is_over(used)
            assert self.fleet is not None  # or nothing would be asked
            if open_ and now >= self._permits_at and not need:
                permits.count -= permits.surplus(used, self.fleet.processes)
                if now >= self._next_return - _LULL:
                    permits.peak = used
            permits.count = max(permits.count, used)
            need = max(0, used + need - max(used, permits.usable)) if need else 0
            if need or permits.count != before or now >= permits.renew_at:
                self._turn += 1
                # At most a twentieth, that others may miss for a while.
                stock = min(used // 8 + 1, permits.limit // 20) if need and not permits.contended else 0
                name, lease = self.terms.process, _micro(self.terms.lease)
                yield (
                    HoldPermits(
                        identity, permits.limit, name, self._turn, permits.count, need, stock, lease, self._grace
                    ),
                    permits,
                )

    def leave(self, now: float) -> list[Call]:
        """What to tell in the end, so that nobody waits until what is lent here is over. Ask nothing after it."""
        calls: list[Call] = []
        if self.fleet is None or self._lost_at is not None:
            return calls
        name, lease = self.terms.process, _micro(self.terms.lease)
        for identity in self._holding:
            self._turn += 1
            permits, used = self._permits[identity], self._held.get(identity, 0)
            calls.append(HoldPermits(identity, permits.limit, name, self._turn, used, 0, 0, lease, self._grace))
        return [*calls, self._beats.beat(now, "", last=True)]

    def replied(self, replies: Sequence[Reply], now: float) -> None:
        """The store answered all that `collect` gave."""
        batch = self._batch
        self._trip += (now - batch.at - self._trip) / 4
        self._unsaid = self._unsaid and not batch.says
        for (call, lent), reply in zip(batch.asked, replies, strict=True):
            match call, reply, lent:
                case Beat(), Beaten(), None:
                    self._beaten(reply, batch.at, now)
                case TakeTokens(), TokensTaken(), Tokens():
                    self._tokens_taken(call, reply, lent, batch.at, now)
                case HoldPermits(), PermitsHeld(), Permits():
                    self._permits_held(call, reply, lent, batch.at, now)
                case _:
                    raise RuntimeError("the store answered something else than it was asked")
        claims = batch.claims
        if not self.in_touch(now):  # Nothing will be asked for those that came meanwhile.
            claims, self._claims = claims + self._claims, []
        self._decide(claims, now)
        for (call, lent), reply in zip(batch.asked, replies, strict=True):
            if isinstance(call, TakeTokens) and isinstance(lent, Tokens) and lent.ready:
                lent.put_back(lent.ready, reply.now)
                lent.ready = 0
                self._due_tokens.add(call.bucket)
                self._ask()

    def interrupted(self, now: float) -> None:
        """There will be no reply to what was asked, but perhaps to the same again."""
        for _, lent in self._batch.asked:
            if isinstance(lent, Permits):
                lent.renew_at = 0.0
        self._claims = self._batch.claims + self._claims
        self._batch = _Batch(now, [], [])
        self._due_permits |= self._holding
        self._next_beat = now
        self._ask()

    def lost(self, now: float) -> None:
        """The store did not answer, or not in time. `collect` then asks for a sign of life until there is one."""
        if self._lost_at is None:
            self._lost_at = now
        self._next_beat = now
        claims, self._claims = self._batch.claims + self._claims, []
        self._batch = _Batch(now, [], [])
        self._decide(claims, now)

    def _decide(self, claims: list[Claim], now: float) -> None:
        for claim in claims:
            if claim.withdrawn:
                continue
            found = self._verdict(claim.limits, now)
            if found is _SHORT:  # What was there has become too old meanwhile.
                self._claims.append(claim)
                self._ask()
            else:
                claim.decide(found or self._take(claim.limits, now))

    def _beaten(self, reply: Beaten, asked_at: float, now: float) -> None:
        before = self.fleet
        self._beats.heard(reply, now)
        back = self._lost_at is not None or (before is not None and before.store != reply.store)
        went_on = self._lost_at is not None and now >= self._lost_at + self.terms.pause
        self._lost_at = None
        self._share.heard(reply, now)
        held_back = self._opens_at > now
        if reply.opens_in:
            self._opens_at = now + reply.opens_in / _MICRO
            self._local_until = asked_at + reply.opens_in / _MICRO
        if back or (reply.opens_in and not held_back):
            # Nobody gets anything until all have said what they used, and hold.
            for bucket, tokens in self._tokens.items():
                if tokens.local_full_at is not None and (went_on or reply.opens_in):
                    self._owe(bucket, tokens, (before or reply).now, _micro(now - asked_at))
            self._say_permits()
        if reply.permits_in:
            self._hold_permits_back(reply.permits_in, now)
        else:
            self._permits_at = now

    def _hold_permits_back(self, permits_in: int, now: float) -> None:
        if now >= self._permits_at:
            self._say_permits()
        self._permits_at = now + permits_in / _MICRO

    def _say_permits(self) -> None:
        """Whoever decides does not know, or not any more, what we hold."""
        self._unsaid = True
        self._due_permits.update(self._permits)
        for permits in self._permits.values():
            permits.renew_at = 0.0
        self._ask()

    def _tokens_taken(self, call: TakeTokens, reply: TokensTaken, tokens: Tokens, asked_at: float, now: float) -> None:
        tokens.owed = None
        tokens.ready += reply.granted
        if reply.stocked:
            good_until = asked_at + tokens.lifetime * _DRIFT
            tokens.put_in_stock(reply.stocked, reply.now + call.lifetime, asked_at, good_until)
            self._stocked.add(call.bucket)
        if reply.granted < call.wanted:
            tokens.refused_until = now + max(reply.wait / _MICRO, tokens.lifetime / 10)

    def _permits_held(
        self, call: HoldPermits, reply: PermitsHeld, permits: Permits, asked_at: float, now: float
    ) -> None:
        permits.count += reply.granted + reply.stocked
        permits.contended = reply.contended
        # A store that does not know of all yet can't say that what was too much is not.
        permits.over = max(permits.over, reply.over) if reply.opens_in else reply.over
        permits.good_until = asked_at + self.terms.lease * _DRIFT
        permits.renew_at = asked_at + self.terms.beat
        if reply.granted < call.wanted:
            permits.refused_until = now + _AGAIN
        if reply.opens_in:
            self._hold_permits_back(reply.opens_in, now)
        if permits.count:
            self._holding.add(call.identity)
        else:
            self._holding.discard(call.identity)


def _micro(seconds: float) -> int:
    return round(seconds * _MICRO)


_ORDER: Final = ("concurrency_limit_exceeded", "rate_limit", "service_unavailable")


def _weight(refusal: Refusal) -> tuple[int, float]:
    """Which of several reasons is told."""
    return (-1, 0.0) if refusal is _SHORT else (_ORDER.index(refusal.code), refusal.retry_after)
