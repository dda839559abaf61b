"""The order in which providers are tried."""

from collections import Counter
from copy import deepcopy
from itertools import islice, pairwise, permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import Pool, Request
from onwards_core._body import JsonBody, OpaqueBody, parse_body
from onwards_core._config import AffinityConfig, BodyField
from onwards_core._ledger import Ledger, Permit
from onwards_core._strategies import (
    EXPLORATION,
    FAILURE_LATENCY,
    LATENCY_TRIAL,
    ROTATION_FORGOTTEN,
    Balancer,
    affinity_key,
    weighted_order,
)
from tests.core.gateway_support import snapshot

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


# The other strategies


def compiled(strategy: str, *weights: int, names: str = "abcdefgh", full: str = "") -> Pool:
    """A pool with these weights; those that are named in `full` take no exchange at a time beyond the first."""
    providers = [
        {
            "url": f"http://{name}/",
            "weight": weight,
            **({"concurrency_limit": {"max_concurrent_requests": 1}} if name in full else {}),
        }
        for name, weight in zip(names, weights, strict=False)
    ]
    settings = {"affinity": {"prompt_bytes": 10}} if strategy == "affinity" else {}
    return snapshot({"m": {"strategy": strategy, "providers": providers, **settings}}).pools["m"]


def hold(ledger: Ledger, pool: Pool, index: int, times: int = 1) -> None:
    for _ in range(times):
        assert isinstance(ledger.acquire((pool.providers[index].limit,), 0.0), Permit)


STRATEGIES = ["weighted_random", "priority", "round_robin", "least_connections", "lowest_latency", "affinity"]


@given(st.sampled_from(STRATEGIES), st.lists(st.integers(0, 4), min_size=1, max_size=6), st.integers(0, 99))
def test_every_strategy_tries_each_once_and_standbys_last(strategy: str, weights: list[int], seed: int) -> None:
    """Whatever is remembered and held. `priority` alone goes by the order as written."""
    pool = compiled(strategy, *weights)
    ledger, balancer, random = Ledger(), Balancer(), Random(seed)
    for turn in range(4):
        order = list(balancer.order(pool, ledger, random, b"%d" % turn, float(turn)))
        assert sorted(order) == list(range(len(weights)))
        standbys = [index for index, weight in enumerate(weights) if not weight]
        assert strategy == "priority" or order[len(weights) - len(standbys) :] == standbys
        hold(ledger, pool, order[0])
        balancer.observe_latency(pool.providers[order[0]], random.random(), float(turn))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6).filter(any), st.integers(1, 4))
def test_round_robin_is_exact_and_smooth(weights: list[int], rounds: int) -> None:
    """In each round everyone has as many first turns as its weight, spread so that nobody waits twice its share."""
    pool = compiled("round_robin", *weights)
    balancer = Balancer()
    total = sum(weights)
    firsts = [next(iter(balancer.order(pool, Ledger(), Random(1), None, 0.0))) for _ in range(rounds * total)]
    for start in range(0, len(firsts), total):
        assert Counter(firsts[start : start + total]) == +Counter(dict(enumerate(weights)))
    for index, weight in enumerate(weights):
        turns = [at for at, first in enumerate(firsts) if first == index]
        assert all(later - earlier <= 2 * total / weight for earlier, later in pairwise(turns))


def test_round_robin_remembers_across_reloads() -> None:
    """The same pool compiled again goes on where it was."""
    balancer = Balancer()
    firsts = [next(balancer.order(compiled("round_robin", 1, 1, 1), Ledger(), Random(1), None, 0.0)) for _ in range(6)]
    assert firsts == [0, 1, 2, 0, 1, 2]


def round_robin_firsts(balancer: Balancer, pool: Pool, times: int, *, out: int | None = None) -> list[int]:
    """Who is tried first, or who is if one of them is left out."""
    random = Random(7)
    orders = (balancer.order(pool, Ledger(), random, None, 0.0) for _ in range(times))
    return [next(index for index in order if index != out) for order in orders]


def test_round_robin_shares_the_turns_of_who_is_out() -> None:
    """They go to the others in proportion to weight, and not all to a neighbour; the shares of first turns stay."""
    pool = compiled("round_robin", 2, 1, 2, 3)
    counts = Counter(round_robin_firsts(Balancer(), pool, 8000, out=0))
    own = {1: 1000, 2: 2000, 3: 3000}
    extra = Counter({(index,): counts[index] - first for index, first in own.items()})
    assert chi_square(extra, {(1,): 1 / 6, (2,): 2 / 6, (3,): 3 / 6}) < 13.82


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.integers(0, 20), st.data())
def test_round_robin_turns_do_not_depend_on_fallbacks(weights: list[int], times: int, data: st.DataObject) -> None:
    """However far an exchange goes on through the others, the first ones are those of a rotation without fallbacks."""
    pool = compiled("round_robin", *weights)
    balancer, random = Balancer(), Random(1)
    firsts = []
    for _ in range(times):
        order = balancer.order(pool, Ledger(), random, None, 0.0)
        firsts.append(next(order))
        list(islice(order, data.draw(st.integers(0, len(weights)))))
    assert firsts == round_robin_firsts(Balancer(), pool, times)


