"""What is measured about several processes: limits that they share, and what two workers can take."""

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any, Final, TypeVar

import attrs
import trio
from gateways import Running, find, limits_store, listening, pinned, scripts_run
from load import Limited, Requests, WrongAnswer
from messages import ALIAS, HOST, request
from scenarios import Case, Figures, Scenario, Setting, cpu_of, delays_of, figures_of_requests, in_turns, variants_of

from onwards_core import load_config
from onwards_core._lease_calls import Beat, Beaten, Load

_RATE: Final = 500
"""Requests a second that are allowed where more are wanted."""
_WINDOW: Final = 0.1
"""Seconds. Those in which somebody is refused count for what is granted."""
_AT_ONCE: Final = 25
"""Signs of life that come together."""
_T = TypeVar("_T")


async def shared_limits(setting: Setting) -> list[Case]:
    """5,000 requests a second, or nine tenths of what each of these can take, with limits in the process and in a
    store, and of two workers without limits and with them in their parent; and half of that rate.

    Misleading: the limits are far above the demand; one that is nearly used up is asked for by each request. The store
    is on this machine, on the generator's core. Two workers take turns on one core here, which costs by itself, so
    compare them with each other. Delays near saturation are those of a queue: look at those of half of the rate.
    """
    connections = setting.scaled(64)
    variants: dict[str, dict[str, Any]] = {"in the process": {}}
    cases = []
    with ExitStack() as opened:
        store = None
        if _has_store(setting):
            store = opened.enter_context(limits_store(setting.folder))
            variants["in the store"] = {"store": store}
        variants["two workers, without"] = {"options": ("--workers", "2"), "limits": {}}
        variants["two workers, in their parent"] = {"options": ("--workers", "2")}
        async with variants_of(setting, variants) as measured:
            for _, gateway in measured[-2:]:
                await _all_ready(gateway, 2)
            most = [
                await _while_in_touch(
                    setting, [gateway], partial(figures_of_requests, setting, gateway, request(ALIAS), connections)
                )
                for _, gateway in measured
            ]
            rate = min(5000.0, 0.9 * min(figures["requests/s"] for figures in most))

            async def measure(gateway: Running, per_second: float) -> Figures:
                async with Requests(gateway.port, request(ALIAS), connections) as load:
                    await load.run(setting.seconds, per_second=per_second)  # What is lent goes by recent demand.
                    trips = gateway.metric("onwards_store_calls_total")
                    calls = scripts_run(store)[0] if store else 0
                    before = gateway.cpu_seconds()
                    done = await load.run(1.5 * setting.seconds, per_second=per_second)
                    figures = (
                        cpu_of(gateway, before, done) | {"requests/s": done.count / done.seconds} | delays_of(done)
                    )
                figures["trips/request"] = (gateway.metric("onwards_store_calls_total") - trips) / done.count
                if store and gateway is measured[1][1]:
                    figures["calls/request"] = (scripts_run(store)[0] - calls) / done.count
                return figures

            for name, per_second in (("shared-limits", rate), ("shared-limits, half the rate", rate / 2)):

                async def patient(gateway: Running, per_second: float = per_second) -> Figures:
                    return await _while_in_touch(setting, [gateway], partial(measure, gateway, per_second))

                cases += await in_turns(setting, name, measured, patient)
    return cases


def _has_store(setting: Setting) -> bool:
    found = bool((find("valkey-server") or find("redis-server")) and find_spec("coredis"))
    if not found:
        setting.say("skipped: limits in a store, which need Valkey or Redis, and coredis (requirements/redis.txt)")
    return found


async def _while_in_touch(setting: Setting, gateways: Sequence[Running], measure: Callable[[], Awaitable[_T]]) -> _T:
    """Again, if the store did not get its turn in time: what is measured is not how a gateway goes on without."""
    while True:
        before = _losses(gateways)
        try:
            measured = await measure()
        except WrongAnswer:
            if _losses(gateways) == before:
                raise
        else:
            if _losses(gateways) == before:
                return measured
        setting.say("again, since the machine was too busy for the store to answer within 50 ms")
        await asyncio.sleep(3)  # For two of them it gives out nothing.


def _losses(gateways: Sequence[Running]) -> float:
    return sum(gateway.metric("onwards_store_losses_total") for gateway in gateways)


