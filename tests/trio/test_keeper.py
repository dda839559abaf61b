"""The task that takes questions to the store, beside a loop that has much else to do."""

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from onwards_core import LeasedLedger, LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Call, Reply
from onwards_core._lease_store import LeaseStore
from onwards_core._ledger import Claim, Limit, Permit, Rate, Refusal
from onwards_trio._store import Keeper, StoreError
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


class Flaky:
    """A store that answers after `delay` seconds, or can't be reached at all. Notes when somebody tries.

    hiccup: as long the next answer takes. broken_after: so long, and then the connection breaks.
    """

    def __init__(self, store: LeaseStore | None = None) -> None:
        self.delay: float | None = 0.0
        self.hiccup = 0.0
        self.broken_after: float | None = None
        self.tried: list[float] = []
        self.store = store or LeaseStore()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Talk]:
        self.tried.append(trio.current_time())
        if self.delay is None:
            raise StoreError("nobody there")

        async def talk(calls: Sequence[Call]) -> list[Reply]:
            if (after := self.broken_after) is not None:
                self.broken_after = None
                await trio.sleep(after)
                raise StoreError("it broke")
            if self.delay is None:
                raise StoreError("nobody there")
            hiccup, self.hiccup = self.hiccup, 0.0
            await trio.sleep(hiccup or self.delay)
            return [self.store.apply(call, round(trio.current_time() * 1e6)) for call in calls]

        yield talk


@asynccontextmanager
async def kept(
    *, local: bool = True, name: str = "one", beside: Flaky | None = None
) -> AsyncIterator[tuple[Keeper, Flaky]]:
    """In touch with its store for some seconds. beside: with another connection to the store of that one."""
    store = Flaky(beside.store if beside else None)
    keeper = Keeper(LeasedLedger(LeaseTerms(name, local=local), Health()), store)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run)
        await trio.sleep(10.3)
        yield keeper, store
        nursery.cancel_scope.cancel()


RATE = Limit("rate", Rate.per_second(10, 2))


async def decided(keeper: Keeper) -> tuple[str, float]:
    """What becomes of a request, and after how many seconds."""
    began = trio.current_time()
    outcome = keeper.ledger.acquire([RATE], began)
    if isinstance(outcome, Claim):
        done = trio.Event()
        outcome.on_decided = done.set
        await done.wait()
        outcome = outcome.outcome
    return outcome.code if isinstance(outcome, Refusal) else "granted", trio.current_time() - began


async def test_a_call_has_50_milliseconds(autojump_clock: trio.testing.MockClock) -> None:
    """A request waits for an answer that takes 40. If there is none in time, the store is lost: 10 more are for a
    gateway that itself is late."""
    async with kept(local=False) as (keeper, store):
        store.delay = 0.04
        assert await decided(keeper) == ("granted", pytest.approx(0.04))
        await trio.sleep(5)
        store.delay = 5.0
        outcome, seconds = await decided(keeper)
        assert (outcome, keeper.losses) == ("service_unavailable", 1)
        assert 0.05 <= seconds <= 0.0601


async def test_who_misses_one_answer_is_back_at_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """On a new connection. It gave out nothing meanwhile, so others go on as if nothing had happened."""
    caplog.set_level("INFO")
    async with kept() as (keeper, store), kept(name="two", beside=store) as (other, _):
        store.hiccup = 5.0
        assert await decided(keeper) == ("rate_limit", pytest.approx(0.06))
        for _ in range(200):
            await trio.sleep(0.01)
            assert keeper.ledger.in_touch(trio.current_time())
            assert other.ledger.in_touch(trio.current_time())
        assert (await decided(keeper))[0] == "granted"
        assert (keeper.losses, other.losses) == (1, 0)
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


async def test_who_was_out_alone_does_not_stop_the_others(autojump_clock: trio.testing.MockClock) -> None:
    """It went on by itself, and is back as soon as it reaches the store: others did all the time."""
    async with kept() as (keeper, store), kept(name="two", beside=store) as (other, _):
        store.delay = None
        await decided(keeper)
        await trio.sleep(5)
        store.delay = 0.0
        await trio.sleep(0.21)
        assert keeper.ledger.in_touch(trio.current_time())
        assert not keeper.away
        for _ in range(30):
            await trio.sleep(0.1)
            assert other.ledger.in_touch(trio.current_time())


