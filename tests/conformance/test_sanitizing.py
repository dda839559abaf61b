"""`sanitize_response`: what is kept of a provider's answer, plain and streamed."""

import gzip
import json
import zlib
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import EVENTS, JSON, Call, Provider
from tests.conformance.support.wire import BrokenOff

_KEPT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hé", "reasoning_content": "kept whole"},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "system_fingerprint": "fp",
    "service_tier": "default",
}
_PRIVATE: dict[str, Any] = {"provider": "SECRET-provider", "model": "SECRET-model", "x_groq": {"id": "SECRET"}}

_CHUNK: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion.chunk",
    "created": 1700000000,
    "choices": [{"index": 0, "delta": {"content": "hé"}, "finish_reason": None}],
}


def _begin(gateway: Gateway, provider: Provider, **options: Any) -> tuple[Client, Call]:
    gateway.configure({"model": {"url": provider.url, "sanitize_response": True, "onwards_model": "inner"}})
    client = gateway.connect()
    client.request(**options)
    return client, provider.call()


def _encode(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _events(body: bytes) -> list[Any]:
    """The events of a sanitized stream, decoded where they are JSON."""
    assert body.endswith(b"\n\n")
    values = [event.removeprefix(b"data: ") for event in body.removesuffix(b"\n\n").split(b"\n\n")]
    return [json.loads(value) if value.startswith(b"{") else value for value in values]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions?x=1"])
def test_plain(gateway: Gateway, provider: Provider, path: str) -> None:
    """Only the fields of OpenAI's schema are left, at every level, and `model` is what the client asked for."""
    client, call = _begin(gateway, provider, path=path)
    choice = {**_KEPT["choices"][0], "SECRET": 1}
    usage = {**_KEPT["usage"], "SECRET": 1, "completion_tokens_details": {"reasoning_tokens": 1, "SECRET": 1}}
    call.respond(200, _encode({**_KEPT, **_PRIVATE, "choices": [choice], "usage": usage}))
    answer = client.answer()
    usage = {**_KEPT["usage"], "completion_tokens_details": {"reasoning_tokens": 1}}
    assert answer.json() == {**_KEPT, "usage": usage, "model": "model"}
    assert answer.head.get("content-type") == "application/json"


def test_by_the_pool_or_the_provider(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The pool's setting is for all its providers, a provider's for itself; without either nothing is touched."""
    body = _encode({**_KEPT, **_PRIVATE})
    gateway.configure(
        {
            "by-pool": {"sanitize_response": True, "providers": [{"url": provider.url}]},
            "by-provider": {"providers": [{"url": provider.url, "sanitize_response": True}]},
            "not": {"providers": [{"url": provider.url}]},
        }
    )
    for alias, touched in (("by-pool", True), ("by-provider", True), ("not", False)):
        client = gateway.connect()
        client.request(alias)
        provider.call().respond(200, body)
        assert (client.answer().body != body) is touched


def test_defaults(gateway: Gateway, provider: Provider) -> None:
    """What a client needs and the provider left out is added."""
    client, call = _begin(gateway, provider)
    call.respond(200, _encode({"choices": _KEPT["choices"]}))
    value = client.answer().json()
    assert value["id"].startswith("chatcmpl-")
    assert value["object"] == "chat.completion"
    assert isinstance(value["created"], int)
    assert value["created"] > 1_700_000_000


def test_other_paths(gateway: Gateway, provider: Provider) -> None:
    """Answers to other paths pass as they are."""
    client, call = _begin(gateway, provider, path="/v1/embeddings")
    call.respond(200, b'{"SECRET": 1}')
    assert client.answer().body == b'{"SECRET": 1}'


def test_asks_for_no_compression(gateway: Gateway, provider: Provider) -> None:
    """A provider that is to be sanitized is asked for a plain body."""
    client, call = _begin(gateway, provider, fields=[("Accept-Encoding", "gzip, br")])
    assert call.head.get("accept-encoding") == "identity"
    call.respond(200, _encode(_KEPT))
    assert client.answer().status == 200


_ENCODINGS = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", _ENCODINGS)
def test_compressed_anyway(gateway: Gateway, provider: Provider, encoding: str) -> None:
    """What comes compressed all the same is decoded, and goes on plain."""
    client, call = _begin(gateway, provider)
    call.respond(200, _ENCODINGS[encoding](_encode({**_KEPT, **_PRIVATE})), [JSON, ("content-encoding", encoding)])
    answer = client.answer()
    assert answer.json() == {**_KEPT, "model": "model"}
    assert answer.head.get("content-encoding") is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"SECRET", [JSON]),
        (b'{"SECRET": ', [JSON]),
        (b"", [JSON]),
        (b'["SECRET"]', [JSON]),
        (b'{"error": {"message": "SECRET"}}', [JSON]),
        (b'{"choices": [], "id": "SECRET\xff"}', [JSON]),
        (b"<html>SECRET</html>", [("content-type", "text/html")]),
        (b"SECRET", [JSON, ("content-encoding", "gzip")]),
        (gzip.compress(_encode(_KEPT))[:-5], [JSON, ("content-encoding", "gzip")]),
        (b"SECRET", [JSON, ("content-encoding", "br")]),
    ],
)
def test_plain_that_can_not_be_parsed(
    gateway: Gateway, provider: Provider, body: bytes, fields: list[tuple[str, str]]
) -> None:
    """What is no chat completion is a 502; not a word of it passes."""
    client, call = _begin(gateway, provider)
    call.respond(200, body, [*fields, ("x-request-id", "r")])
    answer = client.answer()
    assert (answer.status, answer.code) == (502, "bad_gateway")
    assert b"SECRET" not in answer.body


def test_plain_that_breaks_off(gateway: Gateway, provider: Provider) -> None:
    """A plain answer is looked at whole, so one that breaks off is a 502."""
    client, call = _begin(gateway, provider)
    call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{")
    call.close()
    assert client.answer().status == 502


@pytest.mark.parametrize(
    ("status", "code", "type"),
    [
        (400, "upstream_error", "invalid_request_error"),
        (401, "upstream_error", "invalid_request_error"),
        (429, "upstream_error", "invalid_request_error"),
        (500, "internal_error", "internal_error"),
        (503, "internal_error", "internal_error"),
        (302, "internal_error", "internal_error"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_other_statuses(gateway: Gateway, provider: Provider, path: str, status: int, code: str, type: str) -> None:
    """An answer that is not 2xx keeps its status; a general error takes the place of its body."""
    client, call = _begin(gateway, provider, path=path)
    call.respond(status, b'{"error": {"message": "SECRET"}}', [JSON, ("retry-after", "3")])
    answer = client.answer()
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["type"]) == (status, code, type)
    assert b"SECRET" not in answer.body
    assert answer.head.get("content-type") == "application/json"
    assert answer.head.get("retry-after") == "3"


@pytest.mark.parametrize(
    "form",
    [
        b"data: %b\n\n",
        b"data:%b\n\n",
        b"data: %b\r\n\r\n",
        b"data: %b\r\r",
        b": SECRET\n\ndata: %b\n\n",
        b"event: x\nid: 7\ndata: %b\nretry: 5\n\n",
    ],
)
def test_each_event_at_once(gateway: Gateway, provider: Provider, form: bytes) -> None:
    """However an event is written, it is sanitized and with the client before the next one is sent."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    client.head()
    for number in range(3):
        chunk = {**_CHUNK, "created": number}
        call.send_chunk(form % _encode({**chunk, **_PRIVATE}))
        received = b""
        while b"data: " not in received or not received.endswith(b"\n\n"):
            received += client.read_some()
        assert b"SECRET" not in received
        assert _events(received)[-1] == {**chunk, "model": "model"}
    call.send_chunk(b"data: [DONE]\n\n")
    client.expect(b"data: [DONE]\n\n")
    call.finish()
    assert client.read_body() == b""


def test_events_cut_anywhere(gateway: Gateway, provider: Provider) -> None:
    """Events that arrive byte by byte, in the middle of characters and line ends, come out whole."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    stream = b"data: %b\r\n\r\n" % _encode({**_CHUNK, **_PRIVATE}) + b"data: [DONE]\r\n\r\n"
    for byte in stream:
        call.send_chunk(bytes([byte]))
    call.finish()
    assert _events(client.answer().body) == [{**_CHUNK, "model": "model"}, b"[DONE]"]


def test_several_data_lines(gateway: Gateway, provider: Provider) -> None:
    """An event's `data` lines belong together."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    lines = json.dumps({**_CHUNK, **_PRIVATE}, indent=1).split("\n")
    call.send_chunk("".join(f"data: {line}\n" for line in lines).encode() + b"\n")
    call.finish()
    assert _events(client.answer().body) == [{**_CHUNK, "model": "model"}]


def test_compressed_stream(gateway: Gateway, provider: Provider) -> None:
    """A compressed stream is decoded, and its events don't wait for its end."""
    client, call = _begin(gateway, provider, stream=True)
    call.start(200, [EVENTS, ("content-encoding", "gzip")])
    assert client.head().get("content-encoding") is None
    packer = zlib.compressobj(wbits=31)
    event = b"data: %b\n\n" % _encode({**_CHUNK, **_PRIVATE})
    call.send_chunk(packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH))
    received = b""
    while not received.endswith(b"\n\n"):
        received += client.read_some()
    assert _events(received) == [{**_CHUNK, "model": "model"}]
    call.send_chunk(packer.flush())
    call.finish()
    assert client.read_body() == b""


@pytest.mark.parametrize(
    "bad",
    [
        b"data: SECRET\n\n",
        b"data: {SECRET\n\n",
        b'data: {"error": {"message": "SECRET"}}\n\n',
        b'data: {"choices": [], "id": "SECRET\xff"}\n\n',
        b"data: " + b"SECRET" * 200_000,
    ],
)
def test_stream_that_can_not_be_parsed(gateway: Gateway, provider: Provider, bad: bytes) -> None:
    """Events before the one that can't be parsed have passed; then the stream breaks off, and the provider is left."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    call.send_chunk(b"data: %b\n\n" % _encode({**_CHUNK, **_PRIVATE}) + bad)
    with pytest.raises(BrokenOff) as broken:
        client.answer()
    good, error = _events(broken.value.received)
    assert good == {**_CHUNK, "model": "model"}
    assert error["error"]["code"] == "bad_gateway"
    assert call.closed()


def test_stream_that_breaks_off(gateway: Gateway, provider: Provider) -> None:
    """Half an event never passes; the last event says that the stream broke off."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    call.send_chunk(b'data: {"SECRET": ')
    call.close()
    with pytest.raises(BrokenOff) as broken:
        client.answer()
    (error,) = _events(broken.value.received)
    assert error["error"]["code"] == "bad_gateway"


def test_no_done_is_added(gateway: Gateway, provider: Provider) -> None:
    """A stream without `[DONE]` gets none."""
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    call.send_chunk(b"data: %b\n\n" % _encode(_CHUNK))
    call.finish()
    assert _events(client.answer().body) == [{**_CHUNK, "model": "model"}]
