"""What a client gets: heads, bodies and event streams, whole or broken off."""

import gzip
import json
import select
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import EVENTS, JSON, Call, Provider
from tests.conformance.support.wire import BrokenOff


def _begin(gateway: Gateway, provider: Provider, **options: Any) -> tuple[Client, Call]:
    """A request that waits for its answer, at both ends."""
    client = gateway.connect()
    client.request(**options)
    return client, provider.call()


@pytest.mark.parametrize("status", [200, 201, 202, 302, 400, 401, 404, 418, 429, 500, 503, 599])
def test_status_and_body_as_they_are(gateway: Gateway, provider: Provider, status: int) -> None:
    """Whatever the provider says, the client gets, errors included."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.respond(status, b'{"error": "the provider\'s own"}')
    answer = client.answer()
    assert (answer.status, answer.body) == (status, b'{"error": "the provider\'s own"}')


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_a_body(gateway: Gateway, provider: Provider, status: int) -> None:
    """Where HTTP has no body, the next answer follows right after the head."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.send(b"HTTP/1.1 %d X\r\nx-a: 1\r\n\r\n" % status)
    answer = client.answer()
    assert (answer.status, answer.head.get("x-a")) == (status, "1")
    client.request()
    provider.call().respond()
    assert client.answer().status == 200


