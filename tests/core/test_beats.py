"""What processes tell each other of themselves and of providers: configs, load, circuits and pauses."""

from random import Random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from onwards_core import Gateway, LeaseTerms
from onwards_core._health import CircuitState, Health, Trial
from onwards_core._lease_calls import LISTED, Absence, Beat, InForce, Load
from onwards_core._lease_store import LeaseStore
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Limit, Permit
from tests.core.gateway_support import pool, snapshot

LEASE = 10**7


def beat(process: str, config: str = "", **more) -> Beat:
    return Beat(process, LEASE, 0, config, **more)


# Configs


def test_the_store_tells_which_configs_are_in_force():
    """How many processes have each and which those are; who is not heard of any more does not count."""
    store = LeaseStore("store")
    assert store.apply(beat("a", "old"), 0).in_force == (InForce("old", 1, ()),)
    assert store.apply(beat("b", "old"), 1).in_force == (InForce("old", 2, ()),)
    differ = store.apply(beat("c", "new"), 2)
    assert differ.in_force == (InForce("old", 2, ("a", "b")), InForce("new", 1, ("c",)))
    assert (differ.configs, differ.processes) == (2, 3)
    store.apply(beat("a", "new"), 3)
    assert store.apply(beat("c", "new"), LEASE + 1).in_force == (InForce("new", 2, ()),)


def test_of_many_configs_and_processes_the_first_are_listed():
    """What the store answers stays small, however many there are."""
    store = LeaseStore("store")
    for number in range(2 * LISTED):
        store.apply(beat(f"alike {number}", "same"), number)
        reply = store.apply(beat(f"other {number}", str(number)), number)
    assert reply.configs == 2 * LISTED + 1
    assert len(reply.in_force) == LISTED
    assert reply.in_force[0] == InForce("same", 2 * LISTED, tuple(f"alike {number}" for number in range(LISTED)))


# Load


class Process:
    def __init__(self, name: str, store: LeaseStore, *, share_load: bool = True) -> None:
        self.store = store
        self.ledger = LeasedLedger(LeaseTerms(name, share_load=share_load), Health())
        self.permits: list[Permit] = []

    def beat(self, now: float) -> None:
        calls = self.ledger.collect(now)
        self.ledger.replied([self.store.apply(call, round(now * 1e6)) for call in calls], now)

    def begin(self, limit: Limit, count: int = 1) -> None:
        for _ in range(count):
            permit = self.ledger.acquire([limit], 0.0)
            assert isinstance(permit, Permit)
            self.permits.append(permit)


ONE, TWO, KEY = Limit("provider one"), Limit("provider two"), Limit("key one")


def test_load_is_counted_over_all():
    """What others have under way counts from the next sign of life on, until they are not heard of any more."""
    store = LeaseStore("store")
    busy, idle = Process("busy", store), Process("idle", store)
    busy.begin(ONE, 3)
    busy.begin(KEY)
    assert busy.ledger.load(ONE.identity) == 3
    busy.beat(0.0)
    idle.beat(0.0)
    assert [each.ledger.load(ONE.identity) for each in (busy, idle)] == [3, 3]
    assert idle.ledger.load(KEY.identity) == 0  # only providers have one
    assert store.apply(beat("asks"), 0).loads == (Load(ONE.identity, 3),)
    idle.begin(TWO)
    busy.permits.pop(0).release()
    busy.beat(1.0)
    idle.beat(1.0)
    assert idle.ledger.load(ONE.identity) == 2
    assert idle.ledger.load(TWO.identity) == 1
    for beat_ in range(3, 24):
        idle.beat(beat_ / 2)
    assert idle.ledger.load(ONE.identity) == 0


def test_load_is_ones_own_by_default():
    """Nothing is told, and nothing that others tell is counted."""
    store = LeaseStore("store")
    shares, keeps = Process("shares", store), Process("keeps", store, share_load=False)
    for each in (shares, keeps):
        each.begin(ONE, 2)
    shares.beat(0.0)
    keeps.beat(0.0)
    shares.beat(1.0)
    assert [each.ledger.load(ONE.identity) for each in (shares, keeps)] == [2, 2]


