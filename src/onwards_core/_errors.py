"""The error catalogue: every answer that the gateway gives in its own name.

All of them are OpenAI's envelope, so that the `openai` clients raise their usual exception classes. The
messages are for the caller: they never name a provider, a URL or an upstream model.
"""

from collections.abc import Sequence

import msgspec

from onwards_core._actions import Respond

_INVALID = "invalid_request_error"
_LIMIT = "rate_limit_error"
_INTERNAL = "internal_error"

# code: (status, type, default message)
_CATALOGUE = {
    "bad_request": (400, _INVALID, "The request is malformed."),
    "unauthenticated": (401, _INVALID, "This model needs an API key: send it as 'Authorization: Bearer KEY'."),
    "forbidden": (403, _INVALID, "The API key is not valid for this model."),
    "model_not_found": (404, _INVALID, "The model does not exist."),
    "not_found": (404, _INVALID, "The gateway has no such route."),
    "request_timeout": (408, _INVALID, "The request took too long to arrive."),
    "payload_too_large": (413, _INVALID, "The request body is too large."),
    "rate_limit": (429, _LIMIT, "Too many requests. Try again after the time in the Retry-After header."),
    "concurrency_limit_exceeded": (429, _LIMIT, "Too many requests at the same time. Try again shortly."),
    "internal_error": (500, _INTERNAL, "The gateway failed to handle the request."),
    "bad_gateway": (502, _INTERNAL, "No provider for this model gave a usable answer."),
    "service_unavailable": (503, _INTERNAL, "The model is not available at the moment."),
    "overloaded": (503, _INTERNAL, "The gateway has too much to do. Try again shortly."),
    "gateway_timeout": (504, _INTERNAL, "The provider for this model took too long to answer."),
}

_encode = msgspec.json.Encoder().encode


def envelope(message: str, type: str, code: str, param: str | None = None) -> bytes:
    """OpenAI's error object as JSON."""
    return _encode({"error": {"message": message, "type": type, "param": param, "code": code}})


def error(
    code: str,
    message: str | None = None,
    *,
    param: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> Respond:
    """The answer for one `code` of the catalogue, with its own message where the default says too little."""
    status, type, default = _CATALOGUE[code]
    return Respond(
        status=status,
        headers=[(b"content-type", b"application/json"), *headers],
        body=envelope(message or default, type, code, param),
        code=code,
    )


def overloaded() -> Respond:
    """The answer where a limit of the gateway's own resources is reached, which passes soon."""
    return error("overloaded", headers=[(b"retry-after", b"1"), (b"retry-after-ms", b"1000")])


def upstream_error(status: int) -> bytes:
    """The body that stands in for a sanitized provider's own error: it keeps nothing but the status class."""
    if 400 <= status < 500:
        return envelope("The provider refused the request.", _INVALID, "upstream_error")
    return envelope("The provider failed to handle the request.", _INTERNAL, "internal_error")


def error_event(body: bytes) -> bytes:
    """An error's body, which is JSON, as the last event of an event stream."""
    return b"data: " + b" ".join(body.splitlines()) + b"\n\n"


def broken_stream_event(message: str = "The provider's answer broke off.") -> bytes:
    """The last event of an event stream that its provider did not finish."""
    return error_event(envelope(message, _INTERNAL, "bad_gateway"))
