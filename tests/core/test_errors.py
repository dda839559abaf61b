"""The error catalogue: what clients see when the gateway speaks in its own name."""

import json

import pytest

from onwards_core._actions import Respond
from onwards_core._errors import broken_stream_event, error, upstream_error

CATALOGUE = [
    (400, "bad_request", "invalid_request_error"),
    (401, "unauthenticated", "invalid_request_error"),
    (403, "forbidden", "invalid_request_error"),
    (404, "model_not_found", "invalid_request_error"),
    (408, "request_timeout", "invalid_request_error"),
    (413, "payload_too_large", "invalid_request_error"),
    (429, "rate_limit", "rate_limit_error"),
    (429, "concurrency_limit_exceeded", "rate_limit_error"),
    (500, "internal_error", "internal_error"),
    (502, "bad_gateway", "internal_error"),
    (503, "service_unavailable", "internal_error"),
    (504, "gateway_timeout", "internal_error"),
]


@pytest.mark.parametrize(("status", "code", "type"), CATALOGUE)
def test_catalogue(status: int, code: str, type: str) -> None:
    """Each code has its status, its type, a message of its own, and OpenAI's envelope as JSON."""
    answer = error(code)
    body = json.loads(answer.body)
    message = body["error"]["message"]
    assert body == {"error": {"message": message, "type": type, "param": None, "code": code}}
    assert message.endswith(".")
    assert answer == Respond(status, [(b"content-type", b"application/json")], answer.body, code)


def test_details() -> None:
    """A message, a parameter and further headers can be given; any text is valid JSON in the end."""
    answer = error("rate_limit", 'No "\u00e9"\n.', param="model", headers=[(b"retry-after", b"1")])
    body = json.loads(answer.body)["error"]
    assert (body["message"], body["param"]) == ('No "\u00e9"\n.', "model")
    assert answer.headers == [(b"content-type", b"application/json"), (b"retry-after", b"1")]


def test_unknown_code() -> None:
    """A code that is not in the catalogue is a mistake in the program."""
    with pytest.raises(KeyError):
        error("no_such_code")


@pytest.mark.parametrize("status", [400, 404, 422, 429, 499])
def test_refused_upstream(status: int) -> None:
    """Every 4xx of a sanitized provider has the same body."""
    assert json.loads(upstream_error(status))["error"]["code"] == "upstream_error"
    assert upstream_error(status) == upstream_error(400)


@pytest.mark.parametrize("status", [100, 301, 399, 500, 503, 599])
def test_failed_upstream(status: int) -> None:
    """Everything else that is no success has the body of an internal error."""
    assert json.loads(upstream_error(status))["error"]["code"] == "internal_error"
    assert upstream_error(status) == upstream_error(500)


@pytest.mark.parametrize("message", [None, "line\nbreak"])
def test_broken_stream(message: str | None) -> None:
    """The closing event is one event of one line, with OpenAI's envelope."""
    event = broken_stream_event() if message is None else broken_stream_event(message)
    (line,) = event.removesuffix(b"\n\n").splitlines()
    body = json.loads(line.removeprefix(b"data: "))["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert message in (None, body["message"])
    assert (body["code"], body["type"]) == ("bad_gateway", "internal_error")
