"""The whole program: config, listeners, reload, metrics and signals, put together."""

import ctypes
import gc
import logging
import math
import os
import resource
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Final

import attrs
import trio

from onwards_core import Gateway, Record, ServerConfig, Snapshot
from onwards_trio._access_log import AccessLog
from onwards_trio._drive import forward, screening
from onwards_trio._load import load_snapshot
from onwards_trio._log import log_record
from onwards_trio._metric_data import Families
from onwards_trio._metric_sources import connections, limits_and_circuits, logs, program, requests, sharing, tasks
from onwards_trio._metrics import Metrics
from onwards_trio._operators import announce, listen, operators_server
from onwards_trio._options import Options
from onwards_trio._probe import Prober
from onwards_trio._record import Incidents
from onwards_trio._reload import Reloader
from onwards_trio._server import Server
from onwards_trio._server_tls import ServerTls
from onwards_trio._status import Board
from onwards_trio._status_data import Status
from onwards_trio._store import Keeper
from onwards_trio._store._open import keeper, keeper_of_worker, lease_terms
from onwards_trio._tracing import traces
from onwards_trio._upstream import Transports
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._wire._choose import codecs
from onwards_trio._worker import Worker

_LAG_INTERVAL: Final = 0.25  # seconds
_OTHER_FILES: Final = 64
"""Listeners, the config, operators' connections, and some to providers that wait for their next request."""

_log = logging.getLogger("onwards")


STORE_WAIT: Final = 5.0
"""Seconds that are spent on waiting for a store of limits before requests are taken anyway."""


