"""Who may ask on the metrics port."""

import base64
import binascii
import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from onwards_core import Request, Respond
from onwards_core._keys import KeyHasher, token_from
from onwards_core._values import ClientKey, Secret, SecretKind
from onwards_trio._load import secrets_beside

_CHALLENGES = [
    (b"www-authenticate", b"Bearer"),
    (b"www-authenticate", b'Basic realm="onwards", charset="UTF-8"'),
]


def metrics_key(text: str) -> Secret:
    """Written as a client's key in a config is: in clear, as `sha256:`, or as a reference to where it is kept.

    Raises `ValueError`, whose message does not show it.
    """
    kind = get_args(ClientKey)[1]
    assert isinstance(kind, SecretKind)
    secret = kind.parse(text, secrets_beside(Path()))
    assert secret is not None
    return secret


class Access:
    """Call `refusal` for each request.

    key: what has to be shown, as a bearer token or as the password of HTTP's basic authentication, which is what a
    browser asks its user for. None: nothing.
    host: the address that is listened on. Without a key, whoever reaches it may ask. On a loopback address that would
    be any page in a browser on this machine, if the name of its host were made to stand for that address (DNS
    rebinding): so a `Host` has to be an address, or `localhost`, there.
    """

    def __init__(self, key: Secret | None, host: str) -> None:
        self._hasher = KeyHasher(os.urandom(32))
        self._digest = self._hasher.configured(key.reveal()) if key else None
        self._any_name = not (host == "localhost" or _is_loopback(host))

    def refusal(self, request: Request) -> Respond | None:
        """The answer to who may not ask."""
        fields = request.headers.by_name
        if self._digest is None:
            if self._any_name or _is_own(fields.get(b"host", b"").decode("latin-1")):
                return None
            return _text(421, b"this is no name of the metrics port", [])
        token = token_from(fields) or _password(fields)
        if token is not None and hmac.compare_digest(self._hasher.token(token), self._digest):
            return None
        return _text(401, b"the metrics key is missing or wrong", _CHALLENGES)


def _password(fields: Mapping[bytes, bytes]) -> bytes | None:
    scheme, _, credentials = fields.get(b"authorization", b"").partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        return base64.b64decode(credentials.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return None


def _is_own(host: str) -> bool:
    """Whether a `Host` (empty: there is none) can't be a name that somebody else has chosen."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _text(status: int, text: bytes, headers: list[tuple[bytes, bytes]]) -> Respond:
    return Respond(status, [(b"content-type", b"text/plain"), *headers], text + b"\n")
