"""Clients' keys: where a request carries one, and how one is recognised.

Keys are compared by a keyed hash of them, so that the time a look-up takes tells nothing about any key, and so that
what is kept after loading is of no use to a thief.
"""

import hashlib
from collections.abc import Mapping

import attrs

from onwards_core._ledger import Limit

_HASHED = "sha256:"


def token_from(fields: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request carries: of `Authorization: Bearer`, `x-api-key` and `api-key` the first that is there."""
    authorization = fields.get(b"authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and (token := token.strip()):
            return token
    return fields.get(b"x-api-key") or fields.get(b"api-key") or None


class KeyHasher:
    """Turns keys into digests under a secret of this process."""

    def __init__(self, secret: bytes) -> None:
        if not 16 <= len(secret) <= 64:
            raise ValueError("the hash key must have 16 to 64 bytes")
        self._secret = secret

    def token(self, token: bytes) -> bytes:
        """The digest of a key as a client sent it."""
        return self._mix(hashlib.sha256(token).digest())

    def configured(self, key: str) -> bytes:
        """The digest of a key as the config has it: in clear, or as `sha256:` and the hash in hexadecimal."""
        if key.startswith(_HASHED):
            return self._mix(bytes.fromhex(key.removeprefix(_HASHED)))
        return self.token(key.encode())

    def _mix(self, digest: bytes) -> bytes:
        return hashlib.blake2b(digest, key=self._secret, digest_size=16).digest()


@attrs.frozen
class KeySet:
    """Digests of the keys that open a pool."""

    own: frozenset[bytes] = attrs.field(repr=False)
    shared: frozenset[bytes] = attrs.field(repr=False)
    """The global keys: one set for all pools, however many there are."""

    def __contains__(self, digest: object) -> bool:
        return digest in self.own or digest in self.shared


@attrs.frozen
class KeyLimits:
    """What a key definition adds to a key."""

    name: str
    limit: Limit
    labels: Mapping[str, str]
    """What routing rules go by."""
