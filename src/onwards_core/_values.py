"""The kinds of single value in a config: what each accepts, and how JSON Schema says so.

A `Kind` hangs on the type of an attrs field: `Annotated[int, Kind(...)]`. Its parser takes what JSON gave and returns
the value, or raises `ValueError` with `expected ..., got ...`. What may be a secret is never quoted there.
"""

import math
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv6Address
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import attrs


class Secret:
    """A text that shows up in no repr, log line or traceback."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@attrs.frozen
class Url:
    """Where a provider is."""

    scheme: str
    """`http` or `https`."""
    host: str
    """In ASCII and lower case; an IPv6 address without its brackets."""
    port: int
    path: bytes
    """Without its trailing slash, so empty for none; what is not ASCII is escaped."""


@attrs.frozen(eq=False)
class Kind:
    """What a single value may be."""

    parse: Callable[[Any], object]
    schema: Mapping[str, object]


@attrs.frozen(eq=False)
class SecretKind:
    """What a secret may be, once it is resolved."""

    check: Callable[[str], object]
    schema: Mapping[str, object] = {"type": "string"}


# Errors


def described(value: object) -> str:
    """A value for an error message: of texts, lists and objects only that they are one."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def quoted(value: object) -> str:
    """A value for an error message where a text can't be a secret."""
    if isinstance(value, str):
        return '"' + (value if len(value) <= 60 else value[:60] + "…") + '"'
    return described(value)


# Texts

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a header field's value may hold: RFC 9110's characters, as far as Latin-1 goes.
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
_HASHED_KEY = re.compile(r"sha256:[0-9a-fA-F]{64}")

# They say how a message is framed and where it goes, which is not for a config to change.
_RESERVED = frozenset(
    ("connection", "content-length", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade")
)


def text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, got {described(value)}")
    return value


def field_value(value: Any) -> str:
    if not _FIELD_VALUE.fullmatch(text(value)):
        raise ValueError("expected a string that can stand in a header, got one with other characters")
    return str(value)


def field_name(value: Any) -> str:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ValueError(f"expected a header's name, got {quoted(value)}")
    if value.lower() in _RESERVED or value.lower().startswith("proxy-"):
        raise ValueError(f"expected a header that may be set, got {quoted(value)}")
    return value


# Numbers


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {quoted(value)}")
    return value


def positive_number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"expected a number > 0, got {quoted(value)}")
    return value


def _integer(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"expected an integer ≥ {least}, got {quoted(value)}")
        return value

    return parse


def status_pattern(value: Any) -> int:
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or not (1 <= value <= 5 or 10 <= value <= 59 or 100 <= value <= 599):
        raise ValueError(f"expected a status or its first one or two digits, got {quoted(value)}")
    return int(value)


# URLs


def _address(value: str, schemes: Mapping[str, int], expected: str) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a URL that may also hold credentials, but nothing else."""
    problem = ValueError(f"expected {expected}, got {'one that is not' if '@' in value else quoted(value)}")
    # urlsplit drops some characters in silence, and lets others through into the host.
    if not value or re.search(r"[\x00-\x20\x7f\\?#]", value):
        raise problem
    try:
        parts = urlsplit(value)
        host = parts.hostname or ""
        host = str(IPv6Address(host)) if ":" in host else host.encode("idna").decode("ascii")
        port = parts.port
    except ValueError:
        raise problem from None
    if parts.scheme not in schemes or not re.fullmatch(r"[a-z0-9._:-]+", host) or port == 0:
        raise problem
    return parts.scheme, host, port or schemes[parts.scheme], parts.path


def url(value: Any) -> Url:
    expected = "an http or https URL with a host and without query, fragment or credentials"
    if "@" in text(value).partition("//")[2].partition("/")[0]:
        raise ValueError(f"expected {expected}, got one with credentials")
    scheme, host, port, path = _address(value, {"http": 80, "https": 443}, expected)
    escaped = quote(path.rstrip("/"), safe="/%!$&'()*+,;=:@~")
    if any(segment.lower().replace("%2e", ".") in (".", "..") for segment in escaped.split("/")):
        raise ValueError("expected a URL without dot segments in its path, got one with some")
    return Url(scheme, host, port, escaped.encode("ascii"))


# Secrets: checked when they are resolved, so the value is a text.


def client_key(value: str) -> None:
    if not value:
        raise ValueError("expected a key, got an empty string")
    if value.startswith("sha256:") and not _HASHED_KEY.fullmatch(value):
        raise ValueError("expected 64 hexadecimal digits after sha256:, got something else")


def proxy_url(value: str) -> None:
    expected = "an http or socks5 URL of a proxy"
    try:
        *_, path = _address(value, {"http": 80, "socks5": 1080}, expected)
    except ValueError:
        path = "none at all"
    if path not in ("", "/"):
        raise ValueError(f"expected {expected}, got something else")


# The kinds, as types for attrs fields

Text = Annotated[str, Kind(text, {"type": "string"})]
Boolean = Annotated[bool, Kind(boolean, {"type": "boolean"})]
PositiveNumber = Annotated[float, Kind(positive_number, {"type": "number", "exclusiveMinimum": 0})]
PositiveInteger = Annotated[int, Kind(_integer(1), {"type": "integer", "minimum": 1})]
Weight = Annotated[int, Kind(_integer(0), {"type": "integer", "minimum": 0})]
StatusPattern = Annotated[
    int,
    Kind(
        status_pattern,
        {
            "type": "integer",
            "anyOf": [
                {"minimum": 1, "maximum": 5},
                {"minimum": 10, "maximum": 59},
                {"minimum": 100, "maximum": 599},
            ],
        },
    ),
]
FieldName = Annotated[str, Kind(field_name, {"type": "string", "pattern": f"^{_TOKEN.pattern}$"})]
FieldValue = Annotated[str, Kind(field_value, {"type": "string", "pattern": r"^[^\x00-\x08\x0a-\x1f\x7f]*$"})]
UrlField = Annotated[Url, Kind(url, {"type": "string", "format": "uri", "pattern": "^https?://[^?#@\\\\\\s]+$"})]
ClientKey = Annotated[Secret, SecretKind(client_key)]
ProviderKey = Annotated[Secret, SecretKind(field_value)]
ProxyUrl = Annotated[Secret, SecretKind(proxy_url)]
