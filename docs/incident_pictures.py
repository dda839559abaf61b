"""The pictures of the page about the staged incident, from a real run of it:

    python docs/incident_pictures.py

Needs what `requirements/test.txt` and `requirements/bench.txt` install, Prometheus, Chromium with its chromedriver, and
jq. The panels are those of `deploy/grafana/onwards.json`, with what Prometheus answers to their queries, but drawn by
matplotlib: it is not Grafana that draws them.
"""

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from html import escape
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlencode
from urllib.request import urlopen

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import matplotlib as mpl  # noqa: E402 - after the path, as what follows
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.dates import DateFormatter  # noqa: E402
from PIL import Image  # noqa: E402 - matplotlib brings it

from docs.examples.incident import Incident, clients, prometheus  # noqa: E402
from tests.browser_support import browser  # noqa: E402

PICTURES = HERE / "incident"
COMMANDS = re.findall(r"```sh\n(jq .*?)\n```", (HERE / "incident.md").read_text())
WELL, FAILING = 60.0, 75.0  # seconds
ROWS = ("Is it healthy?", "Which provider is to blame?")

BACKGROUND, PANEL, TEXT, FAINT = "#111217", "#181b1f", "#d8d9da", "#8e8e96"
LINES = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#5794f2", "#ffb357")
COLOURS = {
    "green": "#73bf69",
    "yellow": "#f2cc0c",
    "red": "#f2495c",
    "blue": "#8ab8ff",
    "purple": "#b877d9",
    "orange": "#ff780a",
}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder, Incident(0, Path(folder)) as incident, prometheus(incident) as url:
        began = time.time()
        with clients(incident, 12, 0.5):
            time.sleep(WELL)
            incident.begin()
            time.sleep(FAILING)
            ended = time.time()  # before a browser starts, which takes all there is of the processor
            profile = incident.folder / "browser"
            profile.mkdir()
            with browser(profile) as window:
                window.look(width=1280, dark=False)
                window.open(incident.operators)
                window.wait_for("document.body.innerText.includes(arguments[0])", incident.culprit)
                time.sleep(2)  # until the live data are there
                top = window.run("return document.querySelectorAll('h2')[1].getBoundingClientRect().top")
                picture = Image.open(BytesIO(window.screenshot()))
                picture.crop((0, 0, picture.width, int(top) - 8)).save(PICTURES / "status.png", optimize=True)
                page = "data:text/html," + quote(terminal(incident.folder))
                window.look(width=1000, height=100)
                window.open(page)
                (PICTURES / "log.png").write_bytes(window.screenshot())
            draw(Source(url, began + 10, ended), PICTURES / "grafana.png")


def terminal(folder: Path) -> str:
    """A page with what a shell shows."""
    shown = ""
    for each in ("grep -m 1 status_503 access.log", *COMMANDS):
        output = subprocess.run(each, shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout  # noqa: S602
        shown += f"<b>$ {escape(each)}</b>\n{escape(output)}\n"
    style = f"background:{PANEL};color:{TEXT};font:12px/1.6 'DejaVu Sans Mono',monospace;margin:16px"
    return f'<body style="{style}"><pre style="font:inherit;white-space:pre-wrap;overflow-wrap:anywhere">{shown}</pre>'


class Source:
    """A Prometheus, and the time that is looked at."""

    def __init__(self, url: str, start: float, end: float) -> None:
        self._url = url
        self.start = start
        self.end = end

    def ask(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        """The series of a panel's query, with what Grafana would fill in."""
        expr = target["expr"].replace("$__rate_interval", "15s").replace("$__range", "3m")
        expr = re.sub(r"\$(job|instance|alias)\b", ".*", expr)
        if target["instant"]:
            return self._get("query", query=expr, time=self.end)
        return self._get("query_range", query=expr, start=self.start, end=self.end, step=1)

    def _get(self, path: str, **query: object) -> list[dict[str, Any]]:
        with urlopen(f"{self._url}api/v1/{path}?{urlencode(query)}") as answer:  # noqa: S310 - its own
            return json.load(answer)["data"]["result"]


def draw(source: Source, file: Path) -> None:
    """The dashboard's first rows."""
    panels = json.loads((HERE.parent / "deploy" / "grafana" / "onwards.json").read_text())["panels"]
    headings = [panel for panel in panels if panel["type"] == "row"]
    tops = [row["gridPos"]["y"] for row in headings if row["title"] in ROWS]
    bottom = next(row["gridPos"]["y"] for row in headings if row["gridPos"]["y"] > max(tops))
    mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 8, "text.color": TEXT, "axes.edgecolor": FAINT})
    unit = 0.4  # inches in height
    figure = plt.figure(figsize=(14, bottom * unit), facecolor=BACKGROUND, dpi=100)
    for panel in panels:
        place = panel["gridPos"]
        if place["y"] >= bottom:
            continue
        x, width = place["x"] / 24, place["w"] / 24
        y, height = 1 - (place["y"] + place["h"]) / bottom, place["h"] / bottom
        if panel["type"] == "row":
            figure.text(x + 0.006, y + height * 0.3, f"⌄  {panel['title']}", size=11, weight="bold")
            continue
        gap = 0.003
        box = figure.add_axes((x + gap, y + 2 * gap, width - 2 * gap, height - 4 * gap), facecolor=PANEL)
        box.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 1))
        for spine in box.spines.values():
            spine.set_color("#2c3235")
        high = 0.17 * 8 / place["h"]  # of the title
        box.text(0.015 * 8 / place["w"], 1 - high / 2.4, panel["title"], size=9, weight="bold", va="center")
        answers = [source.ask(target) for target in panel["targets"]]
        DRAWN[panel["type"]](box, panel, answers, source)
    figure.savefig(file)


