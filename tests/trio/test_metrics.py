"""Metrics: names and labels that dashboards know, and none that a client could make up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from onwards_core import Record
from onwards_trio._metric_data import expose
from onwards_trio._metric_sources import requests
from onwards_trio._metrics import Metrics, endpoint


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


def test_a_request_without_an_answer_counts_too() -> None:
    """Its status is `none`."""
    metrics = Metrics()
    metrics.observe(record(status=None))
    assert samples(metrics)["own_http_requests_total", ("/v1/chat/completions", "POST", "none")] == 1


def test_shows_what_is_under_way() -> None:
    """The gauge counts at the moment of each scrape."""
    under_way = [record(), record(), record(path=b"/x", method="GET")]
    metrics = Metrics(requests(lambda: under_way))
    got = samples(metrics)
    assert got["own_http_requests_pending", ("/v1/chat/completions", "POST")] == 2
    assert got["own_http_requests_pending", ("other", "GET")] == 1
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
