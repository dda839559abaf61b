"""The dashboard as Grafana reads it."""

import json
from typing import Any, Final, TypeAlias

from deploy.monitoring.panels import TARGETS, Panel, rows
from deploy.monitoring.queries import Metrics

Json: TypeAlias = dict[str, Any]

_WIDTH: Final = 24
_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_LINES: Final = {"drawStyle": "line", "lineWidth": 2, "fillOpacity": 8, "showPoints": "never", "spanNulls": False}
_LEGEND: Final = {"displayMode": "list", "placement": "bottom", "showLegend": True}
_OPTIONS: Final[Json] = {
    "timeseries": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
    "stat": {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "none",
        "textMode": "auto",
    },
    "table": {"showHeader": True, "cellHeight": "sm"},
    "heatmap": {"calculate": False, "yAxis": {"unit": "s"}, "color": {"scheme": "Oranges", "mode": "scheme"}},
}


def dashboard(prefix: str) -> str:
    """The file. prefix: of the metrics' names."""
    metric = Metrics(prefix)
    panels: list[Json] = []
    top = 0
    for row in rows(metric):
        panels.append(_row(row.title, top, number=len(panels) + 1))
        top += 1
        left = bottom = 0
        for panel in row.panels:
            if left + panel.width > _WIDTH:
                left, top = 0, bottom
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append(_panel(panel, place, number=len(panels) + 1))
            left += panel.width
            bottom = max(bottom, top + panel.height)
        top = bottom
    made: Json = {
        "uid": "onwards",
        "title": "onwards",
        "description": "Made by `python -m deploy.monitoring`, which is the place for changes.",
        "tags": ["llm"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,  # the crosshair is in all panels at once
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": _variables(metric)},
        "annotations": {"list": [_reloads(metric)]},
        "panels": panels,
    }
    return json.dumps(made, indent=1, ensure_ascii=False) + "\n"


def _variables(metric: Metrics) -> list[Json]:
    def choice(name: str, label: str, query: str) -> Json:
        return {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": query, "refId": name},
            "definition": query,
            "refresh": 2,  # whenever the time that is shown changes
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
            "sort": 1,
        }

    build_info = metric("build_info")
    chosen = metric("build_info", 'job=~"$job"')
    exchanges = metric("exchanges_total", TARGETS)
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1}
    return [
        source,
        choice("job", "Job", f"label_values({build_info}, job)"),
        choice("instance", "Instance", f"label_values({chosen}, instance)"),
        choice("alias", "Model", f"label_values({exchanges}, alias)"),
    ]


def _reloads(metric: Metrics) -> Json:
    """A line through all panels where a config came into force."""
    return {
        "name": "Config",
        "datasource": _DATASOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": f"{metric('config_age_seconds', TARGETS)} < 10",
        "titleFormat": "A config came into force",
        "step": "10s",
    }


def _row(title: str, top: int, number: int) -> Json:
    place = {"x": 0, "y": top, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, place: Json, number: int) -> Json:
    at_once = panel.kind in {"table", "stat"}
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": _DATASOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            "instant": at_once,
            "range": not at_once,
            "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
        }
        for index, query in enumerate(panel.queries)
    ]
    defaults: Json = {"unit": panel.unit}
    overrides: list[Json] = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for name, colour in panel.colours
    ]
    if panel.kind == "table":
        overrides = [_column(panel, letter, unit) for letter, _, unit in panel.columns]
    elif panel.limits:
        defaults["thresholds"] = _thresholds(panel.limits, falling=panel.unit == "percentunit")
    if panel.kind == "timeseries":
        stacking = {"stacking": {"mode": "normal"}, "fillOpacity": 40} if panel.stacked else {}
        defaults |= {"min": 0, "custom": _LINES | stacking}
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.words:
        options = {str(value): {"text": text, "color": colour} for value, text, colour in panel.words}
        defaults["mappings"] = [{"type": "value", "options": options}]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.question,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": overrides},
        "options": _OPTIONS[panel.kind],
        "transformations": _transformations(panel) if panel.kind == "table" else [],
    }


def _thresholds(limits: tuple[float, ...], *, falling: bool) -> Json:
    """Colours by value. falling: less is worse."""
    colours = ("red", "yellow", "green") if falling else ("green", "yellow", "red")
    steps = zip(colours, (None, *limits), strict=True)
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in steps]}


def _column(panel: Panel, letter: str, unit: str) -> Json:
    properties: list[Json] = [{"id": "unit", "value": unit}]
    if panel.limits and unit == "percentunit":
        properties.append({"id": "thresholds", "value": _thresholds(panel.limits, falling=False)})
        properties.append({"id": "custom.cellOptions", "value": {"type": "color-background"}})
    return {"matcher": {"id": "byName", "options": _value(panel, letter)}, "properties": properties}


def _transformations(panel: Panel) -> list[Json]:
    """One line for each set of labels, with what each query says of it."""
    headings = {_value(panel, letter): heading for letter, heading, _ in panel.columns}
    return [
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": headings}},
    ]


def _value(panel: Panel, letter: str) -> str:
    """What Grafana calls the column of a query."""
    return f"Value #{letter}" if len(panel.queries) > 1 else "Value"
