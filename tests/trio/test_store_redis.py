"""Redis and Valkey as a store: their scripts decide as the core's own store does."""

import gc
import itertools
import json
import warnings
from pathlib import Path

import attrs
import hypothesis.strategies as st
import pytest
import trio
from hypothesis import HealthCheck, given, settings

from onwards_core import Config, StateConfig, load_config
from onwards_core._lease_calls import LISTED, MOST, Absence, Beat, Beaten, HoldPermits, Load, Pace, TakeTokens
from onwards_core._lease_store import LeaseStore
from onwards_core._ledger import Rate
from onwards_trio._store._redis import RedisStore
from tests.trio.store_support import SERVERS, needs_server, store_cluster, store_server

pytestmark = needs_server

PROCESSES = st.sampled_from(["a", "b", "c d"])
SMALL = st.integers(0, 40)
TIMES = st.one_of(SMALL, st.integers(0, 10**6), st.sampled_from([MOST, MOST - 1]))
RATES = st.sampled_from(
    [
        Rate.per_second(rate, burst)
        for rate, burst in ((1, 1), (3, None), (3000, 7), (777_777, 10**6), (1e-9, 5), (1e7, 2))
    ]
)


@st.composite
def takes(draw):
    rate = draw(RATES)
    return TakeTokens(
        f"bucket {rate}",
        Pace.of(rate),
        wanted=draw(SMALL),
        stock=draw(SMALL),
        lifetime=draw(st.sampled_from([0, 5_000, 50_000])),
        returned=draw(st.integers(0, 3)),
        returned_from=draw(st.sampled_from([0, 2 * 10**15])),
        owed=draw(st.sampled_from([0, 0, 1, 10**6, MOST // 4])),
        owed_since=draw(st.sampled_from([0, 10**15, 2 * 10**15])),
        owed_until=draw(st.sampled_from([0, 10**15, 2 * 10**15])),
    )


HOLDS = st.builds(
    HoldPermits,
    identity=st.sampled_from(["x", "y"]),
    limit=st.integers(1, 50),
    process=PROCESSES,
    turn=st.integers(0, 6),
    holds=SMALL,
    wanted=SMALL,
    stock=SMALL,
    lease=st.sampled_from([1, 500, 3_000, 10**7]),
    grace=st.sampled_from([0, 1, 1_000, 10**6]),
)
BEATS = st.builds(
    Beat,
    process=PROCESSES,
    lease=st.sampled_from([0, 1, 500, 3_000, 10**7]),
    grace=st.sampled_from([0, 1, 1_000, 10**6]),
    config=st.sampled_from(["", "one", "two"]),
    said=st.booleans(),
    knew=st.sampled_from(["", "another", "this"]),
    heard=st.sampled_from(["0", "last", str(2 * 10**15)]),
    absences=st.lists(
        st.builds(Absence, st.sampled_from(["open", "paused"]), st.sampled_from(["p 1", "p 2"]), st.integers(1, 10**7)),
        max_size=2,
    ).map(tuple),
    loads=st.dictionaries(st.sampled_from(["p 1", "p 2", "p 3"]), st.integers(1, 40), max_size=3).map(
        lambda loads: tuple(Load(*load) for load in loads.items())
    ),
)


def config(url: str, **more) -> StateConfig:
    raw = {"targets": {}, "state": {"url": url, **more}}
    found = load_config(json.dumps(raw).encode())
    assert isinstance(found, Config)
    assert found.state is not None
    return found.state


@pytest.fixture(scope="module", params=SERVERS, ids=lambda program: Path(program).name)
def server(tmp_path_factory, request):
    with store_server(tmp_path_factory.mktemp("store"), program=request.param) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with store_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


async def held_to_the_core(store, batches):
    """Each reply is that of the core's store at the moment at which it was given."""
    model = LeaseStore()
    name = mark = "0"
    async with store.connected() as talk:
        for batch in batches:
            calls = [knowing(call, name, mark) for call in batch]
            for call, reply in zip(calls, await talk(calls), strict=True):
                told = reply
                if isinstance(reply, Beaten):  # Each part of a cluster has a name and a clock of its own.
                    name, mark = reply.store.split()[0], reply.mark.split()[0]
                    told = attrs.evolve(reply, store=name, mark=mark)
                assert model.apply(call, reply.now) == told


def knowing(call, name, mark):
    """The same, with what the store said before."""
    if not isinstance(call, Beat):
        return call
    return attrs.evolve(
        call, knew=name if call.knew == "this" else call.knew, heard=mark if call.heard == "last" else call.heard
    )


BATCHES = st.lists(st.lists(st.one_of(takes(), HOLDS, BEATS), min_size=1, max_size=6), min_size=1, max_size=8)


@given(BATCHES)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_scripts_decide_as_the_core_does(server, batches):
    """Whatever is asked in which order: the scripts give what the core gives."""
    server.ask("FLUSHALL")
    trio.run(held_to_the_core, RedisStore(config(server.url)), batches)


MANY_BEATS = st.builds(
    Beat,
    process=st.integers(0, LISTED + 3).map("process {}".format),
    lease=st.sampled_from([0, 3_000, 10**7, 10**7, 10**7]),
    grace=st.just(0),
    config=st.integers(0, 4).map(str),
)


@given(st.lists(st.lists(MANY_BEATS, min_size=10, max_size=40), min_size=1, max_size=4))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_rollouts_are_told_as_the_core_does(server, batches):
    """While many processes come, leave, and change their configs."""
    server.ask("FLUSHALL")
    trio.run(held_to_the_core, RedisStore(config(server.url)), batches)


def test_many_configs_are_told_as_the_core_does(server):
    """Also where there are more of them, or more processes with one, than are listed."""
    server.ask("FLUSHALL")
    many = [str(number) for number in range(LISTED + 3)]
    configs = [*many, *["most"] * (LISTED + 2), "two", "two"]
    batches = [[Beat(f"process {name}", 10**7, 0, config)] for name, config in enumerate(configs)]
    trio.run(held_to_the_core, RedisStore(config(server.url)), batches)


PREFIXES = itertools.count()
OPENED = [Beat("a", 10**7, 0, "")]


# Which parts have heard of a time of grace, and when, the core's store can't show.
GRACELESS = HOLDS.map(lambda call: attrs.evolve(call, grace=0))


@given(st.lists(st.lists(st.one_of(takes(), GRACELESS), min_size=1, max_size=6), min_size=1, max_size=4))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_cluster_decides_as_the_core_does(cluster, batches):
    """The same where limits are spread over three servers, each limit on one of them."""
    url = f"redis://127.0.0.1:{cluster[0].port},127.0.0.1:{cluster[1].port}"
    store = RedisStore(config(url, cluster=True, prefix=f"test-{next(PREFIXES)}"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coredis leaves streams of a cluster's connections open
        trio.run(held_to_the_core, store, [OPENED, *batches])
        gc.collect()


async def what_a_lost_node_changes(store, node):
    limits = [HoldPermits(f"limit {number}", 5, "a", 1, 0, 3, 0, 10**7, 0) for number in range(20)]
    async with store.connected() as talk:
        (first,) = await talk(OPENED)
        (second,) = await talk([attrs.evolve(OPENED[0], knew=first.store, heard=first.mark)])
        node.ask("FLUSHALL")
        (new,) = await talk([Beat("new", 10**7, 0, "")])
        (third,) = await talk([attrs.evolve(OPENED[0], knew=first.store, heard=first.mark)])
        return first, second, new, third, await talk(limits)


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_a_node_of_a_cluster_that_loses_its_data(cluster):
    """Its parts of the store have other names then. Of limits there, nobody gets a permit for a lease if somebody knew
    them; the others go on."""
    url = f"redis://127.0.0.1:{cluster[0].port}"
    store = RedisStore(config(url, cluster=True, prefix=f"test-{next(PREFIXES)}"))
    first, second, new, third, held = trio.run(what_a_lost_node_changes, store, cluster[2])
    gc.collect()
    assert first.store == second.store
    assert (second.permits_in, new.permits_in) == (0, 0)
    assert new.store == third.store != first.store
    assert any(one == other for one, other in zip(first.store.split(), third.store.split(), strict=True))
    assert 0 < third.permits_in <= 10**7
    assert third.opens_in == 0
    assert {reply.granted for reply in held} == {0, 3}
    assert all((reply.opens_in > 0) == (reply.granted == 0) for reply in held)
