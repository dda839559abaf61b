"""What a config becomes: everything inherited is resolved, and what stays the same keeps its identity."""

from typing import Any

import attrs
import pytest

from onwards_core import Pool, Provider, Snapshot, Strategy, load_config
from onwards_core._fallback import FallbackPolicy
from onwards_core._ledger import Limit, Rate
from tests.core.gateway_support import HASH_KEY, snapshot

RATE = {"requests_per_second": 0.5, "burst_size": 3}
CONCURRENCY = {"max_concurrent_requests": 4}


def compiled(target: Any, **auth: Any) -> Pool:
    """One pool."""
    return snapshot({"m": target}, **auth).pools["m"]


def only(pool: Pool) -> Provider:
    """The provider of a pool that has one."""
    (provider,) = pool.providers
    return provider


def test_defaults() -> None:
    """A URL is enough: open to everyone, without limits, credentials or fallback."""
    pool = compiled({"url": "https://h.test/v1/"})
    assert (pool.alias, pool.keys, pool.strategy, pool.weights) == ("m", None, Strategy.WEIGHTED_RANDOM, (1,))
    assert pool.fallback == FallbackPolicy()
    assert pool.limit == Limit("pool m")
    provider = only(pool)
    assert (provider.label, provider.authority, provider.url.path) == ("h.test", b"h.test", b"/v1")
    assert (provider.auth_header, provider.credential, provider.model) == (b"authorization", None, None)
    assert (provider.limit.rate, provider.limit.permits, provider.sanitize) == (None, None, False)
    assert (provider.response_headers, provider.http2, provider.proxy) == ({}, False, None)


def test_single() -> None:
    """A single target's limits are its provider's; its keys are the pool's."""
    pool = compiled(
        {
            "url": "http://h/",
            "keys": ["sk"],
            "onwards_key": "up",
            "onwards_model": "large",
            "rate_limit": RATE,
            "concurrency_limit": CONCURRENCY,
            "upstream_auth_header_name": "X-Key",
            "upstream_auth_header_prefix": "Key ",
            "response_headers": {"X-A": "ä"},
            "sanitize_response": True,
            "http2": True,
            "proxy": "http://proxy:1/",
            "weight": 7,
        }
    )
    provider = only(pool)
    assert pool.keys is not None
    assert pool.limit == Limit("pool m")
    assert (provider.limit.rate, provider.limit.permits) == (Rate(2 * 10**9, 3), 4)
    assert (provider.auth_header, provider.credential, provider.model) == (b"x-key", b"Key up", "large")
    assert provider.response_headers == {b"x-a": b"\xe4"}
    assert (provider.sanitize, provider.http2, provider.proxy) == (True, True, "http://proxy:1/")
    assert pool.weights == (7,)


def test_list() -> None:
    """A list of targets is a pool; the first one's keys guard it."""
    pool = compiled([{"url": "http://a/", "weight": 2, "keys": ["sk"]}, {"url": "http://b/", "keys": ["other"]}])
    assert [provider.label for provider in pool.providers] == ["a", "b"]
    assert pool.weights == (2, 1)
    hasher = snapshot({}).hasher
    assert pool.opens(hasher.token(b"sk"))
    assert not pool.opens(hasher.token(b"other"))
    assert not pool.opens(None)
    assert compiled([]).providers == ()
    assert compiled([{"url": "http://a/"}, {"url": "http://b/", "keys": ["x"]}]).keys is None


def test_pool() -> None:
    """A pool has its own limits; headers and sanitizing are its providers' too, who may add to them."""
    pool = compiled(
        {
            "providers": [
                {"url": "http://a/", "response_headers": {"x-a": "own", "X-C": "3"}, "rate_limit": RATE},
                {"url": "http://b/", "sanitize_response": True, "concurrency_limit": CONCURRENCY},
            ],
            "rate_limit": RATE,
            "concurrency_limit": CONCURRENCY,
            "response_headers": {"X-A": "1", "X-B": "2"},
            "fallback": {"enabled": True, "on_status": [50], "on_rate_limit": True},
            "strategy": "priority",
        }
    )
    assert pool.limit == Limit("pool m", Rate(2 * 10**9, 3), 4)
    assert pool.strategy is Strategy.PRIORITY
    assert pool.fallback.statuses == frozenset(range(500, 510))
    assert pool.fallback.on_rate_limit
    first, second = pool.providers
    assert first.response_headers == {b"x-a": b"own", b"x-b": b"2", b"x-c": b"3"}
    assert second.response_headers == {b"x-a": b"1", b"x-b": b"2"}
    assert (first.sanitize, second.sanitize) == (False, True)
    assert (first.limit.rate, first.limit.permits, second.limit.rate, second.limit.permits) == (
        Rate(2 * 10**9, 3),
        None,
        None,
        4,
    )
    both = compiled({"providers": [{"url": "http://a/"}], "sanitize_response": True})
    assert only(both).sanitize


@pytest.mark.parametrize(
    ("url", "authority", "label"),
    [
        ("http://h/", b"h", "h"),
        ("http://h:80/", b"h", "h"),
        ("http://h:443/", b"h:443", "h"),
        ("https://h:443/", b"h", "h"),
        ("https://h:8443/", b"h:8443", "h"),
        ("http://[::1]/", b"[::1]", "::1"),
        ("https://[::1]:80/", b"[::1]:80", "::1"),
    ],
)
def test_authority(url: str, authority: bytes, label: str) -> None:
    """`host` has the port where it is not the scheme's own, and an IPv6 address in brackets."""
    provider = only(compiled({"url": url}))
    assert (provider.authority, provider.label) == (authority, label)


