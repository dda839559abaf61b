"""The judge of shared limits: it lets pass what keeps the promise, and finds what does not."""

import hypothesis.strategies as st
from hypothesis import given

from tests.faults.promises import Allowance, joined, most_at_once, most_beyond, outside

GAPS = st.lists(st.tuples(st.sampled_from([0, 0, 1, 5, 20, 60]), st.integers(0, 9), st.integers(0, 9)), max_size=60)


@given(GAPS, st.integers(1, 5), st.integers(1, 10))
def test_what_keeps_the_promise(gaps, burst, interval):
    """Whatever a bucket lets through is within the promise, however long it is on its way; one more at once is not."""
    now = full_at = 0
    spans = []
    for gap, waited, travelled in gaps:
        now += gap
        full_at = max(full_at, now)
        if full_at - now <= (burst - 1) * interval:
            full_at += interval
            spans.append((float(now - waited), float(now + travelled)))
    allowance = Allowance(1 / interval, burst)
    assert most_beyond(spans, allowance) < 1e-9
    at = max((end for _, end in spans), default=0.0)
    assert most_beyond([*spans, *[(at, at)] * (burst + 1)], allowance) > 1 - 1e-9


def test_windows_between():
    """The worst window need not begin or end with the first or the last request."""
    calm = [(float(at), float(at)) for at in range(100)]
    assert most_beyond(calm, Allowance(1.0, 1)) == 0
    assert most_beyond([*calm, (50.0, 50.0), (51.0, 51.0)], Allowance(1.0, 1)) == 2
    assert most_beyond([*calm, (49.0, 50.5), (51.0, 51.0)], Allowance(1.0, 1)) == 2
    assert most_beyond([*calm, (0.0, 99.0), (51.0, 51.0)], Allowance(1.0, 1)) == 2
    assert most_beyond([*calm, (-9.0, 109.0), (51.0, 51.0)], Allowance(1.0, 1)) == 1


def test_what_failures_add():
    """A refill counts in windows that it lies in, and a share for as long as somebody is alone."""
    five = [(10.0, 10.0)] * 5
    assert most_beyond(five, Allowance(1.0, 2)) == 3
    assert most_beyond(five, Allowance(1.0, 2, refills=[9.0])) == 3
    assert most_beyond([(8.0, 8.0), *five], Allowance(1.0, 2, refills=[9.0])) == 3
    assert most_beyond([*[(8.0, 8.0)] * 2, *[(10.0, 10.0)] * 4], Allowance(1.0, 2, refills=[9.0])) == 2
    assert most_beyond([*[(8.0, 8.0)] * 2, *[(10.0, 10.0)] * 2], Allowance(1.0, 2, refills=[9.0])) == 0
    assert most_beyond(five, Allowance(1.0, 2, alone=[(9.0, 11.0)], share=0.5)) == 2
    late = [(20.0, 20.0)] * 9
    assert most_beyond(late, Allowance(1.0, 2, alone=[(9.0, 11.0)], share=0.5)) == 7
    spread = [(0.0, 0.0)] * 2 + [(10.0, 10.0)] * 10
    assert most_beyond(spread, Allowance(1.0, 2, alone=[(0.0, 4.0)], share=0.5)) == 8


def test_at_once():
    """One that ends when another begins makes room for it."""
    assert most_at_once([]) == 0
    assert most_at_once([(0, 2), (1, 3), (2, 4), (5, 5)]) == 2
    assert most_at_once([(0, 9), (1, 3), (2, 4)]) == 3


def test_outside():
    assert outside([(0, 10), (20, 30)], [(2, 4), (8, 22), (50, 60)]) == [(0, 2), (4, 8), (22, 30)]


def test_joined():
    """Whoever is stopped while the store is away, or just after it, was away for all that time."""
    assert joined([(5, 6), (0, 2), (1, 3), (3.5, 4)], within=0.5) == [(0, 4), (5, 6)]
    assert joined([(0, 9), (1, 2)], within=0) == [(0, 9)]
    assert joined([], within=1) == []
