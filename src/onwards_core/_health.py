"""Which providers are left out for a while: those that keep failing, and those that asked for it.

A provider's circuit is closed as long as all is well. Failures open it for a cool-down. Then one attempt, the trial,
may show whether it can be closed again; if it fails, the next cool-down is twice as long. The last provider of a pool
whose circuit is closed is never taken out, however often it fails.
"""

import enum
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Self

import attrs

from onwards_core._config import HealthConfig
from onwards_core._lease_calls import Absence

_BUCKETS: Final = 10
"""Of a window. What it looks back on is exact up to one of them."""
_ALIKE: Final = 0.5
"""Seconds by which two moments may differ because word of one took time to come around."""
_MICRO: Final = 1_000_000
_REMEMBERED: Final = 3600.0
"""Seconds after which nobody asks any more what a provider did."""


@attrs.frozen
class HealthPolicy:
    """When a circuit opens, and for how long. Times are seconds."""

    consecutive_failures: int | None
    """After so many in a row. None: never."""
    failure_rate: float | None
    """After this share of the attempts within the window. None: never."""
    window: float
    min_requests: int
    """Within the window, before its rate means anything."""
    cooldown: float
    max_cooldown: float

    @classmethod
    def of(cls, config: HealthConfig) -> Self:
        return cls(
            config.consecutive_failures,
            config.failure_rate,
            config.window_secs,
            config.min_requests,
            config.cooldown_secs,
            max(config.cooldown_secs, config.max_cooldown_secs),
        )


class CircuitState(enum.Enum):
    """Whether a provider is tried."""

    CLOSED = "closed"
    OPEN = "open"
    TRIAL = "trial"
    """Its cool-down is over, and the next attempt decides."""


class Trial:
    """The attempt by which it is found out whether a provider is well again. Each is one of its own."""


@attrs.define
class _Bucket:
    start: float
    failures: int = 0
    attempts: int = 0


@attrs.define
class _Provider:
    """What is known of one that has failed, or asked for rest."""

    window: float = 1.0
    """Seconds: a policy's, from the first failure on."""
    streak: int = 0
    """Attempts in a row without an answer."""
    breaks: int = 0
    """Answers in a row that broke off. An answer that begins says nothing against them, one that ends does."""
    buckets: deque[_Bucket] = attrs.field(factory=deque)
    cooldown: float = 0.0
    open_until: float | None = None
    """None: closed."""
    trial: Trial | None = None
    paused_until: float = 0.0
    heard: dict[str, float] = attrs.field(factory=dict)
    """Until when others leave it out, by kind."""

    @property
    def last_heard(self) -> float:
        return max(self.buckets[-1].start if self.buckets else -math.inf, self.open_until or -math.inf)

    def count(self, now: float, *, attempts: int = 0, failures: int = 0) -> None:
        if not self.buckets or now - self.buckets[-1].start >= self.window / _BUCKETS:
            self.buckets.append(_Bucket(now))
        self.buckets[-1].attempts += attempts
        self.buckets[-1].failures += failures
        while now - self.buckets[0].start >= self.window:
            self.buckets.popleft()

    def has_failed_enough(self, policy: HealthPolicy) -> bool:
        if policy.consecutive_failures is not None and max(self.streak, self.breaks) >= policy.consecutive_failures:
            return True
        attempts = sum(bucket.attempts for bucket in self.buckets)
        failures = sum(bucket.failures for bucket in self.buckets)
        return (
            policy.failure_rate is not None
            and attempts >= policy.min_requests
            and failures >= policy.failure_rate * attempts
        )


