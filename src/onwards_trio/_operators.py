"""Listeners, and the server that answers operators: the same for one process and for the parent of several."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from onwards_core._lease_calls import InForce
from onwards_trio._access import Access
from onwards_trio._admin import admin
from onwards_trio._metric_data import Families
from onwards_trio._options import Options
from onwards_trio._server import Server, open_listeners
from onwards_trio._status_data import Status
from onwards_trio._status_routes import StatusRoutes
from onwards_trio._tcp import TcpListener
from onwards_trio._wire._choose import codecs

_log = logging.getLogger("onwards")


def operators_server(
    options: Options,
    collect: Callable[[], Awaitable[Families]],
    read_status: Callable[[], Awaitable[Status]],
    unready: Callable[[], str],
    in_force: Callable[[], Sequence[InForce]] = tuple,
    remark: Callable[[], str] = lambda: "",
) -> Server:
    """Answers on the metrics port. unready, in_force, remark: as for `admin`."""
    access = Access(options.metrics_key, options.metrics_host)
    status = StatusRoutes(read_status, lambda: unready() == "draining")
    handle = admin(collect, options.metrics_prefix, unready, access, status, remark, in_force)
    return Server(handle, http=codecs(options.http_codec))


async def listen(opened: AsyncExitStack, host: str, port: int) -> list[TcpListener]:
    """Open listeners that are closed in any case, also if what comes after them can't be opened."""
    return [await opened.enter_async_context(listener) for listener in await open_listeners(host, port)]


def announce(what: str, scheme: str, listeners: list[TcpListener]) -> None:
    """Log where they listen."""
    for listener in listeners:
        host, port = listener.socket.getsockname()[:2]
        _log.info("%s %s://%s:%d", what, scheme, f"[{host}]" if ":" in host else host, port)
