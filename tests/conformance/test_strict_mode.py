"""`strict_mode`: only OpenAI's endpoints, requests and answers, and errors that tell nothing of their provider."""

import json
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import EVENTS, JSON, Call, Provider
from tests.conformance.support.wire import BrokenOff

CHAT = {"model": "model", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "SECRET",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "x", "reasoning_content": "kept", "cost": "SECRET"},
            "finish_reason": "stop",
        }
    ],
    "provider": "SECRET",
}
ERROR = b'{"error": {"message": "SECRET", "type": "x", "code": "SECRET"}}'


def _configure(gateway: Gateway, *providers: Provider, trusted: bool = False, **members: Any) -> None:
    pool = {"strategy": "priority", "providers": [{"url": each.url} for each in providers], **members}
    gateway.configure({"model": {**pool, "trusted": trusted}}, strict_mode=True)


def _ask(client: Client, body: Any, path: str = "/v1/chat/completions") -> None:
    client.request(path=path, body=json.dumps(body).encode())


def _begin(gateway: Gateway, provider: Provider, **members: Any) -> tuple[Client, Call]:
    _configure(gateway, provider, **members)
    client = gateway.connect()
    _ask(client, CHAT)
    return client, provider.call()


@pytest.mark.parametrize("path", ["/v1/files", "/chat/completions", "/v1/chat/completions/", "/", "/v1/audio/speech"])
def test_no_other_routes(gateway: Gateway, provider: Provider, path: str) -> None:
    """Other paths do not exist."""
    _configure(gateway, provider)
    client = gateway.connect()
    _ask(client, CHAT, path)
    answer = client.answer()
    assert (answer.status, answer.code) == (404, "not_found")
    assert provider.untouched


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_the_models_list(gateway: Gateway, provider: Provider, path: str) -> None:
    """The models list does."""
    _configure(gateway, provider)
    client = gateway.connect()
    client.request(method="GET", path=path, body=b"")
    assert [model["id"] for model in client.answer().json()["data"]] == ["model"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/chat/completions", {"model": "model"}, "messages"),
        ("/v1/chat/completions", {**CHAT, "temperature": "hot"}, "temperature"),
        ("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
        ("/v1/completions", {"model": "model", "prompt": {}}, "prompt"),
        ("/v1/embeddings", {"model": "model"}, "input"),
        ("/v1/responses", {"model": "model", "input": 1}, "input"),
    ],
)
def test_a_request_is_validated(gateway: Gateway, provider: Provider, path: str, body: Any, param: str) -> None:
    """What is not OpenAI's is a 400 with the fault's place, before any attempt."""
    _configure(gateway, provider)
    client = gateway.connect()
    _ask(client, body, path)
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)
    assert provider.untouched


def test_a_request_goes_on_as_it_came(gateway: Gateway, provider: Provider) -> None:
    """Fields that OpenAI does not know reach the provider."""
    _configure(gateway, provider)
    client = gateway.connect()
    _ask(client, {**CHAT, "top_k": 3})
    call = provider.call()
    assert json.loads(call.body) == {**CHAT, "top_k": 3}
    call.respond(200, json.dumps(COMPLETION).encode(), [JSON])
    assert client.answer().status == 200


def test_an_answer_is_stripped(gateway: Gateway, provider: Provider) -> None:
    """Unknown fields and headers go, however deep; the model is what was asked for; reasoning is kept."""
    client, call = _begin(gateway, provider, response_headers={"x-ours": "1"})
    call.respond(200, json.dumps(COMPLETION).encode(), [JSON, ("x-provider", "SECRET")])
    answer = client.answer()
    assert (answer.status, answer.json()["model"]) == (200, "model")
    assert answer.json()["choices"][0]["message"]["reasoning_content"] == "kept"
    assert b"SECRET" not in answer.body
    assert (answer.head.get("x-provider"), answer.head.get("x-ours")) == (None, "1")