@given(st.lists(st.integers(1, 9) | st.integers(1, 10**9), min_size=2, max_size=4), st.integers(0, 5))
def test_round_robin_starts_anew_with_other_weights(weights: list[int], times: int) -> None:
    """Nobody has to make up for the turns of weights that are no more."""
    balancer = Balancer()
    round_robin_firsts(balancer, compiled("round_robin", *weights), times)
    even = compiled("round_robin", *([1] * (len(weights) - 1)), 2)
    firsts = round_robin_firsts(balancer, even, len(weights) + 1)
    assert Counter(firsts) == Counter({**dict.fromkeys(range(len(weights) - 1), 1), len(weights) - 1: 2})


def test_rotations_are_forgotten() -> None:
    """One that nobody has gone on with for a day; those of other pools go on."""
    balancer, pool = Balancer(), compiled("round_robin", 1, 1, 1)
    assert round_robin_firsts(balancer, pool, 1) == [0]
    balancer.prune(ROTATION_FORGOTTEN)
    assert round_robin_firsts(balancer, pool, 1) == [1]
    balancer.prune(ROTATION_FORGOTTEN + 1)
    assert round_robin_firsts(balancer, pool, 1) == [0]


def test_least_connections() -> None:
    """The one with the fewest for its weight comes first; among equals weighted chance decides; full ones are last."""
    pool = compiled("least_connections", 1, 4, 1, full="c")
    ledger, balancer, random = Ledger(), Balancer(), Random(3)
    firsts = Counter(next(balancer.order(pool, ledger, random, None, 0.0)) for _ in range(6000))
    assert chi_square(Counter({(k,): v for k, v in firsts.items()}), {(0,): 1 / 6, (1,): 4 / 6, (2,): 1 / 6}) < 13.82
    hold(ledger, pool, 0)
    hold(ledger, pool, 1, 3)
    hold(ledger, pool, 2)
    assert list(balancer.order(pool, ledger, random, None, 0.0)) == [1, 0, 2]
    hold(ledger, pool, 1, 2)
    assert list(balancer.order(pool, ledger, random, None, 0.0)) == [0, 1, 2]


def latency_order(balancer: Balancer, pool: Pool, now: float) -> list[int]:
    """Most often; now and then it explores."""
    orders = Counter(tuple(deepcopy(balancer).order(pool, Ledger(), Random(seed), None, now)) for seed in range(50))
    return list(orders.most_common(1)[0][0])


def test_lowest_latency() -> None:
    """The fastest comes first; who is unknown before all; news weigh more the older the last ones are."""
    pool = compiled("lowest_latency", 1, 1, 1)
    balancer = Balancer()
    first, second, third = pool.providers
    balancer.observe_latency(first, 0.5, 0.0)
    balancer.observe_latency(second, 0.1, 0.0)
    assert latency_order(balancer, pool, 0.0) == [2, 1, 0]
    balancer.observe_latency(third, FAILURE_LATENCY, 0.0)
    assert latency_order(balancer, pool, 0.0) == [1, 0, 2]
    balancer.observe_latency(second, 2.0, 0.0)  # 0.1 + a tenth of the difference
    assert latency_order(balancer, pool, 0.0) == [1, 0, 2]
    balancer.observe_latency(second, 2.0, 30.0)  # and by now seven eighths
    assert latency_order(balancer, pool, 30.0) == [0, 1, 2]
    assert latency_order(balancer, pool, 61.0) in ([0, 2, 1], [2, 0, 1])
    balancer.observe_latency(first, 9.0, 70.0)
    balancer.prune(100.0)
    assert latency_order(balancer, pool, 100.0) in ([1, 2, 0], [2, 1, 0])


def test_lowest_latency_explores() -> None:
    """A small share of the requests goes by weight instead, to notice who has become faster."""
    pool = compiled("lowest_latency", 1, 1)
    balancer, random = Balancer(), Random(5)
    for provider, seconds in zip(pool.providers, (0.1, 0.9), strict=True):
        balancer.observe_latency(provider, seconds, 0.0)
    draws = 20_000
    slow = sum(next(balancer.order(pool, Ledger(), random, None, 0.0)) for _ in range(draws))
    expected = draws * EXPLORATION / 2
    assert abs(slow - expected) < 4 * expected**0.5


