"""Limits that gateways share are never exceeded, whatever fails: real gateways, real stores, by a seeded schedule.

`FAULT_SECONDS=600 FAULT_SEED=7 pytest -s tests/faults/test_shared_limits.py` runs longer, or differently;
with `FAULT_STORE=valkey` on Valkey.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import pytest
import trio

from tests.faults.fleet import AT_ONCE, LEASE, RATES, TERMS, Fleet, in_our_time
from tests.trio.store_support import StoreServer, needs_server, store_cluster, store_server, watched_servers

SECONDS = float(os.environ.get("FAULT_SECONDS", "0"))
"""0: each of the faults once."""
SEED = int(os.environ.get("FAULT_SEED", "1"))
UNREPLICATED = 0.1
"""Seconds until a replica knows what its primary was told."""
PATIENCE = 10.0
"""Seconds more than promised that a loaded machine gets, where something has to have come back."""

pytestmark = [needs_server, pytest.mark.skipif(sys.platform != "linux", reason="needs one clock for all processes")]

Fault = Callable[[], Awaitable[None]]


class Schedule:
    """What fails. Gateways and the store fail at the same time, each one thing after the other."""

    def __init__(self, fleet: Fleet, *stores: StoreServer) -> None:
        self.fleet = fleet
        self.store, *self.others = stores
        self.random = Random(SEED)
        self.done: Counter[str] = Counter()

    async def run(self, faults: list[Fault], until: float) -> None:
        """Each of them once in any order, and again until then."""
        while faults:
            self.random.shuffle(faults)
            for fault in faults:
                await trio.sleep(self.random.uniform(0.1, 1.0))
                self.done[fault.__name__] += 1
                await fault()
            if trio.current_time() > until:
                return

    # Gateways

    async def a_worker_is_killed(self) -> None:
        gateway = self.random.choice(self.fleet.gateways)
        ready = gateway.ready
        self.fleet.kills[gateway.number].append(trio.current_time())
        os.kill(self.random.choice([*gateway.workers.values()]), signal.SIGKILL)
        await gateway.become(ready + 1)

    async def a_gateway_is_stopped(self) -> None:
        await self._stop_a_gateway(self.random.uniform(0.2, LEASE))

    async def a_gateway_is_stopped_for_longer_than_its_lease(self) -> None:
        await self._stop_a_gateway(LEASE + self.random.uniform(0.5, 1.5))

    async def _stop_a_gateway(self, seconds: float) -> None:
        gateway = self.random.choice(self.fleet.gateways)
        start = trio.current_time()
        gateway.signal(signal.SIGSTOP)
        await trio.sleep(seconds)
        gateway.signal(signal.SIGCONT)
        for silent in (self.fleet.absences, self.fleet.stops):
            silent[gateway.number].append((start, trio.current_time()))

    # The store

    async def the_store_is_stopped(self) -> None:
        start = trio.current_time()
        self.store.process.send_signal(signal.SIGSTOP)
        await trio.sleep(self.random.uniform(0.1, 2.5))
        self.store.process.send_signal(signal.SIGCONT)
        await self._is_back(start)

    async def the_store_is_paused(self) -> None:
        start = trio.current_time()
        await trio.to_thread.run_sync(self.store.ask, "CLIENT", "PAUSE", "5000", "ALL")
        await trio.sleep(5)
        await self._is_back(start)

    async def the_store_is_killed_and_comes_back_empty(self) -> None:
        start = trio.current_time()
        self.store.kill()
        await trio.sleep(self.random.uniform(0.0, 1.0))
        await trio.to_thread.run_sync(self.store.start)
        self.fleet.refills.append(await self._is_back(start))

    async def connections_are_reset(self) -> None:
        await trio.to_thread.run_sync(self.store.ask, "CLIENT", "KILL", "TYPE", "normal")

    async def a_node_is_stopped(self) -> None:
        node = self.random.choice([self.store, *self.others])
        node.process.send_signal(signal.SIGSTOP)
        await trio.sleep(self.random.uniform(0.3, 0.8))
        node.process.send_signal(signal.SIGCONT)

    async def the_primary_is_killed(self) -> None:
        """Sentinels make the replica the primary."""
        start = trio.current_time()
        self.store.kill()
        self.fleet.forgotten.append((start - UNREPLICATED, trio.current_time()))
        (self.store,) = self.others
        await trio.to_thread.run_sync(self.store.wait_for, "master", "ROLE")
        await self._is_back(start)

    async def _is_back(self, start: float) -> float:
        """Gives the moment from which it gives something again: the store's own word, in our time."""
        back = trio.current_time()
        for absences in self.fleet.absences:
            absences.append((start, back))
        await trio.sleep(2 * TERMS.beat)  # By then everybody has tried.
        told = await trio.to_thread.run_sync(self.store.ask, "HGET", "{onwards}store", "opens_at")
        opens = max(back, in_our_time(float(told) / 1e6))
        self.fleet.outages.append((start, opens))
        return opens


