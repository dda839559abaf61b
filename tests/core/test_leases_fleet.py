"""A fleet of processes in good times and bad, on a virtual clock: what they give out, and what stays unused."""

import random

import pytest

from onwards_core._lease_store import LeaseStore
from onwards_core._ledger import Limit, Permit, Rate
from tests.core.lease_support import Fleet, Process

LEASE = 2.0
STEP = 1_000  # microseconds


class Run:
    """Processes that talk to the store as soon as they want to, as the real ones do. What comes when is drawn."""

    def __init__(self, seed: int, limit: Limit, count: int, *, local: bool = True, store: LeaseStore | None = None):
        self.random = random.Random(seed)
        self.limit = limit
        self.fleet = Fleet(store or LeaseStore())
        self.local = local
        self.away = False
        self.deaf = False
        """While it is away: whether calls arrive, and only their answers do not."""
        self.hiccups = 0.0
        """How many of the calls are not answered, though the store is there."""
        self.names = 0
        self.wanted: set[Process] = set()
        self.stopped: set[Process] = set()
        self.refused = self.asked = 0
        self.batches = 0
        for _ in range(count):
            self.start()
        self.pass_time(2.5)
        assert all(process.ledger.in_touch(process.now) for process in self.fleet.processes)

    def start(self) -> None:
        self.names += 1
        drift = self.random.choice([-0.004, 0.0, 0.004])
        offset = self.random.randrange(10**6)
        process = Process(self.fleet, f"p{self.names}", offset=offset, drift=drift, lease=LEASE, local=self.local)
        process.ledger.wake = lambda: self.wanted.add(process)
        process.retry_at = 0
        self.fleet.processes.append(process)

    def pass_time(self, seconds: float, demand: float = 0.0, busy: float = 1.0, duration: float = 0.0) -> None:
        """demand: requests a second in all. busy: the share of processes that get any. duration: of an exchange."""
        processes = self.fleet.processes
        for _ in range(int(seconds * 1e6 / STEP)):
            self.fleet.pass_time(STEP)
            for exchange in [each for each in self.fleet.exchanges if each.ends_at <= self.fleet.at]:
                if exchange.process not in self.stopped:
                    self.fleet.end(exchange)
            for _ in range(_whole(self.random, demand * STEP / 1e6)):
                process = processes[int(self.random.random() * max(1, len(processes) * busy))]
                if process not in self.stopped:
                    self.asked += 1
                    self.fleet.duration = duration * 1e6
                    self.refused += not isinstance(process.request(self.limit), Permit) and not process.waiting
            for process in processes:
                if process not in self.stopped:
                    self.talk(process)

    def talk(self, process: Process) -> None:
        if process not in self.wanted and process.now < process.ledger.next_look():
            return
        if self.fleet.at < process.retry_at:
            return
        self.wanted.discard(process)
        before = len(process.waiting)
        got = len(self.fleet.exchanges)
        if process.ask():
            self.batches += 1
            if self.random.random() < self.hiccups:
                if self.random.random() < 0.5:
                    process.arrive()
                process.lose()
            elif self.away:
                process.retry_at = self.fleet.at + 200_000
                if self.deaf:
                    self.fleet.apply_late(process.calls)
                process.lose()
            else:
                process.arrive()
                process.answered()
        self.refused += max(0, before - len(process.waiting) - (len(self.fleet.exchanges) - got))


def _whole(rng: random.Random, number: float) -> int:
    return int(number) + (rng.random() < number % 1)


RATE = Limit("rate", Rate.per_second(200, 40))
RARE = Limit("rare", Rate.per_second(2, 3))
PERMITS = Limit("permits", permits=20)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("limit", [RATE, RARE, PERMITS], ids=lambda limit: limit.identity)
def test_promise_while_everybody_goes_on_by_itself(seed, limit):
    """The store goes away, comes back, forgets; processes die and come; nobody ever gets more than the limit."""
    run = Run(seed, limit, 3)
    for _ in range(8):
        run.pass_time(run.random.choice([0.3, 1.0, 2.5]), demand=600, duration=run.random.choice([0.0, 0.05, 0.5]))
        match run.random.randrange(6):
            case 0 | 1 | 2:
                run.away = True
                run.pass_time(run.random.choice([0.2, 0.9, 1.8]), demand=600, duration=0.1)
                run.away = False
            case 3:
                run.away = True
                run.pass_time(0.2, demand=600)
                run.fleet.check_rates(limit)
                run.fleet.lose_data()
                run.away = False
            case 4:
                run.fleet.crash(run.random.choice(run.fleet.processes))
                run.start()
            case 5:
                run.pass_time(3.0)
    run.fleet.check_rates(limit)
    assert run.refused > 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [RATE, PERMITS], ids=lambda limit: limit.identity)
