"""What all workers together have counted, and what goes on in them: exact also when some of them are gone.

Each worker is asked when somebody asks, and once a second besides, so that of one that is killed at most the counts
of its last second are lost. One that ends properly hands its counts over.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Literal

import msgspec
import trio

from onwards_trio._channel import ChannelError
from onwards_trio._metric_data import Families, Series, merge
from onwards_trio._metric_definitions import BY_NAME
from onwards_trio._metrics import Metrics
from onwards_trio._running import Running
from onwards_trio._status import Board
from onwards_trio._status_data import Status
from onwards_trio._status_data import merge as merge_statuses

PATIENCE: Final = 2.0
"""Seconds for a worker to answer; after that, what it said last counts."""
INTERVAL: Final = 1.0
"""Seconds between two times that each worker is asked in any case."""


class Merged:
    """metrics, board: of the parent, which knows the config in force. current: who is ready, in each place."""

    def __init__(self, metrics: Metrics, board: Board, current: Callable[[], Sequence[Running | None]]) -> None:
        self.workers: set[Running] = set()
        """All that live."""
        self.exits: Counter[Literal["crashed", "replaced"]] = Counter()
        self._metrics = metrics
        self._board = board
        self._current = current
        self._known: dict[Running, Families] = {}
        """What each said last."""
        self._gone: Families = {}
        """What those counted that are gone."""

    # --- asking

    async def collect(self) -> Families:
        """The metrics of all, those that are gone included."""
        await self._ask_all()
        return merge([self._gone, *self._known.values(), self._own()])

    async def status(self) -> Status:
        """Of all that live."""
        statuses: list[Status] = []

        async def ask(worker: Running) -> None:
            with suppress(ChannelError):
                statuses.append(await worker.channel.call("status", None, Status, PATIENCE))

        async with trio.open_nursery() as nursery:
            for worker in self.workers:
                if worker.ready.is_set():
                    nursery.start_soon(ask, worker)
        own = msgspec.structs.replace(self._board.read(), processes=0)
        return merge_statuses([own, *statuses])

    async def keep_asking(self) -> None:
        """Never returns."""
        while True:
            await trio.sleep(INTERVAL)
            await self._ask_all()

    async def _ask_all(self) -> None:
        async with trio.open_nursery() as nursery:
            for worker in self.workers:
                if worker.ready.is_set() and not worker.handed_over:
                    nursery.start_soon(self._ask, worker)

    async def _ask(self, worker: Running) -> None:
        with suppress(ChannelError):
            counted = await worker.channel.call("collect", None, Families, PATIENCE)
            if worker in self.workers and not worker.handed_over:
                self._known[worker] = counted

    def _own(self) -> Families:
        current = self._current()
        ready = [each is not None for each in current]
        states = {"wanted": len(current), "ready": sum(ready), "leaving": sum(each.leaving for each in self.workers)}
        return {
            **self._metrics.collect(),
            "workers": [Series((state,), count) for state, count in states.items()],
            "worker_ready": [Series((str(number),), int(is_ready)) for number, is_ready in enumerate(ready)],
            "worker_exits_total": [Series((reason,), self.exits[reason]) for reason in ("crashed", "replaced")],
        }

    # --- ends

    def add_final(self, worker: Running, counted: Families) -> None:
        """What it counted in all, at its end."""
        worker.handed_over = True
        self._known[worker] = counted

    def forget(self, worker: Running) -> None:
        """It is gone: its counts stay, what it was at the moment does not."""
        self.workers.discard(worker)
        counted = self._known.pop(worker, {})
        lasting = {name: family for name, family in counted.items() if BY_NAME[name].kind != "gauge"}
        self._gone = merge([self._gone, lasting])
