"""What the core was told in an exchange that ended badly, kept in a file, so that `replay` can tell it again.

Bodies, keys and the values of most headers are left out: what stood in a body is kept as what it turned out to be.
"""

import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final, Self, TypeAlias

import attrs
import trio

from onwards_core import (
    Acquired,
    Action,
    BodyCollected,
    BodyRead,
    Event,
    Exchange,
    Gateway,
    Headers,
    PassedOn,
    PassOn,
    Pool,
    ReadBody,
    Record,
    Request,
    Respond,
    SendUpstream,
    StreamThrough,
    Upkeep,
    UpstreamFailed,
    UpstreamResponded,
    Wait,
    WaitOver,
)
from onwards_core._admission import Admission
from onwards_core._health import Health, Trial
from onwards_core._ledger import Claim, Ledger, Limit, Permit, Refusal
from onwards_core._preamble import Found, Preamble
from onwards_core._strategies import Balancer

MOST_FILES: Final = 1000
"""Of one process."""
_WAITING: Final = 100  # files that the disk has not taken yet
_KEPT_HEADERS: Final = (b"content-type", b"content-encoding", b"retry-after", b"retry-after-ms", b"date")

_log = logging.getLogger("onwards")

Note: TypeAlias = list[Any]
"""JSON: what kind of note it is, and what is to be known of it."""


@attrs.frozen
class _Noting(Upkeep):
    """Passes every question on to the gateway's own upkeep, and notes what it said."""

    notes: list[Note]

    @classmethod
    def of(cls, real: Upkeep) -> "_Noting":
        notes: list[Note] = []
        return cls(
            _NotingLedger(real.ledger, notes),
            _NotingHealth(real.health, notes),
            _NotingBalancer(real, notes),
            _NotingRandom(real.random, notes),
            notes,
        )


class _NotingLedger(Ledger):
    def __init__(self, real: Ledger, notes: list[Note]) -> None:
        self._real = real
        self._notes = notes

    def acquire(self, limits: Sequence[Limit], now: float) -> Permit | Refusal | Claim:
        found = self._real.acquire(limits, now)
        self._notes.append(["acquire", "claim" if isinstance(found, Claim) else _refusal(found)])
        return found


def _refusal(found: Permit | Refusal) -> Note | None:
    return list(attrs.astuple(found)) if isinstance(found, Refusal) else None


class _NotingHealth(Health):
    def __init__(self, real: Health, notes: list[Note]) -> None:
        self._real = real
        self._notes = notes
        self.state = real.state  # type: ignore[method-assign]
        self.succeeded = real.succeeded  # type: ignore[method-assign]
        self.failed = real.failed  # type: ignore[method-assign]
        self.completed = real.completed  # type: ignore[method-assign]
        self.abandoned = real.abandoned  # type: ignore[method-assign]
        self.pause = real.pause  # type: ignore[method-assign]

    def admits(self, identity: str, now: float) -> Trial | bool:
        found = self._real.admits(identity, now)
        self._notes.append(["admits", bool(found)])
        return found

    def paused_until(self, identity: str, now: float) -> float | None:
        found = self._real.paused_until(identity, now)
        self._notes.append(["paused", None if found is None else found - now])
        return found


class _NotingBalancer(Balancer):
    def __init__(self, real: Upkeep, notes: list[Note]) -> None:
        self._real = real
        self._notes = notes
        self.observe_latency = real.balancer.observe_latency  # type: ignore[method-assign]

    def order(
        self, pool: Pool, ledger: Ledger, random: Random, affinity_key: bytes | None, now: float
    ) -> Iterator[int]:
        real = self._real
        for index in real.balancer.order(pool, real.ledger, real.random, affinity_key, now):
            self._notes.append(["next", index])
            yield index
        self._notes.append(["next", None])


class _NotingRandom(Random):
    def __new__(cls, *_: object) -> Self:
        return super().__new__(cls)

    def __init__(self, real: Random, notes: list[Note]) -> None:
        self._real = real
        self._notes = notes

    def random(self) -> float:
        found = self._real.random()
        self._notes.append(["random", found])
        return found

    def getrandbits(self, k: int, /) -> int:
        return self._real.getrandbits(k)


