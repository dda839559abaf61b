"""What is measured, and how one could be misled by it."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
from gateways import PEERS, SLOW, Running, Stub, collector, onwards, pinned, ready
from load import Measured, Requests, Streams
from messages import ALIAS, CLEAN_ALIAS, request

Figures = dict[str, float]
"""Of one run: names of figures, with their units, and their values."""
CPU = "CPU µs"
"""The figure that gateways are compared by: for one request, or one event."""


@attrs.frozen
class Setting:
    """Where and how long to measure."""

    stub: Stub
    folder: Path
    peers: list[str]
    """Those that are installed."""
    runs: int
    seconds: float
    """Of each run."""
    scale: float
    """Of the numbers of connections and streams, for a quick try."""
    core: set[int]
    """Where gateways run."""
    two_cores: set[int]
    """The same for one with two workers. Where there are but two, one is the generator's."""
    most_files: int
    """That a process may have open."""
    progress: Callable[[str], None]
    """Shown until the next."""
    say: Callable[[str], None]

    def scaled(self, number: int) -> int:
        return max(1, round(number * self.scale))


@attrs.frozen
class Case:
    """One line of the table: so many figures for each run of one gateway."""

    scenario: str
    case: str
    gateway: str
    runs: list[Figures]

    def median(self, figure: str) -> float:
        return statistics.median(run[figure] for run in self.runs)


Scenario = Callable[[Setting], Awaitable[list[Case]]]
Measure = Callable[[Running], Awaitable[Figures]]


async def in_turns(
    setting: Setting, scenario: str, measured: list[tuple[str, Running]], measure: Measure
) -> list[Case]:
    """Measure gateways, each in its case, in turns, so that a change of the machine's mood meets them all."""
    cases = [Case(scenario, case, gateway.name, []) for case, gateway in measured]
    for number in range(setting.runs):
        for case, (_, gateway) in zip(cases, measured, strict=True):
            setting.progress(f"{scenario}, {case.case}, {case.gateway}, run {number + 1} of {setting.runs}")
            case.runs.append(await measure(gateway))
    return cases


async def figures_of_requests(
    setting: Setting,
    gateway: Running,
    message: bytes,
    connections: int,
    *,
    others: Sequence[bytes] = (),
    per_second: float | None = None,
) -> Figures:
    async with Requests(gateway.port, gateway.addressed(message), connections, others=others) as load:
        # So that all its connections to the provider are open: 1,000 of them take a while.
        await load.run(max(setting.seconds / 2, connections / 1000))
        before = gateway.cpu_seconds()
        measured = await load.run(setting.seconds, per_second=per_second)
    return cpu_of(gateway, before, measured) | {"requests/s": measured.count / measured.seconds} | delays_of(measured)


async def _events(setting: Setting, gateway: Running, alias: str, streams: int) -> Figures:
    events = max(1, round(setting.seconds * 100))
    async with Streams(gateway.port, request(alias, stream=(events, 0.01)), streams) as load:
        before = gateway.cpu_seconds()
        measured = await load.run(events, 0.01)
    return cpu_of(gateway, before, measured) | delays_of(measured)


def cpu_of(gateway: Running, before: float, measured: Measured) -> Figures:
    """What one request or event cost; a direct call has no gateway."""
    return {CPU: (gateway.cpu_seconds() - before) / measured.count * 1e6} if gateway.pid else {}


def delays_of(measured: Measured) -> Figures:
    return {"p50 ms": measured.quantile(0.5) * 1e3, "p99 ms": measured.quantile(0.99) * 1e3}


def _connections(count: int) -> str:
    return "1 connection" if count == 1 else f"{count:,} connections"


def _streams(count: int) -> str:
    return f"{count} streams"


