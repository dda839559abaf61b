"""The hard promise of limits that processes share: never more than the limit, whatever fails."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from onwards_core._lease_calls import Call
from onwards_core._lease_store import LeaseStore
from onwards_core._ledger import Limit, Rate
from tests.core.lease_support import Fleet, Process

LIMITS = [
    Limit("burst", Rate.per_second(1000, 200)),
    Limit("slow", Rate.per_second(0.5)),
    Limit("few", permits=4),
    Limit("many", permits=40),
    Limit("both", Rate.per_second(500, 100), permits=30),
]
LEASE = 2.0


class Refusing(RuleBasedStateMachine):
    """Processes that refuse when the store is away. Any message may be lost or late, anybody may stop or crash, the
    store may lose its data, and clocks differ."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet = Fleet(LeaseStore())
        self.names = 0
        self.late: list[list[Call]] = []
        """Batches that are still under way, though nobody waits for them any more."""

    @initialize(count=st.integers(2, 3), limit=st.sampled_from(LIMITS))
    def processes_are_there(self, count, limit):
        self.limit = limit
        for _ in range(count):
            self.a_process_starts(offset=0, drift=0.0)
        self.beats_are_exchanged()

    @precondition(lambda self: len(self.fleet.processes) < 4)
    @rule(offset=st.integers(0, 10**6), drift=st.sampled_from([-0.005, 0.0, 0.005]))
    def a_process_starts(self, offset, drift):
        self.names += 1
        process = Process(self.fleet, f"p{self.names}", offset=offset, drift=drift, lease=LEASE, local=False)
        self.fleet.processes.append(process)

    @precondition(lambda self: self.fleet.processes)
    @rule(data=st.data())
    def a_process_crashes(self, data):
        self.fleet.crash(data.draw(st.sampled_from(self.fleet.processes)))

    @precondition(lambda self: self.fleet.processes)
    @rule(data=st.data(), count=st.integers(1, 40))
    def clients_come(self, data, count):
        process = data.draw(st.sampled_from(self.fleet.processes))
        for _ in range(count):
            process.request(self.limit)

    @precondition(lambda self: self.fleet.processes)
    @rule(data=st.data(), count=st.integers(1, 20), keep=st.booleans())
    def a_process_is_busy(self, data, count, keep):
        """For a while, so that it gets a stock."""
        self.a_process_is_busy_with(data.draw(st.sampled_from(self.fleet.processes)), count, keep=keep)

    def a_process_is_busy_with(self, process, count, *, keep):
        for _ in range(8):
            for _ in range(count):
                process.request(self.limit)
            self._talk(process)
            self.fleet.pass_time(5_000)
            if not keep:
                for exchange in [each for each in self.fleet.exchanges if each.process is process]:
                    self.fleet.end(exchange)

    @rule(busy=st.integers(1, 5), lull=st.sampled_from([0, 3_000, 9_000]), lost=st.booleans())
    def clients_come_everywhere(self, busy, lull, lost):
        """Some while one process has a stock that fits its demand; then all at once, so that whatever may be let
        through is let through. Before that, its reply may get lost, or it may be stopped for a while."""
        for process in self.fleet.processes[:1]:
            self.a_process_is_busy_with(process, busy, keep=False)
            if lost and process.asked_at is None:
                process.request(self.limit)
                if process.ask():
                    process.arrive()
                    self.fleet.pass_time(lull)
                    process.answered()
        self.fleet.pass_time(lull)
        for process in reversed(self.fleet.processes):
            for _ in range(250):
                process.request(self.limit)
            self._talk(process)

    def _talk(self, process):
        if process.asked_at is None and process.ask():
            process.arrive()
            process.answered()

    @precondition(lambda self: self.fleet.exchanges)
    @rule(data=st.data(), count=st.integers(1, 10))
    def exchanges_end(self, data, count):
        for _ in range(min(count, len(self.fleet.exchanges))):
            self.fleet.end(data.draw(st.sampled_from(self.fleet.exchanges)))

    @precondition(lambda self: any(process.asked_at is None for process in self.fleet.processes))
    @rule(data=st.data())
    def a_process_talks(self, data):
        """All goes well."""
        process = data.draw(st.sampled_from([each for each in self.fleet.processes if each.asked_at is None]))
        self._talk(process)

    @precondition(lambda self: any(process.asked_at is None for process in self.fleet.processes))
    @rule(data=st.data())
    def a_process_asks(self, data):
        data.draw(st.sampled_from([each for each in self.fleet.processes if each.asked_at is None])).ask()

    def _unheard(self):
        return [each for each in self.fleet.processes if each.asked_at is not None and each.replies is None]

    @precondition(lambda self: self._unheard())
    @rule(data=st.data())
    def a_batch_arrives(self, data):
        data.draw(st.sampled_from(self._unheard())).arrive()

    @precondition(lambda self: any(each.replies is not None for each in self.fleet.processes))
    @rule(data=st.data())
    def replies_arrive(self, data):
        data.draw(st.sampled_from([each for each in self.fleet.processes if each.replies is not None])).answered()

    @precondition(lambda self: any(each.asked_at is not None for each in self.fleet.processes))
    @rule(data=st.data(), late=st.booleans())
    def a_deadline_passes(self, data, late):
        process = data.draw(st.sampled_from([each for each in self.fleet.processes if each.asked_at is not None]))
        if late and process.replies is None:
            self.late.append(process.calls)
        process.lose()

    @precondition(lambda self: self.late)
    @rule()
    def a_late_batch_arrives(self):
        self.fleet.apply_late(self.late.pop(0))

    @rule(
        microseconds=st.sampled_from(
            [1, 2_000, 5_000, 9_000, 20_000, 200_000, 700_000, 1_990_000, 2_010_000, 30_000_000]
        )
    )
    def time_passes(self, microseconds):
        self.fleet.pass_time(microseconds)

    @rule()
    def beats_are_exchanged(self):
        """Time passes as it does in good times."""
        for _ in range(6):
            self.fleet.pass_time(200_000)
            for process in self.fleet.processes:
                self._talk(process)

    @rule()
    def the_store_loses_its_data(self):
        self.fleet.check_rates(self.limit)
        self.fleet.lose_data()
        self.late.clear()
        for process in self.fleet.processes:
            if process.asked_at is not None:
                process.lose()

    @precondition(lambda self: len(self.fleet.processes) > 1)
    @rule(data=st.data(), steps=st.integers(1, 16), new_first=st.booleans())
    def the_store_loses_its_data_while_somebody_is_silent(self, data, steps, new_first):
        """For longer or shorter than the others wait. Who is silent has what it was lent."""
        silent = data.draw(st.sampled_from(self.fleet.processes))
        for _ in range(10):
            silent.request(self.limit)
        self._talk(silent)
        self.the_store_loses_its_data()
        if new_first:
            self.a_process_starts(offset=7, drift=0.0)
            self._talk(self.fleet.processes[-1])
        for _ in range(steps):
            self.fleet.pass_time(200_000)
            for process in self.fleet.processes:
                if process is not silent:
                    for _ in range(10):
                        process.request(self.limit)
                    self._talk(process)
        for _ in range(5):
            silent.request(self.limit)

    def teardown(self):
        self.fleet.check_rates(self.limit)


TestRefusing = Refusing.TestCase
TestRefusing.settings = settings(max_examples=200, stateful_step_count=30)