async def test_all_who_were_out_wait_for_each_other(autojump_clock: trio.testing.MockClock) -> None:
    """The store was away: each says what it used before anybody takes more."""
    async with kept() as (keeper, store), kept(name="two", beside=store) as (other, store_of_other):
        store.delay = store_of_other.delay = None
        await trio.sleep(2.5)
        store.delay = store_of_other.delay = 0.0
        await trio.sleep(1.5)
        assert not keeper.away
        assert not other.away
        assert not keeper.ledger.in_touch(trio.current_time())
        assert not other.ledger.in_touch(trio.current_time())
        await trio.sleep(1.5)
        assert keeper.ledger.in_touch(trio.current_time())
        assert other.ledger.in_touch(trio.current_time())


PERMITS = Limit("permits", permits=40)


async def test_who_ends_says_so(autojump_clock: trio.testing.MockClock) -> None:
    """Others have its permits and its share at once, and not when its lease is over. Who comes when nobody is left does
    not wait for anybody."""
    async with kept() as (keeper, store), kept(name="two", beside=store) as (other, _):
        claim = keeper.ledger.acquire([PERMITS], trio.current_time())
        await trio.sleep(0.01)
        claim.outcome.release()
        await keeper.leave()
        assert trio.current_time() == pytest.approx(20.61)  # It took no time.
        await trio.sleep(0.6)
        assert other.ledger.fleet.processes == 1
        claims = [other.ledger.acquire([PERMITS], trio.current_time()) for _ in range(40)]
        await trio.sleep(0.01)
        assert all(isinstance(claim.outcome, Permit) for claim in claims)
        for claim in claims:
            claim.outcome.release()
        await other.leave()
        await trio.sleep(60)
        third = Keeper(LeasedLedger(LeaseTerms("three"), Health()), store)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(third.run)
            await trio.sleep(0.01)
            assert third.opened.is_set()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("delay", [5.0, None])
async def test_who_ends_while_the_store_is_away(autojump_clock: trio.testing.MockClock, delay: float | None) -> None:
    """It does not wait for it."""
    async with kept() as (keeper, store):
        store.delay = delay
        began = trio.current_time()
        await keeper.leave()
        assert trio.current_time() - began <= 0.1
        await trio.sleep(1)
        began = trio.current_time()
        await keeper.leave()
        assert trio.current_time() - began <= 0.1


@pytest.mark.parametrize(("delay", "found"), [(0.02, ("granted", 0.04)), (0.04, ("rate_limit", 0.05))])
async def test_a_connection_that_breaks(
    autojump_clock: trio.testing.MockClock, delay: float, found: tuple[str, float]
) -> None:
    """It is made anew, and the same asked again; but a request does not wait for more than 50 ms in all. An answer that
    comes later still brings the store back."""
    async with kept() as (keeper, store):
        store.broken_after, store.delay = 0.02, delay
        assert await decided(keeper) == (found[0], pytest.approx(found[1]))
        assert keeper.losses == (found[0] != "granted")
        connections = len(store.tried)
        await trio.sleep(0.1)
        assert keeper.ledger.in_touch(trio.current_time())
        assert len(store.tried) == connections


@pytest.mark.parametrize(("local", "outcome"), [(True, "granted"), (False, "service_unavailable")])
async def test_on_loss(autojump_clock: trio.testing.MockClock, local: bool, outcome: str) -> None:
    """While the store is away each process goes on with its share, or refuses."""
    async with kept(local=local) as (keeper, store):
        assert (await decided(keeper))[0] == "granted"
        store.delay = 5.0
        await trio.sleep(5)
        await decided(keeper)  # The share begins with an empty bucket.
        await trio.sleep(1)
        assert await decided(keeper) == (outcome, 0.0)


async def test_the_store_comes_back(autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried again after longer and longer, up to 0.2 seconds. However long that takes and however many requests
    come, there is one line when it went and one when it is back; what it lost is refilled, and no error."""
    caplog.set_level("INFO")
    async with kept() as (keeper, store):
        store.delay = 5.0
        await decided(keeper)
        store.delay = None
        await trio.sleep(0.01)
        store.tried = []  # The first attempt comes at once.
        for _ in range(30):
            await decided(keeper)
            await trio.sleep(1)
        gaps = [round(later - earlier, 6) for earlier, later in itertools.pairwise(store.tried)]
        assert gaps[:3] == [0.1, 0.2, 0.2]
        assert set(gaps[3:]) == {0.2}
        assert [record.getMessage() for record in caplog.records] == [
            "the store of limits can't be reached: no answer within 50 ms"
        ]
        store.delay, store.store = 0.0, LeaseStore()
        await trio.sleep(5)
        assert keeper.ledger.in_touch(trio.current_time())
        assert [await decided(keeper) for _ in range(3)] == [("granted", 0.0), ("granted", 0.0), ("rate_limit", 0.0)]
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        assert keeper.losses == 1
