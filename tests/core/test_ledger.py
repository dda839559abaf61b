"""Rates and permits, held against a slow and exact model of them."""

from copy import deepcopy
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core._ledger import Ledger, Limit, Permit, Rate, Refusal
from tests.core.slow_limits import SECOND, Bucket, SlowLedger

# Intervals that fall on the steps, near them and nowhere near; times as a clock gives them after days.
RATES = st.builds(Rate, interval=st.sampled_from([1, 7, 1000, 1001, 10**9, 5 * 10**9]), burst=st.integers(1, 5))
STEPS = st.lists(st.sampled_from([0, 0, 1, 6, 7, 999, 1000, 1002, 10**8, 10**9, 3 * 10**9]), min_size=1, max_size=40)
STARTS = st.integers(0, 10**15)
IDENTITIES = st.sampled_from(["a", "b", "c"])
LIMITS = st.lists(
    st.builds(Limit, IDENTITIES, rate=st.none() | RATES, permits=st.none() | st.integers(1, 3)),
    min_size=1,
    max_size=3,
    unique_by=lambda limit: limit.identity,
)


def seconds(at: int) -> float:
    """Nanoseconds as a clock has them."""
    return at / SECOND


@given(RATES, STEPS, STARTS)
def test_rate_is_that_of_a_bucket(rate: Rate, steps: list[int], at: int) -> None:
    """A rate lets through exactly what a bucket of tokens does, counted without rounding."""
    ledger, bucket = Ledger(), Bucket(rate, at)
    for step in steps:
        at += step
        expected = bucket.tokens(at) >= 1
        if expected:
            bucket.take(at)
        outcome = ledger.acquire([Limit("x", rate)], seconds(at))
        assert isinstance(outcome, Permit) == expected


@given(st.floats(0.001, 10_000) | st.integers(1, 10_000), st.none() | st.integers(1, 5), STEPS, STARTS)
def test_never_more_than_burst_and_rate(per_second: float, burst: int | None, steps: list[int], at: int) -> None:
    """In no window of time are there more requests than its burst, and the rate times its length."""
    ledger, rate = Ledger(), Rate.per_second(per_second, burst)
    admitted = []
    for step in steps:
        at += step
        if isinstance(ledger.acquire([Limit("x", rate)], seconds(at)), Permit):
            admitted.append(at)
    for first, since in enumerate(admitted):
        for last, until in enumerate(admitted[first:], first):
            assert last - first + 1 <= rate.burst + Fraction(per_second) * Fraction(until - since, SECOND)


@given(LIMITS, STEPS, STARTS)
def test_retry_after_is_true(limits: list[Limit], steps: list[int], at: int) -> None:
    """A request that comes after the time that a rate's refusal names is let through; one before is not."""
    rates = [Limit(limit.identity, limit.rate) for limit in limits]
    ledger = Ledger()
    for step in steps:
        at += step
        refusal = ledger.acquire(rates, seconds(at))
        if isinstance(refusal, Permit):
            continue
        assert refusal.code == "rate_limit"
        wait = round(refusal.retry_after * SECOND)
        assert wait > 0
        assert isinstance(deepcopy(ledger).acquire(rates, seconds(at + wait)), Permit)
        assert isinstance(deepcopy(ledger).acquire(rates, seconds(at) + refusal.retry_after), Permit)
        assert isinstance(deepcopy(ledger).acquire(rates, seconds(at + wait - 1)), Refusal)


@given(st.lists(LIMITS | st.integers(0, 5), max_size=40), STEPS, STARTS)
def test_all_or_nothing(requests: list[list[Limit] | int], steps: list[int], at: int) -> None:
    """Of several limits all are charged, or none; what comes back may be had again."""
    ledger, slow = Ledger(), SlowLedger()
    under_way: list[tuple[Permit, list[str]]] = []
    for number, request in enumerate(requests):
        at += steps[number % len(steps)]
        if isinstance(request, int):
            if request < len(under_way):
                permit, identities = under_way.pop(request)
                permit.release()
                slow.release(identities)
            continue
        before = deepcopy((ledger._full_at, ledger._held))
        outcome = ledger.acquire(request, seconds(at))
        refused = slow.acquire(request, at)
        if isinstance(outcome, Refusal):
            assert outcome.code == refused
            assert (ledger._full_at, ledger._held) == before
        else:
            assert refused is None
            under_way.append((outcome, [limit.identity for limit in request]))
        assert all(ledger.permits_out(identity) == slow.held[identity] for identity in "abc")
        assert ledger.permits_out() == slow.held.total()


@given(st.floats(1e-9, 2.0**63) | st.integers(1, 2**63))
def test_per_second(rate: float) -> None:
    """An interval is that of the rate, rounded up to the next nanosecond; the burst is the rate, rounded up."""
    compiled = Rate.per_second(rate)
    exact = Fraction(SECOND) / Fraction(rate)
    assert exact <= compiled.interval < exact + 1
    assert compiled.burst - 1 < Fraction(rate) <= compiled.burst
    assert Rate.per_second(rate, 7) == Rate(compiled.interval, 7)


def test_slow_rates() -> None:
    """A rate below one a second lets one request through at once, and then one in each interval."""
    ledger, limit = Ledger(), Limit("x", Rate.per_second(0.2))
    assert isinstance(ledger.acquire([limit], 100.0), Permit)
    assert ledger.acquire([limit], 102.0) == Refusal("rate_limit", 3.0, "x")
    assert isinstance(ledger.acquire([limit], 105.0), Permit)


