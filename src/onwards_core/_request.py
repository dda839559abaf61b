"""What becomes of a client's request on its way to a provider: URL and headers. The body is `_body`'s."""

import re
from functools import lru_cache
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from onwards_core._events import Headers, Request
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

# What we set as well, where a config puts a credential: that is there then, and nothing else.
_SET_BY_US = frozenset((_REQUEST_ID, b"accept-encoding", b"x-forwarded-proto"))

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


def response_id(headers: Headers, provider: Provider) -> str | None:
    """What a provider calls its answer; where its credential is in that header, it might be an echo of it."""
    return None if provider.auth_header == _REQUEST_ID else request_id(headers)


def request_id(headers: Headers) -> str | None:
    """What the sender calls its request or answer (`x-request-id`), if that may go into headers and logs as it is."""
    for name, value in headers:
        if name == _REQUEST_ID:
            return value.decode("ascii") if _HARMLESS.fullmatch(value) else None
    return None


def upstream_headers(
    request: Request, provider: Provider, body: bytes, *, identity_encoding: bool, request_id: str = ""
) -> Headers:
    """The provider's request headers, complete.

    `identity_encoding`: ask for an answer that is not compressed. `request_id`: instead of the client's own, if any.
    """
    withheld = {provider.auth_header} | _named_by_connection(request.headers)
    if request_id:
        withheld.add(_REQUEST_ID)
    if not provider.propagate_trace_context:
        withheld |= _TRACE_CONTEXT
    headers = [(b"host", provider.authority)]
    headers += [field for field in request.headers if _passes(field[0]) and field[0] not in withheld]
    if identity_encoding:
        headers = [field for field in headers if field[0] != b"accept-encoding"]
        headers.append((b"accept-encoding", b"identity"))
    if provider.credential is not None:
        headers.append((provider.auth_header, provider.credential))
    headers.append((b"x-forwarded-proto", request.scheme.encode("ascii")))
    if request_id:
        headers.append((_REQUEST_ID, request_id.encode("ascii")))
    if body or request.method in _WITH_BODY:
        headers.append((b"content-length", b"%d" % len(body)))
    if provider.auth_header in _SET_BY_US and provider.credential is not None:
        headers = [field for field in headers if field[0] != provider.auth_header]
        headers.append((provider.auth_header, provider.credential))
    return headers


def client_headers(
    headers: Headers, provider: Provider, *, drop: frozenset[bytes] = frozenset(), content_type: bytes | None = None
) -> Headers:
    """A provider's response headers for the client: less hop-by-hop ones, its request id and `drop`, plus what the
    config sets.

    `content_type`: that of a body which is not the provider's own.
    """
    added = provider.response_headers
    if content_type is not None:
        added = {b"content-type": content_type, **added}
    withheld = _NOT_FOR_CLIENTS | drop | added.keys() | _named_by_connection(headers)
    return [field for field in headers if field[0] not in withheld] + list(added.items())


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return _tokens(b",".join([value for name, value in headers if name == b"connection"]))


@lru_cache(maxsize=1024)
def _tokens(connection: bytes) -> frozenset[bytes]:
    return frozenset(token.strip().lower() for token in connection.split(b","))
