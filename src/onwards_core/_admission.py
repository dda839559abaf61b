"""The checks that a request has to pass before any provider is tried, in the order of their answers."""

import math
from collections.abc import Mapping

import attrs

from onwards_core._actions import Respond
from onwards_core._body import Body, OpaqueBody, parse_body
from onwards_core._config import RoutingActionType
from onwards_core._errors import error
from onwards_core._events import Request
from onwards_core._keys import token_from
from onwards_core._ledger import Ledger, Permit, Refusal
from onwards_core._models import models_response
from onwards_core._record import Record
from onwards_core._request import safe_target
from onwards_core._snapshot import Pool, Snapshot
from onwards_core._strict import Endpoint, endpoint

_UNSAFE = error("bad_request", "The request target is not a plain absolute path.")
_NO_MODEL = error("model_not_found", param="model")


@attrs.frozen(eq=False)
class Admission:
    """A request that may go to its pool's providers."""

    pool: Pool
    model: str
    """What the client asked for: the pool's alias, unless a rule redirected it."""
    body: Body = attrs.field(repr=False)
    renamed: str | None
    """What `model` has to become, unless the provider says otherwise: the alias that a rule redirected to."""
    endpoint: Endpoint | None
    """In strict mode: what the request was held to, and its answer will be."""
    permit: Permit
    """For key and pool."""


def check(request: Request, record: Record, snapshot: Snapshot, ledger: Ledger, now: float) -> Admission | Respond:
    """Admit a request, noting in `record` what it turned out to be; or the answer that it gets instead."""
    if not safe_target(request.target):
        return _UNSAFE
    # Of a field that is repeated the last one counts. All that matter here are removed before a provider sees them.
    fields = dict(request.headers)
    token = token_from(fields)
    digest = snapshot.hasher.token(token) if token is not None else None

    if listing := models_response(snapshot, request.method, record.path, digest):
        return listing

    strictly = None
    if snapshot.strict:
        strictly = endpoint(record.path)
        if strictly is None or request.method != "POST":
            return error("not_found")

    depth = snapshot.server.json_depth
    named = _named(request, fields, depth)
    if isinstance(named, Respond):
        return named
    model, body = named
    pool = snapshot.pools.get(model)
    if pool is None:
        return _NO_MODEL
    record.alias = pool.alias

    if not pool.opens(digest):
        return _not_opened(digest)
    key_limits = snapshot.key_limits.get(digest) if digest is not None else None
    if key_limits is not None:
        record.key = key_limits.name
    if pool.rules:
        routed = _routed(pool, snapshot, digest, key_limits.labels if key_limits else {})
        if isinstance(routed, Respond):
            return routed
        pool = routed
        record.alias = pool.alias
    if not pool.providers:
        return error("service_unavailable")
    if strictly is not None and (fault := strictly.check_request(request.body)):
        return error("bad_request", fault.message, param=fault.param)

    if body is None:
        # Where a header names the pool, any body will do, unless a provider's own model has to go into it.
        replaced = any(provider.model is not None for provider in pool.providers)
        parsed = _parsed(request, depth) if replaced else OpaqueBody(request.body)
        if isinstance(parsed, Respond):
            return parsed
        body, renamed = parsed, None
    else:
        renamed = pool.alias if pool.alias != model else None

    limits = [pool.limit]
    if key_limits is not None:
        limits.append(key_limits.limit)
    permit = ledger.acquire(limits, now)
    if isinstance(permit, Refusal):
        return refused(permit)
    return Admission(pool, model, body, renamed, strictly, permit)


def _routed(pool: Pool, snapshot: Snapshot, digest: bytes | None, labels: Mapping[str, str]) -> Pool | Respond:
    """The pool that the rules give to a key with these labels. They are followed once: that pool may still deny."""
    action = pool.action(labels)
    if action is not None and action.target is not None:
        pool = snapshot.pools[action.target]
        if not pool.opens(digest):
            return _not_opened(digest)
        action = pool.action(labels)
    if action is not None and action.type is RoutingActionType.DENY:
        return error("forbidden", "The API key may not use this model.")
    return pool


def screen(request: Request, snapshot: Snapshot, ledger: Ledger, now: float) -> Respond | None:
    """The answer to a request that will be refused whatever its body holds, as far as its head tells. Takes nothing.

    So nobody without a key can make us wait for a body, and hold it.
    """
    if not safe_target(request.target):
        return _UNSAFE
    fields = dict(request.headers)
    token = token_from(fields)
    digest = snapshot.hasher.token(token) if token is not None else None
    limits = []
    override = fields.get(b"model-override")
    if override is not None:
        pool = snapshot.pools.get(override.decode("utf-8", "replace"))
        if pool is None:
            return _NO_MODEL
        if not pool.opens(digest):
            return _not_opened(digest)
        limits.append(pool.limit)
    elif not snapshot.open_to_all and digest not in snapshot.known_keys:
        return _not_opened(digest)
    key_limits = snapshot.key_limits.get(digest) if digest is not None else None
    if key_limits is not None:
        limits.append(key_limits.limit)
    refusal = ledger.refusal(limits, now)
    return refused(refusal) if refusal else None


def _not_opened(digest: bytes | None) -> Respond:
    if digest is None:
        return error("unauthenticated", headers=[(b"www-authenticate", b"Bearer")])
    return error("forbidden")


def _named(request: Request, fields: Mapping[bytes, bytes], depth: int) -> tuple[str, Body | None] | Respond:
    """The alias that the request names; and its body, if that had to be looked into."""
    override = fields.get(b"model-override")
    if override is not None:
        return override.decode("utf-8", "replace"), None
    body = _parsed(request, depth)
    if isinstance(body, Respond):
        return body
    model = body.model
    if model is None:
        return error("bad_request", "Name a model: a string 'model' in the request body.", param="model")
    return model, body


def _parsed(request: Request, depth: int) -> Body | Respond:
    parsed = parse_body(request, depth)
    return error("bad_request", parsed, param="model") if isinstance(parsed, str) else parsed


def refused(refusal: Refusal) -> Respond:
    """The answer for a limit that is reached. The header in milliseconds is for the `openai` clients."""
    milliseconds = max(1, math.ceil(refusal.retry_after * 1000))
    return error(
        refusal.code,
        headers=[
            (b"retry-after", b"%d" % math.ceil(milliseconds / 1000)),
            (b"retry-after-ms", b"%d" % milliseconds),
        ],
    )
