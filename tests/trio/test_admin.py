"""The routes on the metrics port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from onwards_core import Record
from onwards_core._values import Secret
from onwards_trio._access import Access
from onwards_trio._admin import admin
from onwards_trio._metric_data import Families
from onwards_trio._metrics import Metrics
from onwards_trio._server import Server
from onwards_trio._status_data import Status
from onwards_trio._status_routes import StatusRoutes
from tests.trio.gateway_support import Accepting, Client, tcp_pair


async def no_status() -> Status:
    raise AssertionError("nobody has asked for it")


@asynccontextmanager
async def operator(*, ready: bool = True, access: Access | None = None) -> AsyncIterator[Client]:
    """A client of the admin routes, of a gateway that has answered one request."""
    metrics = Metrics()
    metrics.observe(Record("GET", b"/v1/models", 0.0, status=200, ended=0.1, outcome="ok"))
    ours, theirs = tcp_pair()
    access = access or Access(None, "127.0.0.1")

    async def collect() -> Families:
        return metrics.collect()

    def unready() -> str:
        return "" if ready else "draining"

    server = Server(admin(collect, "own", unready, access, StatusRoutes(no_status, lambda: False)))
    async with trio.open_nursery() as nursery, theirs:
        nursery.start_soon(server.serve, [Accepting(ours)])
        yield Client(theirs)
        server.drain()


def ask(path: str, method: str = "GET", *fields: str) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: 127.0.0.1:9090", *fields, "", "")).encode()


async def test_metrics() -> None:
    """Prometheus' text format, under its content type."""
    async with operator() as client:
        got = await client.ask(ask("/metrics"))
        assert (got.status, got.headers[b"content-type"]) == (200, b"text/plain; version=0.0.4; charset=utf-8")
        assert b'own_http_requests_total{endpoint="/v1/models",method="GET",status="200"} 1.0\n' in got.body


async def test_openmetrics() -> None:
    """For a scraper that asks as Prometheus does."""
    accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    async with operator() as client:
        got = await client.ask(ask("/metrics", "GET", accept))
        assert got.headers[b"content-type"].startswith(b"application/openmetrics-text; version=1.0.0; charset=utf-8")
        assert b"# TYPE own_http_requests counter\n" in got.body
        assert got.body.endswith(b"# EOF\n")


@pytest.mark.parametrize(("ready", "status"), [(True, 200), (False, 503)])
async def test_readiness(ready: bool, status: int) -> None:
    """Only a gateway that takes requests is ready; one that drains is healthy all the same."""
    async with operator(ready=ready) as client:
        assert (await client.ask(ask("/readyz?verbose=1"))).status == status
        assert (await client.ask(ask("/healthz"))).status == 200


@pytest.mark.parametrize(
    ("path", "status"), [("/metrics", 401), ("/nothing", 401), ("/healthz", 200), ("/readyz", 200)]
)
async def test_access(path: str, status: int) -> None:
    """Who may not ask learns nothing, not even which paths there are; probes need no key."""
    async with operator(access=Access(Secret("sk-metrics"), "0.0.0.0")) as client:
        got = await client.ask(ask(path))
        assert (got.status, got.body.endswith(b"\n")) == (status, True)
        assert (await client.ask(ask("/metrics", "GET", "Authorization: Bearer sk-metrics"))).status == 200


async def test_head() -> None:
    """What checks use that want no body."""
    async with operator() as client:
        got = await client.ask(ask("/healthz", "HEAD"))
        assert (got.status, got.body) == (200, b"")


async def test_nothing_else() -> None:
    """Other paths are not found, other methods not allowed."""
    async with operator() as client:
        assert (await client.ask(ask("/v1/models"))).status == 404
        got = await client.ask(ask("/metrics", "POST"))
        assert (got.status, got.headers[b"allow"]) == (405, b"GET, HEAD")
