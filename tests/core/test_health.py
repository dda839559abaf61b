"""Who is left out for a while: circuits, and pauses that providers asked for."""

from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from onwards_core import HealthConfig
from onwards_core._health import CircuitState, Health, HealthPolicy, Trial

CLOSED, OPEN, TRIAL = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.TRIAL


def policy(**values: Any) -> HealthPolicy:
    """One that opens after two failures, for ten seconds at first."""
    return HealthPolicy.of(HealthConfig(**{"consecutive_failures": 2, "max_cooldown_secs": 35, **values}))


def fail(health: Health, times: int, now: float = 0.0, *, by: HealthPolicy | None = None, **how: Any) -> None:
    for _ in range(times):
        health.failed("a", ["b"], by or policy(), now, **how)


def trial(health: Health, now: float) -> Trial:
    """The attempt that decides about the circuit."""
    admitted = health.admits("a", now)
    assert isinstance(admitted, Trial)
    return admitted


def test_failures_in_a_row_open_a_circuit() -> None:
    """Not before there are enough of them, and a success in between starts the count anew."""
    health = Health()
    fail(health, 1)
    health.succeeded("a", 0.0)
    fail(health, 1)
    assert (health.state("a", 0.0), health.admits("a", 0.0)) == (CLOSED, True)
    fail(health, 1)
    assert (health.state("a", 0.0), health.admits("a", 9.9)) == (OPEN, False)
    assert (health.open_until("a"), health.open_until("b")) == (10.0, None)


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
        deciding = trial(health, now)
        assert not health.admits("a", now)
        assert not health.admits("a", now)
        fail(health, 1, now, trial=deciding)
    now += 35
    assert health.admits("a", now)
    health.succeeded("a", now)
    assert health.state("a", now) is CLOSED
    fail(health, 2, now)
    assert (health.state("a", now + 9.9), health.state("a", now + 10)) == (OPEN, TRIAL)
    fail(health, 1, now + 10, trial=trial(health, now + 10))
    assert (health.state("a", now + 29.9), health.state("a", now + 30)) == (OPEN, TRIAL)


def test_an_abandoned_trial_is_followed_by_another() -> None:
    """A trial whose client left shows nothing."""
    health = Health()
    fail(health, 2)
    first = trial(health, 10.0)
    health.abandoned("a", first)
    second = trial(health, 10.0)
    health.abandoned("a", first)  # long over
    assert not health.admits("a", 10.0)
    health.abandoned("a", second)
    assert health.admits("a", 10.0)
    health.prune(9999.0)
    health.abandoned("a", second)  # of a provider that was forgotten


def test_what_began_before_the_circuit_opened_says_nothing_new() -> None:
    """Late failures do not make a cool-down longer, and decide nothing in the place of the trial."""
    health = Health()
    fail(health, 2)
    fail(health, 9, 5.0)
    assert health.state("a", 10.0) is TRIAL
    deciding = trial(health, 10.0)
    fail(health, 9, 10.0)
    assert not health.admits("a", 10.0)
    fail(health, 1, 10.0, trial=deciding)
    assert (health.state("a", 29.9), health.state("a", 30.0)) == (OPEN, TRIAL)


def test_an_earlier_trial_decides_nothing_about_a_later_circuit() -> None:
    """The circuit was closed by another's answer, and has opened again since."""
    health = Health()
    fail(health, 2)
    earlier = trial(health, 10.0)
    health.succeeded("a", 10.0)
    fail(health, 2, 10.0)
    later = trial(health, 20.0)
    fail(health, 1, 20.0, trial=earlier)
    assert not health.admits("a", 29.0)
    fail(health, 1, 29.0, trial=later)
    assert (health.state("a", 48.9), health.state("a", 49.0)) == (OPEN, TRIAL)


def test_answers_that_break_off_in_a_row() -> None:
    """Each began well, which says nothing against breaking off; only an answer that ends does."""
    health = Health()
    health.completed("a")
    for _ in range(2):
        health.succeeded("a", 0.0)
        fail(health, 1, broke_off=True)
        health.completed("a")
    assert health.state("a", 0.0) is CLOSED
    for _ in range(2):
        health.succeeded("a", 0.0)
        fail(health, 1, broke_off=True)
    assert health.state("a", 0.0) is OPEN


def test_the_end_of_an_earlier_answer_says_nothing_of_now() -> None:
    """Neither about failures in a row nor about an open circuit: it began before them."""
    health = Health()
    for _ in range(2):
        fail(health, 1)
        health.completed("a")
    assert health.state("a", 0.0) is OPEN
    health.completed("a")
    assert health.state("a", 0.0) is OPEN


def test_failures_among_answers_that_last_are_not_in_a_row() -> None:
    """An answer counts from its beginning on."""
    health = Health()
    for _ in range(9):
        fail(health, 1)
        health.succeeded("a", 0.0)
    assert health.state("a", 0.0) is CLOSED


def test_a_closed_circuit_looks_back_on_nothing() -> None:
    """What opened it does not open it again."""
    by = policy(consecutive_failures=None, failure_rate=0.5, window_secs=100, min_requests=4)
    health = Health()
    fail(health, 4, by=by)
    trial(health, 10.0)
    health.succeeded("a", 10.0)
    fail(health, 2, 10.0, by=by)
    assert health.state("a", 10.0) is CLOSED
    fail(health, 1, 10.0, by=by)
    assert health.state("a", 10.0) is OPEN


