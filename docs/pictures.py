"""Pictures of the architecture, drawn from the code: who imports whom, and the states of an exchange.

`conf.py` has them drawn for each build. Their lines have the colour of the text around them, light or dark.
"""

import ast
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from html import escape
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Final, TypeAlias

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout
from grandalf.routing import EdgeViewer

from onwards_core import (
    BodyCollected,
    CollectBody,
    Event,
    Gateway,
    Request,
    Respond,
    SendUpstream,
    Snapshot,
    StreamThrough,
    UpstreamFailed,
    UpstreamResponded,
    load_config,
)
from onwards_core._exchange import _State

Imports: TypeAlias = dict[str, set[str]]
"""What each module imports, of its own package. A package within counts as one module."""
Transitions: TypeAlias = dict[tuple[str, str], set[str]]
"""From one state to another: by which `event → action`."""

_SOURCE: Final = Path(__file__).parent.parent / "src"
_CHARACTER = 8  # pixels, of a monospaced font of 13
_HEIGHT = 26


def draw(folder: Path) -> None:
    """Write the SVG files."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in ("onwards_core", "onwards_trio"):
        picture = _layers(reduced(imports(_SOURCE / package)), f"The modules of {package} and what they import")
        (folder / f"{package}.svg").write_text(picture)
    (folder / "exchange.svg").write_text(_states(transitions()))


# Imports


def imports(package: Path) -> Imports:
    """Read from the source, without running it. Of two modules that import each other, what the one does later, in a
    function, is left out."""
    at_once: Imports = {}
    later: Imports = {}
    for file in sorted(package.rglob("*.py")):
        module = file.relative_to(package).with_suffix("").parts[0]
        if not module.startswith("__"):
            tree = ast.parse(file.read_text())
            for found, nodes in ((at_once, tree.body), (later, list(ast.walk(tree)))):
                found.setdefault(module, set()).update(set(_named(nodes, package.name)) - {module})
    for module, others in later.items():
        at_once[module] |= {other for other in others if module not in _reached(other, at_once)}
    return at_once


def _named(nodes: Iterable[ast.AST], package: str) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{package}."):
            yield node.module.split(".")[1]


def _reached(module: str, graph: Imports) -> set[str]:
    found: set[str] = set()
    left = [module]
    while left:
        found.add(it := left.pop())
        left += graph[it] - found
    return found


def reduced(graph: Imports) -> Imports:
    """Without the imports that a path through others stands for."""
    reached: Imports = {}
    for module in TopologicalSorter(graph).static_order():
        reached[module] = graph[module].union(*(reached[it] for it in graph[module]))
    return {module: direct - {far for it in direct for far in reached[it]} for module, direct in graph.items()}


class _Box:
    """What grandalf lays out: it reads `w` and `h`, and writes the centre, `xy`."""

    def __init__(self, name: str) -> None:
        self.w, self.h = len(name) * _CHARACTER + 16, _HEIGHT
        self.xy: tuple[float, float] = (0, 0)


def _layers(graph: Imports, title: str) -> str:
    vertices = {name: Vertex(name) for name in graph}
    for name, vertex in vertices.items():
        vertex.view = _Box(name)
    edges = [Edge(vertices[name], vertices[other]) for name in graph for other in sorted(graph[name])]
    for edge in edges:
        edge.view = EdgeViewer()
    right, parts = 0.0, []
    for component in Graph(list(vertices.values()), edges).C:
        layout = SugiyamaLayout(component)
        layout.xspace, layout.yspace = 14, 38
        layout.init_all()
        layout.draw(8)
        boxes = [vertex.view for vertex in component.sV]
        shift = right - min(box.xy[0] - box.w / 2 for box in boxes)
        for box in boxes:
            box.xy = (box.xy[0] + shift, box.xy[1])
        parts += [_line(_curve([(x + shift, y) for x, y in edge.view._pts])) for edge in component.sE]
        right = max(box.xy[0] + box.w / 2 for box in boxes) + 14
    for name, vertex in vertices.items():
        parts.append(_box(name, *vertex.view.xy, vertex.view.w))
    bottom = max(vertex.view.xy[1] for vertex in vertices.values())
    top = min(vertex.view.xy[1] for vertex in vertices.values())
    return _svg(parts, title, (0, top - 20, right - 14, bottom - top + 40))


def _curve(points: list[tuple[float, float]]) -> str:
    """Downwards through all points, from under the first box to the top of the last."""
    (x, y), (last_x, last_y) = points[0], points[-1]
    points = [(x, y + _HEIGHT / 2), *points[1:-1], (last_x, last_y - _HEIGHT / 2)]
    path = f"M{points[0][0]:.0f},{points[0][1]:.0f}"
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (y1 + y2) / 2
        path += f"C{x1:.0f},{middle:.0f} {x2:.0f},{middle:.0f} {x2:.0f},{y2:.0f}"
    return path


# States

_CONFIG = b"""{"targets": {"m": {"fallback": {"enabled": true, "on_status": [5]}, "providers": [
    {"url": "http://a.example", "sanitize_response": true}, {"url": "http://b.example"}]}}}"""
_JSON = [(b"content-type", b"application/json")]
_EVENTS: Final[tuple[Event, ...]] = (
    UpstreamResponded(200, _JSON),
    UpstreamResponded(500, _JSON),
    UpstreamFailed("connect"),
    BodyCollected(b"{}"),
)


def transitions() -> Transitions:
    """What exchanges really do, tried with all kinds of event in all orders."""
    found: Transitions = {}
    for model, events in product((b"m", b"unknown"), product(_EVENTS, repeat=3)):
        for before, label, after in _steps(model, events):
            found.setdefault((before, after), set()).add(label)
    return found


def _steps(model: bytes, events: Iterable[Event]) -> Iterator[tuple[str, str, str]]:
    gateway = Gateway(Snapshot.compile(load_config(_CONFIG), hash_key=bytes(16)), random=Random(0))
    request = Request("POST", b"/v1/chat/completions", [], b'{"model": "%s"}' % model)
    with gateway.admit(request, 0.0) as exchange:
        state = exchange._state.name
        action: SendUpstream | CollectBody | StreamThrough | Respond = exchange.begin(0.0)
        yield state, f"begin → {type(action).__name__}", exchange._state.name
        for event in events:
            state = exchange._state.name
            try:
                action = exchange.feed(event, 0.0)
            except RuntimeError:
                break  # not an event for this state
            yield state, f"{type(event).__name__} → {type(action).__name__}", exchange._state.name
        state = exchange._state.name
    yield state, "close", exchange._state.name


def _states(found: Transitions) -> str:
    """All states below each other, in the order of the enumeration. `close` leads from each of them to the last."""
    *states, closed = (state.name for state in _State)
    rows = {name: index * 110.0 for index, name in enumerate((*states, closed))}
    parts = [_box(name, 0, y, 110) for name, y in rows.items()]
    for (before, after), labels in sorted(found.items()):
        y1, y2 = rows[before], rows[after]
        lines = sorted(labels)
        if after == closed:
            if before == states[-1]:
                parts += [_line(f"M0,{y1 + 13}L0,{y2 - 13}"), *_text(["close, from any state"], 10, (y1 + y2) / 2)]
        elif before == after:
            parts += [_line(f"M55,{y1 - 7}C100,{y1 - 22} 100,{y1 + 22} 55,{y1 + 7}"), *_text(lines, 95, y1)]
        elif rows[after] - rows[before] == 110:
            parts += [_line(f"M0,{y1 + 13}L0,{y2 - 13}"), *_text(lines, 10, (y1 + y2) / 2)]
        else:
            out = -55 - (y2 - y1) / 2
            parts[:0] = [_line(f"M-55,{y1}C{out},{y1} {out},{y2} -55,{y2}")]
            parts += _text(lines, -65 + out * 0.6, (y1 + y2) / 2, "end")
    return _svg(parts, "The states of an exchange", (-480, -30, 860, rows[closed] + 60))


# SVG


def _box(name: str, x: float, y: float, width: float) -> str:
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{width:.0f}" height="{_HEIGHT}" rx="4"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle">{escape(name)}</text>'
    )


def _line(path: str) -> str:
    return f'<path d="{path}" marker-end="url(#arrow)"/>'  # each picture has the same arrow, so it may be another one's


def _text(lines: list[str], x: float, y: float, anchor: str = "start") -> list[str]:
    first = y - (len(lines) - 1) * 8 + 4
    return [
        f'<text x="{x:.0f}" y="{first + index * 16:.0f}" text-anchor="{anchor}">{escape(line)}</text>'
        for index, line in enumerate(lines)
    ]


def _svg(parts: Iterable[str], title: str, box: tuple[float, float, float, float]) -> str:
    x, y, width, height = box
    style = "max-width:100%;height:auto;font:13px monospace;fill:none;stroke:currentColor"
    behind = "var(--color-background-primary)"
    rules = (
        f"<style>.picture text{{fill:currentColor;stroke:{behind};stroke-width:5px;paint-order:stroke}}"
        f".picture rect{{fill:{behind}}}.picture path{{stroke-opacity:.6}}</style>"
    )
    arrow = (
        '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0L8,4L0,8z" fill="currentColor" stroke="none"/></marker>'
    )
    return (
        f'<svg class="picture" xmlns="http://www.w3.org/2000/svg" role="img" style="{style}" '
        f'viewBox="{x:.0f} {y:.0f} {width:.0f} {height:.0f}" width="{width:.0f}">'
        f"<title>{escape(title)}</title>{rules}<defs>{arrow}</defs>{''.join(parts)}</svg>\n"
    )
