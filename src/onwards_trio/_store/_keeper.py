"""The task that takes what a leased ledger wants to know to the store, and keeps the connection to it."""

import logging
from collections.abc import Callable
from typing import Final

import trio

from onwards_core import LeasedLedger
from onwards_core._lease_calls import Call, InForce, Reply
from onwards_trio._store._protocol import Store, StoreError, Talk

DEADLINE: Final = 0.05
"""Seconds that a call to the store may take."""
_CONNECT: Final = 2.0
"""Seconds for a connection and the first call on it."""
_LATE: Final = 0.01
"""Seconds more, in case it was we who were late: what has arrived by then still counts."""
_TURNS: Final = 10
"""Turns of the event loop that a call gets at least. It needs five, and each is long while many clients are served: a
gateway that is busy must not take the store for lost."""
_BACKOFF: Final = (0.0, 0.05, 0.1, 0.2)
"""Seconds between attempts to connect; the last one goes on."""

_log = logging.getLogger("onwards.store")


class Keeper:
    """Run `run` in a task. config: tells the config in force from others. deadline: seconds that a call may take."""

    def __init__(
        self,
        ledger: LeasedLedger,
        store: Store,
        config: Callable[[], str] = lambda: "",
        deadline: float = DEADLINE,
    ) -> None:
        self.ledger = ledger
        self.calls = 0
        """Trips to the store."""
        self.losses = 0
        """How often it could not be reached any more."""
        self.opened = trio.Event()
        """Whether the store gave something at least once."""
        self.on_rollout: Callable[[tuple[InForce, ...]], None] = lambda _: None
        """Is told when other configs are in force than before."""
        self._store = store
        self._config = config
        self._deadline = deadline
        self._wanted = trio.Event()
        self._away = False
        self._leaving = False
        self._left = trio.Event()
        self._asked_at = 0.0
        ledger.wake = self._wake

    @property
    def away(self) -> bool:
        """Whether the store can't be reached."""
        return self._away

    def remark(self) -> str:
        """What operators should know about the processes that share limits; empty if all is well."""
        return ", but the store of limits can't be reached" if self._away or self.ledger.fleet is None else ""

    def in_force(self) -> tuple[InForce, ...]:
        """Which configs the processes have that share limits, as far as is known."""
        fleet = self.ledger.fleet
        return () if self._away or fleet is None else fleet.in_force

    def _wake(self) -> None:
        self._wanted.set()

    async def run(self) -> None:
        """Never returns."""
        failures = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stay_awake)
            while True:
                await trio.sleep(_BACKOFF[min(failures, len(_BACKOFF) - 1)])
                calls = self.calls
                reason: str | None
                try:
                    async with self._store.connected() as talk:
                        reason = await self._serve(talk)
                except StoreError as error:
                    reason = str(error)
                failures = 0 if self.calls > calls else failures + 1
                if reason is None:
                    continue
                if failures:
                    self._lose(reason)
                else:
                    # A connection may break though the store is well. If it is, that is found out before the deadline.
                    self.ledger.interrupted(trio.current_time())
                    nursery.start_soon(self._lose_at, self._asked_at + self._deadline, self.calls, reason)

    async def leave(self) -> None:
        """Tell the others that this process ends and holds nothing, if the store is there. Then stop `run`."""
        self._leaving = True
        self._wake()
        with trio.move_on_after(2 * self._deadline):
            await self._left.wait()

    async def _stay_awake(self) -> None:
        while True:
            self.ledger.awake(trio.current_time())
            await trio.sleep(self.ledger.terms.beat / 2)

    async def _lose_at(self, at: float, calls: int, reason: str) -> None:
        await trio.sleep_until(at)
        if self.calls == calls and not self._away:
            self._lose(reason)

    def _lose(self, reason: str) -> None:
        self.ledger.lost(trio.current_time())
        if not self._away:
            self._away = True
            self.losses += 1
            _log.error("the store of limits can't be reached: %s", reason)

    async def _serve(self, talk: Talk) -> str | None:
        """Take the ledger's questions to the store, until that fails. Gives the reason why the connection broke; None:
        there was no answer in time, and the store is lost."""
        ledger = self.ledger
        deadline = _CONNECT
        first = True
        while True:
            if not first:
                with trio.move_on_at(ledger.next_look()):
                    await self._wanted.wait()
            self._wanted = trio.Event()
            self._asked_at = trio.current_time()
            if self._leaving:
                await _call(talk, ledger.leave(self._asked_at), self._deadline)
                self._left.set()
                await trio.sleep_forever()
            calls = ledger.collect(self._asked_at, self._config())
            first = False
            if not calls:
                deadline = self._deadline
                continue
            losses = self.losses
            replies = await _call(talk, calls, deadline)
            if replies is None:
                self._lose(f"no answer within {deadline * 1000:.0f} ms")
                return None
            if isinstance(replies, str):
                return replies
            deadline = self._deadline
            if self.losses != losses:  # Nobody waits for it any more.
                continue
            self.calls += 1
            in_force = self.in_force()
            ledger.replied(replies, trio.current_time())
            if self.in_force() != in_force:
                self.on_rollout(self.in_force())
            if ledger.in_touch(trio.current_time()):
                self.opened.set()
            if self._away and not ledger.away:
                self._away = False
                _log.info("the store of limits is back")


async def _call(talk: Talk, calls: list[Call], deadline: float) -> list[Reply] | str | None:
    """The replies, or why the connection broke; None: there are none in time."""
    outcome: list[list[Reply] | str] = []
    done = trio.Event()

    async def call() -> None:
        try:
            outcome.append(await talk(calls))
        except StoreError as error:
            outcome.append(str(error))
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        for seconds in (deadline, _LATE):
            if not done.is_set():
                with trio.move_on_after(seconds):
                    await done.wait()
        for _ in range(_TURNS):
            if not done.is_set():
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    return outcome[0] if outcome else None