@asynccontextmanager
async def _gateways(
    setting: Setting, *, direct: bool = True, buffering: bool = True, slow: bool = False
) -> AsyncIterator[list[Running]]:
    """The gateway itself, its peers, and a call without any. slow: also those that take milliseconds."""
    with ExitStack() as opened:
        with pinned(setting.core):
            gateways = [opened.enter_context(onwards(setting.stub, setting.folder))]
            for peer in [peer for peer in setting.peers if slow or peer not in SLOW]:
                options = {"buffering": buffering} if peer == "nginx" else {}
                gateways.append(opened.enter_context(PEERS[peer](setting.stub, setting.folder, **options)))
        for gateway in gateways:
            await ready(gateway)
        yield [*gateways, Running("direct call", setting.stub.working[0])] if direct else gateways


@asynccontextmanager
async def variants_of(
    setting: Setting, variants: dict[str, dict[str, Any]]
) -> AsyncIterator[list[tuple[str, Running]]]:
    """The gateway itself several times, with other settings: those of `onwards`, by what to call the case."""
    with ExitStack() as opened:
        found = []
        for case, settings in variants.items():
            with pinned(setting.core):
                found.append((case, opened.enter_context(onwards(setting.stub, setting.folder, **settings))))
        for _, gateway in found:
            await ready(gateway)
        yield found


async def request_(setting: Setting) -> list[Case]:
    """Short requests, as many as a gateway can take, over 1 to 1,000 connections.

    Misleading: providers take seconds, not microseconds. What counts is the CPU time, which says how many requests fit
    on a core; where generator and stub are the bottleneck, requests/s say nothing about the gateway.
    """
    cases = []
    async with _gateways(setting) as gateways:
        for count in map(setting.scaled, (1, 32, 256, 1000)):
            cases += await in_turns(
                setting,
                "request",
                [(_connections(count), gateway) for gateway in gateways],
                partial(figures_of_requests, setting, message=request(ALIAS), connections=count),
            )
    return cases


async def latency(setting: Setting) -> list[Case]:
    """Requests at half of the rate that this gateway can take, and at the same rate for the others.

    Misleading: generator, stub and system disturb each other on one machine; a fraction of a millisecond is noise.
    """
    message = request(ALIAS)
    async with _gateways(setting) as gateways:
        most = await figures_of_requests(setting, gateways[0], message, setting.scaled(32))
        rate = most["requests/s"] / 2
        return await in_turns(
            setting,
            "latency",
            [("half of our saturation", gateway) for gateway in gateways],
            partial(figures_of_requests, setting, message=message, connections=setting.scaled(64), per_second=rate),
        )


async def overhead(setting: Setting) -> list[Case]:
    """A provider that takes 20 ms, over 1 to 64 connections: what a gateway adds to that, and how many fit.

    Misleading: it is the difference to a direct call that counts, and the stub's timers are only so exact. A gateway
    that is busy all the time adds more with each connection: its delays are those of a queue.
    """
    cases = []
    async with _gateways(setting, slow=True) as gateways:
        for count in map(setting.scaled, (1, 4, 16, 64)):
            cases += await in_turns(
                setting,
                "overhead",
                [(_connections(count), gateway) for gateway in gateways],
                partial(figures_of_requests, setting, message=request(ALIAS, delay=0.02), connections=count),
            )
    return cases


async def stream(setting: Setting) -> list[Case]:
    """200 streams at 100 events a second each, passed through.

    Misleading: where several events arrive together they are passed on together, which costs less for each; it happens
    to whoever is slow.
    """
    count = setting.scaled(200)
    async with _gateways(setting, buffering=False) as gateways:
        return await in_turns(
            setting,
            "stream",
            [(_streams(count), gateway) for gateway in gateways],
            partial(_events, setting, alias=ALIAS, streams=count),
        )


async def sanitized_stream(setting: Setting) -> list[Case]:
    """The same with each event parsed and stripped of what OpenAI does not have.

    Misleading: nginx passes the same events through and looks at none.
    """
    count = setting.scaled(200)
    async with _gateways(setting, direct=False, buffering=False) as gateways:
        return await in_turns(
            setting,
            "sanitized-stream",
            [(_streams(count), gateway) for gateway in gateways if gateway.name in ("onwards", "nginx")],
            partial(_events, setting, alias=CLEAN_ALIAS, streams=count),
        )


