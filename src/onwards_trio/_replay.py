"""A recorded exchange, through the core once more: its questions get the same answers, so the same actions come."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Self

import attrs

from onwards_core import (
    Acquired,
    BodyCollected,
    BodyRead,
    Event,
    Gateway,
    PassedOn,
    Pool,
    Request,
    Snapshot,
    Upkeep,
    UpstreamFailed,
    UpstreamResponded,
    WaitOver,
)
from onwards_core._health import Health
from onwards_core._keys import KeyLimits
from onwards_core._ledger import Claim, Ledger, Limit, Permit, Refusal
from onwards_core._strategies import Balancer
from onwards_trio import _stand_in
from onwards_trio._record import Note, described


class Diverged(Exception):
    """The core asks for what the recording does not have."""


class _Notes:
    def __init__(self, notes: list[Note]) -> None:
        self._left = deque(notes)

    @property
    def over(self) -> bool:
        return not self._left

    def next(self, *kinds: str) -> Note:
        if not self._left or self._left[0][0] not in kinds:
            there = self._left[0][0] if self._left else "nothing"
            raise Diverged(f"the core asks for {' or '.join(kinds)}, the recording goes on with {there}")
        return self._left.popleft()


class _NotedLedger(Ledger):
    def __init__(self, notes: _Notes) -> None:
        super().__init__()
        self._notes = notes

    def acquire(self, limits: Sequence[Limit], now: float) -> Permit | Refusal | Claim:
        _, found = self._notes.next("acquire")
        return Claim(tuple(limits)) if found == "claim" else _outcome(found)


def _outcome(refusal: Any) -> Permit | Refusal:
    return Refusal(*refusal) if refusal else Permit({}, [])


class _NotedHealth(Health):
    def __init__(self, notes: _Notes) -> None:
        super().__init__()
        self._notes = notes

    def admits(self, identity: str, now: float) -> bool:
        return bool(self._notes.next("admits")[1])

    def paused_until(self, identity: str, now: float) -> float | None:
        _, rest = self._notes.next("paused")
        return None if rest is None else now + rest


class _NotedBalancer(Balancer):
    def __init__(self, notes: _Notes) -> None:
        super().__init__()
        self._notes = notes

    def order(
        self, pool: Pool, ledger: Ledger, random: Random, affinity_key: bytes | None, now: float
    ) -> Iterator[int]:
        while (index := self._notes.next("next")[1]) is not None:
            if index >= len(pool.providers):
                raise Diverged(f"{pool.alias} has no provider {index + 1} any more")
            yield index


class _NotedRandom(Random):
    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, notes: _Notes) -> None:
        super().__init__(0)
        self._notes = notes

    def random(self) -> float:
        return float(self._notes.next("random")[1])


@attrs.frozen
class Replayed:
    """What came of it."""

    lines: list[str]
    same: bool
    """Whether each action was the one that was recorded."""


def replay(path: Path, snapshot: Snapshot, digest: str) -> Replayed:
    """Run a recording through the core. Raises `ValueError` for a file that is none.

    digest: of the config that `snapshot` was made from.
    """
    try:
        kept = json.loads(path.read_bytes())
        asked, notes = kept["request"], kept["notes"]
        lines = [f"{asked['method']} {asked['path']} for {asked['alias']}, status {kept['status']}, {kept['outcome']}"]
        if kept["config"] != digest:
            lines.append("THE CONFIG IS ANOTHER ONE than that of the recording")
        run = _Run(_prepared(snapshot, asked), _request(asked, kept["received"]), _Notes(notes), lines)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError("no recording of an exchange") from error
    try:
        run.run()
    except Diverged as difference:
        lines.append(f"STOPS HERE: {difference}")
        return Replayed(lines, same=False)
    return Replayed(lines, same=run.same)


def _prepared(snapshot: Snapshot, asked: Any) -> Snapshot:
    """With a key that opens what was asked for, and has the labels of the one that did."""
    known = next((limits for limits in snapshot.key_limits.values() if limits.name == asked["key"]), None)
    return _stand_in.with_stand_in_key(snapshot, known or KeyLimits("", Limit("stand-in"), {}))


def _request(asked: Any, received: float) -> Request:
    model = asked["alias"] or ""
    made = _stand_in.request(asked["path"], model, key=_stand_in.KEY, stream=asked["stream"])
    return attrs.evolve(made, method=asked["method"], received=received)


class _Run:
    def __init__(self, snapshot: Snapshot, request: Request, notes: _Notes, lines: list[str]) -> None:
        self.same = True
        self._notes = notes
        self._lines = lines
        self._answers = _stand_in.Answers(request)
        random = _NotedRandom(notes)
        upkeep = Upkeep(_NotedLedger(notes), _NotedHealth(notes), _NotedBalancer(notes), random)
        self._gateway = Gateway(snapshot, random=random)
        self._upkeep = upkeep
        self._request = request

    def run(self) -> None:
        with self._gateway.admit(self._request, 0.0, upkeep=self._upkeep) as exchange:
            _, now = self._notes.next("begin")
            action = exchange.begin(now)
            self._compare(described(action, 0.0), now)
            while not self._notes.over:
                note = self._notes.next("event", "answer begun")
                if note[0] == "answer begun":
                    exchange.answer_begun()
                    continue
                _, now, name, what = note
                found = what[0] if isinstance(what, list) else what
                self._lines.append(f"{now:10.3f} s   {name}{'' if found is None else f' {found}'}")
                action = exchange.feed(self._event(name, what), now)
                self._compare(described(action, 0.0), now)

    def _compare(self, action: Note, now: float) -> None:
        _, *recorded = self._notes.next("action")
        self._lines.append(f"{now:10.3f} s {' '.join(str(part) for part in action if part is not None)}")
        if action != recorded:
            self.same = False
            self._lines.append(f"{'':10}   THE RECORDING HAS {' '.join(str(part) for part in recorded)}")

    def _event(self, name: str, what: Any) -> Event:
        match name:
            case "Acquired":
                return Acquired(_outcome(what))
            case "UpstreamResponded":
                status, headers = what
                return UpstreamResponded(status, [(key.encode(), value.encode("latin-1")) for key, value in headers])
            case "UpstreamFailed":
                return UpstreamFailed(what)
            case "BodyRead":
                found, ended = what
                return BodyRead(self._piece(found), ended)
            case "BodyCollected":
                return BodyCollected(self._answers.body(what, stream=False))
            case "WaitOver":
                return WaitOver()
            case _:
                return PassedOn()

    def _piece(self, found: Any) -> bytes:
        """Something that the core will find the same in."""
        match found:
            case None:
                return b": \n\n"
            case "CONTENT":
                return self._answers.body("ok", stream=True)
            case "NOTHING":
                return b"data: [DONE]\n\n"
            case "TOO_MUCH":
                return b": \n\n" * 9
            case "unusable":
                return b"data: ?\n\n"
            case _:
                return self._answers.body(f"embedded_{found}", stream=True)