def gateway_faults(schedule: Schedule) -> list[Fault]:
    return [
        schedule.a_worker_is_killed,
        schedule.a_gateway_is_stopped,
        schedule.a_gateway_is_stopped_for_longer_than_its_lease,
    ]


def store_faults(schedule: Schedule) -> list[Fault]:
    return [
        schedule.the_store_is_stopped,
        schedule.the_store_is_paused,
        schedule.the_store_is_killed_and_comes_back_empty,
        schedule.connections_are_reset,
    ]


async def held_to_the_promise(fleet: Fleet, schedule: Schedule, *kinds: list[Fault], seconds: float = SECONDS) -> None:
    """All that is promised, under load, while everything fails that may fail."""
    async with fleet.running():
        start = trio.current_time()
        await fleet.all_permits(within=PATIENCE)
        async with trio.open_nursery() as failing:
            for faults in kinds:
                failing.start_soon(schedule.run, faults, start + seconds)
        whole = await fleet.all_permits(within=LEASE + TERMS.grace + PATIENCE)
        before = len(fleet.requests)
        with trio.fail_after(PATIENCE):  # Requests are let through again.
            while {each.alias for each in fleet.requests[before:] if each.seen} != {*RATES, "held"}:  # noqa: ASYNC110
                await trio.sleep(0.1)
        await trio.sleep(1.0)
        took = trio.current_time() - start
    print(f"{took:.0f} seconds: {dict(schedule.done)}")
    print(f"{dict(sorted(fleet.statuses.items()))}; all permits were there again after {whole:.2f} seconds")
    alone = sum(len(gateway.alone) for gateway in fleet.gateways)
    print(f"{alone} times a worker was by itself; outages: {len(fleet.outages)}, refills: {len(fleet.refills)}")
    beyond = {alias: fleet.beyond(alias) for alias in RATES}
    as_seen = {alias: round(fleet.beyond_as_seen(alias), 2) for alias in RATES}
    print(f"beyond the rate, in the worst window: {beyond}; going by the providers' times alone: {as_seen}")
    print(f"permits that were held at once: {fleet.most_held()}")
    errors = [line for gateway in fleet.gateways for line in gateway.errors]
    assert not errors
    assert max(beyond.values()) <= 1e-6
    assert fleet.most_held() == AT_ONCE
    assert (
        sum(count for (_, status), count in fleet.statuses.items() if status in (429, 503)) > len(fleet.requests) / 10
    )


async def test_one_store(tmp_path: Path) -> None:
    """Three gateways with two workers each: neither a rate nor a concurrency limit is ever exceeded, and permits are
    there again, while workers are killed, gateways stopped, and the store stopped, paused, reset and emptied."""
    with store_server(tmp_path) as store:
        fleet = Fleet(SEED, tmp_path, {"url": store.url})
        schedule = Schedule(fleet, store)
        await held_to_the_promise(fleet, schedule, gateway_faults(schedule), store_faults(schedule))


async def test_a_cluster(tmp_path: Path) -> None:
    """The same where limits are spread over three servers, one of which does not answer for a while."""
    with store_cluster(tmp_path) as nodes:
        fleet = Fleet(SEED, tmp_path, {"url": f"redis://127.0.0.1:{nodes[0].port}", "cluster": True}, gateways=2)
        schedule = Schedule(fleet, *nodes)
        store_faults = [schedule.a_node_is_stopped, schedule.connections_are_reset]
        await held_to_the_promise(fleet, schedule, [schedule.a_worker_is_killed], store_faults)


async def test_a_failover(tmp_path: Path) -> None:
    """The same when the primary dies and sentinels make its replica the new one. What it did not know any more may be
    given out twice, and nothing else."""
    with watched_servers(tmp_path) as (primary, replica, sentinel):
        state = {"url": f"redis://127.0.0.1:{sentinel.port}", "sentinel_master": "limits"}
        fleet = Fleet(SEED, tmp_path, state, gateways=2)
        schedule = Schedule(fleet, primary, replica)
        await held_to_the_promise(fleet, schedule, [schedule.the_primary_is_killed], seconds=0)
