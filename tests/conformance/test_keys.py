"""Who may use a pool: step 4 of an exchange."""

import hashlib
from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider

_KEY = "sk-right"

_WAYS = [
    [("Authorization", f"Bearer {_KEY}")],
    [("authorization", f"bearer {_KEY}")],
    [("AUTHORIZATION", f"BEARER {_KEY}")],
    [("Authorization", f"bEaReR   {_KEY}")],
    [("x-api-key", _KEY)],
    [("X-API-Key", _KEY)],
    [("api-key", _KEY)],
    [("Api-Key", _KEY)],
    [("Authorization", f"Basic {_KEY}"), ("x-api-key", _KEY)],
]


@pytest.mark.parametrize("fields", _WAYS)
def test_each_way_to_send_a_key(gateway: Gateway, provider: Provider, fields: list[tuple[str, str]]) -> None:
    """Three headers carry a key, their names and the scheme in any case; the provider sees none of it."""
    gateway.configure({"model": {"url": provider.url, "keys": [_KEY]}})
    call, answer = gateway.through(provider, fields=fields)
    assert answer.status == 200
    assert not call.head.names & {"authorization", "x-api-key", "api-key"}


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Authorization", f"Basic {_KEY}")],
        [("Authorization", _KEY)],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("x-api-key", "")],
        [("Cookie", f"api-key={_KEY}")],
    ],
)
def test_missing_key(gateway: Gateway, provider: Provider, fields: list[tuple[str, str]]) -> None:
    """A closed pool wants a key, and says in which scheme."""
    gateway.configure({"model": {"url": provider.url, "keys": [_KEY]}})
    answer = gateway.ask(fields=fields)
    assert (answer.status, answer.code) == (401, "unauthenticated")
    assert answer.head.get("www-authenticate") == "Bearer"
    assert provider.untouched


@pytest.mark.parametrize("key", ["sk-wrong", _KEY + "x", _KEY[:-1], _KEY.upper(), "\xff"])
@pytest.mark.parametrize("field", ["Authorization", "x-api-key", "api-key"])
def test_wrong_key(gateway: Gateway, provider: Provider, field: str, key: str) -> None:
    """A key that does not open the pool is refused, however much it looks like one that does."""
    gateway.configure({"model": {"url": provider.url, "keys": [_KEY]}})
    answer = gateway.ask(fields=[(field, f"Bearer {key}" if field == "Authorization" else key)])
    assert (answer.status, answer.code) == (403, "forbidden")
    assert provider.untouched


_AUTH: dict[str, Any] = {
    "global_keys": ["sk-global"],
    "key_definitions": {"alice": {"key": "sk-alice"}, "bob": {"key": "sk-bob"}},
}


@pytest.mark.parametrize(
    ("keys", "auth", "key", "status"),
    [
        (None, None, None, 200),
        (None, None, "anything", 200),
        (["sk-own"], None, "sk-own", 200),
        (["sk-own"], _AUTH, "sk-global", 200),
        (["sk-own"], _AUTH, "sk-own", 200),
        (None, _AUTH, None, 401),
        (None, _AUTH, "sk-global", 200),
        (None, _AUTH, "sk-alice", 403),
        (["alice"], _AUTH, "sk-alice", 200),
        (["alice"], _AUTH, "sk-bob", 403),
        (["alice"], _AUTH, "alice", 403),
        ([], None, None, 401),
        ([], _AUTH, "sk-global", 200),
        (None, {"global_keys": ["alice"], "key_definitions": _AUTH["key_definitions"]}, "sk-alice", 200),
        ([f"sha256:{hashlib.sha256(b'sk-hashed').hexdigest()}"], None, "sk-hashed", 200),
        ([f"sha256:{hashlib.sha256(b'sk-hashed').hexdigest()}"], None, "sk-other", 403),
    ],
)
def test_which_key_opens_what(
    gateway: Gateway,
    provider: Provider,
    keys: list[str] | None,
    auth: dict[str, Any] | None,
    key: str | None,
    status: int,
) -> None:
    """A pool opens with its own keys and the global ones, names of definitions stand for their keys, and a pool without
    any of them is open."""
    target = {"url": provider.url, **({} if keys is None else {"keys": keys})}
    gateway.configure({"model": target}, auth)
    if status == 200:
        assert gateway.through(provider, key=key)[1].status == 200
    else:
        assert gateway.ask(key=key).status == status
        assert provider.untouched


def test_a_closed_pool_beside_an_open_one(gateway: Gateway, provider: Provider) -> None:
    """The keys of one pool close no other."""
    gateway.configure({"closed": {"url": provider.url, "keys": [_KEY]}, "open": {"url": provider.url}})
    assert gateway.ask("closed").status == 401
    assert gateway.through(provider, "open")[1].status == 200