def test_labels() -> None:
    """Providers on one host are numbered; no label says more than the host."""
    urls = ["http://a/secret", "http://b/", "https://a:1/", "http://a/secret"]
    pool = compiled({"providers": [{"url": url} for url in urls]})
    assert [provider.label for provider in pool.providers] == ["a#1", "b", "a#2", "a#3"]


def test_names() -> None:
    """A provider is called by its name, if it has one; what would be called the same is numbered."""
    urls = {"east": "http://a/", "": "http://a/", "b": "http://c/"}
    given = [{"name": name, "url": url} for name, url in urls.items()]
    pool = compiled({"providers": [*given, {"url": "http://b/"}]})
    assert [provider.label for provider in pool.providers] == ["east", "a", "b#1", "b#2"]


@pytest.mark.parametrize(
    ("name", "prefix", "field"),
    [
        (None, None, (b"authorization", b"Bearer up")),
        (None, "", (b"authorization", b"up")),
        (None, "Key ", (b"authorization", b"Key up")),
        ("X-Key", None, (b"x-key", b"Bearer up")),
        ("X-Key", "", (b"x-key", b"up")),
    ],
)
def test_credential(name: str | None, prefix: str | None, field: tuple[bytes, bytes]) -> None:
    """An empty prefix is one; the default is `Bearer `, whatever the field."""
    settings = {"upstream_auth_header_name": name, "upstream_auth_header_prefix": prefix}
    provider = only(compiled({"url": "http://h/", "onwards_key": "up", **settings}))
    assert (provider.auth_header, provider.credential) == field


PROVIDERS: list[dict[str, Any]] = [
    {"url": "http://a/"},
    {"url": "http://a:81/"},
    {"url": "http://a/v1"},
    {"url": "https://a:80/"},
    {"url": "http://a/", "onwards_key": "k1"},
    {"url": "http://a/", "onwards_key": "k2"},
    {"url": "http://a/", "onwards_model": "x"},
    {"url": "http://a/", "onwards_key": "k1", "onwards_model": "x"},
]


def identities(*providers: dict[str, Any], alias: str = "m") -> list[str]:
    """Under what the ledger has these providers of a pool."""
    return [it.limit.identity for it in snapshot({alias: {"providers": list(providers)}}).pools[alias].providers]


def test_identity_of_providers() -> None:
    """A provider is the same after a reload if pool, URL, credential and model are: wherever it stands, whatever its
    weight and limits. No two are the same at one time, not even twins."""
    before = identities(*PROVIDERS)
    assert len(set(before)) == len(PROVIDERS)
    changed = [{**it, "weight": 5, "rate_limit": RATE, "concurrency_limit": CONCURRENCY} for it in PROVIDERS]
    assert identities(*reversed(changed)) == before[::-1]
    assert not set(identities(*PROVIDERS, alias="n")) & set(before)
    twins = identities(PROVIDERS[0], PROVIDERS[1], PROVIDERS[0])
    assert twins[:2] == before[:2]
    assert len(set(twins)) == 3


def test_key_limits() -> None:
    """A definition's limits are found by its key, also where the config has a hash, and keep their identity."""
    definitions = {"team": {"key": "sk-team", "rate_limit": RATE}, "ops": {"key": "sk-ops"}}
    found = snapshot({}, key_definitions=definitions)
    limits = {found.key_limits[found.hasher.token(key)].name: key for key in (b"sk-team", b"sk-ops")}
    assert limits == {"team": b"sk-team", "ops": b"sk-ops"}
    team = found.key_limits[found.hasher.token(b"sk-team")].limit
    assert (team.rate, team.permits) == (Rate(2 * 10**9, 3), None)
    renamed = snapshot({}, key_definitions={"x": {"key": "sk-team", "concurrency_limit": CONCURRENCY}})
    later = renamed.key_limits[renamed.hasher.token(b"sk-team")].limit
    assert (later.identity, later.permits) == (team.identity, 4)
    assert "sk-team" not in team.identity


def test_global_keys_are_shared() -> None:
    """However many pools there are, the global keys are held once."""
    found = snapshot({"a": {"url": "http://a/"}, "b": {"url": "http://b/", "keys": ["x"]}}, global_keys=["sk"])
    first, second = (pool.keys for pool in found.pools.values())
    assert first is not None
    assert second is not None
    assert first.shared is second.shared


def test_order_and_age() -> None:
    """Pools stand in the config's order; models are as old as they are said to be."""
    targets = {name: {"url": "http://h/"} for name in "zab"}
    assert list(snapshot(targets).pools) == ["z", "a", "b"]
    assert snapshot(targets, created=7).created == 7
    assert Snapshot.compile(load_config(b'{"targets": {}}'), hash_key=HASH_KEY).created == 0


def test_no_secret_in_reprs() -> None:
    """A snapshot can be logged: neither keys, nor credentials, nor what headers hold."""
    found = snapshot(
        {
            "m": {
                "url": "http://h/",
                "keys": ["secret-1", "team"],
                "onwards_key": "secret-2",
                "response_headers": {"x": "secret-3"},
                "proxy": "http://user:secret-4@p:1/",
            }
        },
        global_keys=["secret-5"],
        key_definitions={"team": {"key": "secret-6"}},
    )
    assert "secret" not in repr(found)
    assert "secret" not in repr(attrs.asdict(found.pools["m"].limit))


def test_weak_hash_key() -> None:
    """Keys can't be hashed under a secret that is none."""
    with pytest.raises(ValueError, match="hash key"):
        Snapshot.compile(load_config(b'{"targets": {}}'), hash_key=b"short")
