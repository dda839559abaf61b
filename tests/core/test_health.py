"""Who is left out for a while: circuits, and pauses that providers asked for."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from onwards_core import HealthConfig
from onwards_core._health import CircuitState, Health, HealthPolicy

CLOSED, OPEN, TRIAL = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.TRIAL


def policy(**values: Any) -> HealthPolicy:
    """One that opens after two failures, for ten seconds at first."""
    return HealthPolicy.of(HealthConfig(**{"consecutive_failures": 2, "max_cooldown_secs": 35, **values}))


def fail(health: Health, times: int, now: float = 0.0, *, by: HealthPolicy | None = None) -> None:
    for _ in range(times):
        health.failed("a", ["b"], by or policy(), now)


def test_failures_in_a_row_open_a_circuit() -> None:
    """Not before there are enough of them, and a success in between starts the count anew."""
    health = Health()
    fail(health, 1)
    health.succeeded("a", 0.0)
    fail(health, 1)
    assert (health.state("a", 0.0), health.admits("a", 0.0)) == (CLOSED, True)
    fail(health, 1)
    assert (health.state("a", 0.0), health.admits("a", 9.9)) == (OPEN, False)


def test_one_trial_decides() -> None:
    """After the cool-down one attempt is let through. If it fails, the next cool-down is twice as long, up to a cap; if
    it succeeds, all is as before."""
    health = Health()
    fail(health, 2)
    now = 0.0
    for cooldown in (10, 20, 35, 35):
        assert health.state("a", now + cooldown - 0.1) is OPEN
        now += cooldown
        assert health.state("a", now) is TRIAL
        assert [health.admits("a", now) for _ in range(3)] == [True, False, False]
        fail(health, 1, now)
    now += 35
    assert health.admits("a", now)
    health.succeeded("a", now)
    assert health.state("a", now) is CLOSED
    fail(health, 2, now)
    assert (health.state("a", now + 9.9), health.state("a", now + 10)) == (OPEN, TRIAL)


def test_an_abandoned_trial_is_followed_by_another() -> None:
    """A trial whose client left shows nothing."""
    health = Health()
    fail(health, 2)
    assert health.admits("a", 10.0)
    health.abandoned("a")
    assert health.admits("a", 10.0)
    health.abandoned("unknown")


def test_what_began_before_the_circuit_opened_says_nothing_new() -> None:
    """Late failures do not make a cool-down longer."""
    health = Health()
    fail(health, 2)
    fail(health, 9, 5.0)
    assert health.state("a", 10.0) is TRIAL


def test_failure_rate() -> None:
    """A share of failures within a window opens it, too, if there were enough attempts; older ones do not count."""
    health = Health()
    by = policy(consecutive_failures=None, failure_rate=0.5, window_secs=10, min_requests=4)
    for now in (0.0, 1.0, 2.0):
        fail(health, 1, now, by=by)
    assert health.state("a", 2.0) is CLOSED
    health.succeeded("a", 11.5)
    health.succeeded("a", 11.6)
    fail(health, 1, 11.7, by=by)
    assert health.state("a", 11.7) is OPEN  # failed at 2.0 and 11.7, succeeded twice
    fresh = Health()
    fail(fresh, 3, 0.0, by=by)
    fail(fresh, 3, 20.0, by=by)
    assert fresh.state("a", 20.0) is CLOSED


def test_the_last_healthy_provider_stays() -> None:
    """It is never taken out; nor is one whose others are left out or pausing."""
    health = Health()
    health.failed("a", [], policy(), 0.0)
    health.failed("a", [], policy(), 0.0)
    assert health.admits("a", 0.0)
    health.pause("b", 5.0)
    fail(health, 1)
    assert health.admits("a", 0.0)
    fail(health, 1, 5.0)
    assert not health.admits("a", 5.0)


def test_pauses() -> None:
    """A provider that asked for rest is left alone until then; the longest wish counts."""
    health = Health()
    assert health.paused_until("a", 0.0) is None
    health.pause("a", 5.0)
    health.pause("a", 3.0)
    assert (health.paused_until("a", 4.9), health.paused_until("a", 5.0)) == (5.0, None)
    health.succeeded("a", 1.0)
    assert health.paused_until("a", 4.9) == 5.0


def test_pruning() -> None:
    """What nobody asks for any more is forgotten; circuits and pauses are not."""
    health = Health()
    fail(health, 2)
    health.pause("c", 4000.0)
    health.prune(3609.0)
    assert (health.state("a", 3609.0), health.paused_until("c", 3609.0)) == (TRIAL, 4000.0)
    health.prune(4000.0)
    assert (health.state("a", 4000.0), health.paused_until("c", 3999.0)) == (CLOSED, None)


@pytest.mark.parametrize("longest", [1, 10])
def test_a_cap_below_the_cooldown(longest: float) -> None:
    """The first cool-down is as configured, whatever the cap."""
    assert policy(max_cooldown_secs=longest).max_cooldown == 10


class Machine(RuleBasedStateMachine):
    """Against a model that keeps everything: for each provider the failures in a row, the end of its cool-down and how
    long that was."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health()
        self.policy = policy(max_cooldown_secs=40)
        self.now = 0.0
        self.streak = dict.fromkeys("abc", 0)
        self.until: dict[str, float | None] = dict.fromkeys("abc")
        self.cooldown = dict.fromkeys("abc", 10.0)
        self.trials: set[str] = set()

    names = st.sampled_from("abc")

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=names)
    def ask(self, name: str) -> None:
        until = self.until[name]
        expected = until is None or (self.now >= until and name not in self.trials)
        assert self.health.admits(name, self.now) == expected
        if until is not None and expected:
            self.trials.add(name)

    @rule(name=names)
    def abandon(self, name: str) -> None:
        self.health.abandoned(name)
        self.trials.discard(name)

    @rule(name=names)
    def succeed(self, name: str) -> None:
        self.health.succeeded(name, self.now)
        self.until[name] = None
        self.streak[name] = 0
        self.trials.discard(name)

    @rule(name=names)
    def fail(self, name: str) -> None:
        others = [other for other in "abc" if other != name]
        self.health.failed(name, others, self.policy, self.now)
        if self.until[name] is None:
            self.streak[name] += 1
            if self.streak[name] >= 2 and any(self.until[other] is None for other in others):
                self.cooldown[name] = 10.0
                self.until[name] = self.now + 10.0
        elif name in self.trials:
            self.cooldown[name] = min(40.0, 2 * self.cooldown[name])
            self.until[name] = self.now + self.cooldown[name]
            self.trials.discard(name)

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        for name, until in self.until.items():
            expected = CLOSED if until is None else TRIAL if self.now >= until else OPEN
            assert self.health.state(name, self.now) is expected
        assert any(until is None for until in self.until.values())


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
