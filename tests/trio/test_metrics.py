"""Metrics: names and labels that dashboards know, and none that a client could make up."""

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from onwards_core import Attempt, Record, Usage
from onwards_trio._exposition import expose
from onwards_trio._metric_sources import connections, limits_and_circuits, program, requests
from onwards_trio._metrics import Metrics, endpoint
from onwards_trio._reload import Reloader
from onwards_trio._upstream._direct import DirectTransport
from tests.core.gateway_support import chat
from tests.core.gateway_support import gateway as gateway_with


def record(method: str = "POST", path: bytes = b"/v1/chat/completions", status: int | None = 200) -> Record:
    """One that is final: half a second, 100 bytes."""
    return Record(method, path, started=1.0, status=status, ended=1.5, bytes_sent=100, outcome="ok")


def samples(metrics: Metrics) -> dict[tuple[str, tuple[str, ...]], float]:
    """What Prometheus would read: values by name and by label values in the order of the labels' names."""
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(expose(metrics.collect(), "own")[1].decode())
        for sample in family.samples
    }


CHAT_200 = ("/v1/chat/completions", "POST", "200")


def test_counts_requests_with_their_time_and_size() -> None:
    """Each record adds one to the counter and to both histograms."""
    metrics = Metrics()
    for _ in range(3):
        metrics.observe(record())
    got = samples(metrics)
    assert got["own_http_requests_total", CHAT_200] == 3
    assert got["own_http_requests_duration_seconds_count", CHAT_200] == 3
    assert got["own_http_requests_duration_seconds_sum", CHAT_200] == 1.5
    assert got["own_http_response_body_size_sum", CHAT_200] == 300
    endpoint_label, method, status = CHAT_200
    assert got["own_http_requests_duration_seconds_bucket", (endpoint_label, "0.25", method, status)] == 0
    assert got["own_http_requests_duration_seconds_bucket", (endpoint_label, "0.5", method, status)] == 3
    assert got["own_http_response_body_size_bucket", (endpoint_label, "64.0", method, status)] == 0
    assert got["own_http_response_body_size_bucket", (endpoint_label, "256.0", method, status)] == 3


def test_counts_what_an_exchange_was() -> None:
    """Attempts with what came of them, fallbacks, times of a stream, tokens; under alias, provider and key."""
    metrics = Metrics()
    metrics.observe(
        Record(
            *("POST", b"/v1/chat/completions", 1.0, "chat", "team"),
            attempts=[
                Attempt("a", 1.0, 1.0, "circuit_open"),
                Attempt("b", 1.0, 1.5, "status_503"),
                Attempt("c", 1.5, 2.0, "ok"),
            ],
            status=200,
            usage=Usage(10, 20, 5),
            first_byte=2.0,
            first_event=3.0,
            last_event=4.5,
            gaps=[0, 3, *[0] * 14],
            ended=5.0,
            outcome="ok",
        )
    )
    got = samples(metrics)
    assert got["own_exchanges_total", ("chat", "ok", "200")] == 1
    attempts = {labels: value for (name, labels), value in got.items() if name == "own_attempts_total"}
    assert attempts == {
        ("chat", "circuit_open", "a"): 1,
        ("chat", "status_503", "b"): 1,
        ("chat", "ok", "c"): 1,
    }
    assert got["own_fallbacks_total", ("chat",)] == 1
    assert ("own_attempt_duration_seconds_sum", ("chat", "a")) not in got
    assert got["own_attempt_duration_seconds_sum", ("chat", "b")] == 0.5
    assert got["own_time_to_first_byte_seconds_sum", ("chat",)] == 1
    assert got["own_time_to_first_event_seconds_sum", ("chat",)] == 2
    assert got["own_exchange_duration_seconds_sum", ("chat",)] == 4
    assert got["own_time_between_events_seconds_sum", ("chat",)] == 1.5
    assert got["own_time_between_events_seconds_bucket", ("chat", "0.005")] == 0
    assert got["own_time_between_events_seconds_bucket", ("chat", "0.01")] == 3
    tokens = {labels: value for (name, labels), value in got.items() if name == "own_tokens_total"}
    assert tokens == {
        ("chat", "team", "input"): 10,
        ("chat", "team", "output"): 20,
        ("chat", "team", "cached"): 5,
    }


def test_made_up_requests_take_no_memory() -> None:
    """Methods and paths that clients make up are counted together, and nothing is kept of each."""
    metrics = Metrics()
    for number in range(100):
        metrics.observe(record(path=b"/v1/models/%d" % number))
        metrics.observe(record(path=b"/%d" % number))
        metrics.observe(record(method=f"M{number}"))
    got = {labels: value for (name, labels), value in samples(metrics).items() if name == "own_http_requests_total"}
    assert got == {
        ("/v1/models", "POST", "200"): 100,
        ("other", "POST", "200"): 100,
        ("/v1/chat/completions", "OTHER", "200"): 100,
    }
    assert metrics._for_request == {}


def test_adds_up_the_times_between_events() -> None:
    """Those of one more stream are added to those of the ones before."""
    metrics = Metrics()
    for _ in range(2):
        stream = record()
        stream.attempts.append(Attempt("a", 1.0, 1.0, "ok"))
        for now in (1.0, 1.25, 1.5):
            stream.count_event(now)
        metrics.observe(stream)
    assert samples(metrics)["own_time_between_events_seconds_bucket", ("", "0.3")] == 4


