"""URLs of providers and proxies."""

import pytest

from onwards_core import Secret, Url
from onwards_core._url import StoreUrl, check_store_url, parse_store_url
from tests.core.config_support import complaint, loaded


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "path"),
    [
        ("http://h", "http", "h", 80, b""),
        ("https://h/", "https", "h", 443, b""),
        ("HTTPS://API.Example.COM:8443/V1/", "https", "api.example.com", 8443, b"/V1"),
        ("http://h:/x//", "http", "h", 80, b"/x"),
        ("http://my_service:80/x", "http", "my_service", 80, b"/x"),
        ("http://h.example./", "http", "h.example.", 80, b""),
        ("http://[2001:DB8::0:1]:1/", "http", "2001:db8::1", 1, b""),
        ("http://127.0.0.1/", "http", "127.0.0.1", 80, b""),
        ("http://bücher.example", "http", "xn--bcher-kva.example", 80, b""),
        ("http://xn--bcher-kva.example", "http", "xn--bcher-kva.example", 80, b""),
        ("http://\uff11\uff12\uff17\u30020.0.1/", "http", "127.0.0.1", 80, b""),
        ("http://h/a@b:c/é%C3%A9", "http", "h", 80, b"/a@b:c/%C3%A9%C3%A9"),
        ('http://h/{a}"<b>', "http", "h", 80, b"/%7Ba%7D%22%3Cb%3E"),
    ],
)
def test_good(text, scheme, host, port, path):
    """Scheme and host in lower case, the port filled in, the path escaped and without its last slash."""
    assert loaded(url=text).url == Url(scheme, host, port, path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "an http or https URL with a host"),
        ("h/v1", "an http or https URL with a host"),
        ("//h/v1", "an http or https URL with a host"),
        ("ftp://h", "an http or https URL with a host"),
        ("http:h", "an http or https URL with a host"),
        ("http:///v1", "an http or https URL with a host"),
        ("http://[::1", "an http or https URL with a host"),
        ("http://[::1]x", "an http or https URL with a host"),
        ("http://[::1%eth0]", "an http or https URL with a host"),
        ("http://h:x", "an http or https URL with a host"),
        ("http://h:\uff11", "an http or https URL with a host"),
        ("http://h:0", "a URL with a port from 1 to 65535"),
        ("http://h:65536", "a URL with a port from 1 to 65535"),
        ("http://[1:2]", "a URL with the name or the address of a host"),
        ("http://127.1", "a URL with the name or the address of a host"),
        ("http://1.2.3.4.5", "a URL with the name or the address of a host"),
        ("http://0x7f000001", "a URL with the name or the address of a host"),
        ("http://a..b", "a URL with the name or the address of a host"),
        ("http://-a", "a URL with the name or the address of a host"),
        ("http://%61", "a URL with the name or the address of a host"),
        ("http://straße.de", "a URL with the name or the address of a host"),
        ("http://" + "a" * 64, "a URL with the name or the address of a host"),
        ("http://" + "a." * 127 + "a", "a URL with the name or the address of a host"),
        ("http://" + "é" * 64, "a URL with the name or the address of a host"),
        ("http://h/a/../b", "a URL without dot segments in its path"),
        ("http://h/%2E/", "a URL without dot segments in its path"),
        ("http://h/ a", "a URL without white space, control characters and backslashes"),
        ("http://h\n", "a URL without white space, control characters and backslashes"),
        ("http://h\\a", "a URL without white space, control characters and backslashes"),
        ("http://h/\ud800", "a URL without white space, control characters and backslashes"),
        ("http://h/?", "a URL without query and fragment"),
        ("http://h#f", "a URL without query and fragment"),
        ("http://u:p@h", "a URL without user and password"),
        ("http://@h", "a URL without user and password"),
        ("http://a@b@h", "a URL without user and password"),
        (3, "a URL"),
        ({}, "a URL"),
    ],
)
def test_bad(text, expected):
    """What two readers could take differently, or what can't be a base, is refused."""
    assert complaint(url=text).startswith(f"expected {expected}, got ")


@pytest.mark.parametrize(
    "text", ["http://u:hush@h/", "http://h/?key=hush", "ftp://hush@h", "http://h/#hush", "@hush", "hush"]
)
def test_credentials_are_not_shown(text):
    """A URL with a place for a credential is not shown."""
    assert complaint(url=text).endswith(", got another string")


@pytest.mark.parametrize("text", ["http://proxy", "socks5://u:p@10.0.0.1:1080", "HTTP://u@[::1]:3128"])
def test_proxies(text):
    """A proxy is a secret, because a user and a password may stand in it. It is kept as it was written."""
    assert loaded(proxy=text).proxy == Secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "proxy:3128",
        "ftp://proxy",
        "http://proxy/path",
        "http://proxy?x",
        "http://é",
        "http://u:[p]@h",
        "http://h:99999",
    ],
)
def test_no_proxies(text):
    """Other URLs are refused without being shown."""
    told = complaint(proxy=text)
    assert told.startswith("expected a secret that is a")
    assert told.endswith(", got another string")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("redis://store", StoreUrl(False, (("store", 6379),), None, None, 0)),
        ("rediss://me:p%40ss@a:1,B:2/3", StoreUrl(True, (("a", 1), ("b", 2)), "me", "p@ss", 3)),
        ("redis://:a@b@[::1]/", StoreUrl(False, (("::1", 6379),), None, "a@b", 0)),
    ],
)
def test_a_store_url(text, found):
    """Hosts, credentials with their escapes undone, and the database."""
    assert parse_store_url(text) == found
    assert "a@b" not in repr(parse_store_url(text))


@pytest.mark.parametrize(
    "text", ["store", "http://store", "redis://", "redis://a,,b", "redis://a/x", "redis://a?db=1", "redis://a b"]
)
def test_what_is_no_store_url(text):
    """What could be read differently is refused."""
    with pytest.raises(ValueError, match="URL"):
        check_store_url(text)