def test_the_longest_wait_counts() -> None:
    """Of several rates that refuse, the one that takes longest says when to come again."""
    ledger = Ledger()
    limits = [Limit("a", Rate.per_second(2, 1)), Limit("b", Rate.per_second(0.5)), Limit("c", Rate.per_second(1))]
    assert isinstance(ledger.acquire(limits, 0.0), Permit)
    assert ledger.acquire(limits, 0.0) == Refusal("rate_limit", 2.0, "b")


def test_permits() -> None:
    """As many exchanges as there are permits; giving them back twice gives no more of them."""
    ledger, limit = Ledger(), Limit("x", permits=2)
    first, second = (ledger.acquire([limit], 0.0) for _ in range(2))
    assert ledger.acquire([limit], 0.0) == Refusal("concurrency_limit_exceeded", 1.0, "x")
    assert isinstance(first, Permit)
    first.release()
    first.release()
    assert ledger.permits_out("x") == 1
    assert isinstance(ledger.acquire([limit], 0.0), Permit)
    assert isinstance(ledger.acquire([limit], 0.0), Refusal)
    assert isinstance(second, Permit)
    second.release()
    assert (ledger.permits_out("x"), ledger.permits_out("y"), ledger.permits_out()) == (1, 0, 1)


def test_a_rate_is_asked_first() -> None:
    """Who is over both limits hears of the rate, which says more exactly when to come again."""
    ledger, limit = Ledger(), Limit("x", Rate.per_second(0.1), permits=1)
    assert isinstance(ledger.acquire([limit], 0.0), Permit)
    assert ledger.acquire([limit], 1.0) == Refusal("rate_limit", 9.0, "x")
    assert ledger.acquire([limit], 10.0) == Refusal("concurrency_limit_exceeded", 1.0, "x")


def test_a_limit_counts_what_was_under_way_before_it() -> None:
    """Permits are counted without a limit too, so that one which comes later knows of them."""
    ledger = Ledger()
    permits = [ledger.acquire([Limit("x")], 0.0) for _ in range(3)]
    assert isinstance(ledger.acquire([Limit("x", permits=3)], 0.0), Refusal)
    assert isinstance(permits[0], Permit)
    permits[0].release()
    assert isinstance(ledger.acquire([Limit("x", permits=2)], 0.0), Refusal)
    assert isinstance(ledger.acquire([Limit("x", permits=3)], 0.0), Permit)


def test_other_parameters_start_anew() -> None:
    """A limiter keeps its tokens as long as its parameters stay; with others it starts with a full bucket."""
    ledger = Ledger()
    slow, fast = (Limit("x", Rate.per_second(rate, 1)) for rate in (1, 2))
    assert isinstance(ledger.acquire([slow], 0.0), Permit)
    assert isinstance(ledger.acquire([fast], 0.0), Permit)
    assert isinstance(ledger.acquire([slow], 0.9), Refusal)
    assert isinstance(ledger.acquire([fast], 0.5), Permit)


@given(st.lists(st.tuples(LIMITS, st.booleans()), max_size=20), STEPS, STARTS)
def test_pruning_changes_nothing(requests: list[tuple[list[Limit], bool]], steps: list[int], at: int) -> None:
    """A ledger that is pruned now and then decides as one that never is."""
    pruned, other = Ledger(), Ledger()
    for number, (limits, prune) in enumerate(requests):
        at += steps[number % len(steps)]
        if prune:
            pruned.prune(seconds(at))
        outcomes = [ledger.acquire(limits, seconds(at)) for ledger in (pruned, other)]
        assert len({outcome if isinstance(outcome, Refusal) else "admitted" for outcome in outcomes}) == 1


def test_pruning_forgets_the_full() -> None:
    """What is as good as new is forgotten, and nothing else."""
    ledger = Ledger()
    limits = [Limit("a", Rate.per_second(1)), Limit("b", Rate.per_second(0.5))]
    permit = ledger.acquire(limits, 0.0)
    assert isinstance(permit, Permit)
    ledger.prune(0.9)
    assert len(ledger._full_at) == 2
    ledger.prune(1.0)
    assert list(ledger._full_at) == [limits[1].bucket]
    ledger.prune(2.0)
    assert not ledger._full_at
    assert ledger.permits_out() == 2


@pytest.mark.parametrize("value", [Limit("provider 123 secret"), Refusal("rate_limit", 1.0, "provider")])
def test_reprs_show_no_identity(value: object) -> None:
    """Identities stay out of logs: they are made of keys."""
    assert "secret" not in repr(value)


@given(st.integers(1, 20), st.lists(st.sampled_from([0, 1, 500_000_000, 3_000_000_000]), max_size=30), STARTS)
def test_tokens_left(burst: int, pauses: list[int], at: int) -> None:
    """So many requests are let through at once, and the next one is refused."""
    limit = Limit("x", Rate.per_second(2, burst))
    ledger = Ledger()
    for pause in pauses:
        at += pause
        ledger.acquire([limit], seconds(at))
    left = ledger.tokens_left(limit, seconds(at))
    assert left is not None
    assert 0 <= left <= burst
    # A nanosecond may be missing.
    taken = sum(isinstance(ledger.acquire([limit], seconds(at)), Permit) for _ in range(burst))
    assert taken == int(left + 1e-6)
    assert ledger.tokens_left(Limit("y"), 0.0) is None
