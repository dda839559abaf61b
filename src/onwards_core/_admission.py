"""The checks that a request has to pass before any provider is tried, in the order of their answers."""

import math
from typing import Self

import attrs

from onwards_core._actions import Respond
from onwards_core._body import Body, OpaqueBody, parse_body
from onwards_core._config import RoutingActionType
from onwards_core._errors import error
from onwards_core._events import HeaderFields, Headers, Request
from onwards_core._immutable import immutable
from onwards_core._keys import KeyLimits, token_from
from onwards_core._ledger import Claim, Ledger, Limit, Permit, Refusal
from onwards_core._models import models_response
from onwards_core._record import Record
from onwards_core._request import Kind, safe_target
from onwards_core._snapshot import Pool, Snapshot
from onwards_core._strict import Endpoint, endpoint

_UNSAFE = error("bad_request", "The request target is not a plain absolute path.")
_NO_MODEL = error("model_not_found", param="model")


@attrs.define(eq=False)
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
    permit: Permit | Claim
    """For key and pool. A claim has yet to be decided."""
    passed: dict[Kind, Headers] = attrs.field(repr=False)
    """The headers for providers, as far as they are known from earlier requests."""


@immutable
class _Caller:
    """Who sends these header fields, as far as this snapshot knows."""

    snapshot: Snapshot
    digest: bytes | None
    """Of the key; None without one."""
    known: KeyLimits | None
    """What the key's definition says, if it has one."""
    passed: dict[Kind, Headers]
    """See `Admission`."""

    @classmethod
    def of(cls, headers: HeaderFields, snapshot: Snapshot) -> Self:
        found = headers.found
        if isinstance(found, cls) and found.snapshot is snapshot:
            return found
        token = token_from(headers.by_name)
        digest = None if token is None else snapshot.hasher.token(token)
        known = None if digest is None else snapshot.key_limits.get(digest)
        caller = headers.found = cls(snapshot, digest, known, {})
        return caller

    def limits(self, pool: Pool | None) -> list[Limit]:
        """Those that the caller has to keep to."""
        return [each.limit for each in (pool, self.known) if each is not None]

    def pool(self, pool: Pool) -> Pool | Respond:
        """The pool that the caller gets for this one, by its rules, followed once: the other may still deny."""
        if not pool.opens(self.digest):
            return _not_opened(self.digest)
        if not pool.rules:
            return pool
        labels = self.known.labels if self.known else {}
        action = pool.action(labels)
        if action is not None and action.target is not None:
            pool = self.snapshot.pools[action.target]
            if not pool.opens(self.digest):
                return _not_opened(self.digest)
            action = pool.action(labels)
        if action is not None and action.type is RoutingActionType.DENY:
            return error("forbidden", "The API key may not use this model.")
        return pool


def check(request: Request, record: Record, snapshot: Snapshot, ledger: Ledger, now: float) -> Admission | Respond:
    """Admit a request, noting in `record` what it turned out to be; or the answer that it gets instead."""
    if not safe_target(request.target):
        return _UNSAFE
    # Of a field that is repeated the last one counts. All that matter here are removed before a provider sees them.
    caller = _Caller.of(request.headers, snapshot)

    if listing := models_response(snapshot, request.method, record.path, caller.digest):
        return listing
    strictly = endpoint(record.path) if snapshot.strict and request.method == "POST" else None
    if snapshot.strict and strictly is None:
        return error("not_found")

    named = _named(request, snapshot.server.json_depth)
    if isinstance(named, Respond):
        return named
    model, body = named
    pool = snapshot.pools.get(model)
    if pool is None:
        return _NO_MODEL
    record.alias = pool.alias
    record.key = caller.known.name if caller.known else None

    given = caller.pool(pool)
    if isinstance(given, Respond):
        return given
    record.alias = given.alias
    if not given.providers:
        return error("service_unavailable")
    if strictly is not None and (fault := strictly.check_request(request.body)):
        return error("bad_request", fault.message, param=fault.param)

    renamed = given.alias if body is not None and given is not pool else None
    whole = body or _unnamed_body(request, given, snapshot.server.json_depth)
    if isinstance(whole, Respond):
        return whole

    permit = ledger.acquire(caller.limits(given), now)
    if isinstance(permit, Refusal):
        record.refused_by = permit.by
        return refused(permit)
    return Admission(given, model, whole, renamed, strictly, permit, caller.passed)


def _unnamed_body(request: Request, pool: Pool, depth: int) -> Body | Respond:
    """Where a header names the pool, any body will do, unless a provider's own model has to go into it."""
    if any(provider.model is not None for provider in pool.providers):
        return _parsed(request, depth)
    if not pool.looks_into_bodies:
        return OpaqueBody(request.body)
    parsed = parse_body(request, depth)
    return OpaqueBody(request.body) if isinstance(parsed, str) else parsed


def screen(request: Request, record: Record, snapshot: Snapshot, ledger: Ledger, now: float) -> Respond | None:
    """The answer to a request that will be refused whatever its body holds, as far as its head tells. Takes nothing,
    and notes in `record` what the request turned out to be.

    So nobody without a key can make us wait for a body, and hold it.
    """
    if not safe_target(request.target):
        return _UNSAFE
    caller = _Caller.of(request.headers, snapshot)
    record.key = caller.known.name if caller.known else None
    limits = caller.limits(None)
    override = request.headers.by_name.get(b"model-override")
    if override is not None:
        pool = snapshot.pools.get(override.decode("utf-8", "replace"))
        if pool is None:
            return _NO_MODEL
        record.alias = pool.alias
        given = caller.pool(pool)
        if isinstance(given, Respond):
            return given
        record.alias = given.alias
        limits = caller.limits(given)
    elif not snapshot.open_to_all and caller.digest not in snapshot.known_keys:
        return _not_opened(caller.digest)
    refusal = ledger.refusal(limits, now)
    if refusal is None:
        return None
    record.refused_by = refusal.by
    return refused(refusal)


def _not_opened(digest: bytes | None) -> Respond:
    if digest is None:
        return error("unauthenticated", headers=[(b"www-authenticate", b"Bearer")])
    return error("forbidden")


def _named(request: Request, depth: int) -> tuple[str, Body | None] | Respond:
    """The alias that the request names; and its body, if that had to be looked into."""
    override = request.headers.by_name.get(b"model-override")
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
