"""The status as plain data: of several processes as if they were one."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwards_trio._status_data import (
    Bucket,
    ConfigInForce,
    ConfigStatus,
    KeyStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    ReloadStatus,
    Status,
    Trouble,
    latency_step,
    merge,
    merged_series,
    step_latency,
)

COUNTS = st.integers(0, 1000)
TIMES = st.integers(0, 10_000).map(float)
SERIES = st.dictionaries(
    st.integers(0, 5),
    st.builds(Bucket, COUNTS, COUNTS, COUNTS, st.dictionaries(st.integers(-50, 50), COUNTS, max_size=3)),
    max_size=3,
)
LIMITS = st.builds(Limits, held=COUNTS, permits=st.just(5), tokens=st.none() | TIMES)
PROVIDERS = st.builds(
    ProviderStatus,
    st.sampled_from("xyz"),
    LIMITS,
    st.sampled_from(["closed", "trial", "open"]),
    st.none() | TIMES,
    st.none() | TIMES,
    SERIES,
)


def unique(values: st.SearchStrategy, name: str) -> st.SearchStrategy:
    return st.lists(values, unique_by=lambda value: getattr(value, name), max_size=3)


POOLS = st.builds(PoolStatus, st.sampled_from("abc"), LIMITS, unique(PROVIDERS, "provider"), SERIES)
TROUBLES = st.builds(
    Trouble,
    kind=st.just("attempt"),
    alias=st.sampled_from("ab"),
    key=st.none(),
    provider=st.sampled_from("xy"),
    reason=st.sampled_from(["reset", "connect"]),
    by=st.none(),
    then=st.none(),
    count=COUNTS,
    first=TIMES,
    last=TIMES,
)
STATUSES = st.builds(
    Status,
    at=TIMES,
    started=TIMES,
    version=st.just("1"),
    draining=st.booleans(),
    in_flight=COUNTS,
    config=st.builds(
        ConfigStatus,
        st.sampled_from("de").map(lambda digest: [digest]),
        TIMES,
        st.none() | st.builds(ReloadStatus, TIMES, st.just([])),
        st.lists(st.builds(ConfigInForce, st.sampled_from("de"), COUNTS, st.just(["n"])), max_size=2),
    ),
    pools=unique(POOLS, "alias"),
    keys=unique(st.builds(KeyStatus, st.sampled_from("kl"), LIMITS), "key"),
    troubles=unique(TROUBLES, "what"),
    others=SERIES,
)
SEVERAL = st.lists(STATUSES, min_size=1, max_size=4, unique_by=lambda status: status.config.loaded)


def done(status: Status) -> int:
    """Everything that was counted as done."""
    providers = [provider for pool in status.pools for provider in pool.providers]
    every = [status.others, *(pool.exchanges for pool in status.pools), *(each.attempts for each in providers)]
    return sum(bucket.done + sum(bucket.latencies.values()) for series in every for bucket in series.values())


@settings(max_examples=30)
@given(SEVERAL, st.randoms())
def test_the_order_does_not_matter(statuses: list[Status], random) -> None:
    """Whoever answers first."""
    merged = merge(statuses)
    random.shuffle(statuses)
    assert merge(statuses) == merged


@settings(max_examples=30)
@given(SEVERAL)
def test_nothing_is_lost(statuses: list[Status]) -> None:
    """What is counted is added up, and of each pool, provider, key and trouble there is one in the end."""
    merged = merge(statuses)
    assert done(merged) == sum(map(done, statuses))
    assert merged.processes == len(statuses)
    assert merged.in_flight == sum(status.in_flight for status in statuses)
    assert sum(trouble.count for trouble in merged.troubles) == sum(
        trouble.count for status in statuses for trouble in status.troubles
    )
    for names in (
        [pool.alias for pool in merged.pools],
        [key.key for key in merged.keys],
        [trouble.what for trouble in merged.troubles],
    ):
        assert len(names) == len(set(names))
    assert [trouble.last for trouble in merged.troubles] == sorted(
        (trouble.last for trouble in merged.troubles), reverse=True
    )


@settings(max_examples=30)
@given(SEVERAL)
def test_it_changes_none_of_them(statuses: list[Status]) -> None:
    """A process goes on counting in what it has told, so nothing may be written there."""
    before = msgspec.msgpack.encode(statuses)
    merge(statuses)
    assert msgspec.msgpack.encode(statuses) == before


@settings(max_examples=30)
@given(STATUSES)
def test_it_goes_from_process_to_process(status: Status) -> None:
    """As JSON and as MessagePack."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(status), type=Status) == status
    assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status


def one(**values: object) -> Status:
    defaults = {
        "at": 0.0,
        "started": 0.0,
        "version": "1",
        "draining": False,
        "in_flight": 0,
        "config": ConfigStatus(["d"], 0.0),
        "pools": [],
        "keys": [],
        "troubles": [],
    }
    return Status(**{**defaults, **values})


def test_the_worst_counts() -> None:
    """A provider is as bad as the process has it that thinks worst of it; all have to be draining."""
    providers = [
        ProviderStatus("p", Limits(1, 4, 3.0), "closed", None, 7.0),
        ProviderStatus("p", Limits(2, 4, 2.0), "open", 9.0),
        ProviderStatus("p", Limits(0, 4, 5.0), "trial", None, 8.0),
    ]
    statuses = [one(pools=[PoolStatus("a", Limits(), [provider])], draining=True) for provider in providers]
    merged = merge([*statuses, one()])
    [provider] = merged.pools[0].providers
    assert provider == ProviderStatus("p", Limits(3, 4, 2.0), "open", 9.0, 8.0)
    assert merged.draining is False
    assert merge(statuses).draining is True


def test_configs_that_differ() -> None:
    """All are told; the one that was loaded last says what there is, and the last reload how that went."""
    old = one(config=ConfigStatus(["old"], 1.0, ReloadStatus(5.0, ["bad"])), keys=[KeyStatus("k", Limits(0, 1))])
    new = one(config=ConfigStatus(["new"], 2.0, ReloadStatus(4.0, [])), keys=[KeyStatus("k", Limits(0, 2))])
    merged = merge([old, new])
    assert merged.config == ConfigStatus(["new", "old"], 2.0, ReloadStatus(5.0, ["bad"]))
    assert merged.keys[0].limits.permits == 2


@given(st.floats(1e-4, 1e5))
def test_latencies_are_nearly_right(seconds: float) -> None:
    """What is kept of a latency is off by 5 % at most."""
    assert step_latency(latency_step(seconds)) == pytest.approx(seconds, rel=0.05)


@given(st.floats(1e-4, 1e6))
def test_steps_are_logarithms(seconds: float) -> None:
    """Those of 1.1, as other versions of the gateway count, which may be merged with this one."""
    exact = math.log(seconds, 1.1)
    assert latency_step(seconds) in {math.floor(exact - 1e-9), math.floor(exact + 1e-9)}


def test_no_latency_at_all() -> None:
    """A clock with large steps may say so."""
    assert 0 < step_latency(latency_step(0.0)) < 0.001
    assert merged_series([]) == {}