@pytest.mark.parametrize(
    ("path", "body", "answered", "completed"),
    [
        (
            "/v1/chat/completions",
            CHAT,
            {"choices": [{"message": {"content": "x"}}]},
            {"object": "chat.completion", "model": "model"},
        ),
        (
            "/v1/completions",
            {"model": "model", "prompt": "x"},
            {"choices": [{"text": "x"}]},
            {"object": "text_completion", "model": "model"},
        ),
        (
            "/v1/embeddings",
            {"model": "model", "input": "x"},
            {"data": [{"embedding": [0.5]}]},
            {"object": "list", "model": "model"},
        ),
        ("/v1/responses", {"model": "model", "input": "x"}, {"output": []}, {"object": "response", "model": "model"}),
    ],
)
def test_an_answer_is_completed(
    gateway: Gateway, provider: Provider, path: str, body: Any, answered: Any, completed: Any
) -> None:
    """What a provider leaves out has its default, at each endpoint."""
    _configure(gateway, provider)
    client = gateway.connect()
    _ask(client, body, path)
    provider.call().respond(200, json.dumps(answered).encode(), [JSON])
    answer = client.answer()
    assert answer.status == 200
    assert completed.items() <= answer.json().items()
    for choice in answer.json().get("choices", ()):
        assert (choice["index"], "finish_reason" in choice) == (0, True)


@pytest.mark.parametrize("body", [b"<html>SECRET", b"", b'{"choices": "SECRET"}', b"[]"])
def test_an_answer_that_does_not_parse(gateway: Gateway, provider: Provider, body: bytes) -> None:
    """It is a 502, and nothing of it passes."""
    client, call = _begin(gateway, provider)
    call.respond(200, body, [JSON])
    answer = client.answer()
    assert (answer.status, answer.code) == (502, "bad_gateway")
    assert b"SECRET" not in answer.body


def test_a_stream_is_stripped(gateway: Gateway, provider: Provider) -> None:
    """Event by event; comments go, reasoning and tool calls stay."""
    client, call = _begin(gateway, provider)
    call.start(200, [EVENTS])
    call.send_chunk(b": SECRET\n\n")
    for delta in ({"reasoning_content": "r"}, {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}):
        call.send_chunk(b"data: %b\n\n" % json.dumps({"choices": [{"delta": delta}], "cost": "SECRET"}).encode())
    call.send_chunk(b"data: [DONE]\n\n")
    call.finish()
    body = client.answer().body
    first, second, done = body.removesuffix(b"\n\n").split(b"\n\n")
    assert json.loads(first.removeprefix(b"data: "))["choices"][0]["delta"]["reasoning_content"] == "r"
    assert json.loads(second.removeprefix(b"data: "))["choices"][0]["delta"]["tool_calls"]
    assert done == b"data: [DONE]"
    assert b"SECRET" not in body
    assert json.loads(first.removeprefix(b"data: "))["model"] == "model"


