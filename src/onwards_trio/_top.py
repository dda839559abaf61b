"""The status in a terminal: the same as the status page, from `/status.json`."""

import math
import time
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Final
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import attrs
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from onwards_core._values import Secret
from onwards_trio._status_view import STATES, PoolView, ProviderView, View

INTERVAL: Final = 1.0  # seconds
_TIMEOUT: Final = 5.0
_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_TROUBLES: Final = 10

_STYLES: Final = {
    "ok": "green",
    "idle": "dim",
    "paused": "yellow",
    "trial": "yellow",
    "failing": "bold red",
    "open": "bold red",
    "degraded": "yellow",
    "down": "bold red",
}
_decode = msgspec.json.Decoder(View).decode


class NoStatus(Exception):
    """The gateway did not tell its status. The text says why."""


class _NoRedirects(HTTPRedirectHandler):
    """A key is for whom it was meant."""

    def redirect_request(self, *_: object) -> None:
        return None


_open = build_opener(ProxyHandler({}), _NoRedirects).open


def fetch(url: str, key: Secret | None) -> View:
    """Ask for the status. Raises `NoStatus`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise NoStatus(f"{url} is no URL of a metrics port, such as http://127.0.0.1:9090")
    headers = {"Authorization": f"Bearer {key.reveal()}"} if key else {}
    request = Request(f"{url.rstrip('/')}/status.json", headers=headers)  # noqa: S310 - http or https
    try:
        with _open(request, timeout=_TIMEOUT) as response:
            return _decode(response.read())
    except HTTPError as error:
        with error:
            if error.code == 401:
                raise NoStatus(f"{url} wants its metrics key: --key") from None
            raise NoStatus(f"{url} answered {error.code}") from None
    except URLError as error:
        raise NoStatus(f"{url} can't be reached: {getattr(error.reason, 'strerror', None) or error.reason}") from None
    except (OSError, HTTPException) as error:
        raise NoStatus(f"{url} does not answer: {error}") from None
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        raise NoStatus(f"{url} is not a gateway's metrics port, or one of another version") from None


def show_once(url: str, key: Secret | None, console: Console) -> None:
    """Print the status. Raises `NoStatus`."""
    console.print(rendered(fetch(url, key), console.width))


def watch(url: str, key: Secret | None, console: Console) -> None:
    """Show the status, anew each second, until Ctrl-C. Raises `NoStatus` if there is none at the beginning."""
    view = fetch(url, key)
    problem = None
    try:
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                shown = rendered(view, console.width)
                live.update(Group(Text(problem, "bold red"), shown) if problem else shown, refresh=True)
                time.sleep(INTERVAL)
                try:
                    view, problem = fetch(url, key), None
                except NoStatus as error:
                    problem = f"{error}. What is below is how it was last."
    except KeyboardInterrupt:
        pass


def rendered(view: View, width: int) -> RenderableType:
    """For a terminal with so many columns."""
    parts: list[RenderableType] = [_headline(view), _summary(view)]
    parts += [_pool(view, pool, width) for pool in view.pools]
    parts += [_limits(view), _troubles(view), _config(view)]
    return Group(*parts)


def _plain(text: str) -> str:
    """Without what a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _headline(view: View) -> RenderableType:
    style, mark = {"ok": ("green", "✓"), "degraded": ("yellow", "!"), "down": ("bold red", "✕")}[view.state]
    text = Text(f"{mark} {_plain(view.headline)}", f"{style} bold")
    if view.draining:
        text.append("\n  draining: no new requests are taken")
    for problem in view.problems:
        text.append(f"\n  {_plain(problem)}", "not bold default")
    return Panel(text, border_style=style, padding=(0, 1))


def _summary(view: View) -> RenderableType:
    figures = view.exchanges
    processes = f", {view.processes} processes" if view.processes > 1 else ""
    return Text(
        f"{figures.per_second:.3g} requests/s   {_percent(figures.failed)} failed   {figures.refused} refused/min   "
        f"median {_seconds(figures.median)}   95 % {_seconds(figures.p95)}   {view.in_flight} under way   "
        f"up {_span(view.at - view.started)}{processes}"
    )


def _pool(view: View, pool: PoolView, width: int) -> RenderableType:
    columns = [column for column in _COLUMNS if column.from_width <= width]
    table = _table("Provider")
    table.title = Text.assemble((_plain(pool.alias), "bold"), "  ", (STATES[pool.state], _STYLES[pool.state]))
    for column in columns:
        table.add_column(column.header, no_wrap=True, width=column.width)
    for provider in pool.providers:
        table.add_row(_name(view, provider), *(column.cell(provider) for column in columns))
    return table


