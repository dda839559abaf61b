"""Which pool a request goes to: steps 1, 2, 3 and 5 of an exchange, seen from outside."""

import json

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider

_BOUNDARY = "the-boundary"


def _form(*parts: tuple[str, str]) -> bytes:
    """A multipart body: the rest of each part's `content-disposition`, and its value."""
    lines = [
        f"--{_BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n{value}\r\n"
        for disposition, value in parts
    ]
    return "".join([*lines, f"--{_BOUNDARY}--\r\n"]).encode()


_FORM = [("Content-Type", f"multipart/form-data; boundary={_BOUNDARY}")]


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "gpt-4"}',
        b'{"messages": [{"model": "other"}], "model": "gpt-4"}',
        b'{"model": "\\u0067pt-\\u0034"}',
        b'{"\\u006dodel": "gpt-4"}',
        b' \r\n\t{"stream": true , "model"\n:\t"gpt-4" } ',
    ],
)
def test_model_of_a_json_body(gateway: Gateway, provider: Provider, body: bytes) -> None:
    """The top-level `model` of a JSON body names the alias, its escapes undone."""
    gateway.configure({"gpt-4": {"url": provider.url}})
    _, answer = gateway.through(provider, body=body)
    assert answer.status == 200


@pytest.mark.parametrize("alias", ["org/name:tag", 'with "quotes" \\ and spaces', "snow ☃ man", "😀"])
def test_any_name_is_an_alias(gateway: Gateway, provider: Provider, alias: str) -> None:
    """An alias may hold every character that a JSON string can."""
    gateway.configure({alias: {"url": provider.url}})
    _, answer = gateway.through(provider, alias)
    assert answer.status == 200


def test_model_of_a_form(gateway: Gateway, provider: Provider) -> None:
    """The `model` field of a multipart form names the alias, wherever it stands, and the form goes on unchanged."""
    gateway.configure({"whisper": {"url": provider.url}})
    body = _form(('name="file"; filename="a.wav"', '{"model": "other"}'), ('name="model"', "whisper"))
    call, answer = gateway.through(provider, path="/v1/audio/transcriptions", fields=_FORM, body=body)
    assert answer.status == 200
    assert call.body == body