def test_head_request(gateway: Gateway, provider: Provider) -> None:
    """An answer to HEAD says how long its body would be, and has none."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, model=None, method="HEAD", fields=[("model-override", "model")])
    call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
    assert client.head(bodiless=True).get("content-length") == "1000"
    client.request()
    provider.call().respond()
    assert client.answer().status == 200


def test_headers_as_they_are(gateway: Gateway, provider: Provider) -> None:
    """Headers keep their values, repetitions and order; only what is about the connection is left out, and the
    provider's name for the request."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    fields = [
        ("content-type", "text/plain; charset=latin-1"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("www-authenticate", "Basic"),
        ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ("etag", '"x"'),
    ]
    hops = [
        ("x-request-id", "r-1"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
    ]
    call.respond(200, b"text", [*fields, *hops, ("upgrade", "h2c"), ("trailer", "x-t")])
    answer = client.answer()
    assert [field for field in answer.head.fields if field in fields] == fields
    assert not answer.head.names & {"x-hop", "keep-alive", "proxy-connection", "upgrade", "trailer"}
    assert answer.head.get("x-request-id") != "r-1"
    assert answer.head.get("content-length") == "4"


def test_response_headers(gateway: Gateway, provider: Provider) -> None:
    """`response_headers` replace or add, and a provider's own win over its pool's."""
    pool = {
        "providers": [{"url": provider.url, "response_headers": {"X-Both": "provider", "Content-Type": "text/x"}}],
        "response_headers": {"X-Both": "pool", "x-pool": "pool", "X-From": "pool"},
    }
    gateway.configure({"model": pool})
    client, call = _begin(gateway, provider)
    call.respond(200, b"{}", [JSON, ("x-from", "1"), ("x-from", "2"), ("x-stays", "3")])
    head = client.answer().head
    values = {name: head.get(name) for name in ("x-both", "x-pool", "x-from", "x-stays", "content-type")}
    assert values == {
        "x-both": "provider",
        "x-pool": "pool",
        "x-from": "pool",
        "x-stays": "3",
        "content-type": "text/x",
    }


def test_binary_body(gateway: Gateway, provider: Provider) -> None:
    """Bytes of any kind go through: audio, images, compressed JSON with its `content-encoding`."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, path="/v1/audio/speech")
    body = gzip.compress(bytes(range(256)) * 300)
    call.respond(200, body, [("content-type", "audio/mpeg"), ("content-encoding", "gzip")])
    answer = client.answer()
    assert (answer.body, answer.head.get("content-encoding")) == (body, "gzip")


def test_body_until_close(gateway: Gateway, provider: Provider) -> None:
    """A body that ends with the provider's connection is whole, and gets a proper end."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it")
    call.close()
    answer = client.answer()
    assert answer.body == b"all of it"
    assert answer.head.get("transfer-encoding") == "chunked"


def test_interim_responses(gateway: Gateway, provider: Provider) -> None:
    """Interim responses of a provider end with the gateway."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    call.respond(200, b"{}")
    answer = client.answer()
    assert answer.status == 200
    assert answer.head.get("link") is None


_EVENTS = [
    b'data: {"n": 1}\n\n',
    b": comment\r\n\r\n",
    b"event: x\rdata: 2\r\r",
    b"data: \xf0\x9f",
    b"\x98\x80\n",
    b"\n",
    b"data: [DONE]\n\n",
]


def test_each_event_at_once(gateway: Gateway, provider: Provider) -> None:
    """What has arrived of an event stream is with the client before anything else is sent, byte for byte."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    head = client.head()
    assert (head.get("content-type"), head.get("transfer-encoding")) == ("text/event-stream", "chunked")
    for piece in _EVENTS:
        call.send_chunk(piece)
        client.expect(piece)
    call.finish()
    assert client.read_body() == b""


def test_bytes_of_any_body_at_once(gateway: Gateway, provider: Provider) -> None:
    """The same for a body that is no event stream."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.send(b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 6\r\n\r\n")
    client.head()
    for piece in (b"1", b"23", b"456"):
        call.send(piece)
        client.expect(piece)
    assert client.read_body() == b""


def test_nothing_is_added(gateway: Gateway, provider: Provider) -> None:
    """A stream that ends without `[DONE]` ends so for the client, too."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    call.send_chunk(b"data: 1")
    call.finish()
    assert client.answer().body == b"data: 1"


def test_long_event(gateway: Gateway, provider: Provider) -> None:
    """An event stream that nobody looks into has no size limit: neither an event nor a line."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    client.head()
    piece = b"x" * 65536
    for _ in range(64):
        call.send_chunk(piece)
        client.expect(piece)
    call.finish()
    assert client.read_body() == b""


def _error_event(data: bytes) -> dict[str, Any]:
    assert data.startswith(b"data: ")
    assert data.endswith(b"\n\n")
    error: dict[str, Any] = json.loads(data.removeprefix(b"data: "))["error"]
    return error


@pytest.mark.parametrize("ending", ["close", "reset"])
@pytest.mark.parametrize(
    ("sent", "blank"),
    [(b"data: 1\n\n", b""), (b"data: 1\r\n\r\n", b""), (b"", b""), (b"data: 1\n", b"\n\n"), (b"data: {", b"\n\n")],
)
def test_event_stream_that_breaks_off(
    gateway: Gateway, provider: Provider, sent: bytes, blank: bytes, ending: str
) -> None:
    """The client gets a last event that says so, apart from what stood before it, and no proper end."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    client.head()
    if sent:
        call.send_chunk(sent)
        client.expect(sent)
    call.close() if ending == "close" else call.reset()
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert broken.value.received.startswith(blank)
    error = _error_event(broken.value.received.removeprefix(blank))
    assert (error["code"], error["type"], error["param"]) == ("bad_gateway", "internal_error", None)


def test_event_stream_with_a_length(gateway: Gateway, provider: Provider) -> None:
    """The same where the provider had announced a length: there has to be room for the last event."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncontent-length: 100\r\n\r\n")
    call.send(b"data: 1\n\n")
    assert client.head().get("content-length") is None
    client.expect(b"data: 1\n\n")
    call.close()
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    _error_event(broken.value.received)


def test_broken_chunk(gateway: Gateway, provider: Provider) -> None:
    """A stream whose framing turns into nonsense has broken off."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    call.send_chunk(b"data: 1\n\n")
    client.head()
    client.expect(b"data: 1\n\n")
    call.send(b"nonsense\r\n")
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    _error_event(broken.value.received)


def test_compressed_event_stream_that_breaks_off(gateway: Gateway, provider: Provider) -> None:
    """A compressed stream has no place for an event of ours: it is cut."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start(200, [EVENTS, ("content-encoding", "gzip")])
    call.send_chunk(b"\x1f\x8b\x08")
    client.head()
    client.expect(b"\x1f\x8b\x08")
    call.close()
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert broken.value.received == b""


@pytest.mark.parametrize(
    "framing", ["content-length: 10\r\n\r\n12345", "transfer-encoding: chunked\r\n\r\n5\r\n12345\r\n"]
)
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_body_that_breaks_off(gateway: Gateway, provider: Provider, framing: str, ending: str) -> None:
    """Any other body is cut short for the client, too: nothing is added, and it does not look complete."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    call.send(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{framing}".encode())
    client.head()
    client.expect(b"12345")
    call.close() if ending == "close" else call.reset()
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert broken.value.received == b""


