"""The statuses and failures that lead to another attempt, and when it comes."""

import attrs
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import FallbackConfig
from onwards_core._fallback import FallbackPolicy, matching_statuses

STATUSES = range(100, 600)


def stands_for(pattern: int) -> set[int]:
    """The definition, by arithmetic: a pattern of n digits leaves the last 3 - n of a status open."""
    for open_digits in (0, 1, 2):
        first = pattern * 10**open_digits
        if 100 <= first <= 599:
            return set(range(first, first + 10**open_digits))
    return set()


def test_each_pattern() -> None:
    """Every pattern there can be matches the statuses that it stands for, of all there are; nonsense matches none."""
    for pattern in range(-600, 6000):
        assert matching_statuses([pattern]) == stands_for(pattern), pattern


@given(st.lists(st.integers(0, 700)))
def test_several_patterns(patterns: list[int]) -> None:
    """Several patterns match what any of them does."""
    assert matching_statuses(patterns) == set().union(*map(stands_for, patterns))


def test_policy() -> None:
    """A policy that is not enabled falls back on nothing."""
    config = FallbackConfig(on_status=[50, 429], on_rate_limit=True, on_embedded_error=True, max_attempts=9)
    assert FallbackPolicy.of(config) == FallbackPolicy()
    policy = FallbackPolicy.of(attrs.evolve(config, enabled=True))
    assert policy.statuses == frozenset([*range(500, 510), 429])
    assert (policy.on_rate_limit, policy.max_attempts) == (True, 9)
    assert FallbackPolicy.of(FallbackConfig(enabled=True)).on_embedded_error
    assert not FallbackPolicy.of(FallbackConfig(enabled=True, on_embedded_error=False)).on_embedded_error
