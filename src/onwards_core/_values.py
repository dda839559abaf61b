"""The kinds of single value in a config: what each accepts, and how JSON Schema says so.

Nothing is coerced. Errors show a value only where it can neither be a secret nor hold one.
"""

import enum
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, TypeAlias

import attrs

from onwards_core._url import Url, check_proxy, check_store_url, parse_url

ResolveSecret: TypeAlias = Callable[[str, str], str]
"""Gives the secret for `${env:NAME}` (called with `"env"`, `NAME`) or `${file:PATH}`. Raises `LookupError` or
`OSError`, whose text then is the problem."""

MISSING = object()
"""Stands for a required field that is not there."""

_SHOWN = 60  # characters of a wrong value
_LARGEST = 2**63 - 1  # so that other programs can read the file, too
_SLOWEST = 1e-9  # requests per second: one in thirty years. Far below, the time between two is no number any more.


class Secret:
    """A text that is shown by nothing but `reveal`."""

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


@attrs.frozen(eq=False)
class Kind:
    """What a single value may be."""

    parse: Callable[[Any], Any]
    """Gives the value for the program. Raises `Wrong`."""
    schema: Mapping[str, Any]


@attrs.frozen(eq=False)
class SecretKind:
    """What a secret may be, in clear or as a reference to where it is kept."""

    check: Callable[[str], None]
    """Raises `ValueError` with what was expected of the resolved text."""
    optional: bool = False
    """Whether an empty string in the file stands for no secret. One that is kept elsewhere is never empty."""

    @property
    def schema(self) -> Mapping[str, Any]:
        return {"type": "string"} if self.optional else {"type": "string", "minLength": 1}

    def parse(self, value: Any, resolve: ResolveSecret) -> Secret | None:
        """The secret itself. Raises `Wrong`."""
        if not isinstance(value, str):
            raise Wrong("a string", described(value))
        if self.optional and not value:
            return None
        reference = _REFERENCE.fullmatch(value)
        if not reference and _ALMOST_REFERENCE.search(value):
            raise Wrong("${env:NAME} or ${file:PATH} alone", "another string")
        source = f"a secret in {value}" if reference else "a secret"
        try:
            text = resolve(reference[1], reference[2]) if reference else value
        except (LookupError, OSError) as error:
            raise Wrong(source, f"none: {_reason(error)}") from None
        if not text:
            raise Wrong(source, "an empty string")
        try:
            self.check(text)
        except ValueError as error:
            raise Wrong(f"{source} that is {error}", "another string") from None
        return Secret(text)


_REFERENCE = re.compile(r"\$\{(env|file):([^}\x00-\x1f\ud800-\udfff]+)\}")
_ALMOST_REFERENCE = re.compile(r"^\$\{|\$\{(env|file):")


