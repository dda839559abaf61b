"""What is measured about several processes: limits that they share, and what two workers can take."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from typing import Any

import attrs
from gateways import Running, find, limits_store, scripts_run
from load import Requests, WrongAnswer
from messages import ALIAS, request
from scenarios import Case, Figures, Scenario, Setting, cpu_of, delays_of, figures_of_requests, in_turns, variants_of


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
        if (find("valkey-server") or find("redis-server")) and find_spec("coredis"):
            store = opened.enter_context(limits_store(setting.folder))
            variants["in the store"] = {"store": store}
        else:
            setting.say("skipped: limits in a store, which need Valkey or Redis, and coredis (requirements/redis.txt)")
        variants["two workers, without"] = {"options": ("--workers", "2"), "limited": False}
        variants["two workers, in their parent"] = {"options": ("--workers", "2")}
        async with variants_of(setting, variants) as measured:
            for _, gateway in measured[-2:]:
                await _all_ready(gateway, 2)
            most = [
                await _while_in_touch(
                    setting, gateway, partial(figures_of_requests, setting, gateway, request(ALIAS), connections)
                )
                for _, gateway in measured
            ]
            rate = min(5000.0, 0.9 * min(figures["requests/s"] for figures in most))

            async def measure(gateway: Running, per_second: float) -> Figures:
                async with Requests(gateway.port, request(ALIAS), connections) as load:
                    await load.run(setting.seconds, per_second=per_second)  # What is lent goes by recent demand.
                    trips = gateway.metric("onwards_store_calls_total")
                    calls = scripts_run(store) if store else 0
                    before = gateway.cpu_seconds()
                    done = await load.run(1.5 * setting.seconds, per_second=per_second)
                    figures = (
                        cpu_of(gateway, before, done) | {"requests/s": done.count / done.seconds} | delays_of(done)
                    )
                figures["trips/request"] = (gateway.metric("onwards_store_calls_total") - trips) / done.count
                if store and gateway is measured[1][1]:
                    figures["calls/request"] = (scripts_run(store) - calls) / done.count
                return figures

            for name, per_second in (("shared-limits", rate), ("shared-limits, half the rate", rate / 2)):

                async def patient(gateway: Running, per_second: float = per_second) -> Figures:
                    return await _while_in_touch(setting, gateway, partial(measure, gateway, per_second))

                cases += await in_turns(setting, name, measured, patient)
    return cases


async def _while_in_touch(setting: Setting, gateway: Running, measure: Callable[[], Awaitable[Figures]]) -> Figures:
    """Again, if the store did not get its turn in time: what is measured is not how the gateway goes on without."""
    while True:
        losses = gateway.metric("onwards_store_losses_total")
        try:
            return await measure()
        except WrongAnswer:
            if gateway.metric("onwards_store_losses_total") == losses:
                raise
            setting.say("shared-limits: again, since the machine was too busy for the store to answer within 50 ms")
            await asyncio.sleep(3)  # For two of them it gives out nothing.


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


SHARING: dict[str, Scenario] = {"shared-limits": shared_limits, "workers": workers}
