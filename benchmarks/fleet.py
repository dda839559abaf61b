"""Simulate many replicas that share one limit: `python benchmarks/fleet.py`. See docs/scaling.md.

Ledgers, store and the calls between them are the gateway's own (`onwards_core`). Clock, network and demand are drawn
from a seed, so the same arguments give the same figures on any machine.
"""

import argparse
import heapq
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs

from onwards_core._beats import LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Call, Reply
from onwards_core._lease_store import LeaseStore
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Claim, Ledger, Limit, Permit, Rate, Refusal

DEADLINE: Final = 50_000
"""Microseconds that a call may take, as for the real keeper of the ledger."""
BACKOFF: Final = (0, 50_000, 100_000, 200_000)
OPEN: Final = 3_000_000
"""Microseconds until everybody has met, and the demand begins."""
SETTLE: Final = 1_500_000
"""Microseconds of demand that are not measured: the bucket, which is full, drains meanwhile."""
CRASH: Final = 200_000
AWAY: Final = ((400_000, 800_000), (1_500_000, 3_500_000))
FAULTS: Final = 6_000_000
"""Microseconds from then on: when replicas die; from when until when the store is away, for a moment and for so long
that all go on by themselves; when all is well again. What is measured lasts longer by that."""
LONG: Final = 500_000
"""Microseconds after which a request that waits for the store should have been decided, whatever happens."""
WINDOW: Final = 100_000
"""Microseconds. Those in which somebody is refused count for what is unused."""
DURATION: Final = 0.2
"""Seconds that an exchange takes, on average."""

MISLEADING: Final = """\
What could mislead:
- A store answers at once here, however many ask. A real one takes its time for each call, and has one core.
- The network delays, and in `faults` loses single trips. It does not partition: a replica that alone is cut off while
  others are served is not simulated.
- Those who are refused do not come back; clients that retry add demand.
- Each replica has the same demand on average. Chance alone makes shares differ, and leaves permits unused until the
  next request comes: `one ledger` is what the same requests meet in one process that asks nobody. Compare with that.
- `overshoot` counts who waited for the store at the moment at which it decided, `when heard` at the moment at which the
  replica heard so: the network may bring closer together what was apart.
- In `faults`, what is unused is mostly what nobody may have while the store is away and just after."""


@attrs.frozen
class Scenario:
    name: str
    kind: str
    """`rate` or `permits`."""
    of_demand: float
    """How large the limit is."""
    faults: bool = False

    def limit(self, demand: float, burst: float) -> Limit:
        """demand: requests a second, of all. burst: what a bucket holds, in seconds of its rate."""
        if self.kind == "rate":
            rate = max(1, round(demand * self.of_demand))
            return Limit("pool", Rate.per_second(rate, max(1, round(rate * burst))))
        return Limit("pool", permits=max(1, round(demand * DURATION * self.of_demand)))


SCENARIOS: Final = (
    Scenario("rate, scarce", "rate", 0.5),
    Scenario("rate, ample", "rate", 2.0),
    Scenario("permits, scarce", "permits", 0.5),
    Scenario("permits, ample", "permits", 2.0),
    Scenario("rate, faults", "rate", 0.5, faults=True),
    Scenario("permits, faults", "permits", 0.5, faults=True),
)


@attrs.define(eq=False)
class Exchange:
    permit: Permit
    replica: "Replica"


