"""Up to an answer's first content: what is held back, what falls back, and how long things may take."""

import json
import socket
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import EVENTS, JSON, Call, Provider
from tests.conformance.support.wire import BrokenOff

ON = {"enabled": True, "on_status": [429, 5]}
ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
CONTENT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'


def _begin(
    gateway: Gateway, *providers: Provider, path: str = "/v1/chat/completions", **pool: Any
) -> tuple[Client, Call]:
    targets = [{"url": provider.url} for provider in providers]
    gateway.configure({"model": {"strategy": "priority", "providers": targets, "fallback": ON, **pool}})
    client = gateway.connect()
    client.request(path=path, stream=True)
    return client, providers[0].call()


def _stream(call: Call, *events: bytes, origin: str = "") -> None:
    call.start(200, [EVENTS, ("x-from", origin)])
    call.send_chunk(b"".join(events))


PREAMBLES = [
    *[
        (f"/v1/{endpoint}", b": comment\n\n")
        for endpoint in ("chat/completions", "completions", "responses", "messages")
    ],
    ("/v1/chat/completions", ROLE),
    ("/v1/completions", b'data: {"choices": [{"text": ""}]}\n\n'),
    ("/v1/responses", b'data: {"type": "response.created", "response": {}}\n\n'),
    ("/v1/responses", b'data: {"type": "response.in_progress"}\n\n'),
    ("/v1/messages", b'event: message_start\ndata: {"type": "message_start"}\n\n'),
    ("/v1/messages", b'event: ping\ndata: {"type": "ping"}\n\n'),
]


@pytest.mark.parametrize(("path", "preamble"), PREAMBLES)
def test_preambles_are_held_back(
    gateway: Gateway, provider: Provider, second: Provider, path: str, preamble: bytes
) -> None:
    """They commit to nothing: an error after one leads to the next provider, and none of it is left."""
    client, call = _begin(gateway, provider, second, path=path)
    _stream(call, preamble, origin="first")
    call.send_chunk(b'data: {"error": {"code": 503}}\n\n')
    other = second.call()
    _stream(other, CONTENT, origin="second")
    other.finish()
    answer = client.answer()
    assert (answer.status, answer.body, answer.head.get("x-from")) == (200, CONTENT, "second")
    assert call.closed()


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"code": 429}},
        {"error": {"code": "429"}},
        {"error": {"type": "rate_limit_exceeded"}},
        {"error": {"code": None, "message": "?"}},
        {"error": "nonsense"},
        {"type": "error", "error": {"type": "overloaded_error"}},
        {"type": "response.failed", "response": {"error": {"code": "server_error"}}},
    ],
)
def test_embedded_errors(gateway: Gateway, provider: Provider, second: Provider, error: Any) -> None:
    """However they spell it."""
    client, call = _begin(gateway, provider, second)
    _stream(call, b"data: %b\n\n" % json.dumps(error).encode())
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'


