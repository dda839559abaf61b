"""What a provider gets: section by section URL, body and headers."""

import json
from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider


@pytest.mark.parametrize(
    ("base", "path", "target"),
    [
        ("", "/v1/chat/completions", "/v1/chat/completions"),
        ("/", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/chat/completions", "/v1/chat/completions"),
        ("/v1", "/v1", "/v1"),
        ("/api", "/apix", "/api/apix"),
        ("/openai/v1", "/v1/embeddings", "/openai/v1/v1/embeddings"),
        ("/openai/v1", "/openai/v1/embeddings", "/openai/v1/embeddings"),
        ("/api", "/v1/files?limit=2&after=a%2Fb", "/api/v1/files?limit=2&after=a%2Fb"),
        ("/api", "/v1/files/a%2Fb%20c", "/api/v1/files/a%2Fb%20c"),
        ("/api", "/v1/files?", "/api/v1/files?"),
        ("/api", "//evil.example/x", "/api//evil.example/x"),
        ("", "//evil.example/x", "//evil.example/x"),
        ("/api", "/x?u=http://evil.example/../y", "/api/x?u=http://evil.example/../y"),
        ("/api", "/a//b/", "/api/a//b/"),
        ("/api", "/a:b@c", "/api/a:b@c"),
        ("/api", "/...", "/api/..."),
    ],
)
def test_url(gateway: Gateway, provider: Provider, base: str, path: str, target: str) -> None:
    """The request's path and query are appended to the base as they came; a base that the path already has is not
    repeated."""
    gateway.configure({"model": {"url": provider.url.rstrip("/") + base}})
    call, answer = gateway.through(provider, path=path)
    assert answer.status == 200
    assert call.target == target


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/..",
        "/./x",
        "/v1/%2e%2e/admin",
        "/v1/.%2E/admin",
        "/v1/..%2fadmin",
        "/v1/%252e%252e/admin",
        "/v1/..\\admin",
        "/v1/..;x/admin",
        "http://evil.example/v1/chat/completions",
        "evil.example:80",
        "v1/chat/completions",
    ],
)
def test_target_that_could_lead_elsewhere(gateway: Gateway, provider: Provider, path: str) -> None:
    """What could climb above the base, or name another host, is refused."""
    gateway.configure({"model": {"url": provider.url + "base"}})
    answer = gateway.ask(path=path)
    assert (answer.status, answer.code) == (400, "bad_request")
    assert provider.untouched


def test_body_unchanged(gateway: Gateway, provider: Provider) -> None:
    """Without `onwards_model` each byte of the body goes through."""
    gateway.configure({"model": {"url": provider.url}})
    body = b' {"seed":18446744073709551617,\r\n\t"t": 1.0e-7 , "model": "model", "u":"\\u00e9\xc3\xa9\\/"} '
    call, _ = gateway.through(provider, body=body)
    assert call.body == body


def test_model_rewritten(gateway: Gateway, provider: Provider) -> None:
    """With `onwards_model` only the model's value changes: numbers keep their spelling, big integers their digits,
    nested models their names."""
    gateway.configure({"model": {"url": provider.url, "onwards_model": 'inner "m"'}})
    members = b'"seed":18446744073709551617,"temperature":1.0e-7,"z":[1.10,{"model":"model"}],"u":"\\u00e9\\/"'
    call, _ = gateway.through(provider, body=b'{"model": "model",' + members + b"}")
    assert json.loads(call.body)["model"] == 'inner "m"'
    assert members in call.body
    assert call.head.get("content-length") == str(len(call.body))


def test_model_rewritten_in_a_form(gateway: Gateway, provider: Provider) -> None:
    """The same in a multipart form, where all other parts stay as they are."""
    gateway.configure({"whisper": {"url": provider.url, "onwards_model": "inner"}})
    form = (
        '--b\r\nContent-Disposition: form-data; name="model"\r\n\r\n{}\r\n'
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\x01whisper\r\n--b--\r\n'
    )
    call, _ = gateway.through(
        provider,
        path="/v1/audio/transcriptions",
        fields=[("Content-Type", "multipart/form-data; boundary=b")],
        body=form.format("whisper").encode(),
    )
    assert call.body == form.format("inner").encode()


def test_large_body(gateway: Gateway, provider: Provider) -> None:
    """A body of many megabytes goes through whole."""
    gateway.configure({"model": {"url": provider.url}})
    body = json.dumps({"text": "0123456789" * 800_000, "model": "model"}).encode()
    client = gateway.connect()
    client.request(body=body)
    call = provider.call()
    assert call.body == body
    call.respond()
    assert client.answer().status == 200