async def first_byte(setting: Setting) -> list[Case]:
    """200 streams opened at once: when the first event of each arrives.

    Misleading: all begin in the same instant, so this is about a queue of 200, not about one request.
    """
    count = setting.scaled(200)

    async def measure(gateway: Running) -> Figures:
        async with Streams(gateway.port, request(ALIAS, stream=(50, 0.02)), count) as load:
            return delays_of(await load.open(1.0))

    async with _gateways(setting, buffering=False) as gateways:
        return await in_turns(
            setting, "first-byte", [(f"{count} streams at once", gateway) for gateway in gateways], measure
        )


async def large_body(setting: Setting) -> list[Case]:
    """Requests of 100 KB in which `model` is replaced.

    Misleading: nginx looks into no body and replaces nothing.
    """
    message = request(ALIAS, size=100_000)
    async with _gateways(setting) as gateways:
        return await in_turns(
            setting,
            "large-body",
            [("100 KB", gateway) for gateway in gateways],
            partial(figures_of_requests, setting, message=message, connections=setting.scaled(32)),
        )


async def connections(setting: Setting) -> list[Case]:
    """256 clients that connect at the same moment, each with one request.

    Misleading: it includes the system's own work for a connection, which is the same for all.
    """
    count = setting.scaled(256)

    async def one(port: int, message: bytes) -> float:
        started = time.perf_counter()
        async with Requests(port, message, 1) as load:
            await load.run(0.0)
        return time.perf_counter() - started

    async def measure(gateway: Running) -> Figures:
        before = gateway.cpu_seconds()
        started = time.perf_counter()
        delays = await asyncio.gather(*[one(gateway.port, request(ALIAS)) for _ in range(count)])
        measured = Measured(count, time.perf_counter() - started, delays)
        return cpu_of(gateway, before, measured) | delays_of(measured)

    async with _gateways(setting) as gateways:
        return await in_turns(
            setting, "connections", [(f"{count} new ones at once", gateway) for gateway in gateways], measure
        )


async def tls(setting: Setting) -> list[Case]:
    """Requests over 32 connections, with TLS to the provider and without.

    Misleading: a connection over TLS is set up once and used for all; what handshakes cost is not in it.
    """
    if not setting.stub.tls:
        return []
    return await _compared(setting, "tls", {"plain": {}, "TLS to the provider": {"tls": True}})


async def fallback(setting: Setting) -> list[Case]:
    """Requests over 32 connections, with a first attempt that always fails and without.

    Misleading: the provider that fails does so at once, and keeps its connections open.
    """
    return await _compared(setting, "fallback", {"first attempt": {}, "second attempt": {"failing_first": True}})


async def heads(setting: Setting) -> list[Case]:
    """Requests over 32 connections: each has the head of the one before, as those of most clients do, or another one.

    Misleading: the second is what a proxy before the gateway makes of them that adds a trace or an id to each.
    """
    message = request(ALIAS)
    other = message.replace(b"x-stainless-os: Linux", b"x-stainless-os: other")
    others = {"the same head": [], "another head": [other]}
    async with variants_of(setting, {"": {}}) as [(_, gateway)]:
        cases = {case: Case("heads", case, gateway.name, []) for case in others}
        for _ in range(setting.runs):
            for name, case in cases.items():
                setting.progress(f"heads, {name}")
                case.runs.append(
                    await figures_of_requests(setting, gateway, message, setting.scaled(32), others=others[name])
                )
    return list(cases.values())


async def codec(setting: Setting) -> list[Case]:
    """Requests over 32 connections, read by httptools and by h11.

    Misleading: heads have thirteen short fields; browsers, and proxies on the way, send more.
    """
    return await _compared(
        setting, "codec", {name: {"options": ("--http-codec", name)} for name in ("httptools", "h11")}
    )