def _name(view: View, provider: ProviderView) -> Text:
    """With what is wrong with it, if anything is."""
    bad = provider.state in ("failing", "open")
    name = Text(_plain(provider.provider), "bold" if bad else "")
    why = [_plain(provider.text) if bad else f"lately {_plain(provider.text)}"] if provider.text else []
    if provider.until is not None:
        why.append(f"for {_span(provider.until - view.at)}")
    if why:
        name.append(f"\n{', '.join(why)}", "not bold red" if bad else "dim")
    return name


def _state(provider: ProviderView) -> Text:
    return Text(STATES[provider.state], _STYLES[provider.state])


def _held(provider: ProviderView) -> str:
    limits = provider.limits
    return f"{limits.held}" if limits.permits is None else f"{limits.held}/{limits.permits}"


def _failures(provider: ProviderView) -> Text:
    history = provider.attempts.history
    shares = [failed / done if done else 0.0 for done, failed in zip(history.done, history.failed, strict=True)]
    return Text(_chart(shares, most=1.0), "red")


@attrs.frozen
class _Column:
    header: str
    width: int
    from_width: int
    """The columns of a terminal from which on there is room for it."""
    cell: Callable[[ProviderView], RenderableType]


_CHART: Final = 10
"""The latest steps of a history that are shown."""
_COLUMNS: Final = (
    _Column("State", 16, 0, _state),
    _Column("/s", 6, 72, lambda provider: f"{provider.attempts.per_second:.3g}"),
    _Column("", _CHART, 120, lambda provider: _chart(provider.attempts.history.done)),
    _Column("Failed", 6, 0, lambda provider: _percent(provider.attempts.failed)),
    _Column("", _CHART, 120, _failures),
    _Column("Median", 8, 48, lambda provider: _seconds(provider.attempts.median)),
    _Column("", _CHART, 120, lambda provider: _chart([each or 0.0 for each in provider.attempts.history.median])),
    _Column("95 %", 8, 96, lambda provider: _seconds(provider.attempts.p95)),
    _Column("Now", 7, 72, _held),
)


def _limits(view: View) -> RenderableType:
    table = _table("Limits", "Under way", "Rate tokens left")
    keys = [(f"key {key.key}", key.limits) for key in view.keys]
    pools = [(f"pool {pool.alias}", pool.limits) for pool in view.pools]
    providers = [
        (f"provider {provider.provider} ({pool.alias})", provider.limits)
        for pool in view.pools
        for provider in pool.providers
    ]
    for name, limits in (*keys, *pools, *providers):
        if limits.permits is None and limits.burst is None:
            continue
        full = limits.permits is not None and limits.held >= limits.permits
        held = f"{limits.held} of {limits.permits}" if limits.permits is not None else f"{limits.held}"
        tokens = f"{math.floor(limits.tokens)} of {limits.burst}" if limits.tokens is not None else "-"
        empty = limits.tokens is not None and limits.tokens < 1
        table.add_row(_plain(name), Text(held, "red" if full else ""), Text(tokens, "red" if empty else ""))
    return table if table.row_count else Text()


def _troubles(view: View) -> RenderableType:
    table = _table("Recent trouble", "Last", "Times", "Alias", "Key")
    for trouble in view.troubles[:_TROUBLES]:
        table.add_row(
            _plain(trouble.text),
            f"{_span(view.at - trouble.last)} ago",
            str(trouble.count),
            _plain(trouble.alias or "-"),
            _plain(trouble.key or "-"),
        )
    return table if table.row_count else Text()


def _config(view: View) -> RenderableType:
    config = view.config
    digests = ", ".join(digest[:16] for digest in config.digests)
    text = Text(f"Config {digests}, loaded {_span(view.at - config.loaded)} ago", "dim")
    if len(config.in_force) > 1:
        for each in config.in_force:
            text.append(f"\n{each.digest[:16]} in {each.processes}: {_plain(', '.join(each.names))}")
    for problem in config.problems:
        text.append(f"\n{_plain(problem)}", "not dim red")
    return text


def _table(*columns: str) -> Table:
    table = Table(box=None, title_justify="left", title_style="", header_style="dim", padding=(0, 2, 0, 0), expand=True)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number > 0, overflow="fold", ratio=1 if number == 0 else None)
    return table


def _chart(values: Sequence[float], most: float | None = None) -> str:
    values = values[-_CHART:]
    most = most or max(*values, 1e-9)
    return "".join(_BLOCKS[math.ceil(value / most * (len(_BLOCKS) - 1))] for value in values)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.3g} ms" if seconds < 0.9995 else f"{seconds:.3g} s"


def _span(seconds: float) -> str:
    whole = max(0, round(seconds))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if whole >= size:
            return f"{whole // size} {unit}"
    return f"{whole} s"
