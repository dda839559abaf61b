"""What the status is made of: records of exchanges, and the state of the gateway."""

import json
import time
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import Attempt, Gateway, Record, Snapshot, load_config
from onwards_core._ledger import Permit
from onwards_trio._reload import Reload, Reloader
from onwards_trio._status import Board, _Tally
from onwards_trio._status_data import SLOT, SLOTS, TROUBLES, Limits, merged_series, merged_troubles

OUTCOMES = ["ok", "status_404", "status_429", "status_503", "connect", "refused_locally", "circuit_open", "paused"]


def loaded(**config: object) -> Snapshot:
    raw = json.dumps(config).encode()
    return Snapshot.compile(load_config(raw), hash_key=bytes(16), digest="d1")


def gateway(**config: object) -> Gateway:
    return Gateway(loaded(**config), random=Random(1))


TWO = {"a": {"providers": [{"url": "http://x.test"}, {"url": "http://y.test"}], "health": {"consecutive_failures": 1}}}


def board(gateway: Gateway, under_way: tuple[Record, ...] = (), *, draining: bool = False) -> Board:
    return Board(gateway, Reloader(Path("config.json"), bytes(16)), lambda: under_way, lambda: draining)


def record(*attempts: tuple[str, str | None], at: float = 0.0, **values: object) -> Record:
    """Of an exchange that took two seconds, with an attempt in each of them."""
    defaults = {"alias": "a", "status": 200, "outcome": "ok", "ended": at + 2, "first_byte": at + 1}
    tried = [Attempt(provider, at + n, at + n + 0.5, outcome) for n, (provider, outcome) in enumerate(attempts)]
    return Record("POST", b"/v1/secret-path", at, attempts=tried, **{**defaults, **values})


RECORDS = st.builds(
    lambda attempts, **values: record(*attempts, **values),
    st.lists(st.tuples(st.sampled_from("xy"), st.sampled_from(OUTCOMES)), max_size=3),
    at=st.integers(0, 100).map(float),
    alias=st.sampled_from(["a", "b", None]),
    key=st.sampled_from(["k", None]),
    status=st.sampled_from([200, 404, 429, 503, None]),
    code=st.sampled_from(["rate_limit", None]),
    refused_by=st.sampled_from(["key", None]),
    outcome=st.sampled_from(["ok", "broken", "client_gone"]),
)


@given(st.lists(st.tuples(RECORDS, st.integers(0, 2)), max_size=20))
def test_several_processes_are_like_one(observed: list[tuple[Record, int]]) -> None:
    """Whichever of them answers a request, merged they tell what one would that had answered all."""
    one, *several = (_Tally(1000.0) for _ in range(4))
    for each, process in observed:
        for tally in (one, several[process]):
            tally.count_exchange(each)
            tally.count_attempts(each)
    for name in ("exchanges", "attempts"):
        keys = getattr(one, name)
        assert keys == {key: merged_series([getattr(tally, name).get(key, {}) for tally in several]) for key in keys}
    assert merged_troubles([one.troubles.values()]) == merged_troubles([tally.troubles.values() for tally in several])