def test_full_is_whom_all_together_have_filled():
    """With shared load; what the others have is not known otherwise until the store is asked."""
    store = LeaseStore("store")
    limit = Limit("provider one", permits=3)
    busy = Process("busy", store)
    busy.begin(ONE, 3)
    busy.beat(0.0)
    for share_load in (True, False):
        idle = Process(f"idle {share_load}", store, share_load=share_load)
        idle.beat(0.0)
        assert idle.ledger.is_full(limit, 0.0) is share_load
        assert idle.ledger.is_full(limit, 30.0) is share_load  # it is away: what was heard is still the best there is
        assert not idle.ledger.is_full(TWO, 0.0)


@pytest.mark.parametrize(
    ("strategy", "limits"),
    [
        ({"strategy": "least_connections"}, {}),
        (
            {"strategy": "affinity", "affinity": {"header": "x-session"}},
            {"concurrency_limit": {"max_concurrent_requests": 2}},
        ),
    ],
)
def test_strategies_go_by_the_load_of_all(strategy, limits):
    """Who is busy elsewhere comes last: with `least_connections` by load, with `affinity` when its limit is reached."""
    config = snapshot({"m": {"providers": [{"url": f"http://{name}/", **limits} for name in "ab"], **strategy}})
    store = LeaseStore("store")

    def first(share_load: bool) -> str:
        terms = LeaseTerms(f"p {share_load}", share_load=share_load)
        gateway = Gateway(config, random=Random(1), terms=terms)
        ledger = gateway.ledger
        assert isinstance(ledger, LeasedLedger)
        ledger.replied([store.apply(call, 0) for call in ledger.collect(0.0)], 0.0)
        order = gateway.upkeep.balancer.order(config.pools["m"], ledger, Random(1), b"the session", 0.0)
        return config.pools["m"].providers[next(order)].label

    alone = first(share_load=False)
    preferred = next(each for each in config.pools["m"].providers if each.label == alone)
    busy = Process("busy", store)
    busy.begin(Limit(preferred.identity), 2)
    busy.beat(0.0)
    assert first(share_load=False) == alone
    assert first(share_load=True) != alone


@given(
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=1, max_size=8),
    st.integers(1, 30),
)
def test_nobody_is_overrun_between_two_signs_of_life(loads, arrivals):
    """All know the same and decide by the same rule; yet after any number of requests, of which nobody has told, loads
    differ by no more than they did, or by one request of each process."""
    limits = [Limit(f"provider {number}") for number in range(3)]
    store = LeaseStore("store")
    processes = [Process(f"process {number}", store) for number in range(len(loads))]
    for process, counts in zip(processes, loads, strict=True):
        for limit, count in zip(limits, counts, strict=True):
            process.begin(limit, count)
    for now in (0.0, 1.0):
        for process in processes:
            process.beat(now)

    def spread() -> int:
        totals = [sum(process.ledger.permits_out(limit.identity) for process in processes) for limit in limits]
        return max(totals) - min(totals)

    before = spread()
    for process in processes:
        for _ in range(arrivals):
            process.begin(min(limits, key=lambda limit: process.ledger.load(limit.identity)))
    assert spread() <= max(before, len(processes))


# Circuits and pauses


def test_absences_come_around():
    """Who is left out in one process is left out in all, for as long; not again when it came back meanwhile."""
    one, other = Health(), Health(lambda _: ["b"])
    policy = snapshot({"m": pool("a", "b", health={"consecutive_failures": 1})}).pools["m"].health
    one.failed("a", ["b"], policy, 0.0)
    one.pause("b", 5.0)
    told = one.absences(1.0)
    assert set(told) == {Absence("open", "a", 9_000_000), Absence("paused", "b", 4_000_000)}
    other.heard(told, 100.0)
    assert other.state("a", 108.9) is CircuitState.OPEN
    assert other.paused_until("b", 103.9) == 104.0
    assert other.absences(101.0) == ()
    assert other.admits("a", 109.1)
    other.heard([Absence("open", "a", 20_000_000)], 109.2)  # its trial is under way
    assert other.state("a", 109.2) is CircuitState.TRIAL
    other.succeeded("a", 109.3)
    other.heard([Absence("open", "a", 19_900_000)], 109.3)
    assert other.state("a", 109.3) is CircuitState.CLOSED


