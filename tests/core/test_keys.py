"""Clients' keys: where they are found, and how they are recognised."""

import hashlib

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core._keys import KeyHasher, KeyLimits, KeySet, token_from
from onwards_core._ledger import Limit

SECRET = b"0123456789abcdef"


@given(st.tuples(*(st.sampled_from([letter, letter.upper()]) for letter in "bearer")).map("".join))
def test_scheme_in_any_case(scheme: str) -> None:
    """`Bearer` may be spelled in any case."""
    assert token_from({b"authorization": f"{scheme} sk-1".encode()}) == b"sk-1"


@pytest.mark.parametrize(
    ("fields", "token"),
    [
        ({}, None),
        ({b"authorization": b"Bearer sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer   sk-1"}, b"sk-1"),
        ({b"authorization": b"Bearer a b"}, b"a b"),
        ({b"authorization": b"Bearer"}, None),
        ({b"authorization": b"Bearer "}, None),
        ({b"authorization": b""}, None),
        ({b"authorization": b"sk-1"}, None),
        ({b"authorization": b"Basic c2stMQ=="}, None),
        ({b"authorization": b"Bearersk-1"}, None),
        ({b"x-api-key": b"sk-2"}, b"sk-2"),
        ({b"api-key": b"sk-3"}, b"sk-3"),
        ({b"x-api-key": b"", b"api-key": b"sk-3"}, b"sk-3"),
        ({b"x-api-key": b""}, None),
        ({b"api-key": b"sk-3", b"x-api-key": b"sk-2", b"authorization": b"Bearer sk-1"}, b"sk-1"),
        ({b"api-key": b"sk-3", b"x-api-key": b"sk-2"}, b"sk-2"),
        ({b"x-api-key": b"sk-2", b"authorization": b"Basic c2stMQ=="}, b"sk-2"),
        ({b"x-api-key": b"Bearer sk-2"}, b"Bearer sk-2"),
        ({b"cookie": b"sk-4", b"x-key": b"sk-5"}, None),
    ],
)
def test_where_a_key_is_found(fields: dict[bytes, bytes], token: bytes | None) -> None:
    """`Authorization: Bearer` goes before `x-api-key`, that before `api-key`; no other field is a key."""
    assert token_from(fields) == token


@given(st.text(min_size=1).filter(lambda key: not key.startswith("sha256:")))
def test_hashed_and_plain_keys_are_the_same(key: str) -> None:
    """A config may have a key in clear or as its hash, in digits of any case: a client's key matches both."""
    hasher = KeyHasher(SECRET)
    digest = hasher.token(key.encode())
    hashed = hashlib.sha256(key.encode()).hexdigest()
    assert digest == hasher.configured(key) == hasher.configured(f"sha256:{hashed}")
    assert digest == hasher.configured(f"sha256:{hashed.upper()}")


def test_the_hash_is_no_key() -> None:
    """Who finds a hash in a config can't use it as a key."""
    hasher = KeyHasher(SECRET)
    configured = f"sha256:{hashlib.sha256(b'sk-1').hexdigest()}"
    assert hasher.token(configured.encode()) != hasher.configured(configured)


@given(st.sets(st.binary(), min_size=2, max_size=2))
def test_other_keys_have_other_digests(keys: set[bytes]) -> None:
    """Two keys have two digests, and a key has another digest in another process."""
    one, other = keys
    hasher = KeyHasher(SECRET)
    assert hasher.token(one) != hasher.token(other)
    assert hasher.token(one) != KeyHasher(SECRET[::-1]).token(one)
    assert hasher.token(one) != hashlib.sha256(one).digest()


@pytest.mark.parametrize("length", [0, 15, 65])
def test_weak_secrets_are_refused(length: int) -> None:
    """A secret that is too short to be one, or longer than the hash takes, is misuse."""
    with pytest.raises(ValueError, match="16 to 64 bytes"):
        KeyHasher(b"k" * length)
    KeyHasher(b"k" * 16)
    KeyHasher(b"k" * 64)


def test_key_set() -> None:
    """A pool is opened by its own keys and the shared ones, by nothing else; a repr shows neither."""
    keys = KeySet(frozenset([b"own"]), frozenset([b"shared"]))
    assert b"own" in keys
    assert b"shared" in keys
    assert b"other" not in keys
    assert None not in keys
    assert None not in KeySet(frozenset(), frozenset())
    assert repr(keys) == "KeySet()"


def test_key_limits() -> None:
    """What a definition adds is a name, limits and labels, and does not change."""
    limits = KeyLimits("team", Limit("key 1"), {"tier": "batch"})
    assert (limits.name, limits.limit, limits.labels) == ("team", Limit("key 1"), {"tier": "batch"})
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        limits.name = "other"