class TestCounting:
    @pytest.mark.parametrize(
        ("status", "code", "outcome", "attempts", "counted"),
        [
            (200, None, "ok", [("x", "ok")], "done"),
            (404, None, "ok", [("x", "status_404")], "done"),
            (None, None, "client_gone", [("x", None)], "done"),
            (503, None, "ok", [("x", "status_503")], "failed"),
            (502, "bad_gateway", "ok", [("x", "connect")], "failed"),
            (500, "internal_error", "ok", [], "failed"),
            (200, None, "broken", [("x", "ok")], "failed"),
            (429, "rate_limit", "ok", [("x", "refused_locally"), ("y", "refused_locally")], "refused"),
            (401, "unauthenticated", "ok", [], "refused"),
            (404, "model_not_found", "ok", [], "refused"),
            (503, "service_unavailable", "ok", [], "refused"),
        ],
    )
    async def test_exchanges(self, autojump_clock, status, code, outcome, attempts, counted) -> None:
        """They are done, failed as their clients see it, or refused before any provider was tried."""
        one = board(gateway(targets=TWO))
        one.observe(record(*attempts, status=status, code=code, outcome=outcome))
        [pool] = one.read().pools
        [bucket] = pool.exchanges.values()
        assert (bucket.done, bucket.failed, bucket.refused) == {
            "done": (1, 0, 0),
            "failed": (1, 1, 0),
            "refused": (0, 0, 1),
        }[counted]
        assert len(bucket.latencies) == (counted == "done")

    @pytest.mark.parametrize(
        ("outcome", "counted"),
        [
            ("ok", (1, 0, 0)),
            ("status_400", (1, 0, 0)),
            ("status_401", (1, 1, 0)),
            ("status_429", (1, 1, 0)),
            ("status_500", (1, 1, 0)),
            ("embedded_429", (1, 1, 0)),
            ("head_timeout", (1, 1, 0)),
            ("circuit_open", (0, 0, 1)),
            ("no_resources", (0, 0, 1)),
            (None, None),
        ],
    )
    async def test_attempts(self, autojump_clock, outcome, counted) -> None:
        """What a client got wrong says nothing against its provider, what is wrong with our credential does."""
        one = board(gateway(targets=TWO))
        one.observe(record(("x.test", outcome)))
        provider = one.read().pools[0].providers[0]
        found = [(each.done, each.failed, each.refused) for each in provider.attempts.values()]
        assert found == ([counted] if counted else [])

    async def test_broken_answers(self, autojump_clock) -> None:
        """Clients see one that failed. No provider is blamed for an answer that the gateway itself had to cut."""
        one = board(gateway(targets=TWO))
        one.observe(record(("x.test", "status_503"), ("y.test", "reset"), outcome="broken"))
        one.observe(record(("y.test", "ok"), outcome="broken"))
        status = one.read()
        told = {trouble.provider: (trouble.reason, trouble.then) for trouble in status.troubles}
        assert told == {"x.test": ("status_503", "y.test"), "y.test": ("reset", None)}
        [pool] = status.pools
        failed = [sum(each.failed for each in provider.attempts.values()) for provider in pool.providers]
        assert (failed, sum(each.failed for each in pool.exchanges.values())) == ([1, 1], 2)

    async def test_long_answers(self, autojump_clock) -> None:
        """An attempt that failed is seen at once, also if the answer that came after it goes on and on. It is counted
        once."""
        under_way = record(("x.test", "status_503"), ("y.test", "ok"), ended=None, outcome=None)
        one = board(gateway(targets=TWO), (under_way,))
        status = one.read()
        assert (status.in_flight, [trouble.reason for trouble in status.troubles]) == (1, ["status_503"])
        assert [bucket.failed for bucket in status.pools[0].providers[0].attempts.values()] == [1]
        assert one.read() == status
        assert status.pools[0].exchanges == {}

    async def test_what_comes_next(self, autojump_clock) -> None:
        """As long as a request goes on there may be a next attempt, so none is told to be the last."""
        one = board(gateway(targets=TWO), (record(("x.test", "status_503"), ended=None, outcome=None),))
        assert one.read().troubles == []

    async def test_memory_is_bounded(self, autojump_clock) -> None:
        """However long it runs, and whatever goes wrong: so many slots, so many kinds of trouble."""
        one = board(gateway(targets=TWO))
        for number in range(4 * SLOTS):
            one.observe(record(("x.test", f"status_{500 + number % 100}"), at=float(number * SLOT), status=503))
        [tally] = one._tally.exchanges.values()
        assert len(tally) == SLOTS
        assert len(one._tally.troubles) == TROUBLES
        assert one.read().troubles[0].last == max(trouble.last for trouble in one.read().troubles)

    async def test_trouble_is_counted_together(self, autojump_clock) -> None:
        """A flood of refusals takes one place, and drives nothing else out."""
        one = board(gateway(targets=TWO))
        one.observe(record(("x.test", "reset"), ("y.test", "ok")))
        for number in range(1000):
            one.observe(record(at=float(number), status=429, code="rate_limit", refused_by="key", key="team"))
        refusal, attempt = one.read().troubles
        assert (refusal.kind, refusal.key, refusal.reason, refusal.by, refusal.count) == (
            "refusal",
            "team",
            "rate_limit",
            "key",
            1000,
        )
        assert refusal.last - refusal.first == 999
        assert (attempt.kind, attempt.provider, attempt.then, attempt.count) == ("attempt", "x.test", "y.test", 1)


