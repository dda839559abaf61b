"""The chart of one run, in CPU time: what most scenarios cost, and what does not grow."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scenarios import CPU, Case

_BARS = ("request", "stream", "sanitized-stream", "large-body", "connections", "tls", "fallback")
_CURVES = ("request", "config-size")


def draw(cases: list[Case], file: Path) -> None:
    """Write an SVG file."""
    # Text stays text, and the same figures make the same file.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "onwards", "font.size": 9})
    priced = [case for case in cases if CPU in case.runs[0]]
    scenarios = [name for name in _BARS if any(case.scenario == name for case in priced)]
    curves = [name for name in _CURVES if sum(case.scenario == name for case in priced) > 1]
    panels = len(scenarios) + len(curves)
    figure = Figure(figsize=(9, 0.6 + 1.3 * max(1, panels)), layout="constrained")
    axes = figure.subplots(max(1, panels), 1, squeeze=False)[:, 0]
    for axis, scenario in zip(axes, scenarios, strict=False):
        _bars(axis, scenario, [case for case in priced if case.scenario == scenario])
    for axis, scenario in zip(axes[len(scenarios) :], curves, strict=False):
        _curve(axis, scenario, [case for case in priced if case.scenario == scenario])
    figure.savefig(file, format="svg", metadata={"Date": None})


def _bars(axis: Axes, scenario: str, cases: list[Case]) -> None:
    """Each gateway in one case, which is the second of a curve: 32 connections; or all cases of ours."""
    gateways = {case.gateway for case in cases}
    if len(gateways) > 1:
        chosen = list(dict.fromkeys(case.case for case in cases))
        middle = chosen[min(1, len(chosen) - 1)]
        cases = [case for case in cases if case.case == middle]
        names, title = [case.gateway for case in cases], f"{scenario}: {middle}"
    else:
        names, title = [case.case for case in cases], f"{scenario}: {cases[0].gateway}"
    medians = [case.median(CPU) for case in cases]
    spread = [
        [case.median(CPU) - min(run[CPU] for run in case.runs) for case in cases],
        [max(run[CPU] for run in case.runs) - case.median(CPU) for case in cases],
    ]
    colours = ["#2a6fbb" if case.gateway == "onwards" else "#9aa5b1" for case in cases]
    axis.barh(names, medians, xerr=spread, color=colours)
    axis.invert_yaxis()
    axis.set_title(f"{title} ({CPU})", loc="left", fontsize=9)


def _curve(axis: Axes, scenario: str, cases: list[Case]) -> None:
    for gateway in dict.fromkeys(case.gateway for case in cases):
        own = [case for case in cases if case.gateway == gateway]
        axis.plot([case.case for case in own], [case.median(CPU) for case in own], marker="o", label=gateway)
    axis.set_ylim(bottom=0)
    axis.legend(fontsize=8)
    axis.set_title(f"{scenario} ({CPU})", loc="left", fontsize=9)
