"""The models list, which shows each caller its own."""

import json

import pytest

from onwards_core import Respond
from onwards_core._models import models_response
from tests.core.gateway_support import error_code, snapshot

OPEN = {"url": "http://p/"}
SNAPSHOT = snapshot(
    {
        "open": OPEN,
        "org/name:tag": {**OPEN, "keys": ["sk-org", "team"]},
        "snow ☃%41": {**OPEN, "keys": ["sk-snow"]},
        "closed": {**OPEN, "keys": []},
        "empty": {"providers": []},
    },
    created=1234,
    key_definitions={"team": {"key": "sk-team"}},
)


def asked(path: bytes, key: bytes | None = None, method: str = "GET") -> Respond | None:
    """The answer for a caller with this key."""
    digest = SNAPSHOT.hasher.token(key) if key is not None else None
    return models_response(SNAPSHOT, method, path, digest)


def shown(path: bytes, key: bytes | None = None) -> object:
    """What is in a good answer."""
    answer = asked(path, key)
    assert answer is not None
    assert (answer.status, answer.headers) == (200, [(b"content-type", b"application/json")])
    return json.loads(answer.body)


@pytest.mark.parametrize("path", [b"/v1/models", b"/models"])
@pytest.mark.parametrize(
    ("key", "aliases"),
    [
        (None, ["open", "empty"]),
        (b"wrong", ["open", "empty"]),
        (b"team", ["open", "empty"]),
        (b"sk-team", ["open", "org/name:tag", "empty"]),
        (b"sk-snow", ["open", "snow ☃%41", "empty"]),
    ],
)
def test_list(path: bytes, key: bytes | None, aliases: list[str]) -> None:
    """The aliases that the caller may use, in the order of the config, as OpenAI's client expects them."""
    assert shown(path, key) == {
        "object": "list",
        "data": [{"id": alias, "object": "model", "created": 1234, "owned_by": "onwards"} for alias in aliases],
    }


@pytest.mark.parametrize(
    ("path", "key", "alias"),
    [
        (b"/v1/models/open", None, "open"),
        (b"/models/open", b"wrong", "open"),
        (b"/v1/models/org/name:tag", b"sk-org", "org/name:tag"),
        (b"/v1/models/org%2Fname%3atag", b"sk-team", "org/name:tag"),
        (b"/v1/models/snow%20%E2%98%83%2541", b"sk-snow", "snow ☃%41"),
    ],
)
def test_one(path: bytes, key: bytes | None, alias: str) -> None:
    """One model by its name, which may hold slashes and escapes."""
    assert shown(path, key) == {"id": alias, "object": "model", "created": 1234, "owned_by": "onwards"}


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (b"/v1/models/unknown", None),
        (b"/v1/models/", None),
        (b"/v1/models/%ff", None),
        (b"/v1/models/open/", None),
        (b"/v1/models/org/name:tag", None),
        (b"/v1/models/org/name:tag", b"sk-snow"),
        (b"/v1/models/closed", b"sk-org"),
        (b"/models/closed", None),
    ],
)
def test_not_found(path: bytes, key: bytes | None) -> None:
    """Who may not use a model can't tell it from one that does not exist."""
    answer, unknown = asked(path, key), asked(b"/v1/models/other")
    assert answer is not None
    assert (answer.status, error_code(answer)) == (404, "model_not_found")
    assert answer == unknown


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", b"/v1/models"),
        ("DELETE", b"/v1/models/open"),
        ("HEAD", b"/models"),
        ("GET", b"/v1/modelsx"),
        ("GET", b"/v2/models"),
        ("GET", b"/"),
        ("GET", b"/v1/models2/x"),
    ],
)
def test_other_requests(method: str, path: bytes) -> None:
    """Every other method and path is not for the list to answer."""
    assert asked(path, method=method) is None