def test_counts_refusals() -> None:
    """By whose limit it was and which one. What reached no provider is in no histogram about providers."""
    metrics = Metrics()
    refused = record(status=429)
    refused.alias, refused.refused_by, refused.code = "chat", "pool", "rate_limit"
    metrics.observe(refused)
    got = samples(metrics)
    assert got["own_refusals_total", ("chat", "pool", "rate_limit", "")] == 1
    assert got["own_exchanges_total", ("chat", "refused", "429")] == 1
    assert not any("first_byte" in name or "exchange_duration" in name for name, _ in got)


def test_what_is_read(tmp_path: Path) -> None:
    """Limits, circuits, connections and the config are read when they are asked for."""
    limits = {"rate_limit": {"requests_per_second": 2}, "concurrency_limit": {"max_concurrent_requests": 3}}
    pool = {"providers": [{"name": "east", "url": "http://p/"}], "health": {"consecutive_failures": 1}, **limits}
    gateway = gateway_with({"chat": pool}, key_definitions={"team": {"key": "sk", **limits}})

    async def read() -> dict[tuple[str, tuple[str, ...]], float]:
        reloader = Reloader(tmp_path / "config.json", b"")
        await reloader.reload(gateway)
        with gateway.admit(chat("chat"), trio.current_time()) as exchange:
            exchange.begin(trio.current_time())
            transport = DirectTransport()
            transport.opened["p"], transport.reused["p"] = 1, 2
            metrics = Metrics(limits_and_circuits(gateway), connections(transport), program(reloader))
            metrics.observe_lag(0.25)
            return samples(metrics)

    got = trio.run(read)
    assert got["own_permits_in_use", ("chat", "pool", "chat")] == 1
    assert got["own_permits_in_use", ("chat", "provider", "east")] == 1
    assert got["own_permits_limit", ("", "key", "team")] == 3
    assert got["own_rate_tokens_left", ("", "key", "team")] == 2
    assert 1 <= got["own_rate_tokens_left", ("chat", "pool", "chat")] < 2
    assert got["own_rate_tokens_limit", ("chat", "pool", "chat")] == 2
    states = ("closed", "open", "trial")
    assert [got["own_circuit_state", ("chat", "east", state)] for state in states] == [1, 0, 0]
    assert got["own_upstream_requests_total", ("new", "p")] == 1
    assert got["own_upstream_requests_total", ("reused", "p")] == 2
    assert got["own_upstream_connections_opened_total", ("p",)] == 1
    assert got["own_config_last_reload_ok", ()] == 0
    assert got["own_config_reloads_total", ("failed",)] == 1
    assert got["own_config_reloads_total", ("ok",)] == 0
    assert got["own_config_age_seconds", ()] >= 0
    assert got["own_event_loop_lag_seconds_sum", ()] == 0.25
    assert [name for name, _ in got].count("own_build_info") == 1


def test_a_request_without_an_answer_counts_too() -> None:
    """Its status is `none`."""
    metrics = Metrics()
    metrics.observe(record(status=None))
    assert samples(metrics)["own_http_requests_total", ("/v1/chat/completions", "POST", "none")] == 1


def test_shows_what_is_under_way() -> None:
    """The gauge counts at the moment of each scrape."""
    under_way = [record(), record(), record(path=b"/x", method="GET")]
    under_way[0].alias = "busy"
    metrics = Metrics(requests(lambda: under_way, lambda: ["busy", "idle"]))
    got = samples(metrics)
    assert got["own_http_requests_pending", ("/v1/chat/completions", "POST")] == 2
    assert got["own_http_requests_pending", ("other", "GET")] == 1
    assert got["own_model_inflight", ("busy",)] == 1
    assert got["own_model_inflight", ("idle",)] == 0
    under_way.clear()
    assert not any(name == "own_http_requests_pending" for name, _ in samples(metrics))


def test_two_servers_do_not_share_metrics() -> None:
    """What one counts is not in the other, so there may be two in one process."""
    first, second = Metrics(), Metrics()
    first.observe(record())
    assert samples(second) == {}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/v1/chat/completions", "/v1/chat/completions"),
        (b"/chat/completions", "/v1/chat/completions"),
        (b"/v1/models/meta/llama", "/v1/models"),
        (b"/v1/files/file-1/content", "/v1/files"),
        (b"/v1/chat/completions/more", "other"),
        (b"/v1/", "other"),
        (b"", "other"),
        (b"/\xff", "other"),
    ],
)
def test_endpoints(path: bytes, expected: str) -> None:
    """A route of the API, with or without `/v1`; an item counts as its collection."""
    assert endpoint(path) == expected


@given(st.text(), st.binary())
def test_no_label_comes_from_a_client(method: str, path: bytes) -> None:
    """Whatever it sends, the labels are from the lists: a second client's invention adds no series."""
    metrics = Metrics()
    metrics.observe(record("NEW", b"/new"))
    known = samples(metrics).keys()
    metrics.observe(record("X" + method, b"/x" + path))
    assert samples(metrics).keys() == known


def test_exemplars() -> None:
    """Where there is a trace, OpenMetrics names it beside the bucket that the exchange fell into."""
    metrics = Metrics()
    for trace_id in (None, "1" * 32):
        traced = record()
        traced.alias, traced.trace_id, traced.first_byte = "m", trace_id, 1.25
        traced.attempts.append(Attempt("a", 1.0, 1.1, "ok"))
        metrics.observe(traced)
    text = expose(metrics.collect(), "own", "application/openmetrics-text; version=1.0.0")[1].decode()
    lines = [line for line in text.splitlines() if "trace_id" in line]
    assert [line.partition("{")[0] for line in lines] == [
        "own_exchange_duration_seconds_bucket",
        "own_time_to_first_byte_seconds_bucket",
    ]
    assert all('# {trace_id="11111111111111111111111111111111"}' in line for line in lines)
