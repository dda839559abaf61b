"""The models list, which the gateway answers itself."""

from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider
from tests.conformance.support.wire import Message


def _get(gateway: Gateway, path: str, key: str | None = None) -> Message:
    return gateway.ask(None, method="GET", path=path, key=key)


def _ids(answer: Message) -> list[str]:
    return [entry["id"] for entry in answer.json()["data"]]


_TARGETS: dict[str, Any] = {
    "zeta": {"providers": []},
    "org/model:7b": {"providers": [], "keys": ["sk-own"]},
    "alpha é": {"providers": [], "keys": ["alice"]},
}
_AUTH: dict[str, Any] = {"key_definitions": {"alice": {"key": "sk-alice"}}}


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models?limit=3"])
def test_list(gateway: Gateway, path: str) -> None:
    """The list has OpenAI's form, and its entries the config's order."""
    gateway.configure({name: {"providers": []} for name in _TARGETS})
    answer = _get(gateway, path)
    assert answer.status == 200
    assert answer.head.get("content-type") == "application/json"
    assert answer.json()["object"] == "list"
    assert _ids(answer) == list(_TARGETS)
    for entry in answer.json()["data"]:
        assert set(entry) == {"id", "object", "created", "owned_by"}
        assert entry["object"] == "model"
        assert isinstance(entry["created"], int)
        assert isinstance(entry["owned_by"], str)


@pytest.mark.parametrize(
    ("key", "ids"),
    [
        (None, ["zeta"]),
        ("sk-wrong", ["zeta"]),
        ("sk-own", ["zeta", "org/model:7b"]),
        ("sk-alice", ["zeta", "alpha é"]),
        ("alice", ["zeta"]),
    ],
)
def test_only_what_the_caller_may_use(gateway: Gateway, key: str | None, ids: list[str]) -> None:
    """An alias that the caller's key does not open is not listed, and can't be told from one that does not exist."""
    gateway.configure(_TARGETS, _AUTH)
    assert _ids(_get(gateway, "/v1/models", key)) == ids
    for alias, path in (("org/model:7b", "org/model:7b"), ("alpha é", "alpha%20%C3%A9"), ("zeta", "zeta")):
        answer = _get(gateway, f"/v1/models/{path}", key)
        assert answer.status == (200 if alias in ids else 404)


def test_global_keys_close_the_list(gateway: Gateway) -> None:
    """With global keys there is nothing to be seen without one of them."""
    gateway.configure({"a": {"providers": []}, "b": {"providers": []}}, {"global_keys": ["sk-global"]})
    assert _ids(_get(gateway, "/v1/models")) == []
    assert _ids(_get(gateway, "/v1/models", "sk-global")) == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "id"),
    [
        ("/v1/models/zeta", "zeta"),
        ("/models/zeta", "zeta"),
        ("/v1/models/org/model:7b", "org/model:7b"),
        ("/v1/models/org%2Fmodel%3A7b", "org/model:7b"),
        ("/v1/models/alpha%20%C3%A9?x=1", "alpha é"),
    ],
)
def test_retrieve(gateway: Gateway, path: str, id: str) -> None:
    """One entry by its ID, which may hold slashes, escaped or not."""
    gateway.configure({name: {"providers": []} for name in _TARGETS})
    answer = _get(gateway, path)
    assert answer.status == 200
    assert (answer.json()["id"], answer.json()["object"]) == (id, "model")


@pytest.mark.parametrize("path", ["/v1/models/unknown", "/v1/models/", "/v1/models/zeta/x", "/v1/models/%FF"])
def test_retrieve_unknown(gateway: Gateway, path: str) -> None:
    """An unknown ID is a 404."""
    gateway.configure({name: {"providers": []} for name in _TARGETS})
    answer = _get(gateway, path)
    assert (answer.status, answer.code) == (404, "model_not_found")


def test_other_methods_are_forwarded(gateway: Gateway, provider: Provider) -> None:
    """Only GET asks the gateway: deleting a fine-tuned model, say, is the provider's matter."""
    gateway.configure({"model": {"url": provider.url}})
    call, _ = gateway.through(
        provider, None, method="DELETE", path="/v1/models/ft-1", fields=[("model-override", "model")]
    )
    assert call.target == "/v1/models/ft-1"


def test_paths_beside_the_list_are_forwarded(gateway: Gateway, provider: Provider) -> None:
    """A path that only begins like the list's is none of it."""
    gateway.configure({"model": {"url": provider.url}})
    call, _ = gateway.through(provider, None, method="GET", path="/v1/modelsx", fields=[("model-override", "model")])
    assert call.target == "/v1/modelsx"
