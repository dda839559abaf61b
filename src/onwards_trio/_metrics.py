"""Metrics, counted from the records of requests, or read when they are asked for.

No label takes its values from what a client sends: what is on no list counts as `other`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from onwards_core import Record
from onwards_trio._metric_data import Families, Series, copy
from onwards_trio._metric_definitions import BY_NAME

Sample: TypeAlias = tuple[str, tuple[str, ...], float]
"""A metric's name, the values of its labels, its value."""
Source: TypeAlias = Callable[[], Iterable[Sample]]
"""Reads what need not be counted, because it is known. Called for each collection."""

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
_COLLECTIONS: Final = ("/v1/batches/", "/v1/files/", "/v1/models/", "/v1/responses/")


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


class Counters:
    """The series of one counter."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.series: dict[tuple[str, ...], Series] = {}

    def add(self, value: float, *labels: str) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = Series(labels)
        series.value += value


class Histograms:
    """The series of one histogram."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.series: dict[tuple[str, ...], Series] = {}
        self._buckets = BY_NAME[name].buckets

    def observe(self, value: float, *labels: str) -> None:
        series = self.series.get(labels)
        if series is None:
            series = self.series[labels] = Series(labels, 0, [0] * (len(self._buckets) + 1))
        series.counts[bisect_left(self._buckets, value)] += 1
        series.value += value


class Metrics:
    """Give `observe` the record of each request. `collect` gives all that is known by then.

    sources: of what is not counted here.
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._requests = Counters("http_requests_total")
        self._seconds = Histograms("http_requests_duration_seconds")
        self._bytes = Histograms("http_response_body_size")

    def observe(self, record: Record) -> None:
        """Count a request whose record is final."""
        labels = (*http_labels(record), "none" if record.status is None else str(record.status))
        self._requests.add(1, *labels)
        self._seconds.observe((record.ended or record.started) - record.started, *labels)
        self._bytes.observe(record.bytes_sent, *labels)

    def collect(self) -> Families:
        """All metrics as plain data; see `merge` and `expose`."""
        families: Families = {
            family.name: [copy(series) for series in family.series.values()]
            for family in (self._requests, self._seconds, self._bytes)
        }
        for source in self._sources:
            for name, labels, value in source():
                families.setdefault(name, []).append(Series(labels, value))
        return families


def http_labels(record: Record) -> tuple[str, str]:
    """`method` and `endpoint`."""
    return record.method if record.method in _METHODS else "OTHER", endpoint(record.path)
