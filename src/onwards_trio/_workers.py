"""The parent of several workers: it listens, but does not serve clients; it starts the workers, replaces those that
end, passes on what operators want, and answers operators for all of them (`_merged`).

A worker's life: its process is started, asks what it should know, and tells when it is ready. It ends when it was told
to drain or to retire, having handed over its counts, or it crashes.
"""

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from random import Random
from typing import Final

import attrs
import msgspec
import trio

from onwards_core import ConfigError, Gateway
from onwards_core._lease_calls import InForce
from onwards_trio._channel import Channel, ChannelError
from onwards_trio._crowd import Crowd, open_crowd
from onwards_trio._load import load_snapshot
from onwards_trio._merged import Merged
from onwards_trio._metric_data import Families
from onwards_trio._metric_sources import program
from onwards_trio._metrics import Metrics
from onwards_trio._operators import announce, listen, operators_server
from onwards_trio._options import Options
from onwards_trio._reload import Reloader
from onwards_trio._running import Running
from onwards_trio._server_tls import ServerTls
from onwards_trio._status import Board
from onwards_trio._store._embedded import NAME as LIMITS
from onwards_trio._store._embedded import EmbeddedStore
from onwards_trio._tcp import TcpStream
from onwards_trio._wire._choose import codecs
from onwards_trio._worker import Start

STEADY: Final = 10.0
"""Seconds that a worker has to live for its crash to be no sign that the next one will crash, too."""
_FIRST_DELAY: Final = 0.2
_LONGEST_DELAY: Final = 30.0
"""Seconds until a worker that crashed again and again is replaced: the first time, and at most."""
_START_TIME: Final = 60.0
"""Seconds in which a worker that is to replace another has to be ready."""
_FAREWELL: Final = 5.0
"""Seconds for a worker to end when its channel was cut."""

_log = logging.getLogger("onwards.workers")


async def supervise(options: Options) -> None:
    """Run the gateway with several workers until SIGTERM or SIGINT, then drain them. Raises as `serve` does."""
    codecs(options.http_codec)
    if options.config.exists() and not options.config.is_file():
        raise ConfigError(("with workers it has to be a file that can be read again",))
    async with AsyncExitStack() as opened:
        parent = Parent(options)
        tls = ServerTls(options.tls_cert, options.tls_key, options.tls_client_ca) if options.tls_cert else None
        listeners = await listen(opened, options.host, options.port)
        parent.listening = [listener.socket.fileno() for listener in listeners]
        admin_listeners = await listen(opened, options.metrics_host, options.metrics_port) if options.metrics else []
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
        signals = opened.enter_context(trio.open_signal_receiver(*wanted))
        nursery = await opened.enter_async_context(trio.open_nursery())

        async def obey_signals() -> None:
            async for number in signals:
                if number == signal.SIGHUP:
                    nursery.start_soon(parent.reloader.reload, parent.gateway)
                    parent.tell_all("reopen_log")  # whatever becomes of the config
                    if tls:
                        tls.reload()
                        parent.tell_all("reload_tls")
                elif number == signal.SIGUSR2:
                    parent.replace_wanted.set()
                elif parent.draining:
                    nursery.cancel_scope.cancel()
                else:
                    _log.info("draining for at most %g seconds", options.drain_delay + options.drain_seconds)
                    parent.drain()
                    nursery.start_soon(stop_listening)

        async def stop_listening() -> None:
            await trio.sleep(options.drain_delay)
            for listener in listeners:
                await listener.aclose()

        nursery.start_soon(obey_signals)
        if options.watch:
            nursery.start_soon(parent.reloader.watch, parent.gateway)
            if tls:
                nursery.start_soon(tls.watch, lambda: parent.tell_all("reload_tls"))
        if options.metrics:
            operators = operators_server(
                options, parent.merged.collect, parent.merged.status, parent.unready, parent.in_force
            )
            nursery.start_soon(operators.serve, admin_listeners)
            announce("metrics on", "http", admin_listeners)
        await parent.run(lambda: announce("listening on", "https" if tls else "http", listeners))
        nursery.cancel_scope.cancel()