class _RecordedExchange(Exchange):
    """Notes what it is told, and what it wants."""

    def __init__(self, request: Request, record: Record, admission: Admission | Respond, upkeep: Upkeep) -> None:
        super().__init__(request, record, admission, upkeep)
        assert isinstance(upkeep, _Noting)
        self.notes = upkeep.notes
        self._seen = Preamble()

    def begin(self, now: float) -> Action:
        self.notes.append(["begin", now - self.record.started])
        return self._noted(super().begin(now))

    def feed(self, event: Event, now: float) -> Action:
        note: Note = ["event", now - self.record.started, type(event).__name__]
        self.notes.append(note)
        attempt = self.record.attempts[-1] if self.record.attempts else None
        action = super().feed(event, now)
        note.append(self._described(event, attempt.outcome if attempt else None))
        return self._noted(action)

    def answer_begun(self) -> None:
        self.notes.append(["answer begun"])
        super().answer_begun()

    def _described(self, event: Event, outcome: str | None) -> Any:
        match event:
            case Acquired():
                return _refusal(event.outcome)
            case UpstreamResponded():
                self._seen = Preamble()
                return [event.status, _kept(event.headers)]
            case UpstreamFailed():
                return event.reason
            case BodyRead():
                found = self._seen.feed(event.data, ended=event.ended)
                verdict = found.name if isinstance(found, Found) else found
                return ["unusable" if outcome == "protocol" else verdict, event.ended]
            case BodyCollected():
                return outcome
            case WaitOver() | PassedOn():
                return None

    def _noted(self, action: Action) -> Action:
        self.notes.append(["action", *described(action, self.record.started)])
        return action


def described(action: Action, started: float) -> Note:
    """An action, as far as it can be compared."""
    kind = type(action).__name__
    match action:
        case SendUpstream():
            return [kind, action.provider.label]
        case Wait() | ReadBody():
            return [kind, None if action.until is None else round(action.until - started, 6)]
        case PassOn() | StreamThrough() | Respond():
            return [kind, action.status]
        case _:
            return [kind]


def _kept(headers: Headers) -> list[list[str]]:
    return [[name.decode(), value.decode("latin-1")] for name, value in headers if name in _KEPT_HEADERS]


class Incidents:
    """Keeps exchanges that ended badly, one file each. Call `run` in a task of its own, and `aclose` at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._send, self._receive = trio.open_memory_channel[tuple[str, Any]](_WAITING)
        self._count = 0
        self._lost = 0
        self._over = trio.Event()

    def admit(self, gateway: Gateway, request: Request, now: float, record: Record) -> Exchange:
        """As the gateway's own `admit`, and takes notes from there on."""
        upkeep = _Noting.of(gateway.upkeep)
        return gateway.admit(request, now, record, upkeep=upkeep, kind=_RecordedExchange)

    def consider(self, exchange: Exchange, request: Request, digest: str) -> None:
        """Keep an exchange that is over, if it ended badly. digest: of the config that it met."""
        record = exchange.record
        outcome = record.attempts[-1].outcome if record.attempts else None
        no_answer = outcome is not None and outcome.startswith(("embedded_", "empty"))
        bad = record.outcome == "broken" or (record.status or 0) >= 500 or no_answer
        if not bad or not isinstance(exchange, _RecordedExchange) or self._count >= MOST_FILES:
            return
        self._count += 1
        kept = {
            "config": digest,
            "received": request.received,
            "request": {
                "method": record.method,
                "path": record.path.decode("latin-1"),
                "headers": sorted({name.decode("latin-1") for name, _ in request.headers}),
                "body_bytes": len(request.body),
                "alias": record.alias,
                "key": record.key,
                "stream": exchange.wants_stream,
            },
            "outcome": record.outcome,
            "status": record.status,
            "notes": exchange.notes,
        }
        name = f"{int(time.time())}-{os.getpid()}-{self._count:04}.json"
        try:
            self._send.send_nowait((name, kept))
        except trio.WouldBlock:
            self._lost += 1

    async def run(self) -> None:
        """Write what there is to write, without holding anything up."""
        async for name, kept in self._receive:
            try:
                await trio.to_thread.run_sync(partial(self._write, name, kept))
            except OSError as error:
                _log.warning("an incident could not be kept: %s", error.strerror)
            if self._lost:
                _log.warning("%d incidents were not kept: the disk is too slow", self._lost)
                self._lost = 0
        self._over.set()

    async def aclose(self) -> None:
        """Wait for what is left to be written, but not long."""
        self._send.close()
        with trio.move_on_after(2):
            await self._over.wait()

    def _write(self, name: str, kept: Any) -> None:
        part = self._folder / f".{name}"
        try:
            part.write_text(json.dumps(kept))
            part.replace(self._folder / name)
        except OSError:
            part.unlink(missing_ok=True)  # Half of one is of no use, and takes what little room there is.
            raise