def counted(outcomes: list[tuple[float, str]], since: float) -> tuple[int, int]:
    """Attempts and failures: an answer that breaks off is one attempt, which was counted when it began."""
    recent = [outcome for at, outcome in outcomes if at >= since]
    return len(recent) - recent.count("broke"), len(recent) - recent.count("began")


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.3, 0.9, 1.0, 2.5, 11.0]), st.sampled_from(["began", "failed", "broke"])),
        max_size=60,
    )
)
def test_failure_rate_is_that_of_its_window(steps: list[tuple[float, str]]) -> None:
    """Against a list of all outcomes: a circuit opens exactly if the rate of what is younger than some age between
    nine tenths of the window and the whole of it says so. And what is kept does not grow."""
    by = policy(consecutive_failures=None, failure_rate=0.5, window_secs=10, min_requests=4)
    health, now, outcomes = Health(), 0.0, list[tuple[float, str]]()
    for seconds, outcome in steps:
        now += seconds
        if outcome != "began" or outcomes:  # Nothing is known of a provider that never failed.
            outcomes.append((now, outcome))
        if outcome == "began":
            health.succeeded("a", now)
            continue
        fail(health, 1, now, by=by, broke_off=outcome == "broke")
        ages = {9.0, *(now - at for at, _ in outcomes if 9.0 <= now - at < 10.0)}
        says = set()
        for age in ages:
            attempts, failures = counted(outcomes, now - age)
            says.add(attempts >= 4 and failures >= 0.5 * attempts)
        is_open = health.state("a", now) is OPEN
        assert is_open in says
        assert len(health._providers["a"].buckets) <= 11
        if is_open:
            return


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


@attrs.define(eq=False)
class Attempt:
    """What the model knows of one."""

    name: str
    trial: Trial | None
    answering: bool = False


class Machine(RuleBasedStateMachine):
    """Against a model that goes by attempts: each of them knows whether it is its provider's trial."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health()
        self.policy = policy(max_cooldown_secs=40)
        self.now = 0.0
        self.attempts: list[Attempt] = []
        self.streak = dict.fromkeys("abc", 0)
        self.breaks = dict.fromkeys("abc", 0)
        self.until: dict[str, float | None] = dict.fromkeys("abc")
        self.cooldowns: dict[str, list[float]] = {name: [] for name in "abc"}
        """Since the circuit was closed last."""
        self.trials: dict[str, Attempt | None] = dict.fromkeys("abc")
        self.rests = dict.fromkeys("abc", 0.0)

    names = st.sampled_from("abc")

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=names, seconds=st.sampled_from([1.0, 10.0]))
    def ask_for_rest(self, name: str, seconds: float) -> None:
        self.health.pause(name, self.now + seconds)
        self.rests[name] = max(self.rests[name], self.now + seconds)

    @rule(name=names, anyway=st.sampled_from([False, False, False, True]))
    def begin(self, name: str, anyway: bool) -> None:
        """`anyway`: as if there were nobody else."""
        if anyway:
            self.attempts.append(Attempt(name, None))
            return
        until = self.until[name]
        admitted = self.health.admits(name, self.now)
        if until is None:
            assert admitted is True
            self.attempts.append(Attempt(name, None))
        elif self.now >= until and self.trials[name] is None:
            assert isinstance(admitted, Trial)
            self.trials[name] = Attempt(name, admitted)
            self.attempts.append(self.trials[name])
        else:
            assert admitted is False

    def pick(self, data: st.DataObject, *, answering: bool) -> Attempt:
        return data.draw(st.sampled_from([each for each in self.attempts if each.answering is answering]))

    @precondition(lambda self: any(not each.answering for each in self.attempts))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        attempt = self.pick(data, answering=False)
        self.attempts.remove(attempt)
        if attempt.trial is not None:
            self.health.abandoned(attempt.name, attempt.trial)
        if self.trials[attempt.name] is attempt:
            self.trials[attempt.name] = None

    @precondition(lambda self: any(not each.answering for each in self.attempts))
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        attempt = self.pick(data, answering=False)
        attempt.answering = True
        self.health.succeeded(attempt.name, self.now)
        self.until[attempt.name] = self.trials[attempt.name] = None
        self.streak[attempt.name] = 0
        self.cooldowns[attempt.name] = []

    @precondition(lambda self: any(each.answering for each in self.attempts))
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        attempt = self.pick(data, answering=True)
        self.attempts.remove(attempt)
        self.health.completed(attempt.name)
        self.breaks[attempt.name] = 0

    @precondition(lambda self: self.attempts)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        self.attempts.remove(attempt)
        name, others = attempt.name, [other for other in "abc" if other != attempt.name]
        self.health.failed(name, others, self.policy, self.now, trial=attempt.trial, broke_off=attempt.answering)
        if self.until[name] is None:
            (self.breaks if attempt.answering else self.streak)[name] += 1
            enough = self.streak[name] >= 2 or self.breaks[name] >= 2
            if enough and any(self.until[other] is None and self.rests[other] <= self.now for other in others):
                self.open(name)
        elif self.trials[name] is attempt:
            self.trials[name] = None
            self.open(name)

    def open(self, name: str) -> None:
        times = len(self.cooldowns[name])
        self.cooldowns[name].append([10.0, 20.0, 40.0][min(times, 2)])
        self.until[name] = self.now + self.cooldowns[name][-1]

    @rule()
    def prune(self) -> None:
        """Nothing that matters is as old as that."""
        self.health.prune(self.now)

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        for name, until in self.until.items():
            expected = CLOSED if until is None else TRIAL if self.now >= until else OPEN
            assert self.health.state(name, self.now) is expected
            rest = self.rests[name]
            assert self.health.paused_until(name, self.now) == (rest if rest > self.now else None)
        assert any(until is None for until in self.until.values())


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