async def config_size(setting: Setting) -> list[Case]:
    """Requests over 32 connections, with more and more aliases, keys, and providers elsewhere, that nobody uses.

    Misleading: loading such a config takes seconds, which are not in it.
    """
    cases = []
    sizes = {"aliases": (1_000, 10_000), "keys": (10_000, 100_000), "elsewhere": (1_000, 10_000)}
    names = {"aliases": "aliases", "keys": "keys", "elsewhere": "providers elsewhere"}
    variants: dict[str, dict[str, Any]] = {"nothing else": {}}
    for what, curve in sizes.items():
        for size in map(setting.scaled, curve):
            variants[f"{size:,} {names[what]}"] = {what: size}
    # One after the other: the largest take their time to load.
    for case, settings in variants.items():
        cases += await _compared(setting, "config-size", {case: settings})
    return cases


async def operators(setting: Setting) -> list[Case]:
    """Requests over 32 connections, with what operators may want to see: metrics, a line for each request, traces.

    Misleading: the traces go to a collector that looks at nothing, and a disk that is slow costs no more than this.
    """
    with collector() as url:
        traced = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": url,
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.01",
        }
        logged = ("--access-log", str(setting.folder / "access.log"))
        variants: dict[str, dict[str, Any]] = {
            "nothing": {"options": ("--no-metrics",)},
            "metrics": {},
            "metrics and access log": {"options": logged},
        }
        if find_spec("opentelemetry"):
            variants["traces of 1 %"] = {"options": ("--no-metrics",), "environment": traced}
        else:
            setting.say("skipped: traces, which need opentelemetry-sdk (requirements/otel.txt)")
        return await _compared(setting, "operators", variants)


async def _compared(setting: Setting, scenario: str, variants: dict[str, dict[str, Any]]) -> list[Case]:
    async with variants_of(setting, variants) as measured:
        return await in_turns(
            setting,
            scenario,
            measured,
            partial(figures_of_requests, setting, message=request(ALIAS), connections=setting.scaled(32)),
        )


async def memory(setting: Setting) -> list[Case]:
    """5,000 open streams in which nothing happens: resident memory for each.

    Misleading: the system's own buffers for 10,000 connections are not in it.
    """
    count = setting.scaled(5000)
    needed = 2 * count + 1000
    if setting.most_files < needed:
        setting.say(f"skipped: memory, which needs {needed:,} open files; `ulimit -Hn` allows {setting.most_files:,}")
        return []

    async def measure(gateway: Running) -> Figures:
        message = request(ALIAS, stream=(2, 600.0))
        async with Streams(gateway.port, message, 1) as first:
            await first.open(10.0)  # so that what is needed once is there
            before = gateway.memory()
            async with Streams(gateway.port, message, count) as load:
                await load.open(30.0)
                return {"KB per stream": (gateway.memory() - before) / count / 1e3}

    async with _gateways(setting, direct=False, buffering=False) as gateways:
        once = attrs.evolve(setting, runs=1)  # A process keeps what it has got from the system.
        return await in_turns(once, "memory", [(f"{count} quiet streams", gateway) for gateway in gateways], measure)


async def startup(setting: Setting) -> list[Case]:
    """From the start of the process to its first answer.

    Misleading: the files are in the system's cache, and Python's compiled modules are on the disk.
    """

    async def measure(_: Running) -> Figures:
        started = time.perf_counter()
        async with variants_of(setting, {"": {}}) as [(_, gateway)], Requests(gateway.port, request(ALIAS), 1) as load:
            await load.run(0.0)
            return {"seconds": time.perf_counter() - started}

    return await in_turns(setting, "startup", [("first answer", Running("onwards", 0))], measure)


SCENARIOS: dict[str, Scenario] = {
    "request": request_,
    "latency": latency,
    "overhead": overhead,
    "stream": stream,
    "sanitized-stream": sanitized_stream,
    "first-byte": first_byte,
    "large-body": large_body,
    "connections": connections,
    "tls": tls,
    "fallback": fallback,
    "heads": heads,
    "codec": codec,
    "config-size": config_size,
    "operators": operators,
    "memory": memory,
    "startup": startup,
}