class Replica:
    """One gateway: what its keeper does, on the virtual clock. ledger: one that asks nobody, or none."""

    def __init__(self, fleet: "Fleet", name: str, ledger: Ledger | None) -> None:
        self.fleet = fleet
        drawn = fleet.network
        # One process has one clock. Others' may show anything, and run a little faster or slower than the store's.
        self.offset, self.drift = (0.0, 0.0) if ledger else (drawn.uniform(0, 1e6), drawn.uniform(-0.004, 0.004))
        self.alive = True
        self.asked = self.granted = 0
        self.ledger = ledger or LeasedLedger(LeaseTerms(name), Health())
        self.applied_at = 0
        """When the store decided what was heard last."""
        self._under_way = False
        self._wanted = False
        self._look_at: int | None = None
        self._failures = 0
        if isinstance(self.ledger, LeasedLedger):
            self.ledger.wake = self._wake
            self._later(drawn.randrange(1_000_000))

    @property
    def now(self) -> float:
        return self.offset + self.fleet.at * (1 + self.drift) / 1e6

    def _wake(self) -> None:
        if not self._wanted:
            self._wanted = True
            if not self._under_way:
                self._later(0)

    def _later(self, delay: int) -> None:
        self._look_at = at = self.fleet.at + delay
        self.fleet.schedule(at, lambda: self._ask() if self._look_at == at else None)

    def _idle(self) -> None:
        """Wait until there is something to ask."""
        assert isinstance(self.ledger, LeasedLedger)
        ahead = (self.ledger.next_look() - self.now) / (1 + self.drift)
        self._later(0 if self._wanted else max(1, round(ahead * 1e6)))

    def _ask(self) -> None:
        if self._under_way or not self.alive:
            return
        assert isinstance(self.ledger, LeasedLedger)
        self._wanted = False
        self._look_at = None
        if calls := self.ledger.collect(self.now):
            self._under_way = True
            self.fleet.send(calls, self._replied, self._lost)
        else:
            self._idle()

    def _replied(self, replies: list[Reply], applied_at: int) -> None:
        assert isinstance(self.ledger, LeasedLedger)
        if self.alive:
            self._under_way, self._failures = False, 0
            self.applied_at = applied_at
            self.ledger.replied(replies, self.now)
            self._idle()

    def _lost(self) -> None:
        """There was no answer in time."""
        assert isinstance(self.ledger, LeasedLedger)
        if self.alive:
            # Still under way: nothing is asked before the wait is over.
            self.applied_at = self.fleet.at
            self.ledger.lost(self.now)
            delay = BACKOFF[min(self._failures, len(BACKOFF) - 1)]
            self._failures += 1
            self.fleet.schedule(self.fleet.at + delay, self._again)

    def _again(self) -> None:
        self._under_way = False
        self._ask()