class Health:
    """Of all providers, by identity. It outlives reloads.

    Before an attempt call `admits`; then `succeeded` when its answer begins, and `completed` when that has ended; or
    `failed` instead of either; or, where it did not show anything, `abandoned`. What began before a circuit opened may
    end whenever it likes: only the trial, or an answer that begins, decides about an open circuit.
    Nothing is kept of a provider that never failed.

    others: the rest of the pool that a provider is in; without it, other processes' circuits are not believed.
    """

    def __init__(self, others: Callable[[str], Iterable[str]] = lambda _: ()) -> None:
        self._others = others
        self._providers: dict[str, _Provider] = {}

    # Before an attempt

    def admits(self, identity: str, now: float) -> Trial | bool:
        """Whether the provider's circuit lets an attempt through. After a cool-down, only one: the trial, which has to
        be told with what became of the attempt."""
        provider = self._providers.get(identity)
        if provider is None or provider.open_until is None:
            return True
        if provider.trial is not None or now < provider.open_until:
            return False
        provider.trial = Trial()
        return provider.trial

    def paused_until(self, identity: str, now: float) -> float | None:
        """Until when the provider asked to be left alone."""
        provider = self._providers.get(identity)
        return provider.paused_until if provider is not None and provider.paused_until > now else None

    def state(self, identity: str, now: float) -> CircuitState:
        """Of the provider's circuit."""
        provider = self._providers.get(identity)
        if provider is None or provider.open_until is None:
            return CircuitState.CLOSED
        return CircuitState.TRIAL if now >= provider.open_until else CircuitState.OPEN

    def open_until(self, identity: str) -> float | None:
        """Until when the circuit is open at least; in the past for one that waits for its trial. None: it is closed."""
        provider = self._providers.get(identity)
        return provider.open_until if provider is not None else None

    # After it

    def succeeded(self, identity: str, now: float) -> None:
        """An answer began."""
        provider = self._providers.get(identity)
        if provider is None:
            return
        if provider.open_until is not None:
            provider.open_until = provider.trial = None
            provider.buckets.clear()
        provider.streak = 0
        provider.count(now, attempts=1)

    def completed(self, identity: str) -> None:
        """An answer that began has ended as it should."""
        provider = self._providers.get(identity)
        if provider is not None:
            provider.breaks = 0

    def failed(
        self,
        identity: str,
        others: Iterable[str],
        policy: HealthPolicy,
        now: float,
        *,
        trial: Trial | None = None,
        broke_off: bool = False,
    ) -> None:
        """others: the rest of the pool's providers. broke_off: after its answer began."""
        provider = self._providers.get(identity)
        if provider is None:
            provider = self._providers[identity] = _Provider()
        if provider.open_until is not None:
            if trial is not None and provider.trial is trial:
                provider.trial = None
                provider.cooldown = min(2 * provider.cooldown, policy.max_cooldown)
                provider.open_until = now + provider.cooldown
            return  # Else it began before the circuit opened, and says nothing new.
        provider.window = policy.window
        if broke_off:
            provider.breaks += 1
            provider.count(now, failures=1)
        else:
            provider.streak += 1
            provider.count(now, attempts=1, failures=1)
        if provider.has_failed_enough(policy) and any(self._is_well(other, now) for other in others):
            provider.cooldown = policy.cooldown
            provider.open_until = now + policy.cooldown

    def abandoned(self, identity: str, trial: Trial) -> None:
        """A trial ended before it showed anything: the next attempt is another one."""
        provider = self._providers.get(identity)
        if provider is not None and provider.trial is trial:
            provider.trial = None

    def pause(self, identity: str, until: float) -> None:
        """The provider wants to be left alone until then."""
        provider = self._providers.get(identity)
        if provider is None:
            provider = self._providers[identity] = _Provider()
        provider.paused_until = max(provider.paused_until, until)

    # Of others

    def absences(self, now: float) -> tuple[Absence, ...]:
        """Who is left out, for other processes to know; not what they said themselves."""
        return tuple(
            Absence(kind, identity, round((until - now) * _MICRO))
            for identity, provider in self._providers.items()
            for kind, until in (("open", provider.open_until or 0.0), ("paused", provider.paused_until))
            if until > max(now, provider.heard.get(kind, 0.0) + _ALIKE)
        )

    def heard(self, absences: Iterable[Absence], now: float) -> None:
        """Leave out whom other processes leave out, for as long as they do; but nobody takes out a pool's last
        provider here because of what happened elsewhere."""
        for absence in absences:
            provider = self._providers.get(absence.identity) or _Provider()
            until = now + absence.time / _MICRO
            if until <= provider.heard.get(absence.kind, 0.0) + _ALIKE:
                continue  # It may have come back since.
            if absence.kind == "open" and not any(self._is_well(each, now) for each in self._others(absence.identity)):
                continue
            self._providers[absence.identity] = provider
            provider.heard[absence.kind] = until
            if absence.kind == "paused":
                provider.paused_until = max(provider.paused_until, until)
            elif provider.trial is None:
                provider.open_until = max(provider.open_until or 0.0, until)
                provider.cooldown = max(provider.cooldown, absence.time / _MICRO)

    def _is_well(self, identity: str, now: float) -> bool:
        return self.state(identity, now) is CircuitState.CLOSED and self.paused_until(identity, now) is None

    def prune(self, now: float) -> None:
        """Forget providers of which nothing is worth knowing any more."""
        self._providers = {
            identity: provider
            for identity, provider in self._providers.items()
            if now < max(provider.paused_until, provider.last_heard + _REMEMBERED)
        }
