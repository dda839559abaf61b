"""The pieces of the core that each request goes through: `pytest benchmarks/micro`."""

import os
import time
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from gateways import Stub, config
from messages import ALIAS, event_chunk, request

from onwards_core import Gateway, Request, Snapshot, UpstreamResponded, load_config
from onwards_core._body import parse_body
from onwards_core._ledger import Ledger, Limit, Rate
from onwards_core._sanitize import SanitizeEvents
from onwards_core._sse import Framer
from onwards_core._strategies import weighted_order
from onwards_core._strict import endpoint

Benchmark = Callable[..., Any]
NOTHING_LISTENS = Stub(working=(1, 2), failing=3, tls=None, authority=None)


def parsed(message: bytes) -> Request:
    head, _, body = message.partition(b"\r\n\r\n")
    line, *fields = head.split(b"\r\n")
    method, target, _ = line.split()
    return Request(method.decode(), target, [tuple(field.split(b": ", 1)) for field in fields], body)


@pytest.fixture(scope="module")
def gateway() -> Gateway:
    text = config(NOTHING_LISTENS).encode()
    return Gateway(Snapshot.compile(load_config(text), hash_key=os.urandom(32)), random=Random(1))


def test_whole_exchange(benchmark: Benchmark, gateway: Gateway) -> None:
    message = parsed(request(ALIAS))
    answer = UpstreamResponded(200, [(b"content-type", b"application/json"), (b"content-length", b"600")])

    def exchange() -> None:
        with gateway.admit(message, time.monotonic()) as admitted:
            admitted.begin(time.monotonic())
            admitted.feed(answer, time.monotonic())

    benchmark(exchange)


def test_admit(benchmark: Benchmark, gateway: Gateway) -> None:
    message = parsed(request(ALIAS))

    def admit() -> None:
        with gateway.admit(message, time.monotonic()):
            pass

    benchmark(admit)


@pytest.mark.parametrize("providers", [2, 10, 100])
def test_order_of_providers(benchmark: Benchmark, providers: int) -> None:
    random = Random(1)
    benchmark(lambda: next(weighted_order([1] * providers, random)))


@pytest.mark.parametrize("identities", [1, 100_000])
def test_rate_check(benchmark: Benchmark, identities: int) -> None:
    ledger = Ledger()
    limits = [Limit(f"key-{number}", Rate.per_second(1e9), 1000) for number in range(identities)]
    for limit in limits:
        ledger.acquire([limit], 0.0).release()
    benchmark(lambda: ledger.acquire(limits[:1], time.monotonic()).release())


@pytest.mark.parametrize("size", [0, 100_000, 2_000_000])
def test_rewriting_model(benchmark: Benchmark, size: int) -> None:
    message = parsed(request(ALIAS, size=size))
    benchmark(lambda: parse_body(message, 128).with_model("another"))


STREAM = b"".join(event_chunk(number).split(b"\r\n", 1)[1][:-2] for number in range(100))


@pytest.mark.parametrize("cut", [1_000, 37])
def test_framing_events(benchmark: Benchmark, cut: int) -> None:
    pieces = [STREAM[start : start + cut] for start in range(0, len(STREAM), cut)]

    def frame() -> None:
        framer = Framer()
        for piece in pieces:
            framer.feed(piece)
        framer.finish()

    benchmark(frame)


def test_sanitizing_events(benchmark: Benchmark) -> None:
    benchmark(lambda: SanitizeEvents(ALIAS, "default", 0).feed(STREAM))


def test_strict_events(benchmark: Benchmark) -> None:
    chat = endpoint(b"/v1/chat/completions")
    assert chat is not None
    benchmark(lambda: chat.events(ALIAS, "default", 0, None, trusted=False).feed(STREAM))


@pytest.mark.parametrize("size", [0, 100_000])
def test_strict_request(benchmark: Benchmark, size: int) -> None:
    chat = endpoint(b"/v1/chat/completions")
    assert chat is not None
    body = parsed(request(ALIAS, size=size)).body
    assert chat.check_request(body) is None
    benchmark(lambda: chat.check_request(body))
