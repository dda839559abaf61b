"""The metrics port, and how the program ends.

For the Trio gateway only: the asyncio example has neither.
"""

import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway, Process
from tests.conformance.support.provider import Provider
from tests.conformance.support.wire import BrokenOff, Message


def _get(process: Process, path: str, method: str = "GET") -> Message:
    """Ask on the metrics port."""
    client = Client(int(process.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)")[1]))
    try:
        client.request(None, method=method, path=path)
        return client.answer()
    finally:
        client.close()


def _metric(process: Process, name: str, **labels: str) -> float:
    """The sum of all samples of a metric that have these labels."""
    total = 0.0
    for line in _get(process, "/metrics").body.decode().splitlines():
        sample = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if sample and sample[1] == name:
            found = dict(re.findall(r'(\w+)="([^"]*)"', sample[2] or ""))
            if labels.items() <= found.items():
                total += float(sample[3])
    return total


@pytest.fixture
def alone(tmp_path: Path, provider: Provider) -> Iterator[Gateway]:
    """A gateway for one test, with one alias."""
    with (
        Process("trio", tmp_path, {"targets": {"model": {"url": provider.url}}}, "--no-watch") as process,
        Gateway(process) as gateway,
    ):
        yield gateway


def test_metrics(alone: Gateway, provider: Provider) -> None:
    """Requests are counted by method, endpoint and status, however they end; what is under way is seen, too."""
    process = alone.process
    for _ in range(3):
        alone.through(provider)
    alone.ask("unknown")
    client = alone.connect()
    client.request()
    call = provider.call()
    assert _metric(process, "onwards_http_requests_pending") == 1
    call.respond(500)
    client.answer()
    process.wait_for("status=500")
    assert _metric(process, "onwards_http_requests_pending") == 0
    counts = {
        status: _metric(process, "onwards_http_requests_total", status=status) for status in ("200", "404", "500")
    }
    assert counts == {"200": 3, "404": 1, "500": 1}
    assert _metric(process, "onwards_http_requests_total", method="POST", endpoint="/v1/chat/completions") == 5
    assert _metric(process, "onwards_http_requests_duration_seconds_count") == 5
    assert _metric(process, "onwards_http_response_body_size_count") == 5


def test_metrics_hold_nothing_that_clients_sent(alone: Gateway, provider: Provider) -> None:
    """Paths, methods, models and keys that clients make up add no label."""
    for number in range(3):
        alone.through(provider, path=f"/v1/made-up-path-{number}")
        alone.connect().request(method=f"MADEUP{number}")
        alone.ask(f"made-up-model-{number}", key=f"made-up-key-{number}")
    metrics = _get(alone.process, "/metrics").body.lower()
    assert b"made" not in metrics


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/healthz", 200),
        ("HEAD", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/status.json", 200),
        ("GET", "/status/events", 200),
        ("HEAD", "/status/events", 200),
        ("GET", "/other", 404),
        ("GET", "/status", 404),
        ("GET", "/v1/models", 404),
        ("POST", "/metrics", 405),
        ("POST", "/", 405),
    ],
)
def test_routes(trio_gateway: Gateway, method: str, path: str, status: int) -> None:
    """The metrics port has its own routes, and does not forward anything."""
    process = trio_gateway.process
    client = Client(int(process.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)")[1]))
    client.request(None, method=method, path=path)
    assert client.head(bodiless=method == "HEAD").start.split(" ")[1] == str(status)
    client.close()


def test_operators_routes_are_not_for_clients(trio_gateway: Gateway) -> None:
    """The port for clients does not have them."""
    trio_gateway.configure({})
    for path in ("/metrics", "/healthz", "/readyz", "/status.json", "/"):
        assert trio_gateway.ask(None, method="GET", path=path).status == 400


def test_options(tmp_path: Path, provider: Provider) -> None:
    """Metrics can have another prefix, and settings can come from the environment."""
    config = {"targets": {"model": {"url": provider.url}}}
    environment = {"ONWARDS_METRICS_PREFIX": "llm"}
    with Process("trio", tmp_path, config, env=environment) as process, Gateway(process) as gateway:
        gateway.through(provider)
        process.wait_for("status=200")
        assert _metric(process, "llm_http_requests_total") == 1
    with Process("trio", tmp_path, config, "--no-metrics") as process:
        assert "metrics on" not in process.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(tmp_path: Path, provider: Provider, number: signal.Signals) -> None:
    """A signal to stop: what is under way is finished, nothing new begins, and then the program ends with success."""
    config = {"targets": {"model": {"url": provider.url}}}
    with Process("trio", tmp_path, config) as process, Gateway(process) as gateway:
        idle, waiting, streaming = (gateway.connect() for _ in range(3))
        waiting.request()
        waiting_call = provider.call()
        streaming.request(stream=True)
        streaming_call = provider.call()
        streaming_call.start()
        streaming.head()
        streaming.request()
        process.signal(number)
        assert idle.closed()
        assert _get(process, "/readyz").status == 503
        assert _get(process, "/healthz").status == 200
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", process.port)):
            pass
        waiting_call.respond()
        answer = waiting.answer()
        assert (answer.status, answer.head.get("connection")) == (200, "close")
        streaming_call.send_chunk(b"data: 1\n\n")
        streaming.expect(b"data: 1\n\n")
        streaming_call.finish()
        assert streaming.read_body() == b""
        # The request that was sent ahead of the signal, but not begun.
        late = streaming.answer()
        assert (late.status, late.code) == (503, "service_unavailable")
        streaming.close()
        assert process.wait() == 0


def test_drain_has_an_end(tmp_path: Path, provider: Provider) -> None:
    """What is still under way after `--drain-seconds` is cut off."""
    config = {"targets": {"model": {"url": provider.url}}}
    with Process("trio", tmp_path, config, "--drain-seconds", "0.1") as process, Gateway(process) as gateway:
        client = gateway.connect()
        client.request(stream=True)
        call = provider.call()
        call.start()
        client.head()
        process.signal(signal.SIGTERM)
        with pytest.raises(BrokenOff):
            client.read_body()
        assert call.closed()
        assert process.wait() == 0