def draw_stat(box: Axes, panel: dict[str, Any], answers: list[list[dict[str, Any]]], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    [series] = answers[0]
    value = float(series["value"][1])
    text = written(value, defaults["unit"])
    colour = COLOURS["green"]
    for mapping in defaults.get("mappings", ()):
        text = mapping["options"][f"{value:g}"]["text"]
        colour = COLOURS[mapping["options"][f"{value:g}"]["color"]]
    for step in defaults.get("thresholds", {"steps": ()})["steps"]:
        if step["value"] is None or value >= step["value"]:
            colour = COLOURS[step["color"]]
    name = legend(panel["targets"][0], series)
    box.text(0.5, 0.42, text, size=24, weight="bold", color=colour, ha="center", va="center")
    if name:
        box.text(0.5, 0.12, name, size=8, color=FAINT, ha="center", va="center")


def draw_lines(box: Axes, panel: dict[str, Any], answers: list[list[dict[str, Any]]], source: Source) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    named = sorted(
        (legend(target, series), series["values"])
        for target, answer in zip(panel["targets"], answers, strict=True)
        for series in answer
    )
    axes = box.inset_axes((0.1, 0.26, 0.88, 0.6), facecolor=PANEL)
    times = sorted({at for _, values in named for at, _ in values})
    dates = [datetime.fromtimestamp(at, UTC) for at in times]
    lines = []
    for _, values in named:
        known = {at: float(value) for at, value in values}
        lines.append([known.get(at, float("nan")) for at in times])
    fixed = {
        each["matcher"]["options"]: COLOURS[each["properties"][0]["value"]["fixedColor"]]
        for each in panel["fieldConfig"]["overrides"]
    }
    colours = [fixed.get(name, LINES[index % len(LINES)]) for index, (name, _) in enumerate(named)]
    if "stacking" in defaults["custom"]:
        filled = [[0.0 if value != value else value for value in line] for line in lines]  # noqa: PLR0124 - NaN
        axes.stackplot(dates, filled, colors=colours, alpha=0.55)
    else:
        for line, colour in zip(lines, colours, strict=True):
            axes.plot(dates, line, color=colour, linewidth=1.4)
    axes.set_ylim(bottom=0, top=defaults.get("max"))
    axes.set_xlim(datetime.fromtimestamp(source.start, UTC), datetime.fromtimestamp(source.end, UTC))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M:%S"))
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda value, _: written(value, defaults["unit"]))
    axes.tick_params(colors=FAINT, labelsize=7, length=0)
    axes.grid(color="#2c3235", linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    handles = [plt.Line2D([], [], color=colour, linewidth=3) for colour in colours]
    box.legend(
        handles,
        [name for name, _ in named],
        loc="lower left",
        bbox_to_anchor=(0.01, 0.005),
        ncols=3 if max((len(name) for name, _ in named), default=0) < 22 else 2,
        frameon=False,
        fontsize=7,
        labelcolor=TEXT,
        handlelength=1,
        columnspacing=1.2,
    )


def draw_table(box: Axes, panel: dict[str, Any], answers: list[list[dict[str, Any]]], source: Source) -> None:
    """Colours as Grafana has them for the column with thresholds."""
    lines: dict[tuple[str, ...], dict[int, float]] = {}
    labels = sorted({label for answer in answers for series in answer for label in series["metric"]})
    for index, answer in enumerate(answers):
        for series in answer:
            key = tuple(series["metric"].get(label, "") for label in labels)
            lines.setdefault(key, {})[index] = float(series["value"][1])
    overrides = panel["fieldConfig"]["overrides"]
    names = panel["transformations"][1]["options"]["renameByName"]
    headings = [*labels, *(names[each["matcher"]["options"]] for each in overrides)]
    units = [each["properties"][0]["value"] for each in overrides]
    columns = [0.02 + 0.97 * index / len(headings) for index in range(len(headings))]
    for x, heading in zip(columns, headings, strict=True):
        box.text(x, 0.78, heading, size=8, color="#6e9fff", weight="bold", va="center")
    for row, (key, values) in enumerate(sorted(lines.items())):
        y = 0.66 - 0.12 * row
        box.axhline(y + 0.06, color="#2c3235", linewidth=0.6)
        cells = [*key, *(written(values[i], unit) if i in values else "" for i, unit in enumerate(units))]
        for column, (x, cell) in enumerate(zip(columns, cells, strict=True)):
            index = column - len(labels)
            steps = [] if index < 0 else overrides[index]["properties"][1:2]
            colour = None
            for step in steps[0]["value"]["steps"] if steps and index in values else ():
                if step["value"] is None or values[index] >= step["value"]:
                    colour = COLOURS[step["color"]]
            if colour:
                box.axhspan(y - 0.055, y + 0.055, x - 0.01, x + 0.97 / len(headings) - 0.02, color=colour, alpha=0.75)
            box.text(x, y, cell, size=9, va="center", color="black" if colour else TEXT)


DRAWN = {"stat": draw_stat, "timeseries": draw_lines, "table": draw_table}


def legend(target: dict[str, Any], series: dict[str, Any]) -> str:
    return re.sub(r"{{(\w+)}}", lambda it: series["metric"].get(it[1], ""), target["legendFormat"])


def written(value: float, unit: str) -> str:
    match unit:
        case "percentunit":
            return f"{value:.1%}" if 0 < value < 1 and value * 100 % 1 else f"{value:.0%}"
        case "reqps":
            return f"{value:.3g} req/s"
        case "s":
            return f"{value:.3g} s" if value >= 1 else f"{value * 1000:.3g} ms"
    return f"{value:g}"


if __name__ == "__main__":
    main()