async def serve(options: Options, worker: Worker | None = None) -> None:  # noqa: C901, PLR0912, PLR0915  # It is a list of what there is.
    """Run the gateway until SIGTERM or SIGINT, then drain it. To be called in the main thread.

    worker: who this is, if it is one of several.

    Raises `ConfigError` for a config with mistakes, `OSError` for a file that can't be read or an address that can't
    be listened on.
    """
    if options.workers > 1 and worker is None:
        from onwards_trio._workers import supervise  # noqa: PLC0415  # Most gateways have one process.

        await supervise(options)
        return
    http = codecs(options.http_codec)
    hash_key = worker.hash_key if worker else os.urandom(32)
    reloader = Reloader(options.config, hash_key, options.server)
    gateway, store = _gateway(load_snapshot(options.config, hash_key, options.server), worker)
    tls = ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca) if options.tls_cert else None
    _log.info("config loaded, targets: %d", len(gateway.snapshot.pools))
    _collect_less_garbage()
    _keep_memory()
    async with AsyncExitStack() as opened:
        listeners = worker.listeners if worker else await listen(opened, options.host, options.port)
        serves_operators = options.metrics and worker is None
        admin_listeners = await listen(opened, options.metrics_host, options.metrics_port) if serves_operators else []
        if not worker:
            signals = opened.enter_context(trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        access_log = opened.enter_context(AccessLog(options.access_log)) if options.access_log else None
        tracing = traces()
        if tracing is not None:
            opened.enter_context(tracing)
        transport = await opened.enter_async_context(Transports(DirectTransport(http=http)))
        nursery = await opened.enter_async_context(trio.open_nursery())

        def observe(record: Record) -> None:
            metrics.observe(record)
            if options.metrics:
                board.observe(record)
            if access_log is not None:
                access_log.observe(record)
            if tracing is not None:
                tracing.observe(record)
            log_record(record)

        incidents = Incidents(options.record) if options.record else None
        server = Server(
            forward(gateway, transport, incidents, tracing.through if tracing else None),
            begin=tracing.begin if tracing else None,
            screen=screening(gateway),
            observe=observe,
            limits=lambda: _share(gateway.snapshot.server, options.workers),
            room=_room_for_connections(),
            drain_seconds=options.drain_seconds,
            http=http,
            tls=(lambda: tls.context) if tls else None,
            left=worker.place.disconnected if worker else lambda: None,
        )
        sources = [
            requests(server.under_way, lambda: gateway.snapshot.pools),
            limits_and_circuits(gateway),
            connections(transport),
            logs(access_log),
            tasks,
            *([sharing(store)] if store else []),
            *([] if worker else [program(reloader)]),  # The parent tells that for all.
        ]
        metrics = Metrics(*sources)
        board = Board(gateway, reloader, server.under_way, lambda: server.draining)

        async def collect() -> Families:
            return metrics.collect()

        async def read_status() -> Status:
            return board.read()

        def reload() -> None:
            nursery.start_soon(reloader.reload, gateway)

        def reopen_log() -> None:
            if access_log is not None:
                access_log.reopen()

        async def obey_signals() -> None:
            async for number in signals:
                if number == signal.SIGHUP:
                    reload()
                    reopen_log()
                    if tls:
                        tls.reload()
                elif server.draining:
                    nursery.cancel_scope.cancel()
                else:
                    _log.info("draining for at most %g seconds", options.drain_delay + options.drain_seconds)
                    server.drain(options.drain_delay)

        nursery.start_soon(Prober(gateway, transport).run)
        if options.metrics:
            nursery.start_soon(_measure_lag, metrics.observe_lag)
        if incidents is not None:
            nursery.start_soon(incidents.run)
        if worker:
            if store is not None:
                store.on_rollout = worker.tell_rollout
                await _begin_sharing(store, nursery)
            worker.obey(
                collect=collect,
                status=read_status,
                reload=reload,
                reopen_log=reopen_log,
                reload_tls=tls.reload if tls else None,
                drain=server.drain,
                retire=server.retire,
            )
        else:
            nursery.start_soon(obey_signals)
            if options.watch:
                nursery.start_soon(reloader.watch, gateway)
                if tls:
                    nursery.start_soon(tls.watch)
            if options.metrics:
                operators = operators_server(
                    options,
                    collect,
                    read_status,
                    lambda: "draining" if server.draining else "",
                    store.in_force if store else tuple,
                    store.remark if store else lambda: "",
                )
                nursery.start_soon(operators.serve, admin_listeners)
                announce("metrics on", "http", admin_listeners)
            if store is not None:
                await _begin_sharing(store, nursery)
            announce("listening on", "https" if tls else "http", listeners)
        await server.serve(listeners)
        if incidents is not None:
            await incidents.aclose()
        if store is not None:
            await store.leave()
        if worker:
            await worker.finish(metrics.collect())
        nursery.cancel_scope.cancel()


async def _measure_lag(observe: Callable[[float], None]) -> None:
    """Tell again and again how many seconds late a task gets its turn. Never returns."""
    while True:
        due = trio.current_time() + _LAG_INTERVAL
        await trio.sleep_until(due)
        observe(trio.current_time() - due)


def _gateway(snapshot: Snapshot, worker: Worker | None) -> tuple[Gateway, Keeper | None]:
    """With what keeps the limits that it shares, if it does."""
    state, random = snapshot.state, Random()  # noqa: S311  # Spreads load, no more.
    if state is not None and state.url is not None:
        gateway = Gateway(snapshot, random=random, terms=lease_terms(state))
        return gateway, keeper(gateway, state)
    if worker is not None:
        gateway = Gateway(snapshot, random=random, terms=lease_terms(state))
        return gateway, keeper_of_worker(gateway, worker.channel)
    return Gateway(snapshot, random=random), None


async def _begin_sharing(store: Keeper, nursery: trio.Nursery) -> None:
    """Before there are requests, which would be refused."""
    nursery.start_soon(store.run)
    with trio.move_on_after(STORE_WAIT):
        await store.opened.wait()


def _collect_less_garbage() -> None:
    """What is alive by now stays. The rest is looked through for cycles less often than by default, since with 1,000
    requests under way most of it is in use: that took a fifth of all CPU time, and there are hardly any cycles."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


# As `mallopt(3)` has them.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def _keep_memory() -> None:
    """Have glibc, where it is that, keep some memory for the next bodies, and not give it back to the system after each
    one: for a body of 100 KB that were 25 page faults, 15 % of all its CPU time."""
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, 16 * 1024 * 1024)
        mallopt(_M_MMAP_THRESHOLD, 1024 * 1024)


def _share(limits: ServerConfig, workers: int) -> ServerConfig:
    """A worker's part of what all connections together may take up. It holds one body in any case."""
    if workers == 1:
        return limits
    return attrs.evolve(
        limits,
        connections=math.ceil(limits.connections / workers),
        body_memory_bytes=max(math.ceil(limits.body_memory_bytes / workers), limits.body_bytes),
    )


def _room_for_connections() -> float:
    """For how many clients there are files, of which each may need another one for its provider. Takes all files that
    the system allows: the lower limit that most processes begin with is for programs that can't count further."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        return math.inf
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    room = max(1, (most - _OTHER_FILES) // 2)
    _log.info("open files: %d, which is enough for %d connections", most, room)
    return room
