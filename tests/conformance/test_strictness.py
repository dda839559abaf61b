"""HTTP that two parties could read in two ways goes no further, in either direction.

For the Trio gateway only: the asyncio example leaves parsing to h11, which forgives most of this.
"""

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider

_BODY = b'{"model": "model"}'
_SMUGGLED = b'POST /smuggled HTTP/1.1\r\nHost: g\r\nContent-Length: 18\r\n\r\n{"model": "model"}'


def _request(*lines: bytes, start: bytes = b"POST /v1/embeddings HTTP/1.1", body: bytes = _BODY) -> bytes:
    return b"\r\n".join([start, b"Host: g", *lines, b"", body])


_LENGTH = b"Content-Length: 18"
_CHUNKED = b"Transfer-Encoding: chunked"

_AMBIGUOUS = {
    "both framings": _request(_LENGTH, _CHUNKED, body=b"0\r\n\r\n"),
    "both framings, the other way round": _request(_CHUNKED, _LENGTH, body=b"0\r\n\r\n"),
    "two lengths": _request(_LENGTH, b"Content-Length: 0"),
    "the same length twice": _request(_LENGTH, _LENGTH),
    "a list of lengths": _request(b"Content-Length: 18, 18"),
    "a signed length": _request(b"Content-Length: +18"),
    "a negative length": _request(b"Content-Length: -1"),
    "a hexadecimal length": _request(b"Content-Length: 0x12"),
    "an empty length": _request(b"Content-Length:"),
    "a space before the colon": _request(b"Content-Length : 18"),
    "a space before the name": _request(b" Content-Length: 18"),
    "a folded field": _request(b"X-A: 1\r\n Content-Length: 0", _LENGTH),
    "a field with a tab fold": _request(b"X-A: 1\r\n\tb", _LENGTH),
    "bare line feeds": _request(_LENGTH).replace(b"\r\n", b"\n"),
    "one bare line feed": _request(b"X-A: 1\nX-B: 2", _LENGTH),
    "one bare carriage return": _request(b"X-A: 1\rX-B: 2", _LENGTH),
    "a NUL": _request(b"X-A: \x00", _LENGTH),
    "chunked twice": _request(b"Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n"),
    "chunked in two fields": _request(_CHUNKED, _CHUNKED, body=b"0\r\n\r\n"),
    "another coding": _request(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"),
    "no known coding": _request(b"Transfer-Encoding: identity", _LENGTH),
    "a coding that looks like chunked": _request(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"),
    "chunked in HTTP/1.0": _request(_CHUNKED, start=b"POST /v1/embeddings HTTP/1.0", body=b"0\r\n\r\n"),
    "a signed chunk size": _request(_CHUNKED, body=b'+12\r\n{"model": "model"}\r\n0\r\n\r\n'),
    "a chunk size with a prefix": _request(_CHUNKED, body=b'0x12\r\n{"model": "model"}\r\n0\r\n\r\n'),
    "a chunk that is longer than it says": _request(_CHUNKED, body=b'11\r\n{"model": "model"}\r\n0\r\n\r\n'),
    "a bare line feed after a chunk size": _request(_CHUNKED, body=b'12\n{"model": "model"}\r\n0\r\n\r\n'),
    "no host": b"POST /v1/embeddings HTTP/1.1\r\nContent-Length: 18\r\n\r\n" + _BODY,
    "two hosts": _request(b"Host: h", _LENGTH),
    "another version": _request(_LENGTH, start=b"POST /v1/embeddings HTTP/2.0"),
    "two spaces": _request(_LENGTH, start=b"POST  /v1/embeddings HTTP/1.1"),
    "a space in the target": _request(_LENGTH, start=b"POST /v1/embed dings HTTP/1.1"),
    "a fragment": _request(_LENGTH, start=b"POST /v1/embeddings#x HTTP/1.1"),
    "a host that is none": _request(_LENGTH).replace(b"Host: g", b"Host: g/x"),
    "a whole URL": _request(_LENGTH, start=b"POST http://g/v1/embeddings HTTP/1.1"),
    "an authority": _request(_LENGTH, start=b"POST g:80 HTTP/1.1"),
    "dot segments": _request(_LENGTH, start=b"POST /v1/../embeddings HTTP/1.1"),
    "dot segments, escaped": _request(_LENGTH, start=b"POST /v1/%252e%2E%5cembeddings HTTP/1.1"),
    "dot segments in Unicode": _request(_LENGTH, start=b"POST /v1/%ef%bc%8e./embeddings HTTP/1.1"),
    "WebSocket": _request(b"Connection: Upgrade", b"Upgrade: websocket", _LENGTH),
    "HTTP/2 without TLS": _request(
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AA", _LENGTH
    ),
    "CONNECT": _request(start=b"CONNECT host:443 HTTP/1.1", body=b""),
    "TRACE": _request(start=b"TRACE / HTTP/1.1", body=b""),
}


@pytest.mark.parametrize("raw", _AMBIGUOUS.values(), ids=_AMBIGUOUS)
def test_ambiguous_request(trio_gateway: Gateway, provider: Provider, raw: bytes) -> None:
    """The answer is an error and the end of the connection: no provider is tried, and what follows is not read as
    another request."""
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    client.send(raw + _SMUGGLED)
    answer = client.answer()
    assert 400 <= answer.status < 500 or answer.status == 501
    assert answer.code == "bad_request"
    assert answer.head.get("connection") == "close"
    assert client.closed()
    assert provider.untouched


@pytest.mark.parametrize("head", [b"X-A: " + b"a" * 70_000, b"\r\n".join([b"X-A: 1"] * 300)], ids=["bytes", "fields"])
def test_head_too_large(trio_gateway: Gateway, provider: Provider, head: bytes) -> None:
    """A head has limits, in bytes and in fields."""
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    client.send(_request(head, _LENGTH))
    assert client.answer().status == 431
    assert provider.untouched


_NOT_AN_ANSWER = {
    "both framings": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{} ",
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    "a folded field": b"HTTP/1.1 200 OK\r\nX-A: 1\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a status that does not exist": b"HTTP/1.1 999 OK\r\nContent-Length: 2\r\n\r\n{}",
    "a switch of protocols": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "an endless head": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 100_000,
}


@pytest.mark.parametrize("raw", _NOT_AN_ANSWER.values(), ids=_NOT_AN_ANSWER)
def test_ambiguous_answer(trio_gateway: Gateway, provider: Provider, raw: bytes) -> None:
    """A provider's answer that is not strictly HTTP is none: a 502, and its connection is not used again."""
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    client.request()
    call = provider.call()
    call.send(raw)
    answer = client.answer()
    assert (answer.status, answer.code) == (502, "bad_gateway")
    assert call.closed()


def test_bytes_after_an_answer(trio_gateway: Gateway, provider: Provider) -> None:
    """What a provider sends beyond its answer never becomes the answer to another request."""
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    client.request()
    call = provider.call()
    call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert client.answer().body == b"{}"
    assert call.closed()
    client.request()
    provider.call().respond(200, b"good")
    assert client.answer().body == b"good"


def test_connections_are_reused(trio_gateway: Gateway, provider: Provider) -> None:
    """A provider's connection serves one request after the other, of whichever client.

    The asyncio example opens one for each attempt.
    """
    trio_gateway.configure({"model": {"url": provider.url}})
    for number in range(5):
        client = trio_gateway.connect()
        client.request()
        provider.call().respond(200, b"%d" % number)
        assert client.answer().body == b"%d" % number
    assert provider.connections == 1


def test_stale_connection(trio_gateway: Gateway, provider: Provider) -> None:
    """A connection that its provider closes between two requests fails none of them.

    The asyncio example opens one for each attempt.
    """
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    for _ in range(3):
        client.request()
        call = provider.call()
        call.respond()
        assert client.answer().status == 200
        call.close()


def test_reused_connection_that_closes_on_the_request(trio_gateway: Gateway, provider: Provider) -> None:
    """A reused connection that ends before one byte of response is replaced by a fresh one, once.

    The asyncio example opens one for each attempt.
    """
    trio_gateway.configure({"model": {"url": provider.url}})
    client = trio_gateway.connect()
    client.request()
    provider.call().respond()
    assert client.answer().status == 200
    client.request()
    provider.call().close()
    provider.call().close()
    assert client.answer().status == 502
    assert provider.untouched
