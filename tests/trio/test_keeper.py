"""The task that takes questions to the store, beside a loop that has much else to do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
import trio.testing

from onwards_core import LeasedLedger, LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Call, Reply
from onwards_core._lease_store import LeaseStore
from onwards_trio._store import Keeper
from onwards_trio._store._protocol import Talk


class SlowToHear:
    """A store that answers at once, whose client needs some turns of the loop."""

    def __init__(self, turns: int) -> None:
        self._turns = turns
        self._store = LeaseStore()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Talk]:
        async def talk(calls: Sequence[Call]) -> list[Reply]:
            for _ in range(self._turns):
                await trio.lowlevel.checkpoint()
            return [self._store.apply(call, round(trio.current_time() * 1e6)) for call in calls]

        yield talk


async def losses(turns: int, clock: trio.testing.MockClock) -> int:
    """In ten seconds, of a keeper whose calls need so many turns, each of which takes 25 ms."""
    keeper = Keeper(LeasedLedger(LeaseTerms("one"), Health()), SlowToHear(turns))

    async def serve_many() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            clock.jump(0.025)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        nursery.start_soon(serve_many)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    return keeper.losses


async def test_a_busy_gateway_does_not_take_the_store_for_lost(mock_clock: trio.testing.MockClock) -> None:
    """Long turns of its own loop, five of which take longer than a call may, are not the store's fault."""
    assert await losses(5, mock_clock) == 0


async def test_a_store_that_takes_too_long_is_lost(mock_clock: trio.testing.MockClock) -> None:
    """However busy the gateway is."""
    assert await losses(30, mock_clock) > 0