def test_a_stream_that_does_not_parse_breaks_off(gateway: Gateway, provider: Provider) -> None:
    """After what came before it."""
    client, call = _begin(gateway, provider)
    call.start(200, [EVENTS])
    call.send_chunk(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
    client.head()
    call.send_chunk(b"data: SECRET\n\n")
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert b"SECRET" not in broken.value.received


@pytest.mark.parametrize(
    ("status", "seen", "type"),
    [
        (400, 400, "invalid_request_error"),
        (401, 502, "api_error"),
        (402, 502, "api_error"),
        (403, 502, "api_error"),
        (404, 404, "not_found_error"),
        (408, 504, "api_error"),
        (422, 422, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (451, 502, "api_error"),
        (500, 500, "api_error"),
        (503, 503, "api_error"),
    ],
)
def test_errors_are_standard(gateway: Gateway, provider: Provider, status: int, seen: int, type: str) -> None:
    """An error keeps its status, unless that speaks of the operator's account, and nothing else."""
    client, call = _begin(gateway, provider)
    call.respond(status, ERROR, [JSON, ("retry-after", "7"), ("x-provider", "SECRET")])
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["type"]) == (seen, type)
    assert b"SECRET" not in answer.body
    assert (answer.head.get("retry-after"), answer.head.get("x-provider")) == ("7", None)


def test_trusted_errors_pass(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Those of trusted providers pass as they are; the provider's own word is stronger than its pool's."""
    client, call = _begin(gateway, provider, trusted=True)
    call.respond(401, ERROR, [JSON])
    answer = client.answer()
    assert (answer.status, answer.body) == (401, ERROR)
    _configure(gateway, provider, trusted=True, providers=[{"url": provider.url, "trusted": False}])
    client = gateway.connect()
    _ask(client, CHAT)
    provider.call().respond(401, ERROR, [JSON])
    assert client.answer().status == 502


@pytest.mark.parametrize("stream", [False, True])
def test_errors_in_answers(gateway: Gateway, provider: Provider, stream: bool) -> None:
    """An error that comes with a 200 becomes the standard one of the status that it names."""
    client, call = _begin(gateway, provider, fallback={"enabled": True})
    body = b'{"error": {"message": "SECRET", "code": "rate_limit_exceeded"}}'
    if stream:
        call.start(200, [EVENTS])
        call.send_chunk(b"data: %b\n\n" % body)
        call.finish()
    else:
        call.respond(200, body, [JSON])
    answer = client.answer()
    assert (answer.status, answer.json()["error"]["type"]) == (429, "rate_limit_error")
    assert b"SECRET" not in answer.body


@pytest.mark.parametrize("trusted", [False, True])
def test_an_error_in_the_middle_of_a_stream(gateway: Gateway, provider: Provider, trusted: bool) -> None:
    """Becomes the standard one, unless its provider is trusted."""
    _configure(gateway, provider, trusted=trusted)
    client = gateway.connect()
    _ask(client, {**CHAT, "stream": True})
    call = provider.call()
    call.start(200, [EVENTS])
    call.send_chunk(b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n')
    client.head()
    call.send_chunk(b'data: {"error": {"message": "SECRET", "type": "x", "code": 429}}\n\n')
    call.finish()
    body = client.read_body()
    first, last = body.split(b"\n\n")[:2]
    assert b'"content":"x"' in first.replace(b" ", b"")
    error = json.loads(last.removeprefix(b"data: "))["error"]
    assert error["type"] == ("x" if trusted else "rate_limit_error")
    assert (b"SECRET" in body) is trusted


def test_fallback_goes_by_the_real_status(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """`on_status` means what the provider said, not what the client would see."""
    _configure(gateway, provider, second, fallback={"enabled": True, "on_status": [401]})
    client = gateway.connect()
    _ask(client, CHAT)
    provider.call().respond(401, ERROR, [JSON])
    second.call().respond(200, json.dumps(COMPLETION).encode(), [JSON])
    assert client.answer().status == 200


@pytest.mark.parametrize("body", [b"", b'{"error": {"code": 503}}', b"<html>", b'{"choices": 1}'])
def test_fallback_on_answers_that_are_none(gateway: Gateway, provider: Provider, second: Provider, body: bytes) -> None:
    """An error, nothing, or what does not parse, with a 200: another provider is tried."""
    _configure(gateway, provider, second, fallback={"enabled": True, "on_status": [5]})
    client = gateway.connect()
    _ask(client, CHAT)
    provider.call().respond(200, body, [JSON])
    second.call().respond(200, json.dumps(COMPLETION).encode(), [JSON])
    assert client.answer().json()["choices"][0]["message"]["content"] == "x"


def test_sanitize_response_has_no_effect(gateway: Gateway, provider: Provider) -> None:
    """Beside strict mode."""
    client, call = _begin(gateway, provider, sanitize_response=True)
    call.respond(401, ERROR, [JSON])
    assert client.answer().status == 502
