"""Measure what each feature costs a request: `python benchmarks/features.py`, or with `--instructions`, which is exact.

A request's way through the codecs, the core, the driver and the connection to its provider, with memory in the place of
sockets: what is left is what features can change. Each feature is measured in turns with the same without it, since the
same machine is another one a moment later. `--instructions` has Valgrind count them: other processes change nothing
about these, and nearly nothing else does.
"""

import argparse
import gc
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

import attrs
import trio
from messages import ALIAS, ANSWER, CLIENT_KEY, FAILURE, STREAM_END, STREAM_HEAD, event_chunk, request

from onwards_core import Gateway, Record, Request, Snapshot, load_config
from onwards_trio._drive import forward
from onwards_trio._reply import Reply
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._wire import RequestHead, Signal
from onwards_trio._wire._choose import codecs

Settings = dict[str, Any]

SLICE: Final = 100
"""Requests in a row, before it is the other's turn."""
COUNTED: Final = 200

_ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]}\n\n'
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":40,"total_tokens":49}}\n\n'
_DONE = b"data: [DONE]\n\n"


def _chunk(event: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(event), event)


# What a provider sends after each request, in pieces that come one by one.
_PLAIN = (ANSWER,)
_STREAM = (STREAM_HEAD + _chunk(_ROLE), *map(event_chunk, range(8)), _chunk(_USAGE), _chunk(_DONE) + STREAM_END)
_FAILURE = (FAILURE,)


@attrs.frozen
class Kind:
    """Of requests: what they get, and whether their first attempt fails."""

    message: bytes
    answer: tuple[bytes, ...]
    fails_first: bool = False


KINDS: Final = {
    "a short answer": Kind(request(ALIAS), _PLAIN),
    "a second attempt": Kind(request(ALIAS), _PLAIN, fails_first=True),
    "a stream of 11 events": Kind(request(ALIAS, stream=(8, 0.0)), _STREAM),
}


@attrs.frozen
class Feature:
    """One that can be switched on."""

    name: str
    kind: str
    pool: Settings = attrs.field(factory=dict)
    fallback: Settings = attrs.field(factory=dict)
    config: Settings = attrs.field(factory=dict)
    without: Settings = attrs.field(factory=dict)
    """Of `fallback`, where it is on unless it is switched off."""


_SHORT, _SECOND, _STREAMED = KINDS
FEATURES: Final = [
    Feature("`health`", _SHORT, {"health": {}}),
    Feature("`routing_rules`", _SHORT, {"routing_rules": [{"match_labels": {"a": "b"}, "action": {"type": "deny"}}]}),
    *[
        Feature(f"`{name}`", _SHORT, {"strategy": name})
        for name in ("round_robin", "least_connections", "lowest_latency")
    ],
    Feature("`affinity`, by 200 bytes", _SHORT, {"strategy": "affinity", "affinity": {"prompt_bytes": 200}}),
    Feature("`max_attempts`", _SHORT, fallback={"max_attempts": 4}),
    Feature("`with_replacement`", _SHORT, fallback={"with_replacement": True}),
    Feature("`backoff`", _SHORT, fallback={"backoff": {"initial_ms": 1}}),
    Feature("`timeouts`", _SHORT, {"timeouts": {"connect": 5, "first_content": 60, "idle": 60}}),
    Feature("`request_timeout_secs`", _SHORT, {"request_timeout_secs": 60}),
    Feature("`trusted`", _SHORT, {"trusted": True}),
    Feature("`sanitize_response`", _SHORT, {"sanitize_response": True}),
    Feature("`strict_mode`", _SHORT, config={"strict_mode": True}),
    Feature("`health`", _SECOND, {"health": {"consecutive_failures": None, "failure_rate": None}}),
    Feature("`max_attempts`", _SECOND, fallback={"max_attempts": 4}),
    Feature("`with_replacement`", _SECOND, fallback={"with_replacement": True}),
    Feature("`backoff`, with a wait of up to 1 ms", _SECOND, fallback={"backoff": {"initial_ms": 1}}),
    Feature("`on_embedded_error`: the commit point", _STREAMED, without={"on_embedded_error": False}),
    Feature("`first_content`", _STREAMED, {"timeouts": {"first_content": 60}}),
    Feature("`stream_keepalive_secs`", _STREAMED, {"stream_keepalive_secs": 15}),
    Feature("`inject_usage`", _STREAMED, {"inject_usage": True}),
    Feature("`sanitize_response`", _STREAMED, {"sanitize_response": True}),
    Feature("`strict_mode`", _STREAMED, config={"strict_mode": True}),
]

_LIMITS = {
    "rate_limit": {"requests_per_second": 1_000_000, "burst_size": 1_000_000},
    "concurrency_limit": {"max_concurrent_requests": 100_000},
}


def gateway(feature: Feature, *, on: bool) -> Gateway:
    """A key with limits, a pool with limits, two providers with credentials and models, fallback; and the feature."""
    fallback = {"enabled": True, "on_status": [429, 5], "on_rate_limit": True}
    pool = {
        "keys": ["alice"],
        "providers": [
            {"url": f"http://{host}/v1/", "onwards_key": f"sk-{host}", "onwards_model": "stub-model", "weight": weight}
            for host, weight in (("first", 2), ("second", 1))
        ],
        "fallback": {**fallback, **(feature.fallback if on else feature.without)},
        **_LIMITS,
        **(feature.pool if on else {}),
    }
    config = {
        "auth": {"key_definitions": {"alice": {"key": CLIENT_KEY, **_LIMITS}}},
        "targets": {ALIAS: pool},
        **(feature.config if on else {}),
    }
    return Gateway(Snapshot.compile(load_config(json.dumps(config).encode()), hash_key=b"k" * 32), random=Random(1))


