"""What reaches a provider of a request's target and headers, and a client of an answer's headers."""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onwards_core import HeaderFields, Headers, Provider, Request
from onwards_core._request import client_headers, safe_target, upstream_headers, upstream_target
from tests.core.gateway_support import snapshot

# The target

DOTS = [".", "..", "%2e", "%2E.", "%252e%252e", "%25252e.", "..;x", "..%3b", "%2e%2e%00", "..%3f", "..%23", ".%5c.."]
SEPARATORS = ["/", "//", "\\", "%2f", "%252F", "%5C", ";", "?", "%3F", "%2", "%", "%25", "@", ":", "#", " ", "%0d"]
WORDS = ["a", "v1", "api", "evil.com", "http:", "...", ".a", "a.", "%41", "%c3%a9", "=", "&"]
TARGETS = st.lists(
    st.sampled_from([*DOTS, *SEPARATORS, *WORDS, "/", "/"]) | st.text("/.%2eEfF5cC;?\\", max_size=6)
).map(lambda pieces: "".join(["/", *pieces]).encode())
BASES = st.sampled_from([b"", b"/v1", b"/api/v1", b"/a", b"/a;x", b"/%41"])


def readings(path: bytes) -> Iterator[list[bytes]]:
    """The segments of a path as servers could read it: escapes undone any number of times, either slash, and
    whatever they take to end a segment or the path cut off."""
    while True:
        yield [re.split(rb"[;\0]", segment)[0] for segment in path.replace(b"\\", b"/").split(b"/")]
        for end in (b"?", b"#", b"\0"):
            yield path.partition(end)[0].replace(b"\\", b"/").split(b"/")
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return
        path = decoded


def climbs(base: bytes, path: bytes) -> bool:
    """Whether any reading of a path leads out of the base path."""
    for segments in readings(path):
        depth = 0
        for segment in segments:
            depth += {b"..": -1, b".": 0, b"": 0}.get(segment, 1)
            if depth < 0:
                return True
            if segment == b".." and depth < len([part for part in base.split(b"/") if part]):
                return True
    return False


@given(TARGETS, BASES)
@example(b"/%2e%2e/x", b"/v1")
@example(b"/v1/..%253fx", b"/v1")
@example(b"//evil.com/x", b"")
def test_no_target_leads_elsewhere(target: bytes, base: bytes) -> None:
    """A target that is let through stays with the provider, and below its base path, however it is read."""
    if not safe_target(target):
        return
    joined = upstream_target(base, target)
    assert joined.endswith(target)
    path = joined.partition(b"?")[0]
    assert path == base or path.startswith(base + b"/")
    assert not climbs(base, path)
    assert not re.search(rb"[\s#]", joined)
    parts = urlsplit(b"https://provider.test:8443" + joined)
    assert (parts.scheme, parts.netloc) == (b"https", b"provider.test:8443")


@given(TARGETS)
def test_a_repeated_base_is_not_repeated_again(target: bytes) -> None:
    """A target that begins with the base stands for itself, and any other is appended to it."""
    below = b"/v1" + target
    assert upstream_target(b"/v1", below) == below
    assert upstream_target(b"/v1", b"/v2" + target) == b"/v1/v2" + target
    assert upstream_target(b"", target) == target


@pytest.mark.parametrize(
    ("base", "target", "joined"),
    [
        (b"", b"/v1/models", b"/v1/models"),
        (b"/v1", b"/v1/chat/completions", b"/v1/chat/completions"),
        (b"/v1", b"/v1", b"/v1"),
        (b"/v1", b"/v1?a=/v1", b"/v1?a=/v1"),
        (b"/v1", b"/v1/", b"/v1/"),
        (b"/v1", b"/", b"/v1/"),
        (b"/v1", b"/chat?q", b"/v1/chat?q"),
        (b"/api", b"/apix", b"/api/apix"),
        (b"/api", b"/apix/api", b"/api/apix/api"),
        (b"/api/v1", b"/v1/x", b"/api/v1/v1/x"),
        (b"/api/v1", b"/api/x", b"/api/v1/api/x"),
        (b"/v1", b"//v1/x", b"/v1//v1/x"),
        (b"/v1", b"/%761/x", b"/v1/%761/x"),
    ],
)
def test_joining(base: bytes, target: bytes, joined: bytes) -> None:
    """A base path is left out only where the target begins with it as whole segments."""
    assert upstream_target(base, target) == joined


