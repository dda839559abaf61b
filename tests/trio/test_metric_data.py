"""Metrics as plain data: what several processes counted, merged, is what one would have counted; and its exposition."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from onwards_trio._exposition import expose
from onwards_trio._metric_data import Exemplar, Families, Series, merge
from onwards_trio._metric_definitions import BY_NAME, DEFINITIONS
from onwards_trio._metrics import Counters, Histograms

OPENMETRICS = "application/openmetrics-text"
LABELS = st.sampled_from(["a", "b", 'x"\\\n', "ü"])


@st.composite
def counted(draw: st.DrawFn) -> list[tuple[str, tuple[str, ...], float]]:
    """What happened: counter or histogram, labels, by how much. In quarters, because sums of them are exact."""
    names = st.sampled_from([each.name for each in DEFINITIONS if each.kind != "gauge"])
    happened = []
    for name in draw(st.lists(names, max_size=30)):
        labels = tuple(draw(LABELS) for _ in BY_NAME[name].labels)
        happened.append((name, labels, draw(st.integers(0, 4000)) / 4))
    return happened


def collected(happened: list[tuple[str, tuple[str, ...], float]]) -> Families:
    counters = {each.name: Counters(each.name) for each in DEFINITIONS if each.kind == "counter"}
    histograms = {each.name: Histograms(each.name) for each in DEFINITIONS if each.kind == "histogram"}
    for name, labels, value in happened:
        if name in counters:
            counters[name].add(value, *labels)
        else:
            histograms[name].observe(value, *labels)
    return {name: list(kept.series.values()) for name, kept in {**counters, **histograms}.items() if kept.series}


def by_labels(families: Families) -> dict[tuple[str, tuple[str, ...]], Series]:
    return {(name, series.labels): series for name, family in families.items() for series in family}


@given(st.lists(counted(), max_size=4))
def test_merging_is_exact(processes: list[list[tuple[str, tuple[str, ...], float]]]) -> None:
    """However what happened was spread over processes, also sent as JSON in between: the sums are those of one."""
    sent = [msgspec.json.decode(msgspec.json.encode(collected(each)), type=Families) for each in processes]
    together = collected([each for process in processes for each in process])
    assert by_labels(merge(sent)) == by_labels(together)


@given(counted(), counted())
def test_merging_leaves_the_parts_alone(one: list, other: list) -> None:
    """They may be merged again, and count on without the merged one changing."""
    parts = [collected(one), collected(other)]
    before = msgspec.json.encode(parts)
    merged = by_labels(merge(parts))
    for series in merged.values():
        series.value += 1
        series.counts.append(1)
    assert msgspec.json.encode(parts) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [("http_requests_pending", 7.0), ("permits_limit", 5.0), ("config_last_reload_ok", 2.0)],
)
def test_gauges_merge_by_their_meaning(name: str, expected: float) -> None:
    """What is under way adds up; a limit is the largest one; all is well only if it is everywhere."""
    labels = tuple("x" for _ in BY_NAME[name].labels)
    assert merge([{name: [Series(labels, value)]} for value in (5.0, 2.0)])[name] == [Series(labels, expected)]


def test_the_newest_exemplar_of_a_bucket_stays() -> None:
    """Whichever process it comes from; buckets that only one has keep theirs."""
    early, late, other = (Exemplar(name, 1.0, at) for name, at in (("early", 1.0), ("late", 2.0), ("other", 0.0)))
    name = "event_loop_lag_seconds"
    size = len(BY_NAME[name].buckets) + 1

    def one(exemplars: dict[int, Exemplar]) -> Families:
        return {name: [Series((), 1.0, [1] * size, exemplars)]}

    for parts in ([one({0: early, 1: other}), one({0: late})], [one({0: late}), one({0: early, 1: other})]):
        assert merge(parts)[name][0].exemplars == {0: late, 1: other}


def exposed(families: Families, accept: str = "") -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    content_type, body = expose(families, "own", accept)
    parse = parse_openmetrics if content_type.startswith(OPENMETRICS) else parse_text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
    }


@given(counted())
def test_both_formats_say_the_same(happened: list) -> None:
    """Prometheus' parsers read from both what was counted; buckets hold what those below them do, too."""
    families = collected(happened)
    text = exposed(families)
    assert text == exposed(families, OPENMETRICS)
    for (name, labels), series in by_labels(families).items():
        named = tuple(sorted(zip(BY_NAME[name].labels, labels, strict=True)))
        if not series.counts:
            assert text[f"own_{name}", named] == series.value
            continue
        assert text[f"own_{name}_sum", named] == series.value
        assert text[f"own_{name}_count", named] == sum(series.counts)
        bounds = [*BY_NAME[name].buckets, float("inf")]
        expected = {bound: sum(series.counts[: index + 1]) for index, bound in enumerate(bounds)}
        got = {
            float(dict(got)["le"]): value
            for (sample, got), value in text.items()
            if sample == f"own_{name}_bucket" and tuple(pair for pair in got if pair[0] != "le") == named
        }
        assert got == expected


def test_exemplars_are_only_in_openmetrics() -> None:
    """Each with the id of its trace."""
    families = {"event_loop_lag_seconds": [Series((), 0.002, [0, 1, *[0] * 11], {1: Exemplar("abc", 0.002, 5.0)})]}
    assert b"abc" not in expose(families, "own")[1]
    assert b'le="0.0025"} 1.0 # {trace_id="abc"} 0.002 5.0\n' in expose(families, "own", OPENMETRICS)[1]


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda each: each.name)
def test_definitions(definition) -> None:
    """Names as Prometheus wants them: a counter's ends with `_total`, a unit is part of it; help and question are
    sentences; buckets rise; gauges alone say how to merge."""
    assert set(definition.name) <= {*string.ascii_lowercase, "_"}
    assert definition.name.endswith("_total") == (definition.kind == "counter")
    if definition.unit not in ("", "bytes"):  # The original's name for the size of answers lacks its unit.
        assert definition.name.removesuffix("_total").endswith(definition.unit)
    assert definition.help.endswith(".")
    assert definition.question.endswith("?")
    assert sorted(set(definition.buckets)) == list(definition.buckets)
    assert bool(definition.buckets) == (definition.kind == "histogram")
    assert definition.merge == "sum" or definition.kind == "gauge"
    assert BY_NAME[definition.name] is definition


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_every_gauge_can_be_read(accept: str) -> None:
    """Names and labels are such that Prometheus takes them."""
    families = {
        each.name: [Series(tuple("x" for _ in each.labels), 2.0)] for each in DEFINITIONS if each.kind == "gauge"
    }
    assert len(exposed(families, accept)) == len(families)
