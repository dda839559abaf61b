"""What goes on in this process: counted from the records of exchanges, or read when it is asked for."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Final, Literal, TypeVar

import trio

from onwards_core import Attempt, Gateway, LeasedLedger, Pool, Provider, Record
from onwards_core._health import CircuitState
from onwards_core._ledger import Limit
from onwards_trio._reload import Reloader
from onwards_trio._status_data import (
    CLIENTS_FAULT,
    NOT_ITS_DOING,
    SLOT,
    SLOTS,
    TROUBLES,
    Bucket,
    Circuit,
    ConfigInForce,
    ConfigStatus,
    KeyStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    ReloadStatus,
    Series,
    Status,
    Trouble,
    latency_step,
    merged_series,
    merged_troubles,
)

_K = TypeVar("_K")

_CIRCUITS: Final[Mapping[CircuitState, Circuit]] = {
    CircuitState.CLOSED: "closed",
    CircuitState.TRIAL: "trial",
    CircuitState.OPEN: "open",
}


class _Tally:
    """What is counted."""

    def __init__(self, offset: float) -> None:
        self.exchanges: dict[str | None, Series] = {}
        """By alias."""
        self.attempts: dict[tuple[str | None, str], Series] = {}
        """By alias and provider."""
        self.troubles: dict[tuple[str | None, ...], Trouble] = {}
        """The latest ones last."""
        self._offset = offset
        self._since = self._until = -math.inf
        """The newest slot, in times of records."""
        self._current: dict[object, Bucket] = {}
        """Its buckets, by the keys of either series."""

    def count_exchange(self, record: Record) -> None:
        ended = record.ended or record.started
        bucket = self._bucket(self.exchanges, record.alias, ended)
        verdict = record.verdict
        if record.code is not None and verdict in ("refused", "client_error"):
            bucket.refused += 1
            self._note("refusal", record, None, record.code, None, ended, by=record.refused_by)
            return
        bucket.done += 1
        if verdict in ("provider_error", "broken"):
            bucket.failed += 1
        elif record.first_byte is not None:
            step = latency_step(record.first_byte - record.started)
            bucket.latencies[step] = bucket.latencies.get(step, 0) + 1

    def count_attempts(self, record: Record) -> None:
        """Those that have ended."""
        attempts = record.attempts
        for number, attempt in enumerate(attempts):
            ended, outcome = attempt.ended, attempt.outcome
            if ended is None or outcome is None:
                continue
            bucket = self._bucket(self.attempts, (record.alias, attempt.provider), ended)
            if outcome == "ok" or outcome in CLIENTS_FAULT:
                bucket.done += 1
                step = latency_step(ended - attempt.started)
                bucket.latencies[step] = bucket.latencies.get(step, 0) + 1
                continue
            if outcome in NOT_ITS_DOING:
                bucket.refused += 1
            else:
                bucket.done += 1
                bucket.failed += 1
            then = attempts[number + 1].provider if number + 1 < len(attempts) else None
            if then is not None or record.ended is not None:  # else there may be one
                self._note("attempt", record, attempt, outcome, then, ended)

    def _bucket(self, series: dict[_K, Series], key: _K, at: float) -> Bucket:
        if self._since <= at < self._until:
            bucket = self._current.get(key)
            if bucket is None:
                bucket = self._current[key] = self._find_bucket(series, key, at)
            return bucket
        if at >= self._until:
            self._since = (at + self._offset) // SLOT * SLOT - self._offset
            self._until = self._since + SLOT
            self._current.clear()
        return self._find_bucket(series, key, at)

    def _find_bucket(self, series: dict[_K, Series], key: _K, at: float) -> Bucket:
        slot = int((at + self._offset) // SLOT)
        buckets = series.setdefault(key, {})
        bucket = buckets.get(slot)
        if bucket is None:
            bucket = buckets[slot] = Bucket()
            for old in [each for each in buckets if each <= slot - SLOTS]:
                del buckets[old]
        return bucket

    def forget_others(self, pools: Mapping[str, Pool]) -> None:
        """What an earlier config had."""
        for alias in [alias for alias in self.exchanges if alias is not None and alias not in pools]:
            del self.exchanges[alias]
        known = {(pool.alias, provider.label) for pool in pools.values() for provider in pool.providers}
        for key in [key for key in self.attempts if key not in known]:
            del self.attempts[key]
        self._current.clear()

    def _note(
        self,
        kind: Literal["refusal", "attempt"],
        record: Record,
        attempt: Attempt | None,
        reason: str,
        then: str | None,
        at: float,
        *,
        by: str | None = None,
    ) -> None:
        trouble = Trouble(
            kind=kind,
            alias=record.alias,
            key=None if attempt else record.key,
            provider=attempt.provider if attempt else None,
            reason=reason,
            by=by,
            then=then,
        )
        # The latest one goes to the end.
        trouble = self.troubles.pop(trouble.what, trouble)
        self.troubles[trouble.what] = trouble
        trouble.count += 1
        trouble.first = min(trouble.first, at + self._offset)
        trouble.last = max(trouble.last, at + self._offset)
        if len(self.troubles) > TROUBLES:
            del self.troubles[next(iter(self.troubles))]


class Board:
    """Give `observe` the record of each request once that is answered. `read` gives all that is known by then.

    under_way: the records of the requests that are being answered now.
    """

    def __init__(
        self,
        gateway: Gateway,
        reloader: Reloader,
        under_way: Callable[[], Iterable[Record]],
        draining: Callable[[], bool],
    ) -> None:
        self._gateway = gateway
        self._reloader = reloader
        self._under_way = under_way
        self._draining = draining
        self._offset = time.time() - trio.current_time()
        self._tally = _Tally(self._offset)
        self._started = time.time()
        self._version = version("onwards")

    def observe(self, record: Record) -> None:
        """Count a request whose record is final."""
        self._tally.count_exchange(record)
        self._tally.count_attempts(record)

    def read(self) -> Status:
        """To be merged or shown before the next record is observed: it is no copy."""
        now = trio.current_time()
        snapshot = self._gateway.snapshot
        under_way = list(self._under_way())
        early = _Tally(self._offset)  # A stream may go on for minutes after an attempt that failed.
        for record in under_way:
            early.count_attempts(record)
        self._tally.forget_others(snapshot.pools)
        reload = self._reloader.last
        return Status(
            at=now + self._offset,
            started=self._started,
            version=self._version,
            draining=self._draining(),
            in_flight=len(under_way),
            config=ConfigStatus(
                [snapshot.digest],
                self._reloader.loaded,
                ReloadStatus(reload.at, list(reload.problems)) if reload else None,
                self._in_force(),
            ),
            pools=[self._pool(pool, early, now) for pool in snapshot.pools.values()],
            keys=[KeyStatus(key.name, self._limits(key.limit, now)) for key in snapshot.key_limits.values()],
            troubles=merged_troubles((self._tally.troubles.values(), early.troubles.values())),
            others=self._tally.exchanges.get(None, {}),
        )

    def _in_force(self) -> list[ConfigInForce]:
        ledger = self._gateway.ledger
        if not isinstance(ledger, LeasedLedger) or ledger.fleet is None:
            return []
        return [ConfigInForce(each.config, each.count, list(each.processes)) for each in ledger.fleet.in_force]

    def _pool(self, pool: Pool, early: _Tally, now: float) -> PoolStatus:
        return PoolStatus(
            pool.alias,
            self._limits(pool.limit, now),
            [self._provider(pool, provider, early, now) for provider in pool.providers],
            self._tally.exchanges.get(pool.alias, {}),
        )

    def _provider(self, pool: Pool, provider: Provider, early: _Tally, now: float) -> ProviderStatus:
        health = self._gateway.health
        # Without a policy nobody would ask for what an earlier one has found.
        circuit = _CIRCUITS[health.state(provider.identity, now)] if pool.health else "closed"
        open_until = health.open_until(provider.identity) if circuit == "open" else None
        paused_until = health.paused_until(provider.identity, now)
        key = pool.alias, provider.label
        attempts = self._tally.attempts.get(key, {})
        if key in early.attempts:
            attempts = merged_series([attempts, early.attempts[key]])
        return ProviderStatus(
            provider.label,
            self._limits(provider.limit, now),
            circuit,
            None if open_until is None else open_until + self._offset,
            None if paused_until is None else paused_until + self._offset,
            attempts,
        )

    def _limits(self, limit: Limit, now: float) -> Limits:
        ledger = self._gateway.ledger
        rate = limit.rate
        return Limits(
            held=ledger.permits_out(limit.identity),
            permits=limit.permits,
            tokens=ledger.tokens_left(limit, now),
            burst=rate.burst if rate else None,
            per_second=1e9 / rate.interval if rate else None,
        )