def test_promise_while_some_are_silent_and_the_store_loses_its_data(seed, limit):
    """Some are stopped for longer than the others wait, some for longer than a lease, and a new one may be the first to
    find the store empty. Nobody is given what was lent to those who can't say so."""
    run = Run(seed, limit, 4)
    drawn, fleet = run.random, run.fleet
    for _ in range(3):
        run.pass_time(1.0, demand=600, duration=drawn.choice([0.05, 0.5, 5.0]))
        run.stopped = set(drawn.sample(fleet.processes, drawn.randrange(1, 4)))
        run.pass_time(drawn.choice([0.0, 0.3]), demand=600, duration=0.5)
        fleet.check_rates(limit)
        fleet.lose_data()
        if drawn.random() < 0.5:
            fleet.crash(next(process for process in fleet.processes if process not in run.stopped))
            run.start()
            run.talk(fleet.processes[-1])
            if len(run.stopped) == 3:
                run.stopped.pop()
        run.pass_time(drawn.choice([0.5, 1.2, 1.8, 2.5]), demand=600, duration=0.5)
        run.stopped.clear()
        run.pass_time(2.5, demand=600, duration=0.5)
    fleet.check_rates(limit)
    assert run.refused > 0


FULL = Limit("full", Rate.per_second(200, 1000))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("limit", [FULL, PERMITS], ids=lambda limit: limit.identity)
def test_promise_while_the_store_is_away_from_those_who_are_busy(seed, limit):
    """For a moment, or for longer than a lease, and then it goes on with its data; or it hears everybody and nobody
    hears it. Those who call first may be new, or have been stopped, or have had nothing to do."""
    run = Run(seed, limit, 4)
    drawn, fleet = run.random, run.fleet
    for _ in range(4):
        run.pass_time(drawn.choice([0.3, 1.5]), demand=600, busy=0.5, duration=drawn.choice([0.05, 0.5, 5.0]))
        run.away, run.deaf = True, drawn.random() < 0.3
        run.stopped = set(drawn.sample(fleet.processes, drawn.randrange(3)))
        run.pass_time(drawn.choice([0.2, 0.5, 0.7, 1.0, 1.5, 4.0]), demand=600, busy=0.5, duration=0.5)
        run.away = False
        first = list(run.stopped) or fleet.processes[-1:]
        if drawn.random() < 0.5:
            run.start()
            first = fleet.processes[-1:]
        run.stopped.clear()
        for process in first:
            run.talk(process)
            for _ in range(300):
                process.request(limit)
            run.talk(process)
        run.pass_time(0.5, demand=600, busy=0.5)
    fleet.check_rates(limit)
    assert run.refused > 0


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("limit", [FULL, PERMITS], ids=lambda limit: limit.identity)
def test_promise_while_one_is_silent_when_the_store_is_back(seed, limit):
    """It can't say what it holds, of what it was lent or of its share, while the others want everything."""
    run = Run(seed, limit, 4)
    drawn, fleet = run.random, run.fleet
    for _ in range(3):
        run.pass_time(1.5, demand=600, busy=drawn.choice([0.25, 1.0]), duration=0.5)
        run.away = True
        run.pass_time(drawn.choice([1.2, 3.0]), demand=600, duration=0.5)
        silent = drawn.choice(fleet.processes)
        for _ in range(20):
            silent.request(limit)
        run.stopped = {silent}
        run.away = False
        run.pass_time(drawn.choice([0.9, 1.5, 1.9]), demand=600, duration=0.5)
        run.stopped.clear()
    fleet.check_rates(limit)
    assert run.refused > 0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [RATE, RARE, PERMITS], ids=lambda limit: limit.identity)
def test_promise_while_single_calls_are_not_answered(seed, limit):
    """Who misses an answer is back within a moment, in which it gives out nothing, and nobody else notices."""
    run = Run(seed, limit, 3)
    run.hiccups = 0.05
    for _ in range(40):
        run.pass_time(0.1, demand=600, duration=0.05)
        held_back = [process for process in run.fleet.processes if process.now < process.ledger._opens_at]
        assert not held_back
    run.fleet.check_rates(limit)
