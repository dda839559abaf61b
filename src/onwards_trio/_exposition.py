"""Metrics in the text formats of Prometheus and OpenMetrics."""

import math

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as ClientExemplar
from prometheus_client.utils import floatToGoString

from onwards_trio._metric_data import Exemplar, Families, Series
from onwards_trio._metric_definitions import BY_NAME, Definition


def expose(families: Families, prefix: str, accept: str = "") -> tuple[str, bytes]:
    """The content type and body of an answer for Prometheus.

    accept: what the scraper asks for. OpenMetrics, with exemplars, for who takes that; else Prometheus' text format.
    """
    encode, content_type = choose_encoder(accept)
    return content_type, encode(_Collected(families, prefix))


class _Collected(Collector):
    """What the exposition of `prometheus_client` reads."""

    def __init__(self, families: Families, prefix: str) -> None:
        self._families = families
        self._prefix = prefix

    def collect(self) -> list[Metric]:
        return [
            _metric(BY_NAME[name], f"{self._prefix}_{name}", family)
            for name, family in self._families.items()
            if family
        ]


def _metric(definition: Definition, name: str, family: list[Series]) -> Metric:
    labels = definition.labels
    if definition.kind == "counter":
        counter = CounterMetricFamily(name, definition.help, labels=labels)
        for series in family:
            counter.add_metric(series.labels, series.value)
        return counter
    if definition.kind == "gauge":
        gauge = GaugeMetricFamily(name, definition.help, labels=labels)
        for series in family:
            gauge.add_metric(series.labels, series.value)
        return gauge
    bounds = [str(floatToGoString(bound)) for bound in (*definition.buckets, math.inf)]  # type: ignore[no-untyped-call]
    histogram = HistogramMetricFamily(name, definition.help, labels=labels)
    for series in family:
        buckets: list[tuple[str, float] | tuple[str, float, ClientExemplar]] = []
        total = 0
        for index, (bound, count) in enumerate(zip(bounds, series.counts, strict=True)):
            total += count
            exemplar = series.exemplars.get(index)
            buckets.append((bound, total, _exemplar(exemplar)) if exemplar else (bound, total))
        histogram.add_metric(series.labels, buckets, series.value)
    return histogram


def _exemplar(exemplar: Exemplar) -> ClientExemplar:
    return ClientExemplar({"trace_id": exemplar.trace_id}, exemplar.value, exemplar.timestamp)
