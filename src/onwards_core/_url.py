"""URLs of providers, proxies and stores: one strict grammar, so that no later reader can take one differently."""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote, unquote

import attrs

_DEFAULT_PORTS = {"http": 80, "https": 443, "socks5": 1080, "redis": 6379, "rediss": 6379}

# White space and control characters, which some parsers drop, and the backslash, which some take for a slash.
_REFUSED = re.compile(r"[\x00-\x20\x7f-\xa0\\\ud800-\udfff]")
_GRAMMAR = re.compile(
    r"""
    (?P<scheme> [A-Za-z][A-Za-z0-9+.-]*) ://
    (?: (?P<user> [^/\[\]]*) @)?
    (?P<host> \[ [0-9A-Fa-f:.]+ \] | [^/:@\[\]]+)
    (?: : (?P<port> [0-9]{0,5}))?
    (?P<path> /.*)?
    """,
    re.VERBOSE,
)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
# Some resolvers take `127.1` or `0x7f000001` for an address, others for a name: it has to be one for all.
_NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
# The two editions of IDNA map these to different hosts.
_AMBIGUOUS = re.compile(r"[ßẞς\u200c\u200d]")

_PATH_SAFE = "/%:@!$&'()*+,;=~"


@attrs.frozen
class Url:
    """Where a provider is: a request's path is appended to it."""

    scheme: str
    """`http` or `https`."""
    host: str
    """In ASCII and lower case; an IPv6 address without its brackets."""
    port: int
    path: bytes
    """Without its trailing slash, so empty for none; what is not ASCII is escaped."""


def parse_url(text: str) -> Url:
    """A provider's URL. Raises `ValueError` with what was expected, which does not quote the text."""
    url, user = _parse(text, ("http", "https"), "an http or https URL with a host")
    if user is not None:
        raise ValueError("a URL without user and password")
    return url


def check_proxy(text: str) -> None:
    """Raise `ValueError`, as `parse_url` does, unless it is a proxy's URL. It may hold a user and a password."""
    url, _ = _parse(text, ("http", "socks5"), "an http or socks5 URL with a host")
    if url.path or not text.isascii():
        raise ValueError("a URL without a path, in ASCII")


@attrs.frozen
class StoreUrl:
    """Where a store of shared limits is: `redis://user:password@host:port,host:port/database`."""

    secure: bool
    """Whether connections are secured by TLS: `rediss`."""
    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None = attrs.field(repr=False)
    database: int


def parse_store_url(text: str) -> StoreUrl:
    """A store's URL. Raises `ValueError`, as `parse_url` does."""
    expected = "a redis or rediss URL with a host"
    scheme, _, rest = text.partition("://")
    credentials, at, rest = rest.rpartition("@")
    authority, _, database = rest.partition("/")
    hosts = [_parse(f"{scheme}://{host}", ("redis", "rediss"), expected)[0] for host in authority.split(",")]
    if not re.fullmatch(r"[0-9]{0,5}", database):
        raise ValueError("a URL whose path is the number of a database")
    user, colon, password = credentials.partition(":")
    return StoreUrl(
        secure=scheme.lower() == "rediss",
        hosts=tuple((host.host, host.port) for host in hosts),
        user=unquote(user) or None,
        password=unquote(password) if at and colon else None,
        database=int(database or 0),
    )


def check_store_url(text: str) -> None:
    """Raise `ValueError`, as `parse_url` does, unless it is a store's URL."""
    parse_store_url(text)


def _parse(text: str, schemes: Sequence[str], expected: str) -> tuple[Url, str | None]:
    if _REFUSED.search(text):
        raise ValueError("a URL without white space, control characters and backslashes")
    if "?" in text or "#" in text:
        raise ValueError("a URL without query and fragment")
    parts = _GRAMMAR.fullmatch(text)
    if not parts or parts["scheme"].lower() not in schemes:
        raise ValueError(expected)
    scheme = parts["scheme"].lower()
    port = int(parts["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:
        raise ValueError("a URL with a port from 1 to 65535")
    path = (parts["path"] or "").rstrip("/")
    if any(unquote(segment) in (".", "..") for segment in path.split("/")):
        raise ValueError("a URL without dot segments in its path")
    return Url(scheme, _host(parts["host"]), port, quote(path, safe=_PATH_SAFE).encode()), parts["user"]


def _host(text: str) -> str:
    try:
        if text.startswith("["):
            return IPv6Address(text[1:-1]).compressed
        host = text.lower() if text.isascii() or _AMBIGUOUS.search(text) else text.encode("idna").decode().lower()
        if _NUMERIC.fullmatch(host):
            return str(IPv4Address(host))
    except ValueError:
        host = ""
    if not _HOST.fullmatch(host) or len(host) > 253:
        raise ValueError("a URL with the name or the address of a host") from None
    return host
