"""What operators ask on the metrics port."""

from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module

import trio

from onwards_core import Request, Respond
from onwards_core._lease_calls import InForce
from onwards_trio._access import Access
from onwards_trio._connection import Handler
from onwards_trio._metric_data import Families
from onwards_trio._reply import Reply
from onwards_trio._status_routes import StatusRoutes


def admin(
    collect: Callable[[], Awaitable[Families]],
    prefix: str,
    unready: Callable[[], str],
    access: Access,
    status: StatusRoutes,
    remark: Callable[[], str] = lambda: "",
    in_force: Callable[[], Sequence[InForce]] = tuple,
) -> Handler:
    """The handler of a `Server` for operators.

    collect: gives all metrics. prefix: of their names. unready: why the gateway wants no requests; empty: it does.
    access: who may ask for more than health and readiness. remark: what else there is to say about readiness.
    in_force: which configs the processes have that share limits. They differ during a rollout, which is no reason to
    take a gateway out; who may ask for more is told which has which.
    """
    pages = {b"/": status.page, b"/status.json": status.json, b"/status/events": status.events}

    async def handle(request: Request, reply: Reply) -> None:
        path = request.target.partition(b"?")[0]
        if request.method not in ("GET", "HEAD"):
            await reply.respond(_text(405, b"method not allowed", (b"allow", b"GET, HEAD")))
        elif path == b"/healthz":
            await reply.respond(_text(200, b"ok"))
        elif path == b"/readyz":
            why = unready()
            differences = _differences(in_force(), in_detail=access.refusal(request) is None)
            text = why or f"ready{remark()}{differences}"
            await reply.respond(_text(503 if why else 200, text.encode()))
        elif refusal := access.refusal(request):
            await reply.respond(refusal)
        elif path == b"/metrics":
            accept = request.headers.by_name.get(b"accept", b"").decode("latin-1")
            # What it imports would hold up the start, and then requests.
            exposition = await trio.to_thread.run_sync(import_module, "onwards_trio._exposition")
            content_type, body = exposition.expose(await collect(), prefix, accept)
            await reply.respond(Respond(200, [(b"content-type", content_type.encode())], body))
        elif path in pages:
            await pages[path](request, reply)
        else:
            await reply.respond(_text(404, b"not found"))

    return handle


def _differences(in_force: Sequence[InForce], *, in_detail: bool) -> str:
    if len(in_force) < 2:
        return ""
    processes = sum(each.count for each in in_force)
    text = f", but {len(in_force)} different configs are in force in {processes} processes"
    if in_detail:
        for each in in_force:
            text += f"\n{each.count} with {each.config[:16]}: {', '.join(each.processes)}"
            text += ", and others" if each.count > len(each.processes) else ""
    return text


def _text(status: int, text: bytes, *headers: tuple[bytes, bytes]) -> Respond:
    return Respond(status, [(b"content-type", b"text/plain"), *headers], text + b"\n")