class TestReading:
    async def test_times(self, autojump_clock) -> None:
        """They are Unix time, whatever the event loop's clock says."""
        await trio.sleep(1000)
        one = board(gateway(targets={}))
        assert one.read().at == pytest.approx(time.time(), abs=10)
        assert one.read().started == pytest.approx(time.time(), abs=10)

    async def test_health(self, autojump_clock) -> None:
        """Circuits and pauses, each until when."""
        gate = gateway(targets=TWO)
        one = board(gate)
        x, y = gate.snapshot.pools["a"].providers
        gate.health.failed(x.identity, [y.identity], gate.snapshot.pools["a"].health, 0.0)
        gate.health.pause(y.identity, 30.0)
        providers = one.read().pools[0].providers
        assert [each.circuit for each in providers] == ["open", "closed"]
        start = one.read().at
        assert providers[0].open_until == pytest.approx(start + gate.health.open_until(x.identity))
        assert providers[1].paused_until == pytest.approx(start + 30)
        await trio.sleep(100)
        providers = one.read().pools[0].providers
        assert [(each.circuit, each.open_until, each.paused_until) for each in providers] == [
            ("trial", None, None),
            ("closed", None, None),
        ]

    async def test_no_policy(self, autojump_clock) -> None:
        """A circuit that an earlier config opened means nothing in a pool that has none."""
        gate = gateway(targets=TWO)
        x, y = gate.snapshot.pools["a"].providers
        gate.health.failed(x.identity, [y.identity], gate.snapshot.pools["a"].health, 0.0)
        gate.snapshot = loaded(targets={"a": {"providers": TWO["a"]["providers"]}})
        assert [each.circuit for each in board(gate).read().pools[0].providers] == ["closed", "closed"]

    async def test_limits(self, autojump_clock) -> None:
        """Of keys, pools and providers: how many are under way, and how many tokens are left."""
        limits = {
            "rate_limit": {"requests_per_second": 0.5, "burst_size": 4},
            "concurrency_limit": {"max_concurrent_requests": 2},
        }
        config = {
            "targets": {"a": {"providers": [{"url": "http://x.test", **limits}], **limits}},
            "auth": {"key_definitions": {"team": {"key": "sk-team", **limits}, "free": {"key": "sk-free"}}},
        }
        gate = gateway(**config)
        one = board(gate)
        pool = gate.snapshot.pools["a"]
        every = [pool.limit, pool.providers[0].limit, *(key.limit for key in gate.snapshot.key_limits.values())]
        assert isinstance(gate.ledger.acquire(every, 0.0), Permit)
        status = one.read()
        full = Limits(held=1, permits=2, tokens=3.0, burst=4, per_second=0.5)
        assert status.pools[0].limits == status.pools[0].providers[0].limits == full
        assert {key.key: key.limits for key in status.keys} == {"team": full, "free": Limits(held=1)}

    async def test_the_config(self, autojump_clock) -> None:
        """Its hash, when it was loaded, and how the last reload went."""
        one = board(gateway(targets={}), draining=True)
        assert (one.read().draining, one.read().config.digests, one.read().config.reload) == (True, ["d1"], None)
        one._reloader.last = Reload(5.0, ("targets: bad",))
        reload = one.read().config.reload
        assert (reload.at, reload.problems) == (5.0, ["targets: bad"])

    async def test_a_reload(self, autojump_clock) -> None:
        """Pools and providers that are gone are not told of any more, and take no memory."""
        gate = gateway(targets={**TWO, "b": {"url": "http://z.test"}})
        one = board(gate)
        one.observe(record(("x.test", "ok")))
        one.observe(record(("z.test", "ok"), alias="b"))
        one.observe(record(alias=None, status=404, code="model_not_found"))
        gate.snapshot = loaded(targets={"a": {"providers": [{"url": "http://y.test"}]}})
        status = one.read()
        assert [(pool.alias, len(pool.exchanges)) for pool in status.pools] == [("a", 1)]
        assert (set(one._tally.exchanges), one._tally.attempts) == ({"a", None}, {})

    async def test_a_reload_and_back(self, autojump_clock) -> None:
        """What had gone for a moment is counted again, anew."""
        both = loaded(targets={**TWO, "b": {"url": "http://z.test"}})
        gate = gateway(targets=TWO)
        one = board(gate)
        for snapshot in (both, gate.snapshot, both):
            gate.snapshot = snapshot
            one.observe(record(("z.test", "ok"), alias="b"))
            one.read()
        pool = one.read().pools[1]
        assert [each.done for each in pool.exchanges.values()] == [1]
        assert [each.done for each in pool.providers[0].attempts.values()] == [1]

    async def test_late_and_early_ends(self, autojump_clock) -> None:
        """Each is counted in the slot that it ended in, in whichever order they are told."""
        one = board(gateway(targets=TWO))
        for at in (0.0, 20.0, 0.0, 40.0, 20.0, 20.0):
            one.observe(record(("x.test", "ok"), at=at))
        [pool, *_] = one.read().pools
        for series in (pool.exchanges, pool.providers[0].attempts):
            assert [each.done for _, each in sorted(series.items())] == [2, 3, 1]
