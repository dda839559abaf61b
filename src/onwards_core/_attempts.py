"""Which provider an exchange tries next, and when."""

from collections.abc import Iterator
from random import Random

import attrs

from onwards_core._actions import Acquire, Wait
from onwards_core._config import Strategy
from onwards_core._events import Headers
from onwards_core._fallback import retry_after
from onwards_core._health import Health, Trial
from onwards_core._ledger import Claim, Ledger, Permit, Refusal
from onwards_core._record import Attempt, Record
from onwards_core._snapshot import Pool, Provider
from onwards_core._strategies import FAILURE_LATENCY, Balancer


@attrs.frozen
class Upkeep:
    """What a gateway knows of keys, pools and providers over all exchanges, and over reloads."""

    ledger: Ledger
    health: Health
    balancer: Balancer
    random: Random


class Attempts:
    """Call `next` for each attempt, `succeeded` or `failed` once it is known how it went, and `close` at last.

    From an attempt's beginning to the next one, or to a wait, it holds the provider's permit.
    """

    def __init__(self, pool: Pool, record: Record, upkeep: Upkeep, affinity_key: bytes | None) -> None:
        self.refusals: list[Refusal] = []
        """Of providers at their own limits."""
        self.tried = 0
        self._pool = pool
        self._policy = pool.fallback
        self._record = record
        self._upkeep = upkeep
        self._affinity_key = affinity_key
        self._left = pool.fallback.max_attempts or len(pool.providers)
        self._again = self._policy.with_replacement or self._left > len(pool.providers)
        """Whether providers may be tried more than once."""
        self._order: Iterator[int] | None = None
        self._left_out: list[int] = []
        """Who has failed too often, or asked for rest."""
        self._waited_for: int | None = None
        self._waited = 0.0
        self._rested = False
        self._permit: Permit | None = None
        self._provider: Provider | None = None
        self._started = 0.0
        self._undecided = False
        """Whether it is not known yet how the attempt went."""
        self._accepted = False
        """Whether it went well, so far."""
        self._trial: Trial | None = None
        self._anyway = False
        """Whether those left out are tried after all."""
        self._claimed: tuple[Provider, Trial | None]
        """Whose claim is to be decided."""

    # Whom

    def next(self, now: float) -> Provider | Wait | Acquire | Refusal | None:
        """Whom to try now; or what to wait for before asking again: for a time, with no response held open, or for a
        claim, whose outcome goes to `acquired`. A refusal ends the search, and None says that nobody is left."""
        if self._order is None:
            self._order = self._passes(now) if self._again else self._one_pass(now)
        while self._left:
            if self._waited_for is not None:
                index, self._waited_for = self._waited_for, None
            else:
                chosen = self._choose(now)
                if chosen is None:
                    break
                index, delay = chosen
                if delay:
                    return self._wait(index, delay, now)
            if (taken := self._take(index, now)) is not None:
                return taken
        if self._anyway or (not self.tried and not self.refusals):
            self._anyway = True
            # Better one that may fail than none at all.
            while self._left_out:
                index = self._left_out.pop(0)
                if (taken := self._take(index, now, anyway=True)) is not None:
                    return taken
        return None

    def _one_pass(self, now: float) -> Iterator[int]:
        """In which order to try the providers."""
        upkeep = self._upkeep
        return upkeep.balancer.order(self._pool, upkeep.ledger, upkeep.random, self._affinity_key, now)

    def _passes(self, now: float) -> Iterator[int]:
        """The same, as often as there are attempts."""
        before = None
        while before != self._left:  # else nobody could be tried, and nobody can be by asking again
            before = self._left
            for index in self._one_pass(now):
                yield index
                if self._policy.with_replacement and self._left < before:
                    break

    def _choose(self, now: float) -> tuple[int, float] | None:
        """The next provider, and for how many seconds to wait for it."""
        assert self._order is not None
        resting: tuple[float, int] | None = None
        for index in self._order:
            until = self._upkeep.health.paused_until(self._pool.providers[index].identity, now)
            if until is None:
                first = self._rested or not self.tried
                return index, 0.0 if first else self._policy.backoff.delay(self.tried, self._upkeep.random)
            self._leave_out(index, "paused", now)
            resting = min(resting or (until, index), (until, index))
        if resting is None or not self.tried:
            return None
        if self._again:
            self._order = self._passes(now)  # This pass is over.
        return resting[1], resting[0] - now

    def _wait(self, index: int, delay: float, now: float) -> Wait | None:
        if not self._policy.may_wait(delay, self._waited):
            return None
        self._waited += delay
        self._waited_for = index
        self._rested = True
        self._leave()
        return Wait(now + delay)

    def _take(self, index: int, now: float, *, anyway: bool = False) -> Provider | Acquire | Refusal | None:
        """Begin an attempt, if the provider can be tried."""
        provider = self._pool.providers[index]
        # Without a policy nobody would close a circuit that was opened under an earlier one.
        asked = self._pool.health is not None and not anyway
        admitted = self._upkeep.health.admits(provider.identity, now) if asked else True
        if not admitted:
            self._leave_out(index, "circuit_open", now)
            return None
        trial = admitted if isinstance(admitted, Trial) else None
        permit = self._upkeep.ledger.acquire((provider.limit,), now)
        if isinstance(permit, Claim):
            self._claimed = provider, trial
            return Acquire(permit)
        return self._begin(provider, trial, permit, now)

    def acquired(self, outcome: Permit | Refusal, now: float) -> Provider | Refusal | None:
        """The claim is decided. None: it was refused, but others may be tried."""
        provider, trial = self._claimed
        return self._begin(provider, trial, outcome, now)

    def claim_withdrawn(self) -> None:
        """It is not waited for any more."""
        provider, trial = self._claimed
        if trial is not None:
            self._upkeep.health.abandoned(provider.identity, trial)

    def _begin(
        self, provider: Provider, trial: Trial | None, permit: Permit | Refusal, now: float
    ) -> Provider | Refusal | None:
        if isinstance(permit, Refusal):
            if trial is not None:
                self._upkeep.health.abandoned(provider.identity, trial)
            self._record.attempts.append(Attempt(provider.label, now, now, "refused_locally"))
            self.refusals.append(permit)
            return None if self._policy.on_rate_limit else permit
        self._leave()
        self._permit = permit
        self._provider = provider
        self._started = now
        self._undecided = True
        self._trial = trial
        self._record.attempts.append(Attempt(provider.label, now))
        self.tried += 1
        self._left -= 1
        self._rested = False
        return provider

    def _leave_out(self, index: int, why: str, now: float) -> None:
        self._left_out.append(index)
        self._record.attempts.append(Attempt(self._pool.providers[index].label, now, now, why))

    # How it went

    def succeeded(self, now: float) -> None:
        """The attempt brought an answer; so far, as it may still break off."""
        assert self._provider is not None
        self._undecided = False
        self._accepted = True
        if self._pool.health is not None:
            self._upkeep.health.succeeded(self._provider.identity, now)
        if self._pool.strategy is Strategy.LOWEST_LATENCY:
            self._upkeep.balancer.observe_latency(self._provider, now - self._started, now)

    def failed(self, now: float, headers: Headers | None = None) -> None:
        """The attempt, or the answer that it brought, failed. headers: those of its response."""
        assert self._provider is not None
        self._undecided = False
        broke_off, self._accepted = self._accepted, False
        if self._pool.strategy is Strategy.LOWEST_LATENCY:
            self._upkeep.balancer.observe_latency(self._provider, FAILURE_LATENCY, now)
        if headers and self._policy.honor_retry_after and (seconds := retry_after(headers)):
            self._upkeep.health.pause(self._provider.identity, now + seconds)
        if self._pool.health is not None:
            others = [each.identity for each in self._pool.providers if each is not self._provider]
            self._upkeep.health.failed(
                self._provider.identity, others, self._pool.health, now, trial=self._trial, broke_off=broke_off
            )

    # The end

    def close(self) -> None:
        """Give the permit back."""
        self._leave()
        # The order refers back to this. Such a cycle for each exchange had the garbage collector take 5 % of all CPU
        # time, in pauses of 50 ms.
        self._order = None

    def _leave(self) -> None:
        if self._permit is not None:
            self._permit.release()
            self._permit = None
        if self._provider is None:
            return
        if self._undecided and self._trial is not None:
            self._upkeep.health.abandoned(self._provider.identity, self._trial)
        if self._accepted and self._pool.health is not None:
            self._upkeep.health.completed(self._provider.identity)
        self._undecided = self._accepted = False