def test_the_store_tells_who_is_left_out():
    """To everybody, for as long as anybody said."""
    store = LeaseStore("store")
    store.apply(Beat("p", 10**7, 0, "", absences=(Absence("open", "a", 500), Absence("paused", "b", 50))), 0)
    assert store.apply(Beat("q", 10**7, 0, "", absences=(Absence("open", "a", 50),)), 100).absences == (
        Absence("open", "a", 400),
    )


def test_a_circuit_that_opened_elsewhere_leaves_the_last_provider():
    """Two processes may each find another provider unwell at the same moment: neither loses both."""
    config = snapshot({"m": pool("a", "b", health={"consecutive_failures": 1}), "n": pool("a", "b")})
    first, second = (each.identity for each in config.pools["m"].providers)
    gateways = [Gateway(config, random=Random(1)) for _ in range(3)]
    policy = config.pools["m"].health
    assert policy is not None
    gateways[0].health.failed(first, [second], policy, 0.0)
    gateways[1].health.failed(second, [first], policy, 0.0)
    told = [absence for gateway in gateways for absence in gateway.health.absences(0.0)]
    for gateway in gateways:
        gateway.health.heard(told, 0.1)
    states = [[gateway.health.state(each, 0.1).value for each in (first, second)] for gateway in gateways]
    assert states == [["open", "closed"], ["closed", "open"], ["open", "closed"]]
    gateways[2].health.heard([Absence("open", "of another config", 10**7)], 0.2)
    assert gateways[2].health.state("of another config", 0.2) is CircuitState.CLOSED


PROVIDERS = ("a", "b", "c")


@given(st.data())
def test_somebody_is_always_left(data):
    """Whatever fails in which process, and whoever hears of it when: no process takes out its last provider. And what
    one has opened everybody leaves alone who heard of it, as long as there is somebody else."""
    config = snapshot({"m": pool(*PROVIDERS, health={"consecutive_failures": 1, "cooldown_secs": 10})}).pools["m"]
    policy = config.health
    assert policy is not None
    store = LeaseStore("store")
    healths = [Health(lambda name: [each for each in PROVIDERS if each != name]) for _ in range(3)]
    now = 0.0
    for _ in range(data.draw(st.integers(1, 25))):
        number = data.draw(st.integers(0, 2))
        health = healths[number]
        match data.draw(st.sampled_from(["fail", "beat", "wait"])):
            case "fail":
                name = data.draw(st.sampled_from(PROVIDERS))
                trial = health.admits(name, now)
                others = [each for each in PROVIDERS if each != name]
                if trial:
                    health.failed(name, others, policy, now, trial=trial if isinstance(trial, Trial) else None)
            case "beat":
                reply = store.apply(beat(str(number), absences=health.absences(now)), round(now * 1e6))
                health.heard(reply.absences, now)
                closed = [name for name in PROVIDERS if health.state(name, now) is CircuitState.CLOSED]
                heard = {each.identity for each in reply.absences if each.time > 10**6}
                assert len(closed) == 1 or not heard.intersection(closed)
            case "wait":
                now += data.draw(st.sampled_from([0.1, 1.0, 12.0]))
        for each in healths:
            assert any(each.state(name, now) is CircuitState.CLOSED for name in PROVIDERS)


def trials(processes: int, seconds: float) -> list[int]:
    """How many requests each process sends to a provider that always fails. All have requests ten times a second."""
    policy = snapshot({"m": pool("a", "b", health={"consecutive_failures": 1})}).pools["m"].health
    assert policy is not None
    store = LeaseStore("store")
    healths = [Health(lambda _: ["b"]) for _ in range(processes)]
    sent = [0] * processes
    for tick in range(round(seconds * 10)):
        for number, health in enumerate(healths):
            now = tick / 10 + number / 10 / processes
            if trial := health.admits("a", now):
                sent[number] += 1
                health.failed("a", ["b"], policy, now, trial=trial if isinstance(trial, Trial) else None)
            if tick % 10 == number % 10:
                reply = store.apply(beat(str(number), absences=health.absences(now)), round(now * 1e6))
                health.heard(reply.absences, now)
    return sent


@pytest.mark.parametrize("processes", [2, 5, 20])
def test_each_process_sends_no_more_trials_than_one_that_is_alone(processes):
    """A provider that stays unwell gets one request of each process after each cool-down, and those grow as they do
    where there is one process."""
    [alone] = trials(1, 1000)
    assert max(trials(processes, 1000)) <= alone