class Fleet:
    """Replicas, their store, and what is counted. alone: all of them are one process that asks nobody."""

    def __init__(
        self, scenario: Scenario, replicas: int, demand: float, delay: float, burst: float, seed: int, *, alone: bool
    ) -> None:
        self.at = 0
        self.scenario, self.demand, self.delay = scenario, demand, delay
        self.limit = scenario.limit(demand, burst)
        # Two of them, so that the requests are the same with a store and without.
        self.requests = random.Random(f"{seed} requests")
        self.network = random.Random(f"{seed} network")
        self.store = LeaseStore()
        self.away = False
        self.ledger = Ledger() if alone else None
        self._events: list[tuple[int, int, Callable[[], object]]] = []
        self._order = itertools.count()
        self._names = itertools.count()
        self.exchanges: set[Exchange] = set()
        self.decided: list[int] = []
        self.heard: list[int] = []
        """Microseconds at which each request was let through: when that was decided, and when it was heard."""
        self.waiting: dict[Claim, tuple[Replica, int]] = {}
        """Since when."""
        self.most = 0
        """Exchanges at once."""
        self.calls: Counter[str] = Counter()
        self.asked = self.waited = self.refused = 0
        self.grants: Counter[int] = Counter()
        self.refusals: Counter[int] = Counter()
        self.in_use: Counter[int] = Counter()
        """By window; the last one in microseconds times permits."""
        self._used_until = 0
        self.replicas = [self._replica() for _ in range(replicas)]

    def _replica(self) -> Replica:
        return Replica(self, f"replica {next(self._names)}", self.ledger)

    def schedule(self, at: int, what: Callable[[], object]) -> None:
        heapq.heappush(self._events, (at, next(self._order), what))

    def run(self, seconds: float) -> None:
        end = OPEN + SETTLE + round(seconds * 1e6) + (FAULTS if self.scenario.faults else 0)
        self.schedule(OPEN, self._request)
        if self.scenario.faults and self.ledger is None:
            self.schedule(OPEN + SETTLE + CRASH, self._crash)
            for goes, comes in AWAY:
                self.schedule(OPEN + SETTLE + goes, lambda: self._switch(away=True))
                self.schedule(OPEN + SETTLE + comes, lambda: self._switch(away=False))
        while self._events and self._events[0][0] < end:
            at, _, what = heapq.heappop(self._events)
            self.at = at
            what()
        self.at = end
        self._account()

    # The store and the network

    def send(self, calls: list[Call], replied: Callable[[list[Reply], int], None], lost: Callable[[], None]) -> None:
        """Like a real one: a trip that is lost may have come as far as to the store."""
        lose = self.scenario.faults and self.network.random() < 0.001
        there, back = self._trip(), self._trip()

        def arrive() -> None:
            if self.at >= OPEN + SETTLE:
                self.calls["trips"] += 1
                self.calls["calls"] += len(calls)
                self.calls["beats"] += sum(not hasattr(call, "wanted") for call in calls)
            replies = [self.store.apply(call, self.at) for call in calls]
            if not lose:
                at = self.at
                self.schedule(at + back, lambda: replied(replies, at))

        if self.away or (lose and self.network.random() < 0.5):
            self.schedule(self.at + DEADLINE, lost)
            return
        if lose:
            self.schedule(self.at + DEADLINE, lost)
        self.schedule(self.at + there, arrive)

    def _trip(self) -> int:
        """Half of the delay is the way, the rest is chance."""
        return min(20_000, round(self.delay * 1e6 * (0.5 + self.network.expovariate(2.0))))

    # What happens to it

    def _switch(self, *, away: bool) -> None:
        self.away = away

    def _crash(self) -> None:
        """Every tenth replica dies; another one takes its place."""
        self._account()
        for number in range(0, len(self.replicas), 10):
            dead = self.replicas[number]
            dead.alive = False
            self.exchanges = {exchange for exchange in self.exchanges if exchange.replica is not dead}
            self.replicas[number] = self._replica()

    def _request(self) -> None:
        drawn = self.requests
        self.schedule(self.at + max(1, round(drawn.expovariate(self.demand) * 1e6)), self._request)
        replica = self.replicas[drawn.randrange(len(self.replicas))]
        duration = round(drawn.expovariate(1 / DURATION) * 1e6)
        measured = self.at >= OPEN + SETTLE
        self.asked += measured
        replica.asked += measured
        found = replica.ledger.acquire([self.limit], replica.now)
        if isinstance(found, Claim):
            self.waited += measured
            self.waiting[found] = replica, self.at

            def decided() -> None:
                del self.waiting[found]
                self._decided(replica, found.outcome, duration, replica.applied_at, measured)

            found.on_decided = decided
        else:
            self._decided(replica, found, duration, self.at, measured)

    def _decided(
        self, replica: Replica, found: Permit | Refusal | None, duration: int, decided_at: int, measured: bool
    ) -> None:
        if not isinstance(found, Permit):
            self.refusals[self.at // WINDOW] += 1
            self.refused += measured
            return
        self._account()
        replica.granted += measured
        self.grants[self.at // WINDOW] += 1
        self.decided.append(decided_at)
        self.heard.append(self.at)
        exchange = Exchange(found, replica)
        self.exchanges.add(exchange)
        self.most = max(self.most, len(self.exchanges))
        self.schedule(self.at + duration, lambda: self._end(exchange))

    def _end(self, exchange: Exchange) -> None:
        if exchange in self.exchanges:
            self._account()
            self.exchanges.remove(exchange)
            exchange.permit.release()

    def _account(self) -> None:
        """Until now there were as many exchanges as there are."""
        while self._used_until < self.at:
            window = self._used_until // WINDOW
            until = min(self.at, (window + 1) * WINDOW)
            self.in_use[window] += (until - self._used_until) * len(self.exchanges)
            self._used_until = until

    # What came of it

    def overshoot(self, moments: list[int]) -> float:
        """By how many requests the limit was exceeded in the worst window, whatever its length; 0: never."""
        if self.limit.permits is not None:
            return max(0, self.most - self.limit.permits)
        rate = self.limit.rate
        assert rate is not None
        worst = full_at = 0  # nanoseconds, of a bucket that is emptied request by request
        for moment in sorted(moments):
            at = moment * 1000
            full_at = max(full_at, at)
            worst = max(worst, full_at - at - rate.slack)
            full_at += rate.interval
        return worst / rate.interval

    def unanswered(self) -> int:
        """Requests that wait for longer than they ever should; those of a replica that died are lost with it."""
        return sum(replica.alive and self.at - since > LONG for replica, since in self.waiting.values())

    def unused(self) -> float | None:
        """The share of the limit that nobody had while somebody was refused; None: nobody was."""
        first, end = (OPEN + SETTLE) // WINDOW, self.at // WINDOW
        windows = [window for window in range(first, end) if self.refusals[window]]
        if not windows:
            return None
        if self.limit.rate is not None:
            had = sum(self.grants[window] for window in windows) * self.limit.rate.interval / 1000
            return max(0.0, 1 - had / (len(windows) * WINDOW))
        assert self.limit.permits is not None
        had = sum(self.in_use[window] for window in windows)
        return 1 - had / (len(windows) * WINDOW * self.limit.permits)

    def fairness(self) -> float:
        """Jain's index of the shares of their requests that replicas got through: 1 if alike, 1/n if one has all."""
        shares = [replica.granted / replica.asked for replica in self.replicas if replica.asked]
        squares = sum(share * share for share in shares)
        return sum(shares) ** 2 / (len(shares) * squares) if squares else 1.0


def measure(scenario: Scenario, replicas: int, options: argparse.Namespace) -> dict[str, Any]:
    fleet, alone = (
        Fleet(scenario, replicas, options.demand, options.delay / 1000, options.burst, options.seed, alone=alone)
        for alone in (False, True)
    )
    fleet.run(options.seconds)
    measured = (fleet.at - OPEN - SETTLE) / 1e6
    alone.run(options.seconds)
    return {
        "scenario": scenario.name,
        "replicas": replicas,
        "overshoot": round(fleet.overshoot(fleet.decided), 3),
        "overshoot when heard": round(fleet.overshoot(fleet.heard), 3),
        "unanswered": fleet.unanswered(),
        "unused": fleet.unused(),
        "unused, one ledger": alone.unused(),
        "refused": fleet.refused / max(1, fleet.asked),
        "store calls/s": fleet.calls["calls"] / measured,
        "store trips/s": fleet.calls["trips"] / measured,
        "beats/s": fleet.calls["beats"] / measured,
        "store calls/request": fleet.calls["calls"] / max(1, fleet.asked),
        "waited": fleet.waited / max(1, fleet.asked),
        "fairness": fleet.fairness(),
        "fairness, one ledger": alone.fairness(),
    }


_COLUMNS: Final = {
    "scenario": "{}",
    "replicas": "{:,}",
    "overshoot": "{:g}",
    "overshoot when heard": "{:.1f}",
    "unanswered": "{}",
    "unused": "{:.1%}",
    "unused, one ledger": "{:.1%}",
    "refused": "{:.1%}",
    "store calls/s": "{:,.0f}",
    "store calls/request": "{:.3f}",
    "waited": "{:.1%}",
    "fairness": "{:.4f}",
    "fairness, one ledger": "{:.4f}",
}


def table(results: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(_COLUMNS) + " |", "| " + " | ".join("---" for _ in _COLUMNS) + " |"]
    for result in results:
        cells = ("" if result[name] is None else form.format(result[name]) for name, form in _COLUMNS.items())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], file: Path) -> None:
    """Write an SVG file: what grows with the fleet, and what does not."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "onwards", "font.size": 9})
    figure = Figure(figsize=(9, 7), layout="constrained")
    shown = ("overshoot", "unused", "store calls/request", "fairness")
    titles = ("overshoot (requests)", "unused while somebody is refused", "store calls per request", "fairness (Jain)")
    for axis, name, title in zip(figure.subplots(2, 2).flat, shown, titles, strict=True):
        for scenario in dict.fromkeys(result["scenario"] for result in results):
            found = [result for result in results if result["scenario"] == scenario and result[name] is not None]
            if found:
                axis.plot(
                    [each["replicas"] for each in found], [each[name] for each in found], marker="o", label=scenario
                )
        axis.set_xscale("log")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("replicas")
        axis.set_title(title, loc="left", fontsize=9)
        if axis.lines:
            axis.legend(fontsize=7)
    figure.savefig(file, format="svg", metadata={"Date": None})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--replicas", type=_sizes, default=[10, 100, 1000], metavar="NUMBERS", help="sizes of the fleet (10,100,1000)"
    )
    parser.add_argument("--demand", type=float, default=10_000.0, help="requests a second, of all (10000)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of virtual time that are measured (2)")
    parser.add_argument("--delay", type=float, default=0.5, help="milliseconds to the store, one way, on average (0.5)")
    parser.add_argument("--burst", type=float, default=1.0, help="what a bucket holds, in seconds of its rate (1)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="where fleet.json and fleet.svg go"
    )
    return parser


def _sizes(text: str) -> list[int]:
    sizes = [int(number) for number in text.split(",")]
    if not all(1 <= size <= 1000 for size in sizes):
        raise argparse.ArgumentTypeError("a fleet has 1 to 1000 replicas")
    return sizes


def main() -> int:
    """Exit code 1: a limit was exceeded, or a request forgotten."""
    options = _parser().parse_args()
    started = time.monotonic()
    results = []
    for scenario in SCENARIOS:
        for replicas in options.replicas:
            results.append(measure(scenario, replicas, options))
            print(f"{scenario.name}, {replicas} replicas: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(table(results))
    print(f"\n{MISLEADING}")
    options.out.mkdir(parents=True, exist_ok=True)
    asked = {name: value for name, value in vars(options).items() if name != "out"}
    report = {"arguments": asked, "results": results}
    (options.out / "fleet.json").write_text(json.dumps(report, indent=1) + "\n")
    try:
        draw(results, options.out / "fleet.svg")
    except ImportError:
        print("skipped: the chart, which needs matplotlib", file=sys.stderr)
    broken = [result for result in results if result["overshoot"] or result["unanswered"]]
    for result in broken:
        print(f"a promise is broken: {result['scenario']}, {result['replicas']} replicas", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
