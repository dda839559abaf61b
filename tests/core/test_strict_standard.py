"""The errors that an untrusted provider's become."""

import json

import pytest

from onwards_core._strict import standard_error, standard_status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, 502),
        (402, 502),
        (403, 502),
        (451, 502),
        (408, 504),
        (400, 400),
        (404, 404),
        (429, 429),
        (500, 500),
        (503, 503),
        (529, 529),
    ],
)
def test_status(status: int, expected: int) -> None:
    """What speaks of the operator's account, and a timeout between gateway and provider, are not the caller's."""
    assert standard_status(status) == expected


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "invalid_request_error"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "api_error"),
        (504, "api_error"),
        (529, "api_error"),
        (302, "api_error"),
    ],
)
def test_error(status: int, type_: str) -> None:
    """The error tells the status, in OpenAI's envelope, and nothing else."""
    error = json.loads(standard_error(status))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == error["code"] == type_
    assert error["param"] is None