def test_model_override_wins(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The header `model-override` goes before the body's `model`, which stays what it was."""
    gateway.configure({"a": {"url": provider.url}, "b": {"url": second.url}})
    call, _ = gateway.through(second, "a", fields=[("Model-Override", "b")])
    assert json.loads(call.body) == {"model": "a"}


@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_model_override_without_a_body(gateway: Gateway, provider: Provider, method: str) -> None:
    """With the header a request needs no body: files and batches are reached like this."""
    gateway.configure({"files": {"url": provider.url}})
    call, answer = gateway.through(
        provider, None, method=method, path="/v1/files/file-1", fields=[("Model-Override", "files")]
    )
    assert (answer.status, call.method, call.target, call.body) == (200, method, "/v1/files/file-1", b"")


def test_model_override_with_a_body_that_is_not_json(gateway: Gateway, provider: Provider) -> None:
    """With the header nobody looks into the body."""
    gateway.configure({"files": {"url": provider.url}})
    call, _ = gateway.through(provider, path="/v1/files", fields=[("Model-Override", "files")], body=b"\x00{not json")
    assert call.body == b"\x00{not json"


def test_chunked_body(gateway: Gateway, provider: Provider) -> None:
    """A request that comes in chunks is read completely, and sent on with its length."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect()
    client.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: gateway\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b'{"mod', b'el": "mo', b'del"}'):
        client.send_chunk(piece)
    client.send(b"0\r\n\r\n")
    call = provider.call()
    assert call.body == b'{"model": "model"}'
    assert call.head.get("content-length") == "18"
    assert call.head.get("transfer-encoding") is None
    call.respond()
    assert client.answer().status == 200


def test_expect_continue(gateway: Gateway, provider: Provider) -> None:
    """A client that waits for `100 Continue` gets it, and the provider never hears of it."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect()
    client.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nContent-Length: 17\r\nExpect: 100-continue\r\n\r\n")
    assert client.head().start.startswith("HTTP/1.1 100")
    client.send(b'{"model":"model"}')
    call = provider.call()
    assert call.head.get("expect") is None
    call.respond()
    assert client.answer().status == 200


def test_one_request_after_another(gateway: Gateway, provider: Provider) -> None:
    """A connection serves request after request, also ones that were sent before the last answer came."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect()
    for number in range(3):
        client.request(number=number)
    for number in range(3):
        call = provider.call()
        assert json.loads(call.body)["number"] == number
        call.respond(body=b"%d" % number)
        assert client.answer().body == b"%d" % number


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"model": 7}',
        b'{"model": null}',
        b'{"model": ["a"]}',
        b'["model"]',
        b'"model"',
        b'{"model": "model"',
        b"model=model",
        b'{"model": "model"}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_no_usable_model(gateway: Gateway, provider: Provider, body: bytes) -> None:
    """Without a string as `model` in well-formed JSON the answer is a 400 about `model`, and no provider is tried."""
    gateway.configure({"model": {"url": provider.url}})
    answer = gateway.ask(body=body)
    assert (answer.status, answer.code, answer.json()["error"]["param"]) == (400, "bad_request", "model")
    assert provider.untouched


@pytest.mark.parametrize(
    "body",
    [
        _form(('name="file"; filename="a.wav"', "model")),
        _form(('name="model"', "model"))[:-10],
        b"no form",
        _form(('name="model"', "model"), ('name="model"', "other")),
    ],
)
def test_no_usable_model_in_a_form(gateway: Gateway, provider: Provider, body: bytes) -> None:
    """The same for a form that names no model, two, or is not whole."""
    gateway.configure({"model": {"url": provider.url}})
    answer = gateway.ask(path="/v1/audio/transcriptions", fields=_FORM, body=body)
    assert (answer.status, answer.code, answer.json()["error"]["param"]) == (400, "bad_request", "model")
    assert provider.untouched


@pytest.mark.parametrize("alias", ["unknown", "Model", "model ", ""])
def test_unknown_alias(gateway: Gateway, provider: Provider, alias: str) -> None:
    """A name that is not exactly an alias is a 404."""
    gateway.configure({"model": {"url": provider.url}})
    answer = gateway.ask(alias)
    assert (answer.status, answer.code) == (404, "model_not_found")
    assert provider.untouched


def test_pool_without_providers(gateway: Gateway) -> None:
    """An alias whose pool is empty exists, but is not available."""
    gateway.configure({"empty": {"providers": []}})
    answer = gateway.ask("empty")
    assert (answer.status, answer.code) == (503, "service_unavailable")


def test_key_comes_before_the_empty_pool(gateway: Gateway) -> None:
    """Who has no key does not learn that a pool is empty."""
    gateway.configure({"empty": {"providers": [], "keys": ["sk-empty"]}})
    assert gateway.ask("empty").status == 401
    assert gateway.ask("empty", key="sk-empty").status == 503


def test_unknown_alias_comes_before_the_key(gateway: Gateway, provider: Provider) -> None:
    """What does not exist is a 404 with and without a key."""
    gateway.configure({"model": {"url": provider.url}}, {"global_keys": ["sk-global"]})
    assert [gateway.ask("unknown").status, gateway.ask("unknown", key="sk-global").status] == [404, 404]


def test_list_format(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A list of targets is a pool; the keys of its first target guard it."""
    targets = [{"url": provider.url, "weight": 1, "keys": ["sk-list"]}, {"url": second.url, "weight": 0}]
    gateway.configure({"model": targets})
    assert gateway.ask().status == 401
    _, answer = gateway.through(provider, key="sk-list")
    assert answer.status == 200
