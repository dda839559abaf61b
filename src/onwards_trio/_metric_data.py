"""Metrics as plain data: taken in one process, merged and exposed in another (`_exposition`)."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from onwards_trio._metric_definitions import BY_NAME, Merge


class Exemplar(msgspec.Struct, array_like=True, frozen=True):
    """One observation of which there is a trace."""

    trace_id: str
    value: float
    timestamp: float
    """Seconds of Unix time."""


class Series(msgspec.Struct, array_like=True):
    """The values of a metric for one set of labels."""

    labels: tuple[str, ...]
    """Values, in the order of the definition's names."""
    value: float = 0
    """Of a counter or gauge; the sum of what a histogram has observed."""
    counts: list[int] = []
    """Of a histogram: observations in each bucket, not those below it too; in the last one what exceeds them all."""
    exemplars: dict[int, Exemplar] = {}
    """Of a histogram: the newest in each bucket."""


Families: TypeAlias = dict[str, list[Series]]
"""Series by the names of their metrics. JSON and MessagePack can hold it (`msgspec`)."""


def merge(collected: Sequence[Families]) -> Families:
    """What several processes have counted, as if one had: counters and histograms are added up, gauges by what their
    definition says. `latest` is the last one's."""
    merged: dict[str, dict[tuple[str, ...], Series]] = {}
    for families in collected:
        for name, family in families.items():
            how = BY_NAME[name].merge
            by_labels = merged.setdefault(name, {})
            for series in family:
                known = by_labels.get(series.labels)
                by_labels[series.labels] = copy(series) if known is None else _merged(known, series, how)
    return {name: list(by_labels.values()) for name, by_labels in merged.items()}


def copy(series: Series) -> Series:
    """One that does not change any more when the other counts on."""
    return Series(series.labels, series.value, [*series.counts], {**series.exemplars})


def _merged(one: Series, other: Series, how: Merge) -> Series:
    match how:
        case "sum":
            value = one.value + other.value
        case "max":
            value = max(one.value, other.value)
        case "min":
            value = min(one.value, other.value)
        case "latest":
            value = other.value
    exemplars = {**one.exemplars}
    for bucket, exemplar in other.exemplars.items():
        if bucket not in exemplars or exemplars[bucket].timestamp <= exemplar.timestamp:
            exemplars[bucket] = exemplar
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return Series(one.labels, value, counts, exemplars)
