"""The routes on the metrics port."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from onwards_core import Record
from onwards_core._lease_calls import InForce
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
async def operator(
    *, ready: bool = True, access: Access | None = None, in_force: tuple[InForce, ...] = ()
) -> AsyncIterator[Client]:
    """A client of the admin routes, of a gateway that has answered one request."""
    metrics = Metrics()
    metrics.observe(Record("GET", b"/v1/models", 0.0, status=200, ended=0.1, outcome="ok"))
    ours, theirs = tcp_pair()
    access = access or Access(None, "127.0.0.1")

    async def collect() -> Families:
        return metrics.collect()

    def unready() -> str:
        return "" if ready else "draining"

    status = StatusRoutes(no_status, lambda: False)
    server = Server(admin(collect, "own", unready, access, status, in_force=lambda: in_force))
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


DIFFER = (InForce("a" * 64, 12, ("one", "two")), InForce("b" * 64, 1, ("three",)))


async def test_a_rollout_leaves_a_gateway_ready() -> None:
    """While configs differ it says so, with a 200: who has which, to those who may ask for more than readiness."""
    line = b"ready, but 2 different configs are in force in 13 processes"
    detail = b"\n12 with aaaaaaaaaaaaaaaa: one, two, and others\n1 with bbbbbbbbbbbbbbbb: three"
    async with operator(in_force=DIFFER) as client:
        got = await client.ask(ask("/readyz"))
        assert (got.status, got.body) == (200, line + detail + b"\n")
    async with operator(in_force=DIFFER, access=Access(Secret("sk-metrics"), "0.0.0.0")) as client:
        assert (await client.ask(ask("/readyz"))).body == line + b"\n"
        assert detail in (await client.ask(ask("/readyz", "GET", "Authorization: Bearer sk-metrics"))).body
    async with operator(in_force=DIFFER[:1]) as client:
        assert (await client.ask(ask("/readyz"))).body == b"ready\n"
    async with operator(in_force=DIFFER, ready=False) as client:
        got = await client.ask(ask("/readyz"))
        assert (got.status, got.body) == (503, b"draining\n")


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