def _reason(error: LookupError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(map(str, error.args))


# Errors


class Wrong(ValueError):
    """A value is not what was expected."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"expected {expected}, got {got}")


def described(value: object) -> str:
    """Which type of JSON value it is."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
        case _:
            return "nothing"


def _shown(value: object) -> str:
    """The value itself, if it is a single one, without what could disturb a terminal or a log."""
    if not isinstance(value, bool | int | float | str):
        return described(value)
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


# Plain values


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("true or false", _shown(value))
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong("a string", _shown(value))
    if _SURROGATE.search(value):
        raise Wrong("a string of whole characters", _shown(value))
    return value


_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which JSON can escape but nobody can encode


def choice(of: type[enum.Enum]) -> Kind:
    """The value of one of an enumeration's members."""
    members = {member.value: member for member in of}

    def parse(value: Any) -> enum.Enum:
        if not isinstance(value, str) or value not in members:
            raise Wrong(" or ".join(map(json.dumps, members)), _shown(value))
        return members[value]

    return Kind(parse, {"enum": list(members)})


def _positive_number(value: Any) -> float:
    if not (_is_integer(value) or isinstance(value, float)) or value <= 0:
        raise Wrong("a number > 0", _shown(value))
    if value < _SLOWEST or math.isinf(value):
        raise Wrong(f"a finite number ≥ {_SLOWEST:g}", _shown(value))
    return float(value)


def _number_between(least: float, most: float) -> Kind:
    def parse(value: Any) -> float:
        if not (_is_integer(value) or isinstance(value, float)) or not least <= value <= most:
            raise Wrong(f"a number from {least:g} to {most:g}", _shown(value))
        return float(value)

    return Kind(parse, {"type": "number", "minimum": least, "maximum": most})


def _integer(least: int, most: int = _LARGEST) -> Kind:
    def parse(value: Any) -> int:
        if not _is_integer(value) or value < least:
            raise Wrong(f"an integer ≥ {least}", _shown(value))
        if value > most:
            raise Wrong(f"an integer ≤ {most}", _shown(value))
        return int(value)

    return Kind(parse, {"type": "integer", "minimum": least, "maximum": most})


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _path(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(_PATH, value):
        raise Wrong("an absolute path", _shown(value))
    return value


_PATH = r"/[!-~]*"

_STATUSES = ((1, 5), (10, 59), (100, 599))


def _status_pattern(value: Any) -> int:
    if not _is_integer(value) or not any(first <= value <= last for first, last in _STATUSES):
        raise Wrong("a status (100 to 599) or its first one or two digits", _shown(value))
    return int(value)


# Headers and URLs

_FIELD_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD_VALUE = r"[\t\x20-\x7e\xa0-\xff]*"  # RFC 9110's characters, as far as Latin-1 goes
_BLANKS = " \t"

# They say how a message is framed and where it goes, which is not for a config to change.
_FRAMING = ("connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding")


def _field_name(reserved: Iterable[str]) -> Kind:
    names = frozenset(reserved)

    def parse(value: Any) -> str:
        if not isinstance(value, str) or not re.fullmatch(_FIELD_NAME, value):
            raise Wrong("a header's name", _shown(value))
        if value.lower() in names:
            raise Wrong("a header that may be set", _shown(value))
        return value

    # JSON Schema's patterns can't ignore case.
    any_case = ["".join(f"[{c}{c.upper()}]" if c.isalpha() else c for c in name) for name in sorted(names)]
    not_reserved = {"not": {"pattern": f"^({'|'.join(any_case)})$"}}
    return Kind(parse, {"type": "string", "pattern": f"^{_FIELD_NAME}$", **not_reserved})


def _field_value(value: Any) -> str:
    """Without the blanks around it, which HTTP does not count."""
    return _field_value_start(value).rstrip(_BLANKS)


def _field_value_start(value: Any) -> str:
    if not isinstance(value, str):
        raise Wrong("a string", described(value))
    if not re.fullmatch(_FIELD_VALUE, value):
        # Not shown: people put credentials into headers.
        raise Wrong("a string that can stand in a header", "one with other characters")
    return value.lstrip(_BLANKS)


def _url(value: Any) -> Url:
    if not isinstance(value, str):
        raise Wrong("a URL", _shown(value))
    try:
        return parse_url(value)
    except ValueError as error:
        # Credentials may stand before an @ and in a query; and what is no URL at all may be one.
        harmless = re.fullmatch("[a-z]+://[^@?#]*", value)
        raise Wrong(str(error), _shown(value) if harmless else "another string") from None


_KEY_PREFIX = r"[A-Za-z0-9_.:/-]+"


def _key_prefix(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(_KEY_PREFIX, value):
        raise Wrong("letters, digits and any of _.:/-", _shown(value))
    return value


# Secrets: checked when they are resolved


def _check_client_key(text: str) -> None:
    if text != text.strip() or _UNSENDABLE.search(text):
        raise ValueError("free of control characters, and of spaces around it")
    if text.startswith("sha256:") and not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", text):
        raise ValueError("sha256: and 64 hexadecimal digits")


_UNSENDABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def _check_provider_key(text: str) -> None:
    if text != text.strip() or not re.fullmatch(_FIELD_VALUE, text):
        raise ValueError("able to stand in a header, without spaces around it")


def _pem(label: str) -> Callable[[str], None]:
    def check(text: str) -> None:
        if not re.search(rf"^-----BEGIN {label}-----$", text, re.MULTILINE):
            raise ValueError(f"a PEM text with a {label.rsplit(maxsplit=1)[-1].lower()}")

    return check


# The kinds, as types for attrs fields

Text = Annotated[str, Kind(_text, {"type": "string"})]
Boolean = Annotated[bool, Kind(_boolean, {"type": "boolean"})]
PositiveNumber = Annotated[float, Kind(_positive_number, {"type": "number", "minimum": _SLOWEST})]
PositiveInteger = Annotated[int, _integer(1)]
Weight = Annotated[int, _integer(0)]
Milliseconds = Annotated[int, _integer(0)]
Share = Annotated[float, _number_between(0.01, 1)]
GrowthFactor = Annotated[float, _number_between(1, 1000)]
Path = Annotated[str, Kind(_path, {"type": "string", "pattern": f"^{_PATH}$"})]
KeyPrefix = Annotated[str, Kind(_key_prefix, {"type": "string", "pattern": f"^{_KEY_PREFIX}$"})]
LeaseSeconds = Annotated[float, _number_between(1, 3600)]
JsonDepth = Annotated[int, _integer(1, 500)]  # what reads JSON has a limit of its own, not far above
StatusPattern = Annotated[
    int,
    Kind(
        _status_pattern,
        {"type": "integer", "anyOf": [{"minimum": first, "maximum": last} for first, last in _STATUSES]},
    ),
]
RequestFieldName = Annotated[str, _field_name((*_FRAMING, "expect", "host", "upgrade"))]
ResponseFieldName = Annotated[str, _field_name((*_FRAMING, "upgrade"))]
FieldValue = Annotated[str, Kind(_field_value, {"type": "string", "pattern": f"^{_FIELD_VALUE}$"})]
FieldValueStart = Annotated[str, Kind(_field_value_start, {"type": "string", "pattern": f"^{_FIELD_VALUE}$"})]
UrlField = Annotated[
    Url, Kind(_url, {"type": "string", "pattern": r"^[Hh][Tt][Tt][Pp][Ss]?://[^/?#@\\\s]+(/[^?#\\\s]*)?$"})
]
ClientKey = Annotated[Secret, SecretKind(_check_client_key)]
ProviderKey = Annotated[Secret, SecretKind(_check_provider_key, optional=True)]
ProxyUrl = Annotated[Secret, SecretKind(check_proxy)]
StoreUrlField = Annotated[Secret, SecretKind(check_store_url)]
Password = Annotated[Secret, SecretKind(lambda text: None)]
Certificate = Annotated[Secret, SecretKind(_pem("CERTIFICATE"))]
PrivateKey = Annotated[Secret, SecretKind(_pem("(?:[A-Z]+ )*PRIVATE KEY"))]