def test_an_error_that_is_not_fallen_back_on(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Passes as it came."""
    client, call = _begin(gateway, provider, second)
    _stream(call, ROLE, b'data: {"error": {"code": 400}}\n\n')
    call.finish()
    assert client.answer().body == ROLE + b'data: {"error": {"code": 400}}\n\n'
    assert second.untouched


def _ends(call: Call) -> None:
    call.finish()


def _says_done(call: Call) -> None:
    call.send_chunk(b"data: [DONE]\n\n")


def _closes(call: Call) -> None:
    call.close()


@pytest.mark.parametrize("fail", [_ends, _says_done, _closes])
@pytest.mark.parametrize("before", [b"", ROLE])
def test_no_content(
    gateway: Gateway, provider: Provider, second: Provider, fail: Callable[[Call], None], before: bytes
) -> None:
    """A stream that ends or breaks before content is a failed attempt."""
    client, call = _begin(gateway, provider, second)
    call.start()
    if before:
        call.send_chunk(before)
    fail(call)
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'


@pytest.mark.parametrize("body", [b"", b'{"error": {"code": "rate_limit_exceeded"}}', b"<html>"])
def test_plain_answers_that_are_looked_into(
    gateway: Gateway, provider: Provider, second: Provider, body: bytes
) -> None:
    """Sanitized ones fall back alike."""
    client, call = _begin(gateway, provider, second, sanitize_response=True)
    call.respond(200, body)
    second.call().respond(200, b'{"choices": []}')
    assert client.answer().json()["choices"] == []


def test_turned_off(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """With `on_embedded_error` off the head is the answer."""
    client, call = _begin(gateway, provider, second, fallback={**ON, "on_embedded_error": False})
    call.start()
    client.head()
    call.send_chunk(b'data: {"error": {"code": 503}}\n\n')
    call.finish()
    assert b"503" in client.read_body()
    assert second.untouched


@pytest.mark.parametrize("held", [ROLE * 9, b"data: " + b"x" * 17_000, ROLE])
def test_no_more_is_held_back(gateway: Gateway, provider: Provider, second: Provider, held: bytes) -> None:
    """More than 8 events, 16 KiB or 2 seconds: it is passed on, and committed to. Slow is no failure."""
    client, call = _begin(gateway, provider, second)
    _stream(call, held)
    client.head()
    client.expect(held)
    call.reset()
    with pytest.raises(BrokenOff):
        client.read_body()
    assert second.untouched


# Timeouts


def test_connect(gateway: Gateway, second: Provider) -> None:
    """A provider whose connections do not come about in time is passed over."""
    # Nobody accepts from a listener that is full: with a backlog of none, the second connection waits.
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        filler.connect(listener.getsockname())
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        pool = {
            "strategy": "priority",
            "fallback": ON,
            "timeouts": {"connect": 0.05},
            "providers": [{"url": url}, {"url": second.url, "timeouts": {"connect": 5}}],
        }
        gateway.configure({"model": pool})
        assert gateway.through(second)[1].status == 200


@pytest.mark.parametrize("by_provider", [False, True])
def test_the_head(gateway: Gateway, provider: Provider, second: Provider, by_provider: bool) -> None:
    """`request_timeout_secs` of the pool or the provider: then the next provider, or 504."""
    own = {"request_timeout_secs": 0.05}
    targets = [{"url": provider.url, **(own if by_provider else {})}, {"url": second.url, "request_timeout_secs": 9}]
    client, call = _begin(gateway, provider, second, providers=targets, **({} if by_provider else own))
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'
    assert call.closed()
    client, call = _begin(gateway, provider, **own)
    answer = client.answer()
    assert (answer.status, answer.code) == (504, "gateway_timeout")


@pytest.mark.parametrize("timeouts", [{"first_content": 0.1}, {"idle": 0.1}])
def test_no_content_in_time(gateway: Gateway, provider: Provider, second: Provider, timeouts: dict[str, float]) -> None:
    """Another provider is tried; if there is none, it is a 504."""
    targets = [{"url": provider.url, "timeouts": timeouts}, {"url": second.url}]
    client, call = _begin(gateway, provider, second, providers=targets)
    _stream(call, ROLE)
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'
    client, call = _begin(gateway, provider, timeouts=timeouts)
    _stream(call, ROLE)
    answer = client.answer()
    assert (answer.status, answer.code) == (504, "gateway_timeout")


def test_first_content_after_the_commit_point(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """What was held back for too long is passed on; then the stream ends honestly."""
    client, call = _begin(gateway, provider, second, timeouts={"first_content": 2.5})
    _stream(call, ROLE)
    client.head()
    client.expect(ROLE)
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert b'"error"' in broken.value.received
    assert second.untouched


def test_content_in_time(gateway: Gateway, provider: Provider) -> None:
    """`first_content` is over with the first content; from there on `idle` counts."""
    client, call = _begin(gateway, provider, timeouts={"first_content": 5, "idle": 0.2})
    _stream(call, CONTENT)
    client.head()
    client.expect(CONTENT)
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert b'"error"' in broken.value.received


# `stream_keepalive_secs`


def test_keeping_alive(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Who waits gets a head and comments; another provider may still be the one that answers."""
    client, call = _begin(gateway, provider, second, stream_keepalive_secs=0.05)
    head = client.head()
    assert head.get("content-type") == "text/event-stream"
    client.expect(b": keep-alive\n\n: keep-alive\n\n")
    call.respond(503)
    other = second.call()
    _stream(other, CONTENT)
    other.finish()
    body = client.read_body()
    assert body.replace(b": keep-alive\n\n", b"") == CONTENT


def test_an_error_after_keeping_alive(gateway: Gateway, provider: Provider) -> None:
    """Is the stream's last event, and the stream does not look complete."""
    client, call = _begin(gateway, provider, stream_keepalive_secs=0.05)
    client.head()
    call.respond(404, b'{"error":\n{"code": "theirs"}}', [JSON])
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert broken.value.received.endswith(b'data: {"error": {"code": "theirs"}}\n\n')


def test_who_does_not_want_a_stream(gateway: Gateway, provider: Provider) -> None:
    """Waits for its answer as ever."""
    gateway.configure({"model": {"providers": [{"url": provider.url}], "stream_keepalive_secs": 0.05}})
    client = gateway.connect()
    client.request()
    call = provider.call()
    other = gateway.connect()
    other.request(stream=True)
    other_call = provider.call()
    other.head()  # By now the first one would have got something, too.
    call.respond(404)
    assert client.answer().status == 404
    other_call.close()
