"""Metrics, counted from the records of requests, or read when they are asked for.

No label takes its values from what a client sends: what is on no list counts as `other`.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from onwards_core import Record
from onwards_trio._metric_data import Exemplar, Families, Series, copy
from onwards_trio._metric_definitions import BY_NAME
from onwards_trio._status_data import PASSED_OVER

Sample: TypeAlias = tuple[str, tuple[str, ...], float]
"""A metric's name, the values of its labels, its value."""
Source: TypeAlias = Callable[[], Iterable[Sample]]
"""Reads what need not be counted, because it is known. Called for each collection."""

_Kind: TypeAlias = tuple[str, bytes, int | None, str, str | None, str | None]
"""What is the same for records that count in the same series."""

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
_PATHS: Final = frozenset(path.encode() for endpoint in _ENDPOINTS for path in (endpoint, endpoint.removeprefix("/v1")))
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

    def of(self, *labels: str) -> Series:
        """The one with these labels, to be kept by who counts often: to look it up costs more than to count."""
        return self.series.get(labels) or self.series.setdefault(labels, Series(labels))

    def add(self, value: float, *labels: str) -> None:
        self.of(*labels).value += value


class Histograms:
    """The series of one histogram."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.series: dict[tuple[str, ...], Series] = {}
        self._buckets = BY_NAME[name].buckets

    def of(self, *labels: str) -> Series:
        """As that of counters."""
        new = Series(labels, 0, [0] * (len(self._buckets) + 1))
        return self.series.get(labels) or self.series.setdefault(labels, new)

    def put(self, series: Series, value: float, trace_id: str | None = None) -> None:
        """Observe a value, in one of its series. trace_id: of a trace that shows how it came about."""
        bucket = bisect_left(self._buckets, value)
        series.counts[bucket] += 1
        series.value += value
        if trace_id is not None:
            series.exemplars[bucket] = Exemplar(trace_id, value, time.time())

    def observe(self, value: float, *labels: str) -> None:
        self.put(self.of(*labels), value)

    def add(self, counts: list[int], total: float, *labels: str) -> None:
        """What was put into buckets elsewhere, with the sum of it all."""
        series = self.of(*labels)
        series.counts = [known + new for known, new in zip(series.counts, counts, strict=True)]
        series.value += total


class Metrics:
    """Give `observe` the record of each request. `collect` gives all that is known by then.

    sources: of what is not counted here.
    """

    def __init__(self, *sources: Source) -> None:
        self._sources = sources
        self._requests = Counters("http_requests_total")
        self._seconds = Histograms("http_requests_duration_seconds")
        self._bytes = Histograms("http_response_body_size")
        self._exchanges = Counters("exchanges_total")
        self._refusals = Counters("refusals_total")
        self._tokens = Counters("tokens_total")
        self._durations = Histograms("exchange_duration_seconds")
        self._first_bytes = Histograms("time_to_first_byte_seconds")
        self._first_events = Histograms("time_to_first_event_seconds")
        self._gaps = Histograms("time_between_events_seconds")
        self._attempts = Counters("attempts_total")
        self._attempt_durations = Histograms("attempt_duration_seconds")
        self._fallbacks = Counters("fallbacks_total")
        self._lag = Histograms("event_loop_lag_seconds")
        # The series that records of one kind count in, looked up once: half of all the time that this takes.
        self._for_request: dict[_Kind, tuple[Series, Series, Series, Series]] = {}
        self._for_attempt: dict[tuple[str, str, str], tuple[Series, tuple[Series, Series, Series] | None]] = {}
        self._for_tokens: dict[tuple[str, str], tuple[Series, Series, Series]] = {}

    def observe(self, record: Record) -> None:
        """Count a request whose record is final."""
        alias = record.alias or ""
        kind = record.method, record.path, record.status, alias, record.outcome, record.code
        requests, seconds, size, exchanges = self._for_request.get(kind) or self._find_request(record, kind)
        ended = record.ended or record.started
        requests.value += 1
        exchanges.value += 1
        self._seconds.put(seconds, ended - record.started)
        self._bytes.put(size, record.bytes_sent)
        if record.refused_by is not None:
            self._refusals.add(1, alias, record.key or "", record.refused_by, record.code or "")
        usage = record.usage
        if usage is not None:
            user = alias, record.key or ""
            given, made, cached = self._for_tokens.get(user) or self._find_tokens(*user)
            given.value += usage.input_tokens
            made.value += usage.output_tokens
            cached.value += usage.cached_tokens
        if record.attempts:
            self._observe_attempts(record, alias, ended)

    def _observe_attempts(self, record: Record, alias: str, ended: float) -> None:
        tried = 0
        for attempt in record.attempts:
            kind = alias, attempt.provider, attempt.outcome or "abandoned"
            count, times = self._for_attempt.get(kind) or self._find_attempt(*kind)
            count.value += 1
            if times is not None:
                tried += 1
                attempts, exchanges, first_bytes = times
                self._attempt_durations.put(attempts, (attempt.ended or ended) - attempt.started)
        if not tried:
            return
        if tried > 1:
            self._fallbacks.add(tried - 1, alias)
        self._durations.put(exchanges, ended - record.started, record.trace_id)
        if record.first_byte is not None:
            self._first_bytes.put(first_bytes, record.first_byte - record.started, record.trace_id)
        if record.first_event is not None and record.last_event is not None:
            self._first_events.observe(record.first_event - record.started, alias)
            if record.gaps is not None:
                self._gaps.add(record.gaps, record.last_event - record.first_event, alias)

    def _find_request(self, record: Record, kind: _Kind) -> tuple[Series, Series, Series, Series]:
        method, endpoint = http_labels(record)
        status = "none" if record.status is None else str(record.status)
        labels = method, endpoint, status
        found = (
            self._requests.of(*labels),
            self._seconds.of(*labels),
            self._bytes.of(*labels),
            self._exchanges.of(record.alias or "", record.verdict, status),
        )
        if method != "OTHER" and record.path in _PATHS:  # Clients can make up any number of others.
            self._for_request[kind] = found
        return found

    def _find_tokens(self, alias: str, key: str) -> tuple[Series, Series, Series]:
        tokens = self._tokens
        found = tokens.of(alias, key, "input"), tokens.of(alias, key, "output"), tokens.of(alias, key, "cached")
        self._for_tokens[alias, key] = found
        return found

    def _find_attempt(
        self, alias: str, provider: str, outcome: str
    ) -> tuple[Series, tuple[Series, Series, Series] | None]:
        """The counter; and if the provider was tried, the times of its attempts, of exchanges and of first bytes."""
        times = None
        if outcome not in PASSED_OVER:
            durations = self._attempt_durations.of(alias, provider)
            times = durations, self._durations.of(alias), self._first_bytes.of(alias)
        found = self._for_attempt[alias, provider, outcome] = self._attempts.of(alias, provider, outcome), times
        return found

    def observe_lag(self, seconds: float) -> None:
        """Count how late a task got its turn."""
        self._lag.observe(seconds)

    def collect(self) -> Families:
        """All metrics as plain data; see `merge` and `expose`."""
        families: Families = {
            family.name: [copy(series) for series in family.series.values()]
            for family in vars(self).values()
            if isinstance(family, Counters | Histograms)
        }
        for source in self._sources:
            for name, labels, value in source():
                families.setdefault(name, []).append(Series(labels, value))
        return families


def http_labels(record: Record) -> tuple[str, str]:
    """`method` and `endpoint`."""
    return record.method if record.method in _METHODS else "OTHER", endpoint(record.path)
