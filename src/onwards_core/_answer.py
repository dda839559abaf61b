"""How a provider's response becomes the client's answer: its head, and what stands in for it."""

from typing import Final

from onwards_core._actions import Respond, Transform
from onwards_core._errors import error, overloaded, upstream_error
from onwards_core._events import FailureReason, HeaderFields, Headers, UpstreamResponded
from onwards_core._request import client_headers
from onwards_core._snapshot import Provider
from onwards_core._treatment import Treatment

JSON: Final = b"application/json"

# What describes a body that the client does not get as the provider sent it.
_ABOUT_BODY: Final = frozenset(
    (
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"accept-ranges",
        b"etag",
        b"content-md5",
        b"content-digest",
        b"repr-digest",
        b"digest",
    )
)
_LENGTH: Final = frozenset((b"content-length",))


def passed_headers(response: UpstreamResponded, provider: Provider, transform: Transform | None) -> Headers:
    """For a body that passes. With a transform it may get longer, so it can't promise a length."""
    return client_headers(response.headers, provider, drop=_LENGTH if transform else frozenset())


def stream_headers(
    response: UpstreamResponded, provider: Provider, treatment: Treatment, transform: Transform | None
) -> Headers:
    """For an event stream."""
    if treatment.looks_inside:
        return own_headers(response, provider, treatment, b"text/event-stream")
    return passed_headers(response, provider, transform)


def own_headers(response: UpstreamResponded, provider: Provider, treatment: Treatment, content_type: bytes) -> Headers:
    """For a body of ours in the place of the provider's."""
    headers = response.headers
    if treatment.keeps is not None:
        headers = HeaderFields([field for field in headers if field[0] in treatment.keeps])
    return client_headers(headers, provider, drop=_ABOUT_BODY, content_type=content_type)


def instead_of_answer(last: int | FailureReason) -> Respond:
    """What came of the last attempt, a status or a failure, where its response can't be given."""
    match last:
        case int():
            return Respond(last, [(b"content-type", JSON)], upstream_error(last))
        case "connect_timeout" | "head_timeout" | "first_content_timeout" | "idle_timeout":
            return error("gateway_timeout")
        case "no_resources":
            return overloaded()
        case _:
            return error("bad_gateway")


def media_type(headers: HeaderFields) -> bytes:
    """Without its parameters, in small letters."""
    return headers.by_name.get(b"content-type", b"").partition(b";")[0].strip().lower()


def content_encoding(headers: HeaderFields) -> bytes | None:
    """All the encodings, also when they came in several fields."""
    return headers.joined(b"content-encoding") or None
