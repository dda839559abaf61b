"""Many requests through the core on a virtual clock: what a pool will do under load, without any I/O.

Each request is a generator that yields when to go on. A queue of these times is all there is of an event loop.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from random import Random
from statistics import median
from typing import Any, assert_never

import attrs

from onwards_core import (
    Acquire,
    BreakOff,
    CollectBody,
    Event,
    Exchange,
    Gateway,
    PassedOn,
    PassOn,
    Provider,
    ReadBody,
    Record,
    Request,
    Respond,
    SendUpstream,
    Snapshot,
    StreamThrough,
    UpstreamFailed,
    Wait,
    WaitOver,
)
from onwards_trio._stand_in import Answers


@attrs.frozen
class Behaviour:
    """How a provider behaves."""

    latency: float = 0.0
    """Seconds until the head of each of its answers, failures included."""
    duration: float = 0.0
    """Seconds from the head to the end of an answer."""
    fail: float = 0.0
    """The share of attempts that fail."""
    status: str = "503"
    """How those fail: see `understood_outcome`."""
    concurrency: int | None = None
    """How many requests it handles at once; more get a 429 of it. None: no limit."""


@attrs.frozen
class Plan:
    """What is simulated."""

    requests: int
    rate: float
    """Requests per second, on average."""
    seed: int
    behaviours: Mapping[str, Behaviour]
    """By a provider's label."""
    otherwise: Behaviour = Behaviour()


@attrs.define
class ProviderTally:
    """What became of one provider's attempts."""

    first: int = 0
    """How many exchanges began with it."""
    attempts: int = 0
    failed: int = 0
    answers: int = 0
    """How many clients had their answer from it."""
    skipped: Counter[str] = attrs.field(factory=Counter)
    """By reason."""


@attrs.define
class Outcome:
    """What became of all requests."""

    providers: dict[str, ProviderTally] = attrs.field(factory=dict)
    answered: int = 0
    refused: Counter[int] = attrs.field(factory=Counter)
    """By status: those that the gateway did not try any provider for."""
    failed: Counter[int] = attrs.field(factory=Counter)
    """By status: those whose client got an error of a provider, or for one."""
    seconds: float = 0.0
    """Of virtual time."""
    added: list[float] = attrs.field(factory=list)
    """For each answered request, the seconds that went by before its last attempt."""
    sequences: Counter[tuple[tuple[str, str], ...]] = attrs.field(factory=Counter)
    """Providers and outcomes of the attempts of an exchange, and how often they were these."""

    def count(self, record: Record, answered: bool) -> None:
        """Count an exchange that is over."""
        self.sequences[tuple((each.provider, each.outcome or "") for each in record.attempts)] += 1
        tried = []
        for attempt in record.attempts:
            tally = self.providers.setdefault(attempt.provider, ProviderTally())
            if attempt.outcome in ("refused_locally", "circuit_open", "paused"):
                tally.skipped[attempt.outcome] += 1
                continue
            tried.append(attempt)
            tally.attempts += 1
            tally.failed += attempt.outcome != "ok"
        if tried:
            self.providers[tried[0].provider].first += 1
        if answered:
            self.answered += 1
            self.providers[tried[-1].provider].answers += 1
            self.added.append(tried[-1].started - record.started)
        else:
            (self.failed if tried else self.refused)[record.status or 0] += 1

    def as_json(self) -> dict[str, Any]:
        """All of it but the sequences, for programs."""
        attempts = sum(tally.attempts for tally in self.providers.values())
        total = self.answered + self.refused.total() + self.failed.total()
        return {
            "requests": total,
            "seconds": self.seconds,
            "answered": self.answered,
            "refused": {str(status): count for status, count in sorted(self.refused.items())},
            "failed": {str(status): count for status, count in sorted(self.failed.items())},
            "attempts_per_request": attempts / total,
            "added_seconds": {"median": quantile(self.added, 0.5), "p99": quantile(self.added, 0.99)},
            "providers": {label: attrs.asdict(tally) for label, tally in self.providers.items()},
        }