def _request_1_0(gateway: Gateway, provider: Provider) -> tuple[Client, Call]:
    client = gateway.connect()
    client.send(b'POST /v1/completions HTTP/1.0\r\nContent-Length: 17\r\n\r\n{"model":"model"}')
    return client, provider.call()


def test_http_1_0(gateway: Gateway, provider: Provider) -> None:
    """A client of HTTP/1.0 gets a stream without chunks, which ends with its connection."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _request_1_0(gateway, provider)
    call.start()
    assert client.head().get("transfer-encoding") is None
    call.send_chunk(b"data: 1\n\n")
    client.expect(b"data: 1\n\n")
    call.finish()
    assert client.read_body() == b""


def test_body_for_http_1_0_that_breaks_off(trio_gateway: Gateway, provider: Provider) -> None:
    """Where the end of a connection is the end of a body, one that broke off ends with a reset.

    The asyncio example does without that.
    """
    trio_gateway.configure({"model": {"url": provider.url}})
    client, call = _request_1_0(trio_gateway, provider)
    call.start(200, [JSON])
    call.send_chunk(b"12345")
    client.head()
    client.expect(b"12345")
    call.close()
    with pytest.raises(ConnectionResetError):
        client.socket.recv(1)


# More than the buffers of two connections hold, by far.
_ENDLESS = 32 * 1024 * 1024


def _send_until_blocked(call: Call) -> int:
    """Answer with an event stream until the gateway takes no more; how many bytes of the body were sent."""
    call.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
    sent = 0
    while select.select([], [call], [], 0.5)[1]:
        sent += call.socket.send(b"data: 0123456789\n\n" * 3000)
        assert sent < _ENDLESS, "the provider is not held back"
    return sent


def test_slow_client(gateway: Gateway, provider: Provider) -> None:
    """A client that does not read stops its provider, too, after a bounded number of bytes; then all of them come."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect(receive_buffer=4096)
    client.request(stream=True)
    call = provider.call()
    sent = _send_until_blocked(call)
    client.head()
    received = 0
    while received < sent:
        received += len(client.read_some())
    call.close()
    assert (received, client.read_body()) == (sent, b"")


def test_client_that_leaves_while_the_body_comes(gateway: Gateway, provider: Provider) -> None:
    """A client that leaves in the middle of its own request never was a request."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect()
    client.send(b"POST /v1/embeddings HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n{")
    client.close()
    assert gateway.through(provider)[1].status == 200
    assert provider.untouched


def test_client_that_leaves_while_it_waits(gateway: Gateway, provider: Provider) -> None:
    """A client that leaves before the response head takes its request to the provider along."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider)
    client.close()
    assert call.closed()


def test_client_that_leaves_a_silent_stream(gateway: Gateway, provider: Provider) -> None:
    """The same in a stream, at a moment at which nothing is sent."""
    gateway.configure({"model": {"url": provider.url}})
    client, call = _begin(gateway, provider, stream=True)
    call.start()
    client.head()
    client.close()
    assert call.closed()


def test_client_that_leaves_a_stalled_stream(gateway: Gateway, provider: Provider) -> None:
    """The same for one that has not read for a while, so that sending to it waits."""
    gateway.configure({"model": {"url": provider.url}})
    client = gateway.connect(receive_buffer=4096)
    client.request(stream=True)
    call = provider.call()
    _send_until_blocked(call)
    client.reset()
    assert call.closed()