@given(st.lists(st.text("abcXYZ019-_~.%:@!$&'()*+,=", min_size=1).map(lambda it: it.replace("%", "%20") + "x")))
def test_plain_targets_are_safe(segments: list[str]) -> None:
    """Ordinary paths with any ordinary query go through, dots and escapes in them too."""
    path = "".join(f"/{segment}" for segment in segments) or "/"
    assert safe_target(path.encode())
    assert safe_target(f"{path}?redirect=/../..&a=%2e%2e\\".encode())


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"v1",
        b"http://evil.com/v1",
        b"?/",
        b"/a b",
        b"/a\tb",
        b"/a\r\nx",
        b"/a?b\0",
        b"/a\x7f",
        b"/a#b",
        b"/a?b#c",
        b"/.",
        b"/..",
        b"/a/../b",
        b"/a/./b",
        b"/a/..?x",
        b"/a\\..\\b",
        b"/%2e%2e/",
        b"/a%2f..%2fb",
        b"/%25252e%25252e/",
        b"/..;/a",
        b"/..%3bx",
        b"/..%3fx",
        b"/..%23",
        b"/..%00",
        b"/%c0%ae%c0%ae/",
        b"/..%e0%80%af",
        b"/%f0%80%80%ae./a",
        b"/%u002e%u002e/",
        "/\uff0e\uff0e/".encode(),
        b"/%e2%80%a5%ef%bc%8fa",
    ],
)
def test_unsafe_targets(target: bytes) -> None:
    """What is no absolute path, or could be read as leading up, is not let through."""
    assert not safe_target(target)


def test_escapes_without_end() -> None:
    """Escapes are undone as often as anybody means them; a target that wants more of it is not worth the time."""
    assert safe_target(b"/%" + b"25" * 7 + b"41")
    assert not safe_target(b"/%" + b"25" * 60_000 + b"41")


# The request's headers

HOP_BY_HOP = [
    *("connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"),
    *("proxy-connection", "proxy-authenticate", "proxy-authorization"),
]
REMOVED = [
    *HOP_BY_HOP,
    *("authorization", "x-api-key", "api-key", "cookie", "proxy-anything", "origin", "referer", "sec-fetch-mode"),
    *("sec-ch-ua", "sec-ch-ua-platform", "if-match", "if-none-match", "if-modified-since", "if-range"),
    *("model-override", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "host"),
    *("content-length", "expect", "traceparent", "tracestate"),
]
KEPT = [
    *("accept", "accept-encoding", "content-type", "user-agent", "openai-beta", "x-stainless-os", "x-request-id"),
    *("baggage", "authorization-hint", "xif-match", "sec-websocket-key", "content-encoding", "x-real-ip"),
]
OWN_AUTH = "x-provider-key"
SECRET = b"the client's secret"


@st.composite
def in_any_case(draw: st.DrawFn, names: st.SearchStrategy[str]) -> bytes:
    """A name in any case."""
    return "".join(draw(st.sampled_from([letter, letter.upper()])) for letter in draw(names)).encode()


FIELDS = st.lists(
    st.tuples(in_any_case(st.sampled_from([*REMOVED, OWN_AUTH])), st.just(SECRET))
    | st.tuples(in_any_case(st.sampled_from(KEPT)), st.binary(max_size=8))
    | st.tuples(st.text("abcxyz-", min_size=1).map(str.encode), st.binary(max_size=8))
    | st.tuples(
        st.just(b"Connection"),
        st.lists(in_any_case(st.sampled_from([*REMOVED, *KEPT, "close", ""])), max_size=3).map(b" ,".join),
    ),
    max_size=12,
)


def provider(**settings: object) -> Provider:
    """A provider with these settings."""
    (compiled,) = snapshot({"m": {"url": "http://provider.test:8080/", **settings}}).pools["m"].providers
    return compiled


@given(FIELDS, st.sampled_from([None, OWN_AUTH]), st.booleans(), st.booleans())
def test_no_credential_of_a_client_goes_through(
    fields: Headers, auth_name: str | None, has_key: bool, identity: bool
) -> None:
    """Whatever a client sends: no field that may hold its secrets, or that is between it and us, reaches a provider;
    what a client says is connected goes neither; all else does, unchanged and in order."""
    settings = {"upstream_auth_header_name": auth_name, "onwards_key": "ours" if has_key else None}
    to = provider(**settings)
    headers = [(name.lower(), value) for name, value in fields]
    request = Request("POST", b"/", headers, b"body", "https")
    sent = upstream_headers(request, to, b"longer body", identity_encoding=identity)

    auth = (auth_name or "authorization").encode()
    ours = [(b"host", b"provider.test:8080"), (b"x-forwarded-proto", b"https"), (b"content-length", b"11")]
    if has_key:
        ours.append((auth, b"Bearer ours"))
    if identity:
        ours.append((b"accept-encoding", b"identity"))
    for field in ours:
        assert [value for name, value in sent if name == field[0]] == [field[1]]
    names = {field[0] for field in ours}

    connected = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
    removed = {name.encode() for name in REMOVED} | {auth} | connected | names
    assert [field for field in sent if field not in ours] == [field for field in headers if field[0] not in removed]
    if auth_name:
        assert all(value != SECRET for _, value in sent)


