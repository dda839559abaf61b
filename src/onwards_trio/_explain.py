"""What a request would meet, told without sending anything: the pool, its rules, limits and providers, and what each
failure would lead to. The core is the real one; only the network is not there."""

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any, Final, assert_never

import attrs
import msgspec

from onwards_core import (
    Acquire,
    Action,
    BreakOff,
    CollectBody,
    Event,
    Exchange,
    Gateway,
    PassedOn,
    PassOn,
    Pool,
    ReadBody,
    Request,
    Respond,
    SendUpstream,
    Snapshot,
    Strategy,
    StreamThrough,
    Wait,
    WaitOver,
)
from onwards_core._keys import KeyLimits
from onwards_core._ledger import Limit
from onwards_trio import _stand_in
from onwards_trio._check import limits_text
from onwards_trio._simulate import Outcome

_GOES_BY: Mapping[Strategy, str] = {
    Strategy.WEIGHTED_RANDOM: "by weighted chance",
    Strategy.PRIORITY: "as written",
    Strategy.ROUND_ROBIN: "in turn, as often as weights say",
    Strategy.LEAST_CONNECTIONS: "whoever has the fewest exchanges under way for its weight",
    Strategy.LOWEST_LATENCY: "whoever was fastest to the first byte lately",
    Strategy.AFFINITY: "by the request's affinity key",
}
_TRIES: Final = 1000  # of chance, to find an order that begins with a provider that is to fail


@attrs.frozen
class Question:
    """What is asked."""

    model: str
    path: str
    key: str | None
    labels: Mapping[str, str]
    """Of a key that stands in for one that has them; empty: no such key."""
    fails: Mapping[str, str]
    """How attempts go, by provider; see `understood_outcome`. All others bring an answer."""


@attrs.frozen
class Step:
    """One thing that an exchange does."""

    at: float
    """Seconds since it began."""
    what: str


