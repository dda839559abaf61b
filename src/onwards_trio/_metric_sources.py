"""What metrics read when they are collected, which costs no request anything."""

import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

import trio

from onwards_core import Gateway, Record
from onwards_core._health import CircuitState
from onwards_core._ledger import Limit
from onwards_trio._access_log import AccessLog
from onwards_trio._log import lines_dropped
from onwards_trio._metrics import Sample, Source, http_labels
from onwards_trio._reload import Reloader
from onwards_trio._store import Keeper
from onwards_trio._upstream._protocol import Transport


def requests(under_way: Callable[[], Iterable[Record]], aliases: Callable[[], Iterable[str]] = tuple) -> Source:
    """under_way: the records of the requests that are being answered now. aliases: those that there are."""

    def read() -> Iterator[Sample]:
        records = list(under_way())
        for labels, count in Counter(map(http_labels, records)).items():
            yield "http_requests_pending", labels, count
        busy = dict.fromkeys(aliases(), 0) | Counter(each.alias for each in records if each.alias is not None)
        for alias, count in busy.items():
            yield "model_inflight", (alias,), count

    return read


def limits_and_circuits(gateway: Gateway) -> Source:
    """Of all keys, pools and providers that the config in force has."""

    def read() -> Iterator[Sample]:
        now = trio.current_time()
        for key in gateway.snapshot.key_limits.values():
            yield from of_limit(key.limit, now, "key", "", key.name)
        for pool in gateway.snapshot.pools.values():
            yield from of_limit(pool.limit, now, "pool", pool.alias, pool.alias)
            for provider in pool.providers:
                yield from of_limit(provider.limit, now, "provider", pool.alias, provider.label)
                if pool.health is not None:
                    current = gateway.health.state(provider.identity, now)
                    for state in CircuitState:
                        labels = pool.alias, provider.label, state.name.lower()
                        yield "circuit_state", labels, float(state is current)

    def of_limit(limit: Limit, now: float, *labels: str) -> Iterator[Sample]:
        yield "permits_in_use", labels, gateway.ledger.permits_out(limit.identity)
        if limit.permits is not None:
            yield "permits_limit", labels, limit.permits
        left = gateway.ledger.tokens_left(limit, now)
        if left is not None and limit.rate is not None:
            yield "rate_tokens_left", labels, left
            yield "rate_tokens_limit", labels, limit.rate.burst

    return read


def program(reloader: Reloader) -> Source:
    """What runs here, and under which config."""
    build = version("onwards"), platform.python_version()

    def read() -> Iterator[Sample]:
        yield "build_info", build, 1
        yield "config_age_seconds", (), time.time() - reloader.loaded
        yield "config_last_reload_ok", (), float(reloader.last is None or not reloader.last.problems)
        for outcome, count in reloader.counts.items():
            yield "config_reloads_total", (outcome,), count

    return read


def logs(access_log: AccessLog | None) -> Source:
    """What they have lost."""

    def read() -> Iterator[Sample]:
        yield "log_lines_dropped_total", ("program",), lines_dropped()
        if access_log is not None:
            yield "log_lines_dropped_total", ("access",), access_log.dropped

    return read


def connections(transport: Transport) -> Source:
    """Of its connections to providers."""

    def read() -> Iterator[Sample]:
        for state, counts in zip(("active", "idle"), transport.connections(), strict=True):
            for host, count in counts.items():
                yield "upstream_connections", (host, state), count
        for host, count in transport.opened.items():
            yield "upstream_connections_opened_total", (host,), count
            yield "upstream_requests_total", (host, "new"), count
        for host, count in transport.reused.items():
            yield "upstream_requests_total", (host, "reused"), count

    return read


def tasks() -> Iterator[Sample]:
    """Of the event loop."""
    yield "event_loop_tasks", (), trio.lowlevel.current_statistics().tasks_living


def sharing(store: Keeper) -> Source:
    """store: keeps the limits that several processes share."""

    def read() -> Iterator[Sample]:
        fleet = store.ledger.fleet
        yield "store_up", (), 0 if store.away or fleet is None else 1
        yield "store_losses_total", (), store.losses
        yield "store_calls_total", (), store.calls
        if fleet is not None:
            yield "store_processes", (), fleet.processes
            yield "store_configs", (), fleet.configs

    return read