_REMOVED = {
    "keep-alive": "timeout=5",
    "te": "trailers",
    "trailer": "x-trailer",
    "proxy-connection": "keep-alive",
    "proxy-authorization": "Basic eA==",
    "proxy-anything": "x",
    "authorization": "Bearer sk-client",
    "x-api-key": "sk-client",
    "api-key": "sk-client",
    "cookie": "session=1",
    "origin": "https://page.example",
    "referer": "https://page.example/x",
    "sec-fetch-mode": "cors",
    "sec-fetch-site": "same-site",
    "sec-ch-ua": "x",
    "sec-ch-ua-platform": "x",
    "if-none-match": '"x"',
    "if-modified-since": "Mon, 01 Jan 2024 00:00:00 GMT",
    "if-match": "*",
    "if-range": '"x"',
    "forwarded": "for=1.2.3.4",
    "x-forwarded-for": "1.2.3.4",
    "x-forwarded-host": "evil.example",
}


@pytest.mark.parametrize(("name", "value"), _REMOVED.items())
def test_removed_header(gateway: Gateway, provider: Provider, name: str, value: str) -> None:
    """What is about the connection, the client's page, its credentials or other proxies does not reach a provider."""
    gateway.configure({"model": {"url": provider.url}})
    call, _ = gateway.through(provider, fields=[(name.title(), value)])
    assert name not in call.head.names


def test_headers_named_by_connection(gateway: Gateway, provider: Provider) -> None:
    """A header that `Connection` names is for this connection only."""
    gateway.configure({"model": {"url": provider.url}})
    fields = [("Connection", "X-Hop, keep-alive"), ("X-Hop", "1"), ("Connection", "x-other-hop"), ("X-Other-Hop", "2")]
    call, _ = gateway.through(provider, fields=[*fields, ("X-Stays", "3")])
    assert not call.head.names & {"x-hop", "x-other-hop"}
    assert call.head.get("x-stays") == "3"


def test_everything_else_goes_through(gateway: Gateway, provider: Provider) -> None:
    """Other headers stay: their values, repetitions and order."""
    gateway.configure({"model": {"url": provider.url}})
    fields = [
        ("accept", "text/event-stream"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "a client"),
        ("content-type", "application/json"),
        ("openai-organization", "org"),
        ("x-stainless-lang", "python"),
        ("x-many", "1"),
        ("idempotency-key", "k"),
        ("x-many", "2"),
    ]
    call, _ = gateway.through(provider, fields=fields)
    assert [field for field in call.head.fields if field in fields] == fields


def test_host_and_forwarded_proto(gateway: Gateway, provider: Provider) -> None:
    """The provider sees its own name as host, and how the client spoke to the gateway."""
    gateway.configure({"model": {"url": provider.url}})
    call, _ = gateway.through(provider, fields=[("X-Forwarded-Proto", "https")])
    assert call.head.get("host") == f"127.0.0.1:{provider.port}"
    assert call.head.get("x-forwarded-proto") == "http"


def test_no_credential_without_onwards_key(gateway: Gateway, provider: Provider) -> None:
    """A provider without `onwards_key` gets no credential, least of all the client's."""
    gateway.configure({"model": {"url": provider.url, "keys": ["sk-client"]}})
    call, _ = gateway.through(provider, key="sk-client")
    assert "authorization" not in call.head.names
    assert not any("sk-client" in value for _, value in call.head.fields)


@pytest.mark.parametrize(
    ("members", "name", "value"),
    [
        ({}, "authorization", "Bearer sk-up"),
        ({"upstream_auth_header_prefix": "Token "}, "authorization", "Token sk-up"),
        ({"upstream_auth_header_prefix": ""}, "authorization", "sk-up"),
        ({"upstream_auth_header_name": "X-Goog-Api-Key"}, "x-goog-api-key", "Bearer sk-up"),
        ({"upstream_auth_header_name": "api-key", "upstream_auth_header_prefix": ""}, "api-key", "sk-up"),
        ({"upstream_auth_header_name": "X-API-Key", "upstream_auth_header_prefix": "k="}, "x-api-key", "k=sk-up"),
    ],
)
def test_credential(gateway: Gateway, provider: Provider, members: dict[str, Any], name: str, value: str) -> None:
    """`onwards_key` goes into the configured header after the configured prefix, and a client can't add to it."""
    gateway.configure({"model": {"url": provider.url, "onwards_key": "sk-up", **members}})
    fields = [("Authorization", "Bearer sk-client"), ("X-Goog-Api-Key", "sk-client"), ("Api-Key", "sk-client")]
    call, _ = gateway.through(provider, fields=fields)
    assert call.head.get(name) == value
    assert call.head.names & {"authorization", "api-key"} <= {name}


def test_method_and_path_of_any_kind(gateway: Gateway, provider: Provider) -> None:
    """Nothing about a path is special: every method and path goes to the alias's provider."""
    gateway.configure({"model": {"url": provider.url}})
    for method, path in [("PUT", "/anything"), ("PATCH", "/v1/x/y"), ("POST", "/v1/models"), ("OPTIONS", "/v2")]:
        call, answer = gateway.through(provider, method=method, path=path)
        assert (call.method, call.target, answer.status) == (method, path, 200)
