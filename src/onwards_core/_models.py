"""The models list, as `GET /v1/models` gives it."""

from collections.abc import Iterable
from urllib.parse import unquote

import msgspec

from onwards_core._actions import Respond
from onwards_core._errors import error
from onwards_core._snapshot import Pool, Snapshot

_ROOTS = (b"/v1/models", b"/models")

_encode = msgspec.json.Encoder().encode


def models_response(snapshot: Snapshot, method: str, path: bytes, digest: bytes | None) -> Respond | None:
    """The answer if the request asks for the list or one entry of it; None if it is any other request.

    Shows only what the caller's key opens. An alias that it does not open is not told from one that does not exist.
    """
    if method != "GET" or not path.startswith(_ROOTS):
        return None
    for root in _ROOTS:
        if path == root:
            visible = [_entry(pool, snapshot.created) for pool in _visible(snapshot, digest)]
            return _json({"object": "list", "data": visible})
        if path.startswith(root + b"/"):
            alias = unquote(path[len(root) + 1 :], errors="replace")
            pool = snapshot.pools.get(alias)
            if pool is None or not pool.opens(digest):
                return error("model_not_found", param="model")
            return _json(_entry(pool, snapshot.created))
    return None


def _visible(snapshot: Snapshot, digest: bytes | None) -> Iterable[Pool]:
    return (pool for pool in snapshot.pools.values() if pool.opens(digest))


def _entry(pool: Pool, created: int) -> dict[str, object]:
    return {"id": pool.alias, "object": "model", "created": created, "owned_by": "onwards"}


def _json(value: object) -> Respond:
    return Respond(200, [(b"content-type", b"application/json")], _encode(value))