def quantile(values: list[float], share: float) -> float | None:
    """The value that so many of them do not exceed; None of none."""
    if not values:
        return None
    if share == 0.5:
        return median(values)
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def simulate(snapshot: Snapshot, alias: str, plan: Plan, make_request: Callable[[int], Request]) -> Outcome:
    """Run the requests through a gateway with this config. alias: of the pool that they will meet."""
    simulation = _Simulation(snapshot, plan)
    for provider in snapshot.pools[alias].providers:
        simulation.outcome.providers[provider.label] = ProviderTally()
    simulation.run(make_request)
    return simulation.outcome


class _Simulation:
    def __init__(self, snapshot: Snapshot, plan: Plan) -> None:
        self.outcome = Outcome()
        self._plan = plan
        # Two sources, so that how the gateway draws does not change who fails.
        self._chance = Random(f"{plan.seed} arrivals and failures")  # noqa: S311  # It decides nothing that is secret.
        self._gateway = Gateway(snapshot, random=Random(f"{plan.seed} gateway"))  # noqa: S311
        self._now = 0.0
        self._under_way: Counter[str] = Counter()
        """By provider."""

    def run(self, make_request: Callable[[int], Request]) -> None:
        queue: list[tuple[float, int, Iterator[float]]] = []
        arrival = 0.0
        for number in range(self._plan.requests):
            arrival += self._chance.expovariate(self._plan.rate)
            queue.append((arrival, number, self._request(make_request(number))))
        # Sorted by time, it is a heap already. Whoever waits until the same time goes on in the order of arrival.
        while queue:
            self._now, number, process = queue[0]
            until = next(process, None)
            if until is None:
                heapq.heappop(queue)
            else:
                heapq.heapreplace(queue, (until, number, process))
        self.outcome.seconds = self._now

    def _request(self, request: Request) -> Iterator[float]:
        """One client and its providers. Yields when to go on."""
        answers = Answers(request)
        with self._gateway.admit(request, self._now) as exchange:
            answered = yield from self._drive(exchange, answers)
        self.outcome.count(exchange.record, answered)

    def _drive(self, exchange: Exchange, answers: Answers) -> Generator[float, None, bool]:
        provider: Provider | None = None
        how = "ok"
        action = exchange.begin(self._now)
        try:
            while True:
                event: Event
                match action:
                    case SendUpstream():
                        self._leave(provider)
                        provider = action.provider
                        how, seconds = self._attempt(provider)
                        yield self._now + seconds
                        event = answers.event(action, how)
                        if isinstance(event, UpstreamFailed):
                            self._leave(provider)
                            provider = None
                    case ReadBody() | CollectBody():
                        event = answers.event(action, how)
                    case Wait():
                        self._leave(provider)
                        provider = None
                        yield action.until
                        event = WaitOver()
                    case PassOn():
                        event = PassedOn()
                    case StreamThrough() | Respond():
                        # A `Respond` may be a provider's answer, too, that was collected and changed.
                        good = action.status < 400
                        if good and provider is not None and (duration := self._behaviour(provider).duration):
                            yield self._now + duration
                        return good
                    case BreakOff():
                        return False
                    case Acquire():
                        raise RuntimeError("limits are shared with nobody here")
                    case _:
                        assert_never(action)
                action = exchange.feed(event, self._now)
        finally:
            self._leave(provider)

    def _behaviour(self, provider: Provider) -> Behaviour:
        return self._plan.behaviours.get(provider.label, self._plan.otherwise)

    def _attempt(self, provider: Provider) -> tuple[str, float]:
        """How an attempt that begins now goes, and how long it takes."""
        behaviour = self._behaviour(provider)
        self._under_way[provider.label] += 1
        if behaviour.concurrency is not None and self._under_way[provider.label] > behaviour.concurrency:
            return "429", behaviour.latency
        how = behaviour.status if self._chance.random() < behaviour.fail else "ok"
        match how:
            case "connect_timeout":
                return how, provider.connect_timeout
            case "head_timeout":
                return how, provider.head_timeout or behaviour.latency
            case _ if provider.head_timeout is not None and behaviour.latency > provider.head_timeout:
                return "head_timeout", provider.head_timeout
            case _:
                return how, behaviour.latency

    def _leave(self, provider: Provider | None) -> None:
        if provider is not None:
            self._under_way[provider.label] -= 1