def test_prefix_of_the_credential() -> None:
    """A credential goes into the field, and behind the prefix, that the provider wants."""
    to = provider(onwards_key="ours", upstream_auth_header_name="X-Key", upstream_auth_header_prefix="")
    request = Request("GET", b"/", [(b"x-key", SECRET), (b"authorization", b"Bearer " + SECRET)])
    assert upstream_headers(request, to, b"", identity_encoding=False) == [
        (b"host", b"provider.test:8080"),
        (b"x-key", b"ours"),
        (b"x-forwarded-proto", b"http"),
    ]


@pytest.mark.parametrize("name", ["x-request-id", "x-forwarded-proto", "accept-encoding"])
def test_a_credential_where_we_have_something_to_say(name: str) -> None:
    """It alone is sent, once: a provider is not to find something else in its place. Without one, we say it."""
    request = Request("GET", b"/", [(name.encode(), SECRET)])
    to = provider(onwards_key="ours", upstream_auth_header_name=name, upstream_auth_header_prefix="")
    sent = upstream_headers(request, to, b"", identity_encoding=True, request_id="id")
    assert [value for key, value in sent if key == name.encode()] == [b"ours"]
    assert len(sent) == 4
    open_to_all = provider(upstream_auth_header_name=name)
    sent = upstream_headers(request, open_to_all, b"", identity_encoding=True, request_id="id")
    assert [value for key, value in sent if key == name.encode()] == [
        {"x-request-id": b"id", "x-forwarded-proto": b"http", "accept-encoding": b"identity"}[name]
    ]


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", b"", None),
        ("DELETE", b"", None),
        ("GET", b"abc", b"3"),
        ("POST", b"", b"0"),
        ("PUT", b"", b"0"),
        ("PATCH", b"", b"0"),
        ("POST", b"abc", b"3"),
    ],
)
def test_content_length(method: str, body: bytes, length: bytes | None) -> None:
    """The length is always that of the body that is sent; there is none where no body is to be expected."""
    request = Request(method, b"/", [(b"content-length", b"99"), (b"transfer-encoding", b"chunked")])
    sent = dict(upstream_headers(request, provider(), body, identity_encoding=False))
    assert sent.get(b"content-length") == length
    assert b"transfer-encoding" not in sent


# The answer's headers


@given(
    st.lists(
        st.tuples(st.sampled_from(HOP_BY_HOP).map(str.encode), st.just(b"x"))
        | st.tuples(
            st.just(b"connection"), st.lists(in_any_case(st.sampled_from(["x-a", "date", "close"]))).map(b", ".join)
        )
        | st.tuples(st.sampled_from([b"x-a", b"date", b"set-cookie", b"etag", b"content-type", b"server"]), st.binary())
    )
)
def test_answers_lose_what_was_for_us(headers: Headers) -> None:
    """No hop-by-hop field and none that `Connection` names reaches a client; fields that the config sets replace the
    provider's; all else goes through in order, repeated fields too."""
    to = provider(response_headers={"X-A": "1", "Server": "us"})
    connected = {name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")}
    removed = {*(name.encode() for name in HOP_BY_HOP), b"x-a", b"server", b"etag"} | connected
    kept = client_headers(HeaderFields(headers), to, drop=frozenset([b"etag"]))
    added = [(b"x-a", b"1"), (b"server", b"us")]
    assert kept == [field for field in headers if field[0] not in removed] + added


def test_content_type_of_another_body() -> None:
    """A body that is not the provider's has one content type: the given, or the one that the config sets."""
    headers = [(b"content-type", b"text/html"), (b"x", b"1")]
    assert client_headers(HeaderFields(headers), provider(), content_type=b"application/json") == [
        (b"x", b"1"),
        (b"content-type", b"application/json"),
    ]
    to = provider(response_headers={"Content-Type": "application/problem+json"})
    assert client_headers(HeaderFields(headers), to, content_type=b"application/json") == [
        (b"x", b"1"),
        (b"content-type", b"application/problem+json"),
    ]


def test_trace_context() -> None:
    """A client's trace headers go to whom they may: to trusted providers, unless the config says otherwise."""
    fields = [(b"traceparent", b"00-1-2-01"), (b"tracestate", b"a=1")]
    request = Request("POST", b"/", fields, b"")

    def goes(**settings: object) -> bool:
        sent = upstream_headers(request, provider(**settings), b"", identity_encoding=False)
        found = [field for field in sent if field in fields]
        assert found in ([], fields)
        return bool(found)

    assert not goes()
    assert goes(trusted=True)
    assert goes(propagate_trace_context=True)
    assert not goes(trusted=True, propagate_trace_context=False)
