"""Prometheus metrics, read from the records of requests.

No label takes its values from what a client sends: what is not on the lists below counts as `other`.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from onwards_core import Record

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_ENDPOINTS = frozenset(
    (
        "/v1/audio/speech",
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/batches",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/files",
        "/v1/images/edits",
        "/v1/images/generations",
        "/v1/images/variations",
        "/v1/models",
        "/v1/moderations",
        "/v1/responses",
    )
)
# A path below one of these is one of its items.
_COLLECTIONS = ("/v1/batches/", "/v1/files/", "/v1/models/", "/v1/responses/")

# From a refusal to a long answer of a model that thinks.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# From an error, 64 bytes, to an hour of audio, 64 MiB.
_BYTES = tuple(4**power for power in range(3, 14))


@lru_cache(maxsize=1024)
def endpoint(path: bytes) -> str:
    """The route of OpenAI's API that a path stands for, with its `/v1` or without, or `other`."""
    text = path.decode("latin-1")
    if not text.startswith("/v1/"):
        text = "/v1" + text
    for collection in _COLLECTIONS:
        if text.startswith(collection):
            return collection.rstrip("/")
    return text if text in _ENDPOINTS else "other"


def _labels(record: Record) -> tuple[str, str]:
    return record.method if record.method in _METHODS else "OTHER", endpoint(record.path)


class Metrics:
    """Give `observe` the record of each request; `expose` is what Prometheus scrapes.

    prefix: of each metric's name.
    under_way: the records of the requests that are being answered now.
    """

    def __init__(self, prefix: str, under_way: Callable[[], Iterable[Record]]) -> None:
        labels = ("method", "endpoint", "status")
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{prefix}_http_requests",
            "Requests that are over; status 'none': there was no answer.",
            labels,
            registry=self._registry,
        )
        self._seconds = Histogram(
            f"{prefix}_http_requests_duration_seconds",
            "From the end of a request to the end of its answer.",
            labels,
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._bytes = Histogram(
            f"{prefix}_http_response_body_size",
            "Bytes of an answer's body that were sent.",
            labels,
            buckets=_BYTES,
            registry=self._registry,
        )
        self._registry.register(_Pending(f"{prefix}_http_requests_pending", under_way))
        # To look a child up by its labels costs more than to count with it.
        self._children: dict[tuple[str, str, str], tuple[Counter, Histogram, Histogram]] = {}

    def observe(self, record: Record) -> None:
        """Count a request whose record is final."""
        labels = (*_labels(record), "none" if record.status is None else str(record.status))
        children = self._children.get(labels)
        if children is None:
            metrics = (self._requests.labels(*labels), self._seconds.labels(*labels), self._bytes.labels(*labels))
            children = self._children[labels] = metrics
        requests, seconds, size = children
        requests.inc()
        seconds.observe((record.ended or record.started) - record.started)
        size.observe(record.bytes_sent)

    def expose(self) -> bytes:
        """All metrics in Prometheus' text format; see `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _Pending(Collector):
    """Counts the requests under way when it is asked, which costs each of them nothing."""

    def __init__(self, name: str, under_way: Callable[[], Iterable[Record]]) -> None:
        self._name = name
        self._under_way = under_way

    def collect(self) -> Iterable[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, "Requests that are being answered.", labels=("method", "endpoint"))
        for labels, count in Tally(map(_labels, self._under_way())).items():
            family.add_metric(labels, count)
        return [family]