@attrs.frozen
class Explanation:
    """The answer."""

    key: str | None
    """The name of the key's definition."""
    asked: str
    pool: Pool | None
    """Whose providers would be tried; None: it would not come to that."""
    limits: list[tuple[str, Limit]]
    steps: list[Step]
    status: int

    def as_text(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"model      {self.asked}"
        yield f"key        {self.key or 'none that has a definition'}"
        if self.pool is not None:
            pool = self.pool
            if pool.alias != self.asked:
                yield f"rule       redirects to {pool.alias}"
            for name, limit in self.limits:
                yield f"limit      {name}: {limits_text(limit)}"
            yield f"strategy   {pool.strategy.value}: {_GOES_BY[pool.strategy]}"
            for index, (provider, shares) in enumerate(zip(pool.providers, places(pool), strict=True), 1):
                chances = ", ".join(f"{share:.1%}" for share in shares) if shares else "that depends"
                yield f"provider   {index}. {provider.label}, limits: {limits_text(provider.limit)}"
                yield f"             tried first, second, ...: {chances}"
        for step in self.steps:
            yield f"{step.at:8.3f} s {step.what}"

    def as_json(self) -> dict[str, Any]:
        pool = self.pool
        return {
            "model": self.asked,
            "key": self.key,
            "alias": pool and pool.alias,
            "strategy": pool and pool.strategy.value,
            "limits": {name: limits_text(limit) for name, limit in self.limits},
            "providers": [
                {"provider": provider.label, "places": shares, "limits": limits_text(provider.limit)}
                for provider, shares in zip(pool.providers, places(pool), strict=True)
            ]
            if pool
            else [],
            "steps": [attrs.asdict(step) for step in self.steps],
            "status": self.status,
        }


def places(pool: Pool) -> list[list[float] | None]:
    """For each provider the probability of being tried first, second and so on; None where a strategy goes by what has
    happened so far, or there are too many to say."""
    count = len(pool.providers)
    if pool.strategy is Strategy.PRIORITY:
        return [[float(place == index) for place in range(count)] for index in range(count)]
    if pool.strategy is not Strategy.WEIGHTED_RANDOM or count > 8:
        return [None] * count
    found = [[0.0] * count for _ in range(count)]

    def draw(left: tuple[int, ...], place: int, probability: float) -> None:
        total = sum(pool.weights[index] for index in left)
        for index in left:
            chance = probability * (pool.weights[index] / total if total else float(index == left[0]))
            if chance:
                found[index][place] += chance
                draw(tuple(other for other in left if other != index), place + 1, chance)

    draw(tuple(range(count)), 0, 1.0)
    return [list(shares) for shares in found]


def asking(snapshot: Snapshot, question: Question) -> tuple[Snapshot, Callable[[int], Request]]:
    """The config with whatever key the question wants, and its requests, by number."""
    key = question.key.encode() if question.key is not None else None
    if question.labels:
        like = snapshot.hasher.token(key) if key is not None else None
        limits = KeyLimits("(these labels)", Limit("key stand-in"), dict(question.labels))
        snapshot = _stand_in.with_stand_in_key(snapshot, limits, like)
        key = _stand_in.KEY
    return snapshot, lambda number: _stand_in.request(question.path, question.model, key=key, number=number)


def explain(snapshot: Snapshot, question: Question) -> Explanation:
    """Run one request through the core, and tell each of its steps."""
    snapshot, make_request = asking(snapshot, question)
    request = make_request(0)
    for seed in range(_TRIES):
        told = _Told(question.fails)
        gateway = Gateway(snapshot, random=Random(seed))  # noqa: S311  # It decides nothing that is secret.
        with gateway.admit(request, 0.0) as exchange:
            told.run(exchange, request)
        # Where chance decides, let it fall on one of those that are of interest.
        if not question.fails or not told.tried or told.tried[0] in question.fails:
            break
    record = exchange.record
    pool = snapshot.pools.get(record.alias or "") if told.tried or record.attempts else None
    digest = snapshot.hasher.token(question.key.encode()) if question.key else None
    known = snapshot.key_limits.get(digest) if digest else None
    limits = [(f"key {known.name}", known.limit)] if known else []
    if pool is not None:
        limits.append((f"alias {pool.alias}", pool.limit))
    return Explanation(record.key, question.model, pool, limits, told.steps, told.status)


class _Told:
    def __init__(self, fails: Mapping[str, str]) -> None:
        self.steps: list[Step] = []
        self.tried: list[str] = []
        self.status = 0
        self._fails = fails
        self._now = 0.0

    def run(self, exchange: Exchange, request: Request) -> None:
        answers = _stand_in.Answers(request)
        how = "ok"
        action = exchange.begin(0.0)
        skipped = 0
        while True:
            for attempt in exchange.record.attempts[skipped:]:
                if attempt.outcome in ("refused_locally", "circuit_open", "paused"):
                    self._say(f"{attempt.provider} is passed over: {attempt.outcome}")
            skipped = len(exchange.record.attempts)
            event: Event
            match action:
                case SendUpstream(provider=provider):
                    how = self._fails.get(provider.label, "ok")
                    self.tried.append(provider.label)
                    self._say(f"{provider.label} is tried: {how}")
                    event = answers.event(action, how)
                case ReadBody() | CollectBody():
                    event = answers.event(action, how)
                case Wait():
                    self._say(f"waits for {action.until - self._now:.3f} s")
                    self._now = action.until
                    event = WaitOver()
                case PassOn():
                    event = PassedOn()
                case Respond() | StreamThrough() | BreakOff():
                    self._end(action)
                    return
                case Acquire():
                    raise RuntimeError("limits are shared with nobody here")
                case _:
                    assert_never(action)
            action = exchange.feed(event, self._now)

    def _end(self, action: Action) -> None:
        match action:
            case StreamThrough():
                self.status = action.status
                self._say(f"the client gets {self.tried[-1]}'s answer: {action.status}")
            case Respond():
                self.status = action.status
                whose = (
                    "an answer of the gateway's own" if action.status >= 400 else f"{self.tried[-1]}'s answer, rebuilt"
                )
                self._say(f"the client gets {whose}: {action.status} {_code(action.body)}".rstrip())
            case _:
                self._say("the client's stream is broken off")

    def _say(self, what: str) -> None:
        self.steps.append(Step(self._now, what))


def _code(body: bytes) -> str:
    error = msgspec.json.decode(body).get("error")
    return str(error["code"]) if error else ""


def simulated_table(outcome: Outcome) -> str:
    """What came of a simulation, for people."""
    summary = outcome.as_json()
    added = summary["added_seconds"]
    lines = [
        f"{summary['requests']} requests in {summary['seconds']:.1f} s",
        f"{outcome.answered} answered, {outcome.failed.total()} failed, {outcome.refused.total()} refused",
        f"{summary['attempts_per_request']:.3f} attempts a request",
        f"added before the last one: median {_milliseconds(added['median'])}, p99 {_milliseconds(added['p99'])}",
    ]
    rows = [("PROVIDER", "TRIED FIRST", "ATTEMPTS", "FAILED", "ANSWERS", "PASSED OVER")]
    total = max(1, sum(tally.first for tally in outcome.providers.values()))
    rows += [
        (
            label,
            f"{tally.first} ({tally.first / total:.1%})",
            str(tally.attempts),
            str(tally.failed),
            str(tally.answers),
            ", ".join(f"{reason} {count}" for reason, count in sorted(tally.skipped.items())) or "-",
        )
        for label, tally in outcome.providers.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for what, counts in (("failed", outcome.failed), ("refused", outcome.refused)):
        lines += [f"{what} with {status}: {count}" for status, count in sorted(counts.items())]
    return "\n".join(lines)


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
