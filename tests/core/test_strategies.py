"""The order in which providers are tried."""

from collections import Counter
from itertools import islice, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core._strategies import weighted_order

WEIGHTS = st.lists(st.integers(0, 5) | st.integers(0, 2**63), max_size=8)


@given(WEIGHTS, st.randoms(use_true_random=False))
def test_order_is_a_permutation(weights: list[int], random: Random) -> None:
    """Each provider is tried exactly once, whatever the weights."""
    assert sorted(weighted_order(weights, random)) == list(range(len(weights)))


@given(WEIGHTS, st.randoms(use_true_random=False))
def test_standbys_come_last(weights: list[int], random: Random) -> None:
    """Providers of weight 0 follow after all others, as written."""
    order = list(weighted_order(weights, random))
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
    observed = Counter(tuple(weighted_order(weights, random)) for _ in range(20_000))
    assert chi_square(observed, expected) < critical


def test_lazy() -> None:
    """A provider is drawn when it is asked for: as random numbers cost time, the first costs one only."""
    random = Random(1)
    states = [random.getstate()]
    order = weighted_order([1, 1, 0], random)
    assert random.getstate() == states[0]
    states.extend(random.getstate() for _ in islice(order, 2))
    assert len(set(states)) == 3
    assert list(order) == [2]
    assert random.getstate() == states[-1]