class Parent:
    """Call `run`; `drain` ends it."""

    def __init__(self, options: Options) -> None:
        self.draining = False
        self.listening: list[int] = []
        self.replace_wanted = trio.Event()
        self._options = options
        self._hash_key = os.urandom(32)
        self.reloader = Reloader(options.config, self._hash_key, options.server, lambda: self.tell_all("reload"))
        snapshot = load_snapshot(options.config, self._hash_key, options.server)
        self.gateway = Gateway(snapshot, random=Random())  # noqa: S311  # It decides nothing here.
        _log.info("config loaded, targets: %d; workers: %d", len(snapshot.pools), options.workers)
        board = Board(self.gateway, self.reloader, list, lambda: self.draining)
        self.merged = Merged(Metrics(program(self.reloader)), board, lambda: self._current)
        self._current: list[Running | None] = [None] * options.workers
        self._running: set[Running] = set()
        self._failures = [0] * options.workers
        self._crowd_file = open_crowd(options.workers)
        self._crowd = Crowd(self._crowd_file)
        self._limits = EmbeddedStore()
        self._level = logging.getLevelName(logging.getLogger().level)

    def unready(self) -> str:
        """Why no requests are wanted; empty: they are, since at least half of the workers are ready."""
        if self.draining:
            return "draining"
        ready = sum(each is not None for each in self._current)
        return "" if 2 * ready >= len(self._current) else f"{ready} of {len(self._current)} workers are ready"

    def in_force(self) -> tuple[InForce, ...]:
        """Which configs there are among all who share limits, by the account of whoever knows of most."""
        return max((worker.in_force for worker in self._running), key=len, default=())

    def tell_all(self, what: str, body: object = None) -> None:
        for worker in self._running:
            with suppress(ChannelError):
                worker.channel.tell(what, body)

    def drain(self) -> None:
        """Let all workers end as a single process would."""
        self.draining = True
        for worker in self._running:
            worker.leaving = True
        self.tell_all("drain", self._options.drain_delay)

    async def run(self, started: Callable[[], None]) -> None:
        """Returns when all workers have ended after `drain`. started: called when all are ready."""
        async with trio.open_nursery() as watch:
            watch.start_soon(self.merged.keep_asking)
            watch.start_soon(self._limits.prune)
            async with trio.open_nursery() as workers:
                watch.start_soon(self._replace_when_wanted, workers)
                ready = [await self._start(workers, number) for number in range(len(self._current))]
                for worker in ready:
                    await _first_of(worker.ready.wait, worker.ended.wait)
                started()
            watch.cancel_scope.cancel()

    async def _replace_when_wanted(self, workers: trio.Nursery) -> None:
        while True:
            await self.replace_wanted.wait()
            self.replace_wanted = trio.Event()
            for number in range(len(self._current)):
                if not self.draining and not await self._replace(workers, number):
                    break

    async def _replace(self, workers: trio.Nursery, number: int) -> bool:
        """Whether there is a new one."""
        worker = await self._start(workers, number)
        with trio.move_on_after(_START_TIME):
            await _first_of(worker.ready.wait, worker.ended.wait)
        if worker.ready.is_set():
            return True
        _log.error("worker %d is not replaced: the new one did not become ready", number)
        worker.leaving = True
        worker.process.kill()
        return False

    async def _start(self, workers: trio.Nursery, number: int) -> Running:
        worker: Running = await workers.start(self._run, workers, number)
        return worker

    async def _start_again(self, workers: trio.Nursery, number: int, delay: float) -> None:
        await trio.sleep(delay)
        if self._current[number] is None and not self.draining:
            await self._start(workers, number)

    async def _run(
        self, workers: trio.Nursery, number: int, task_status: trio.TaskStatus[Running] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """One process, from its start to its end."""
        ours, theirs = socket.socketpair()

        async def answer_start(_: msgspec.Raw) -> bytes:
            options = attrs.evolve(self._options, metrics_key=None)
            return pickle.dumps(Start(number, options, self._level, self._hash_key, self.listening, self._crowd_file))

        async def answer_ready(_: msgspec.Raw) -> None:
            self._take_over(worker)

        async def answer_rollout(in_force: msgspec.Raw) -> None:
            worker.in_force = msgspec.msgpack.decode(in_force, type=tuple[InForce, ...])

        async def answer_final(counted: msgspec.Raw) -> None:
            self.merged.add_final(worker, msgspec.msgpack.decode(counted, type=Families))

        answer_limits = self._limits.answer()
        answers = {
            "start": answer_start,
            "ready": answer_ready,
            "rollout": answer_rollout,
            "final": answer_final,
            LIMITS: answer_limits,
        }
        channel = Channel(TcpStream(ours), answers)
        with theirs:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "onwards_trio", "_worker", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), self._crowd_file, *self.listening),
            )
        worker = Running(number, process, channel)
        self._running.add(worker)
        self.merged.workers.add(worker)
        if self.draining:
            worker.leaving = True
        began = trio.current_time()
        task_status.started(worker)
        try:
            with suppress(ChannelError):
                await channel.run()
            with trio.move_on_after(_FAREWELL):
                await process.wait()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _FAREWELL):
                ours.close()
                with trio.move_on_after(_FAREWELL / 2):
                    await process.wait()
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            self._limits.forget(answer_limits)
            self._running.discard(worker)
            self.merged.forget(worker)
            worker.ended.set()
        self._after(workers, worker, trio.current_time() - began)

    def _take_over(self, worker: Running) -> None:
        """It is ready, so the one before may go."""
        worker.ready.set()
        if worker.leaving:  # It was not yet there to be told so.
            with suppress(ChannelError):
                worker.channel.tell("drain", 0.0)
            return
        before = self._current[worker.number]
        self._current[worker.number] = worker
        _log.info("worker %d is ready, process %d", worker.number, worker.process.pid)
        if before is not None:
            before.leaving = True
            with suppress(ChannelError):
                before.channel.tell("retire")

    def _after(self, workers: trio.Nursery, worker: Running, lived: float) -> None:
        """Replace it, if nobody wanted its end."""
        number = worker.number
        if self._current[number] is worker:
            self._current[number] = None
            self._crowd.remove(number)
        if worker.leaving:
            self.merged.exits["replaced"] += 1
            _log.info("worker %d has ended, process %d", number, worker.process.pid)
            return
        self.merged.exits["crashed"] += 1
        self._failures[number] = 0 if lived >= STEADY else self._failures[number] + 1
        delay = backoff(self._failures[number])
        _log.error(
            "worker %d has crashed, process %d: %s; the next one starts in %g s",
            *(number, worker.process.pid, _reason(worker.process.returncode), delay),
        )
        workers.start_soon(self._start_again, workers, number, delay)


def backoff(failures: int) -> float:
    """Seconds until a worker is replaced, after so many that crashed soon after they were started."""
    return min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** (failures - 1)) if failures else 0.0


def _reason(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


async def _first_of(*waits: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(for_this: Callable[[], Awaitable[None]]) -> None:
            await for_this()
            nursery.cancel_scope.cancel()

        for each in waits:
            nursery.start_soon(wait, each)
