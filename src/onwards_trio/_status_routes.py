"""The status page, its data and its stream, on the metrics port."""

import base64
import hashlib
import html
import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Final

import msgspec
import trio

from onwards_core import Headers, Request, Respond
from onwards_trio._reply import Reply
from onwards_trio._status_data import Status
from onwards_trio._status_view import STATES, View, view

INTERVAL: Final = 1.0
"""Seconds between two events of a stream."""

_SAFETY: Final = [
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_encode = msgspec.json.Encoder().encode


class StatusRoutes:
    """read: gives the status of the moment. draining: whether the gateway is about to end."""

    def __init__(self, read: Callable[[], Awaitable[Status]], draining: Callable[[], bool]) -> None:
        self._read = read
        self._draining = draining
        page = (files("onwards_trio") / "status.html").read_text("utf-8")
        self._before, self._after = page.split("<!--static-->")
        self._page_headers: Headers = [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"content-security-policy", _policy(page)),
            *_SAFETY,
        ]
        self._event = b""
        self._event_at = float("-inf")
        self._one_at_a_time = trio.Lock()

    async def page(self, request: Request, reply: Reply) -> None:
        """With all that matters also for who runs no scripts."""
        text = self._before + _static(view(await self._read())) + self._after
        await reply.respond(Respond(200, self._page_headers, text.encode()))

    async def json(self, request: Request, reply: Reply) -> None:
        body = _encode(view(await self._read()))
        await reply.respond(Respond(200, [(b"content-type", b"application/json"), *_SAFETY], body))

    async def events(self, request: Request, reply: Reply) -> None:
        """One event a second until the viewer leaves. A gateway that drains tells that and ends the stream; who then
        comes again, as browsers do, is told how far it is."""
        reply.start(200, [(b"content-type", b"text/event-stream"), *_SAFETY])
        if request.method == "HEAD":
            await reply.finish()
            return
        while not self._draining():
            await reply.send(await self._latest())
            await trio.sleep(INTERVAL)
        await reply.finish(await self._latest())

    async def _latest(self) -> bytes:
        """The event of the moment, made once for all viewers."""
        async with self._one_at_a_time:
            now = trio.current_time()
            if now - self._event_at >= INTERVAL * 0.9:
                self._event = b"data: " + _encode(view(await self._read())) + b"\n\n"
                self._event_at = now
            return self._event


def _policy(page: str) -> bytes:
    """Lets the page's own script and style run, and it talk to us; nothing else."""
    kinds = []
    for kind in ("script", "style"):
        [source] = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        kinds.append(f"{kind}-src 'sha256-{digest}'")
    own = "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"default-src 'none'; {'; '.join(kinds)}; {own}".encode()


def _static(view: View) -> str:
    """What matters most, for who runs no scripts."""
    rows = "".join(
        f'<tr class="{"bad" if provider.state in ("failing", "open") else ""}">'
        f"<th scope=row>{html.escape(provider.provider)}<td>{html.escape(pool.alias)}<td>{STATES[provider.state]}"
        f"<td>{html.escape(provider.text or '')}"
        f"<td>{'-' if provider.attempts.failed is None else f'{provider.attempts.failed:.0%}'}"
        f"<td>{'-' if provider.attempts.median is None else f'{provider.attempts.median:g} s'}"
        for pool in view.pools
        for provider in pool.providers
    )
    problems = "".join(f"<li>{html.escape(problem)}" for problem in [*view.problems, *view.config.problems])
    return (
        f'<section class="card hero {view.state}"><div><p class="headline">{html.escape(view.headline)}</p>'
        f"{f'<ul>{problems}</ul>' if problems else ''}</div></section>"
        '<section class="card"><table><caption>Providers in the last minute</caption><thead><tr><th scope=col>Provider'
        "<th scope=col>Alias<th scope=col>State<th scope=col>Reason<th scope=col>Failed<th scope=col>Median latency"
        f"<tbody>{rows}</table></section>"
    )
