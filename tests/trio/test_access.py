"""Who may ask on the metrics port."""

import base64
from pathlib import Path

import pytest

from onwards_core import Request
from onwards_core._values import Secret
from onwards_trio._access import Access, metrics_key

HASHED = "sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"  # of `password`


def status(access: Access, **fields: str) -> int | None:
    headers = [(name.encode(), value.encode()) for name, value in fields.items()]
    refusal = access.refusal(Request("GET", b"/metrics", headers))
    return refusal and refusal.status


def basic(credentials: bytes) -> str:
    return f"Basic {base64.b64encode(credentials).decode()}"


@pytest.mark.parametrize("key", ["password", HASHED])
@pytest.mark.parametrize(
    ("authorization", "expected"),
    [
        ("Bearer password", None),
        ("bearer password", None),
        (basic(b":password"), None),
        (basic(b"anyone:password"), None),
        (basic(b"password:"), 401),
        (basic(b"password"), 401),
        ("Basic pass", 401),
        ("Basic \N{SNOWMAN}", 401),
        ("Basic", 401),
        ("Digest password", 401),
        ("Bearer wrong", 401),
        (f"Bearer {HASHED}", 401),
        ("", 401),
    ],
)
def test_a_key(key: str, authorization: str, expected: int | None) -> None:
    """It may be a bearer token or a password, with any name; its hash is no key."""
    assert status(Access(Secret(key), "0.0.0.0"), authorization=authorization) == expected


def test_where_it_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file or a variable, or in the option itself; it is never shown."""
    (tmp_path / "key").write_text("sk-metrics\n")
    monkeypatch.setenv("SOME_KEY", "sk-metrics")
    for text in ("sk-metrics", f"${{file:{tmp_path}/key}}", "${env:SOME_KEY}"):
        key = metrics_key(text)
        assert (key.reveal(), repr(key)) == ("sk-metrics", "Secret(***)")
    with pytest.raises(ValueError, match=r"cannot read missing: No such file or directory$"):
        metrics_key("${file:missing}")


def test_no_credentials() -> None:
    """The answer says in which ways the key may be shown."""
    refusal = Access(Secret("password"), "127.0.0.1").refusal(Request("GET", b"/", []))
    ways = [value.partition(b" ")[0] for name, value in refusal.headers if name == b"www-authenticate"]
    assert (refusal.status, ways) == (401, [b"Bearer", b"Basic"])


@pytest.mark.parametrize("listening", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:9090", None),
        ("127.0.0.1", None),
        ("LocalHost:9090", None),
        ("[::1]:9090", None),
        ("[::1]", None),
        ("192.168.1.7", None),
        ("", None),
        ("attacker.example:9090", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("attacker.example", 421),
    ],
)
def test_rebound_names(listening: str, host: str, expected: int | None) -> None:
    """On a loopback address no name is taken that a web page's author could have made stand for it."""
    assert status(Access(None, listening), host=host) == expected


def test_names_elsewhere() -> None:
    """A port that others reach has names that we can't know, and no page can make a browser know a key."""
    assert status(Access(None, "0.0.0.0"), host="onwards.monitoring.svc:9090") is None
    key = Access(Secret("password"), "127.0.0.1")
    assert status(key, host="gateway.example", authorization="Bearer password") is None


def test_no_host() -> None:
    """HTTP/1.0 has none; browsers always send one."""
    assert status(Access(None, "127.0.0.1")) is None


def test_it_shows_no_key() -> None:
    """Not even where it is printed by mistake."""
    assert "password" not in repr(vars(Access(Secret("password"), "0.0.0.0")))
