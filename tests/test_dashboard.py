"""The dashboard for Grafana: made from the program's metrics, all of them, and fit to be looked at."""

import json
import re
from itertools import combinations
from pathlib import Path

import attrs
import pytest

from deploy.monitoring import panels
from deploy.monitoring.dashboard import dashboard
from deploy.monitoring.queries import Metrics
from onwards_trio._metric_definitions import BY_NAME, DEFINITIONS

FILE = Path(__file__).parent.parent / "deploy" / "grafana" / "onwards.json"
DASHBOARD = json.loads(FILE.read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_the_file_is_made_from_the_metrics():
    """What is in the repository is what the script makes."""
    assert FILE.read_text() == dashboard("onwards")


def test_another_prefix():
    """It goes into all expressions, those of variables and annotations too."""
    assert not re.search(r"\bonwards_", dashboard("gate"))


def test_it_knows_the_metrics():
    """A metric or a label that the program does not have, or no more, is an error when the files are made."""
    metric = Metrics("onwards")
    assert metric("attempts_total", 'alias="a",instance="i"') == 'onwards_attempts_total{alias="a",instance="i"}'
    with pytest.raises(KeyError):
        metric("attempts")
    with pytest.raises(KeyError):
        metric("attempts_total", 'key="k"')


def test_each_metric_is_in_a_panel():
    """What is counted is shown."""
    used = set(re.findall(r"\bonwards_(\w+?)(?:_bucket)?\b[{\[]", " ".join(EXPRESSIONS)))
    assert used == {definition.name for definition in DEFINITIONS}


@pytest.mark.parametrize("definition", DEFINITIONS, ids=lambda definition: definition.name)
def test_a_new_metric_gets_a_panel(monkeypatch, definition):
    """Of its own, until someone finds it a better place."""
    new = attrs.evolve(definition, name="new_total" if definition.kind == "counter" else "new")
    monkeypatch.setitem(BY_NAME, new.name, new)
    monkeypatch.setattr(panels, "DEFINITIONS", (*DEFINITIONS, new))
    *_, row = panels.rows(Metrics("onwards"))
    assert row.title == "Everything else"
    [panel] = row.panels
    assert (panel.title, panel.question) == ("New", definition.question)
    assert f"onwards_{new.name}" in panel.queries[0].expr


@pytest.mark.parametrize("expr", EXPRESSIONS)
def test_each_panel_groups_by_labels_that_there_are(expr):
    """Also beside metrics that lack a label: no panel is empty because its sum is by a label of another metric."""
    names = re.findall(r"\bonwards_(\w+?)(?:_bucket)?\b[{\[]", expr)
    labels = {label for name in names for label in BY_NAME[name].labels} | {"instance", "le"}
    grouped = {label for words in re.findall(r"by \((.*?)\)", expr) for label in words.split(", ")}
    assert grouped <= labels


def test_panels_do_not_overlap():
    """Each has a place of its own within Grafana's 24 columns, a number of its own, and a title that no other has."""
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
    for one, other in combinations(DASHBOARD["panels"], 2):
        a, b = one["gridPos"], other["gridPos"]
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (one["title"], other["title"])
        assert one["id"] != other["id"]
        assert one["title"] != other["title"]


def test_each_panel_says_what_it_answers():
    """Its description is a question, its data come from the source that is chosen above, its legend names series."""
    for panel in PANELS:
        assert "?" in panel["description"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            by = re.match(r"(?:topk\(10, )?sum by \((.*?)\)", target["expr"])
            assert target["legendFormat"] or panel["type"] in {"stat", "table"} or not by, panel["title"]
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert set(re.findall(r"\$(?!__)\{?(\w+)", FILE.read_text())) == variables