class _Line:
    """The connection to a provider, who has its answer ready."""

    def __init__(self, answer: Callable[[], tuple[bytes, ...]]) -> None:
        self._answer = answer

    def send_nowait(self, data: bytes) -> int:
        self._left = iter(self._answer())
        return len(data)

    async def receive_some(self) -> bytes:
        return next(self._left)

    def has_something_to_read(self) -> bool:
        return False

    def close(self) -> None:
        pass


class _Sink:
    """A client who takes everything."""

    async def send_all(self, data: bytes) -> None:
        pass


class Way:
    """A request's way through one gateway."""

    def __init__(self, feature: Feature, *, on: bool) -> None:
        async def connect(*_: object) -> _Line:
            return _Line(self._answer)

        self.transport = DirectTransport(connect)
        self._handle = forward(gateway(feature, on=on), self.transport)
        self._kind = KINDS[feature.kind]
        self._fails = False
        self._codec = codecs().server(64 * 1024, 100)

    def _answer(self) -> tuple[bytes, ...]:
        fails, self._fails = self._fails, False
        return _FAILURE if fails else self._kind.answer

    async def go(self, times: int) -> None:
        codec = self._codec
        for _ in range(times):
            self._fails = self._kind.fails_first
            codec.receive(self._kind.message)
            head = codec.next_event()
            assert isinstance(head, RequestHead)
            body = b""
            while (piece := codec.next_event()) is not Signal.END:
                assert isinstance(piece, bytes)
                body += piece
            received = Request(head.method, head.target, head.headers, body)
            reply = Reply(_Sink(), codec, Record.of(received, trio.current_time()))
            await self._handle(received, reply)
            assert (reply.record.status, reply.complete) == (200, True)
            reply.close()
            codec.next_cycle()


# Time


async def _measure(feature: Feature, rounds: int) -> tuple[list[float], list[float]]:
    """Microseconds of each slice, without the feature and with it."""
    off, on = Way(feature, on=False), Way(feature, on=True)
    times: dict[Way, list[float]] = {off: [], on: []}
    async with off.transport, on.transport:
        for number in range(rounds + 1):
            for way in (off, on) if number % 2 else (on, off):
                gc.collect()
                gc.disable()
                before = time.thread_time_ns()
                await way.go(SLICE)
                taken = (time.thread_time_ns() - before) / SLICE / 1000
                gc.enable()
                if number:  # The first turn warms up.
                    times[way].append(taken)
    return times[off], times[on]


def _times(feature: Feature, rounds: int) -> str:
    off, on = trio.run(_measure, feature, rounds)
    low, median, high = statistics.quantiles([b - a for a, b in zip(off, on, strict=True)], n=4)
    ratio = statistics.median(b / a for a, b in zip(off, on, strict=True))
    return f"{statistics.median(off):.0f} µs | {median:+.1f} µs ({low:+.1f} to {high:+.1f}) | {ratio:.3f}"


# Instructions


def _count(features: list[Feature]) -> None:
    """What Valgrind runs: a child for each count, which says its name; what they have in common was done before."""
    for index, on, times in itertools.product(range(len(features)), (0, 1), (COUNTED, 2 * COUNTED)):
        if (child := os.fork()) == 0:
            print(f"count {os.getpid()} {index} {on} {times}", flush=True)
            trio.run(_go, features[index], on, times)
            return
        os.waitpid(child, 0)


async def _go(feature: Feature, on: int, times: int) -> None:
    way = Way(feature, on=bool(on))
    async with way.transport:
        await way.go(times)


def _instructions(names: str | None) -> Callable[[int], str]:
    """Has all features counted; gives what there is to say of each."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null", "--log-fd=1"]
    command = [*valgrind, sys.executable, __file__, "--count", *(["--only", names] if names else [])]
    fixed = {**os.environ, "PYTHONHASHSEED": "0"}
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=fixed).stdout
    refs = {pid: int(count.replace(",", "")) for pid, count in re.findall(r"==(\d+)== I\s+refs:\s+([\d,]+)", said)}
    counts = {
        (int(index), int(on), int(times)): refs[pid]
        for pid, index, on, times in re.findall(r"^count (\d+) (\d+) (\d) (\d+)$", said, re.MULTILINE)
    }

    def tell(index: int) -> str:
        off, on = ((counts[index, it, 2 * COUNTED] - counts[index, it, COUNTED]) / COUNTED / 1000 for it in (0, 1))
        return f"{off:.0f} k | {on - off:+.1f} k | {on / off:.3f}"

    return tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="turns of each, %(default)s by default")
    parser.add_argument("--only", help="features whose names hold this")
    parser.add_argument("--instructions", action="store_true", help="count them, with Valgrind")
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    features = [feature for feature in FEATURES if (arguments.only or "") in feature.name]
    if arguments.count:
        _count(features)
        return
    if arguments.instructions and not shutil.which("valgrind"):
        parser.error("valgrind is not installed")
    tell = _instructions(arguments.only) if arguments.instructions else None
    print("| request | feature | without it | more with it | ratio |\n| --- | --- | --- | --- | --- |")
    for index, feature in enumerate(features):
        found = tell(index) if tell else _times(feature, arguments.rounds)
        print(f"| {feature.kind} | {feature.name} | {found} |", flush=True)


if __name__ == "__main__":
    main()
