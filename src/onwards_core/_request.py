"""What becomes of a client's request on its way to a provider: URL and headers. The body is `_body`'s."""

import re
from functools import lru_cache
from typing import TypeAlias
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from onwards_core._events import HeaderFields, Headers, Request
from onwards_core._snapshot import Provider

_HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
_CREDENTIALS = frozenset((b"authorization", b"x-api-key", b"api-key", b"cookie"))
# Set anew for the provider, or addressed to us.
_OURS = frozenset((b"host", b"content-length", b"expect", b"model-override"))
# What a browser says about its user's page, and what other proxies said about the client.
_PRIVATE = frozenset((b"origin", b"referer", b"forwarded"))
_PRIVATE_PREFIXES = (b"proxy-", b"sec-fetch-", b"sec-ch-ua", b"if-", b"x-forwarded-")

_TRACE_CONTEXT = frozenset((b"traceparent", b"tracestate"))  # https://www.w3.org/TR/trace-context/

_REQUEST_ID = b"x-request-id"
# What can break out of no header, log line or JSON string.
_HARMLESS = re.compile(rb"[A-Za-z0-9_.:/+=@~-]{1,128}")

_NOT_FOR_CLIENTS = _HOP_BY_HOP | {_REQUEST_ID}
_DROPPED = _HOP_BY_HOP | _CREDENTIALS | _OURS | _PRIVATE

_WITH_BODY = frozenset(("POST", "PUT", "PATCH"))

_NOT_IN_TARGET = re.compile(rb"[\0-\x20\x7f#]")
# A segment `.` or `..`, ended by anything that ends a segment, a path or a text for some server.
_DOT_SEGMENT = re.compile(rb"[/\\]\.\.?(?:[/\\;?#\0]|\Z)")
# Spellings that some decoders take for ASCII: sequences longer than UTF-8 allows, and an escape that is none.
_ODD_SPELLING = re.compile(
    rb"[\xc0\xc1][\x80-\xbf]|\xe0[\x80-\x9f][\x80-\xbf]|\xf0[\x80-\x8f][\x80-\xbf]{2}|%[uU][0-9A-Fa-f]{4}"
)
# Nobody escapes a path more often than this in earnest, and undoing more would take long.
_MAX_ESCAPINGS = 8


@lru_cache(maxsize=1024)
def safe_target(target: bytes) -> bool:
    """Whether a request target is an absolute path that stays below any base it is appended to.

    Providers differ in how they undo escapes, so a segment that is `.` or `..`, however often it is escaped, is not
    safe. Cached: clients ask for the same few targets over and over.
    """
    path = target.partition(b"?")[0]
    if not path.startswith(b"/") or _NOT_IN_TARGET.search(target):
        return False
    for _ in range(_MAX_ESCAPINGS + 1):
        decoded = unquote_to_bytes(path)
        if decoded == path:
            # Some servers bring a path into this form, in which U+FF0E is a dot.
            plain = normalize("NFKC", path.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            return not (_ODD_SPELLING.search(path) or _DOT_SEGMENT.search(plain))
        path = decoded
    return False


def upstream_target(base: bytes, target: bytes) -> bytes:
    """The request target below a provider's base path (no trailing slash), which is not repeated.

    Plain concatenation: nothing is resolved, so nothing in `target` can lead elsewhere.
    """
    path = target.partition(b"?")[0]
    if base and (path == base or path.startswith(base + b"/")):
        return target
    return base + target


@lru_cache(maxsize=1024)
def _passes(name: bytes) -> bool:
    """Whether a client's field goes through. Cached: clients send the same few names over and over."""
    return name not in _DROPPED and not name.startswith(_PRIVATE_PREFIXES)


def response_id(headers: HeaderFields, provider: Provider) -> str | None:
    """What a provider calls its answer; where its credential is in that header, it might be an echo of it."""
    return None if provider.auth_header == _REQUEST_ID else request_id(headers)


def request_id(headers: HeaderFields) -> str | None:
    """What the sender calls its request or answer (`x-request-id`), if that may go into headers and logs as it is."""
    value = headers.by_name.get(_REQUEST_ID)
    return value.decode("ascii") if value is not None and _HARMLESS.fullmatch(value) else None


Kind: TypeAlias = tuple[Provider, str, bool, bool]
"""What a provider's request headers depend on, beside the client's: who it is, the scheme, whether the answer must not
be compressed, and whether there is an id of ours."""


def upstream_headers(
    request: Request,
    provider: Provider,
    body: bytes,
    *,
    identity_encoding: bool,
    request_id: str = "",
    known: dict[Kind, Headers] | None = None,
) -> Headers:
    """The provider's request headers, complete.

    `identity_encoding`: ask for an answer that is not compressed. `request_id`: instead of the client's own, if any.
    `known`: those that an earlier request with the same header fields led to.
    """
    known = {} if known is None else known
    kind = provider, request.scheme, identity_encoding, request_id != ""
    passed = known.get(kind)
    if passed is None:
        passed = known[kind] = _passed_headers(request, *kind)
    headers = passed.copy()
    if request_id and _free(_REQUEST_ID, provider):
        headers.append((_REQUEST_ID, request_id.encode("ascii")))
    if body or request.method in _WITH_BODY:
        headers.append((b"content-length", b"%d" % len(body)))
    return headers


def _passed_headers(
    request: Request, provider: Provider, scheme: str, identity_encoding: bool, has_request_id: bool
) -> Headers:
    """All that is the same for each request with these header fields."""
    withheld = {provider.auth_header} | _tokens(request.headers.joined(b"connection"))
    if has_request_id:
        withheld.add(_REQUEST_ID)
    if not provider.propagate_trace_context:
        withheld |= _TRACE_CONTEXT
    ours = [(b"x-forwarded-proto", scheme.encode("ascii"))]
    if identity_encoding:
        withheld.add(b"accept-encoding")
        ours.append((b"accept-encoding", b"identity"))
    headers = [(b"host", provider.authority)]
    headers += [field for field in request.headers if _passes(field[0]) and field[0] not in withheld]
    if provider.credential is not None:
        headers.append((provider.auth_header, provider.credential))
    return headers + [field for field in ours if _free(field[0], provider)]


def _free(name: bytes, provider: Provider) -> bool:
    """Whether we may set it: where a config puts a credential, that is there and nothing else."""
    return provider.auth_header != name or provider.credential is None


def client_headers(
    headers: HeaderFields,
    provider: Provider,
    *,
    drop: frozenset[bytes] = frozenset(),
    content_type: bytes | None = None,
) -> Headers:
    """A provider's response headers for the client: less hop-by-hop ones, its request id and `drop`, plus what the
    config sets.

    `content_type`: that of a body which is not the provider's own.
    """
    added = provider.response_headers
    if content_type is not None:
        added = {b"content-type": content_type, **added}
    withheld = _withheld(drop, tuple(added), headers.joined(b"connection"))
    return [field for field in headers if field[0] not in withheld] + list(added.items())


@lru_cache(maxsize=1024)
def _withheld(drop: frozenset[bytes], added: tuple[bytes, ...], connection: bytes) -> frozenset[bytes]:
    return _NOT_FOR_CLIENTS | drop | frozenset(added) | _tokens(connection)


@lru_cache(maxsize=1024)
def _tokens(connection: bytes) -> frozenset[bytes]:
    return frozenset(token.strip().lower() for token in connection.split(b","))
