"""The order in which providers are tried, and the statuses that lead to the next one."""

from collections import Counter
from itertools import islice, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import Strategy
from onwards_core._fallback import FallbackPolicy, matching_statuses, provider_order

STATUSES = range(100, 600)
WEIGHTS = st.lists(st.integers(0, 5) | st.integers(0, 2**63), max_size=8)


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
    assert FallbackPolicy.of(False, [5, 429], on_rate_limit=True) == FallbackPolicy(False, frozenset(), False)
    policy = FallbackPolicy.of(True, [50, 429], on_rate_limit=True)
    assert policy == FallbackPolicy(True, frozenset([*range(500, 510), 429]), on_rate_limit=True)
    assert not FallbackPolicy.of(True, [], on_rate_limit=False).on_rate_limit


@given(WEIGHTS, st.sampled_from(Strategy), st.randoms(use_true_random=False))
def test_order_is_a_permutation(weights: list[int], strategy: Strategy, random: Random) -> None:
    """Each provider is tried exactly once, whatever the weights."""
    assert sorted(provider_order(weights, strategy, random)) == list(range(len(weights)))


@given(WEIGHTS, st.randoms(use_true_random=False))
def test_priority(weights: list[int], random: Random) -> None:
    """With `priority` weights do not count."""
    assert list(provider_order(weights, Strategy.PRIORITY, random)) == list(range(len(weights)))


@given(WEIGHTS, st.randoms(use_true_random=False))
def test_standbys_come_last(weights: list[int], random: Random) -> None:
    """Providers of weight 0 follow after all others, as written."""
    order = list(provider_order(weights, Strategy.WEIGHTED_RANDOM, random))
    standbys = [index for index, weight in enumerate(weights) if weight == 0]
    assert order[len(weights) - len(standbys) :] == standbys


def chi_square(observed: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float]) -> float:
    """How far counts are from what was expected of them."""
    draws = observed.total()
    assert observed.keys() <= expected.keys()
    return sum((observed[key] - draws * share) ** 2 / (draws * share) for key, share in expected.items())


@pytest.mark.parametrize(
    ("weights", "critical"),
    [
        # The statistic that one honest run in a thousand exceeds, for 5 and 23 degrees of freedom.
        ((1, 2, 7), 20.52),
        ((3, 3, 3), 20.52),
        ((5, 1, 30, 4), 49.73),
    ],
)
def test_orders_follow_weights(weights: tuple[int, ...], critical: float) -> None:
    """Each order comes up as often as drawing without replacement, in proportion to weight, says."""
    expected = {}
    for order in permutations(range(len(weights))):
        share, left = 1.0, sum(weights)
        for index in order:
            share *= weights[index] / left
            left -= weights[index]
        expected[order] = share
    random = Random(20)
    observed = Counter(tuple(provider_order(weights, Strategy.WEIGHTED_RANDOM, random)) for _ in range(20_000))
    assert chi_square(observed, expected) < critical


def test_lazy() -> None:
    """A provider is drawn when it is asked for: as random numbers cost time, the first costs one only."""
    random = Random(1)
    states = [random.getstate()]
    order = provider_order([1, 1, 0], Strategy.WEIGHTED_RANDOM, random)
    assert random.getstate() == states[0]
    states.extend(random.getstate() for _ in islice(order, 2))
    assert len(set(states)) == 3
    assert list(order) == [2]
    assert random.getstate() == states[-1]