def test_lowest_latency_does_not_send_everybody_to_who_is_unknown() -> None:
    """One exchange goes there first; the others do once it has told how fast it is, or one after a while."""
    pool = compiled("lowest_latency", 1, 1)
    balancer = Balancer()
    balancer.observe_latency(pool.providers[0], 0.2, 0.0)

    def firsts(now: float) -> Counter[int]:
        balancer.observe_latency(pool.providers[0], 0.2, now)
        return Counter(next(balancer.order(pool, Ledger(), Random(seed), None, now)) for seed in range(40))

    explored = sum(Random(seed).random() < EXPLORATION for seed in range(40))
    assert 1 <= firsts(0.0)[1] <= 1 + explored
    assert firsts(LATENCY_TRIAL)[1] <= explored
    balancer.prune(LATENCY_TRIAL)
    assert firsts(LATENCY_TRIAL)[1] <= explored
    balancer.prune(LATENCY_TRIAL + 1)
    assert 1 <= firsts(LATENCY_TRIAL + 1)[1] <= 1 + explored
    balancer.observe_latency(pool.providers[1], 0.1, LATENCY_TRIAL + 2)
    assert firsts(LATENCY_TRIAL + 2)[0] <= explored


def homes(pool: Pool, keys: int, ledger: Ledger | None = None) -> list[str]:
    """Which provider each key goes to."""
    balancer = Balancer()
    return [
        pool.providers[next(balancer.order(pool, ledger or Ledger(), Random(1), b"key %d" % key, 0.0))].label
        for key in range(keys)
    ]


def test_affinity_is_stable() -> None:
    """The same key goes to the same provider: in each process, on each machine."""
    assert homes(compiled("affinity", 1, 1, 1), 12) == list("cbbaabaabaab")


def test_affinity_moves_only_what_it_must() -> None:
    """A provider that comes takes keys from all, and one that goes leaves its own to them; no other key moves. So with
    weights: more of it only takes."""
    before, more = homes(compiled("affinity", 1, 1, 1), 600), homes(compiled("affinity", 1, 1, 1, 1), 600)
    moved = {(old, new) for old, new in zip(before, more, strict=True) if old != new}
    assert moved == {("a", "d"), ("b", "d"), ("c", "d")}
    heavier = homes(compiled("affinity", 1, 3, 1), 600)
    assert {new for old, new in zip(before, heavier, strict=True) if old != new} == {"b"}


def test_affinity_follows_weights() -> None:
    """Keys are spread in proportion to weight."""
    counts = Counter(homes(compiled("affinity", 1, 2, 5), 8000))
    shares = {("a",): 1 / 8, ("b",): 2 / 8, ("c",): 5 / 8}
    assert chi_square(Counter({(k,): v for k, v in counts.items()}), shares) < 13.82


def test_affinity_overflows() -> None:
    """When a key's provider is full, the next in its own order gets it."""
    pool = compiled("affinity", 1, 1, full="a")
    ledger = Ledger()
    assert set(homes(pool, 50, ledger)) == {"a", "b"}
    hold(ledger, pool, 0)
    assert set(homes(pool, 50, ledger)) == {"b"}


def test_affinity_without_a_key() -> None:
    """It is weighted chance then."""
    pool = compiled("affinity", 1, 1)
    firsts = {next(Balancer().order(pool, Ledger(), Random(seed), None, 0.0)) for seed in range(20)}
    assert firsts == {0, 1}


def test_affinity_keys() -> None:
    """A header, the user, or the beginning of the prompt of any endpoint; what a request lacks is no key."""
    body = b'{"model": "m", "user": "u1", "messages": [{"role": "user"}]}'
    request = Request("POST", b"/", [(b"x-session", b"s1")], body)
    parsed = parse_body(request, 9)
    assert isinstance(parsed, JsonBody)
    assert affinity_key(AffinityConfig(header="X-Session"), request, parsed) == b"s1"
    assert affinity_key(AffinityConfig(header="other"), request, parsed) is None
    assert affinity_key(AffinityConfig(body=BodyField.USER), request, parsed) == b'"u1"'
    assert affinity_key(AffinityConfig(body=BodyField.USER), request, OpaqueBody(b"")) is None
    assert affinity_key(AffinityConfig(prompt_bytes=8), request, parsed) == b'[{"role"'
    for name in (b"prompt", b"input"):
        other = parse_body(Request("POST", b"/", [], b'{"%b": "once upon"}' % name), 9)
        assert isinstance(other, JsonBody)
        assert affinity_key(AffinityConfig(prompt_bytes=5), request, other) == b'"once'
    assert affinity_key(AffinityConfig(prompt_bytes=5), request, OpaqueBody(b"")) is None


def test_nothing_is_no_affinity_key() -> None:
    """Those who leave a property empty have nothing in common that would be worth sending all of them to one place."""
    request = Request(
        "POST", b"/", [(b"x-session", b"")], b'{"user": null, "messages": [], "prompt": "", "input": "x"}'
    )
    parsed = parse_body(request, 9)
    assert isinstance(parsed, JsonBody)
    assert affinity_key(AffinityConfig(header="x-session"), request, parsed) is None
    assert affinity_key(AffinityConfig(body=BodyField.USER), request, parsed) is None
    assert affinity_key(AffinityConfig(prompt_bytes=9), request, parsed) == b'"x"'
