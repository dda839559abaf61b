"""Gateways and requests for the tests of the core."""

import json
from random import Random
from typing import Any

from onwards_core import Exchange, Gateway, Headers, Request, Respond, Snapshot, load_config

HASH_KEY = b"the hash key of all the tests..."


def snapshot(targets: dict[str, Any], created: int = 0, **auth: Any) -> Snapshot:
    """A compiled config. Snapshots of the same definition of a key agree on its identity."""
    raw = json.dumps({"targets": targets, "auth": auth}).encode()
    return Snapshot.compile(load_config(raw), hash_key=HASH_KEY, created=created)


def gateway(targets: dict[str, Any], **auth: Any) -> Gateway:
    """A gateway that draws the same in each run."""
    return Gateway(snapshot(targets, **auth), random=Random(1))


def pool(*names: str, **settings: Any) -> dict[str, Any]:
    """A pool that tries these providers in this order."""
    return {"providers": [{"url": f"http://{name}/"} for name in names], "strategy": "priority", **settings}


def chat(
    model: str = "m", *, key: str | None = None, headers: Headers | None = None, path: bytes = b"/v1/chat/completions"
) -> Request:
    """A chat request for a model, perhaps with a key and further headers."""
    fields = [(b"content-type", b"application/json"), *(headers or [])]
    if key is not None:
        fields.append((b"authorization", f"Bearer {key}".encode()))
    return Request("POST", path, fields, json.dumps({"model": model}).encode(), received=1700000000.5)


def answered(exchange: Exchange, now: float = 0.0) -> Respond:
    """The answer with which an exchange begins, and ends."""
    with exchange:
        action = exchange.begin(now)
        assert isinstance(action, Respond)
        assert exchange.record.status == action.status
    return action


def error_code(answer: Respond) -> str:
    """The `code` of an error."""
    return json.loads(answer.body)["error"]["code"]