async def shifting_demand(setting: Setting) -> list[Case]:
    """Twice what a rate allows, all of it at one of two gateways that share it, a second later at the other one, and so
    on; beside one gateway that asks nobody: how much of the rate is granted in those tenths of a second in which
    somebody is refused.

    Misleading: no real demand moves as a whole and at once. What a bucket can't hold while a process waits for its
    core is lost, with a store and without: so a busy machine tells something about itself.
    """
    turn = min(1.0, 3 * setting.seconds)
    cases = []
    for burst in (_RATE, _RATE // 10):
        limits = {"rate_limit": {"requests_per_second": _RATE, "burst_size": burst}}
        variants: dict[str, dict[str, Any]] = {"one gateway": {"limits": limits}}
        with ExitStack() as opened:
            if _has_store(setting):
                sharing = {"limits": limits, "store": opened.enter_context(limits_store(setting.folder))}
                variants |= {"two gateways": sharing, "the second of them": sharing}
            async with variants_of(setting, variants) as measured:
                gateways = [gateway for _, gateway in measured]
                for who in filter(None, (gateways[:1], gateways[1:])):
                    name = f"{'two gateways' if len(who) > 1 else 'one gateway'}, burst of {burst}"
                    setting.progress(f"shifting-demand, {name}, {setting.runs} runs")
                    runs = await _while_in_touch(setting, who, partial(_granted, setting, who, turn))
                    cases.append(Case("shifting-demand", name, "onwards", runs))
    return cases


async def _granted(setting: Setting, gateways: list[Running], turn: float) -> list[Figures]:
    """Which share of the rate, run by run."""
    async with AsyncExitStack() as opened:
        clients = [Limited(gateway.port, request(ALIAS), 16) for gateway in gateways]
        for load in clients:
            await opened.enter_async_context(load)
        while not clients[0].refused:  # There is something in the bucket.
            await clients[0].run(turn, per_second=2 * _RATE)
        runs = []
        for _ in range(setting.runs):
            start = time.perf_counter()
            for load in (clients[0], clients[-1]) * 2:
                await load.run(turn, per_second=2 * _RATE)
            end = time.perf_counter()
            granted = _by_window(start, end, (load.granted for load in clients))
            refused = _by_window(start, end, (load.refused for load in clients))
            had = sum(granted[window] for window in refused)
            allowed = len(refused) * _WINDOW * _RATE
            runs.append({"% of the rate granted": 100 * had / allowed if refused else 100.0})
        return runs


def _by_window(start: float, end: float, moments: Iterable[list[float]]) -> Counter[int]:
    """How many are in each whole window."""
    whole = int((end - start) / _WINDOW)
    found = (int((moment - start) // _WINDOW) for moment in itertools.chain.from_iterable(moments))
    return Counter(window for window in found if 0 <= window < whole)


async def signs_of_life(setting: Setting) -> list[Case]:
    """What a store does for the sign of life that each process gives twice a second: of 10, of 100, and of 1,000 of
    them, also with the load that each has at ten providers, and while half of them have another config.

    Misleading: 25 come together, as to a store that is busy; one that comes alone takes it longer.
    """
    if not _has_store(setting):
        return []
    cases = []
    with ExitStack() as opened:
        with pinned(setting.core):
            store = opened.enter_context(limits_store(setting.folder))
        await listening(store)
        for count in (10, 100, 1000):
            for what, providers, configs in (("", 0, 1), (", with load", 10, 1), (", two configs", 0, 2)):
                name = f"{count:,} processes{what}"
                setting.progress(f"signs-of-life, {name}, {setting.runs} runs")
                beats = [_beat(number, providers, f"{number % configs:064x}") for number in range(count)]
                carried_out = partial(_carried_out, store, f"signs-{len(cases)}", beats, setting.runs)
                runs = await asyncio.to_thread(trio.run, carried_out)
                cases.append(Case("signs-of-life", name, "store", runs))
    return cases


def _beat(number: int, providers: int, config: str) -> Callable[[str, str], Beat]:
    """Of one process, whose load is another one each time. It is to tell what it heard last."""
    names = [f"provider {each:032x}" for each in range(providers)]

    def beat(knew: str, heard: str) -> Beat:
        loads = tuple(Load(name, random.randrange(1, 50)) for name in names)
        name = f"gateway-{number:04}-16-0123abcd"
        return Beat(name, 3_600_000_000, 2_000_000, config, knew, heard, loads=loads)

    return beat


async def _carried_out(
    store: Running, prefix: str, beats: list[Callable[[str, str], Beat]], runs: int
) -> list[Figures]:
    from onwards_trio._store._redis import RedisStore

    state = {"url": f"redis://{HOST}:{store.port}", "prefix": prefix}
    config = load_config(json.dumps({"targets": {}, "state": state}).encode())
    assert config.state
    figures = []
    knew = heard = ""
    async with RedisStore(config.state).connected() as talk:
        for run in range(runs + 1):
            calls, microseconds = scripts_run(store)
            for _ in range(max(1, 500 // len(beats))):
                for first in range(0, len(beats), _AT_ONCE):
                    replies = await talk([beat(knew, heard) for beat in beats[first : first + _AT_ONCE]])
                    assert isinstance(replies[-1], Beaten)
                    knew, heard = replies[-1].store, replies[-1].mark
            calls_now, microseconds_now = scripts_run(store)
            if run:  # In the first one, all have come.
                figures.append({"µs/sign": (microseconds_now - microseconds) / (calls_now - calls)})
    return figures


async def workers(setting: Setting) -> list[Case]:
    """Requests over 64 connections, as many as go: one process on one core, and two workers on two.

    Misleading: generator and provider take their part of the second core where there are no more than two. What a
    request costs tells what two cores to themselves would take.
    """
    connections = setting.scaled(64)
    both = attrs.evolve(setting, core=setting.two_cores)
    async with (
        variants_of(setting, {"1 process, 1 core": {}}) as one,
        variants_of(both, {"2 workers, 2 cores": {"options": ("--workers", "2")}}) as two,
    ):
        await _all_ready(two[0][1], 2)
        return await in_turns(
            setting,
            "workers",
            [*one, *two],
            partial(figures_of_requests, setting, message=request(ALIAS), connections=connections),
        )


async def _all_ready(gateway: Running, count: int) -> None:
    """Connections that come before all workers are there go to the first one."""
    async with asyncio.timeout(60):
        while gateway.metric('onwards_workers{state="ready"}') < count:  # noqa: ASYNC110  # another process tells no event
            await asyncio.sleep(0.01)


SHARING: dict[str, Scenario] = {
    "shared-limits": shared_limits,
    "shifting-demand": shifting_demand,
    "signs-of-life": signs_of_life,
    "workers": workers,
}
