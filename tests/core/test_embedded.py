"""Which answers are errors in disguise, and the status each of them names."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import ResponseError

from onwards_core._embedded import embedded_error, embedded_status

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["code", "type", "error", "status", "x"]), inner),
    max_leaves=8,
)


def found(value: Any) -> int | None:
    """What is found in this JSON."""
    return embedded_error(json.dumps(value).encode())


@pytest.mark.parametrize(
    "value",
    [
        {"choices": [{"delta": {"content": '"error"'}}]},
        {"error": None, "object": "response", "status": "completed"},
        {"error": ""},
        {"error": {}},
        {"error": []},
        {"error": False},
        {"error": 0},
        {"type": "response.created", "response": {"error": None}},
        {"type": "response.mcp_call.failed"},
        {"choices": [{"error": {"code": 500}}]},
        {"type": {"error": 1}, "object": ["error"]},
        [{"error": {"code": 500}}],
        "error",
        None,
    ],
    ids=str,
)
def test_no_error(value: Any) -> None:
    """An answer, or something that is neither, names no status."""
    assert found(value) is None


@pytest.mark.parametrize("data", [b"", b"[DONE]", b'{"error":', b"\xff", b'{"error":"\xff"}', b'{"error":' * 100_000])
def test_not_json(data: bytes) -> None:
    """What can't be parsed holds no error."""
    assert embedded_error(data) is None


@pytest.mark.parametrize(
    ("value", "status"),
    [
        # OpenAI, and those that follow it
        ({"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"message": "pay", "type": "insufficient_quota", "code": None}}, 429),
        ({"error": {"message": "oops", "type": "server_error", "param": None, "code": None}}, 500),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": "invalid_api_key"}}, 401),
        ({"error": {"message": "no", "type": "invalid_request_error", "code": "something new"}}, 400),
        ({"type": "error", "code": "rate_limit_exceeded", "message": "slow", "param": None}, 429),
        ({"type": "error", "code": None, "message": "oops"}, 500),
        ({"type": "error", "status": 429, "error": {"message": "slow", "type": "requests"}}, 429),
        ({"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded"}}}, 429),
        ({"type": "response.failed", "response": {"error": None, "status": "failed"}}, 500),
        ({"type": "response.failed", "response": None}, 500),
        ({"type": "response.failed"}, 500),
        ({"object": "response", "status": "failed", "error": {"code": "server_error", "message": "x"}}, 500),
        # Anthropic
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, 529),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}, 429),
        ({"type": "error", "error": {"type": "api_error", "message": "x"}}, 500),
        ({"type": "error", "error": {"type": "timeout_error", "message": "x"}}, 504),
        # OpenRouter: a chunk with an error beside its choices
        ({"error": {"code": 502, "message": "x"}, "choices": [{"finish_reason": "error"}]}, 502),
        # vLLM, before and after it got an envelope
        ({"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}, 400),
        ({"error": {"message": "x", "type": "NotFoundError", "code": 404}}, 404),
        # Google
        ({"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}, 503),
        ({"error": {"message": "x", "status": "RESOURCE_EXHAUSTED"}}, 429),
        # In other shapes
        ({"error": "rate_limit_exceeded"}, 429),
        ({"error": "something went wrong"}, 500),
        ({"error": 429}, 429),
        ({"error": ["?"]}, 500),
        ({"error": {"error": {"code": 429}}}, 429),
        ({"error": "Too Many Requests"}, 429),
        ({"error": {"type": "RateLimitException"}}, 429),
        ({"error": {"status_code": 429, "code": "upstream"}}, 429),
        ({"error": "x", "status": 503}, 503),
        ({"\\u0065rror": "x", "error": {"code": "429"}}, 429),
    ],
    ids=str,
)
def test_status(value: Any, status: int) -> None:
    """The status is what the error names, however it does, and 500 if it names none."""
    assert found(value) == status


def test_escaped_names() -> None:
    """Escapes do not hide an error."""
    assert embedded_error(b'{"\\u0065rror": {"\\u0063ode": "429"}}') == 429
    assert embedded_error(b'{"\\u0074ype": "err\\u006fr"}') == 500


@pytest.mark.parametrize(
    "code",
    [None, "", "nonsense", True, 0, 200, 399, 600, -429, 1e300, "4290", "\u00b2\u00b2\u00b2", [429], {}],
    ids=str,
)
def test_nonsense_is_500(code: object) -> None:
    """A code that is no error status counts for nothing."""
    assert embedded_status({"code": code}) == 500


def test_nested_errors() -> None:
    """However deep errors are within errors, the innermost that names a status counts."""
    error: Any = {"code": 503, "error": "?"}
    for _ in range(5000):
        error = {"error": error, "code": 400}
    assert embedded_status(error) == 503


@pytest.mark.parametrize("code", [429, 429.0, "429"])
def test_number(code: object) -> None:
    """A number may be written as text."""
    assert embedded_status({"code": code, "type": "server_error"}) == 429


def test_codes_of_responses() -> None:
    """Every code that OpenAI publishes for failed responses is known: all but two blame the request."""
    status = {code: embedded_status({"code": code}) for code in get_args(ResponseError.model_fields["code"].annotation)}
    assert {code: it for code, it in status.items() if it != 400} == {
        "server_error": 500,
        "rate_limit_exceeded": 429,
        "vector_store_timeout": 504,
    }


@given(value=json_values)
def test_any_error_is_found(value: Any) -> None:
    """Whatever is there beside nothing is an error with an error's status; any value has a status."""
    status = found({"error": value})
    assert (status is not None) == bool(value)
    assert 400 <= embedded_status(value) < 600
    if status is not None:
        assert 400 <= status < 600
