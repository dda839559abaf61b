"""The HTTP/1.1 codecs' reading: what is let in, what is refused, and that it doesn't matter how the bytes were cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import HeaderFields
from onwards_trio._wire import Malformed, RequestHead, ResponseHead, Signal
from onwards_trio._wire._choose import Codecs
from onwards_trio._wire._guard import FIELD_LIMIT, HEAD_LIMIT
from tests.trio.wire_support import (
    CHUNKED,
    CUTS,
    HOST,
    answer,
    asked,
    drain,
    each_byte,
    feed,
    serve,
    split,
    with_each_codec,
)

GOOD_REQUESTS = {
    "without a body": b"GET /v1/models?a=b HTTP/1.1\r\n" + HOST + b"\r\n",
    "HTTP/1.0 without a host": b"GET / HTTP/1.0\r\n\r\n",
    "a length": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    "an empty body": b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n",
    "chunks": b"POST /x HTTP/1.1\r\n" + HOST + CHUNKED + b'\r\n3\r\nhel\r\n02;ext="v"\r\nlo\r\n0\r\n\r\n',
    "trailers": b"POST /x HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n1\r\nx\r\n00;e\r\nA: b\r\nC: d\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * (FIELD_LIMIT - 1) + b"\r\n",
    "a target that looks like an origin": b"GET //elsewhere/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "latin-1 in a value": b"GET / HTTP/1.1\r\n" + HOST + b"x: caf\xe9\t!\r\n\r\n",
    "a host with a port": b"GET / HTTP/1.1\r\nHost: [::1]:3000\r\n\r\n",
    "a host without a name": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
}

BAD_REQUESTS = {
    "bare LF after the request line": b"GET / HTTP/1.1\n" + HOST + b"\r\n",
    "bare LF after a field": b"GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n",
    "bare LF as the blank line": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\rb\r\n\r\n",
    "double CR": b"GET / HTTP/1.1\r\r\n" + HOST + b"\r\n",
    "NUL": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\0b\r\n\r\n",
    "control character": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x01b\r\n\r\n",
    "DEL": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\x7fb\r\n\r\n",
    "a TLS handshake": b"\x16\x03\x01\x02\x00\x01\x00",
    "fold with a space": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n b\r\n\r\n",
    "fold with a tab": b"GET / HTTP/1.1\r\n" + HOST + b"x: a\r\n\tb\r\n\r\n",
    "space before the colon": b"GET / HTTP/1.1\r\n" + HOST + b"x : a\r\n\r\n",
    "space before the colon of a length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length : 1\r\n\r\nx",
    "field without a name": b"GET / HTTP/1.1\r\n" + HOST + b": a\r\n\r\n",
    "field without a colon": b"GET / HTTP/1.1\r\n" + HOST + b"x\r\n\r\n",
    "empty line first": b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\nx: y\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n",
    "a list of hosts": b"GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
    "a host that is an origin": b"GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
    "a host with a user": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "a host with a space": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "a dot segment": b"GET /v1/%2e%2e/x HTTP/1.1\r\n" + HOST + b"\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "the same host twice": b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n",
    "length and chunks": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
    "the same length twice": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "a list of lengths": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1, 1\r\n\r\nx",
    "a signed length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +1\r\n\r\nx",
    "a negative length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: -1\r\n\r\nx",
    "a length that is no number": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x1\r\n\r\nx",
    "an empty length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n",
    "an absurd length": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
    "another coding": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\n",
    "two codings": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + CHUNKED + b"\r\n0\r\n\r\n",
    "nearly chunked": b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 with chunks": b"POST / HTTP/1.0\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "absolute target": b"GET http://gateway/ HTTP/1.1\r\n" + HOST + b"\r\n",
    "authority target": b"GET gateway:80 HTTP/1.1\r\n" + HOST + b"\r\n",
    "asterisk target": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with a fragment": b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n",
    "target with a space": b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n",
    "target beyond ASCII": b"GET /caf\xe9 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT /x HTTP/1.1\r\n" + HOST + b"\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n",
}

BAD_BODIES = {
    "no size": b"\r\n",
    "a size that is no number": b"xyz\r\n",
    "a signed size": b"+1\r\nx\r\n",
    "0x": b"0x1\r\nx\r\n",
    "space after the size": b"1 \r\nx\r\n0\r\n\r\n",
    "space before the size": b" 1\r\nx\r\n0\r\n\r\n",
    "an absurd size": b"1" * 17 + b"\r\n",
    "bare LF after the size": b"1\nx\r\n0\r\n\r\n",
    "bare CR in an extension": b"1;a\rb\r\nx\r\n0\r\n\r\n",
    "control character in an extension": b"1;\x00\r\nx\r\n0\r\n\r\n",
    "an endless extension": b"1;" + b"a" * 300,
    "data longer than its size": b"1\r\nxy\r\n0\r\n\r\n",
    "bare LF after data": b"1\r\nx\n0\r\n\r\n",
    "bare LF in trailers": b"0\r\na: b\n\r\n",
    "fold in trailers": b"0\r\na: b\r\n c\r\n\r\n",
    "space before a trailer's colon": b"0\r\na : b\r\n\r\n",
    "a trailer without a colon": b"0\r\na\r\n\r\n",
    "a length as a trailer": b"0\r\na: b\r\nContent-Length: 0\r\n\r\n",
    "a coding as a trailer": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
}

GOOD_ANSWERS = {
    "a length": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    "chunks": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
    "trailers": (b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n0\r\nDigest: x\r\n\r\n", b"hello"),
    "no body": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified": (b"HTTP/1.1 304 \r\nContent-Length: 5\r\n\r\n", b""),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b""),
    "after interim answers": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"ok",
    ),
}

BAD_ANSWERS = {
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
    "bare LF as the blank line": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n",
    "NUL": b"HTTP/1.1 200 OK\r\nx: \0\r\n\r\n",
    "fold": b"HTTP/1.1 200 OK\r\nx: a\r\n b\r\n\r\n",
    "space before the colon": b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "HTTP/1.0 with chunks": b"HTTP/1.0 200 OK\r\n" + CHUNKED + b"\r\n0\r\n\r\n",
    "switching protocols": b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    "an interim answer with two lengths": b"HTTP/1.1 100 C\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status below 100": b"HTTP/1.1 099 OK\r\n\r\n",
    "a status above 599": b"HTTP/1.1 600 OK\r\n\r\n",
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    "another version": b"HTTP/2.0 200 OK\r\n\r\n",
}


@with_each_codec
@pytest.mark.parametrize("data", GOOD_REQUESTS.values(), ids=GOOD_REQUESTS)
def test_well_formed_requests_are_read_to_their_end(http: Codecs, data: bytes) -> None:
    """Whole, byte by byte, and with the next request behind it, which stays in the buffer."""
    whole = serve(data)
    assert isinstance(whole[0], RequestHead)
    assert whole[-1] is Signal.END
    assert serve(*each_byte(data)) == whole

    codec = http.server()
    codec.receive(data + b"GET / HT")
    assert drain(codec) == whole
    assert codec.buffered == len(b"GET / HT")


@pytest.mark.parametrize("data", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_malformed_requests_are_refused(data: bytes) -> None:
    """With a 400 whose message quotes nothing; whole and byte by byte alike; and whatever comes after."""
    [fault] = serve(data)
    assert isinstance(fault, Malformed)
    assert (fault.status, fault.truncated) == (400, False)
    assert serve(*each_byte(data)) == [fault]
    assert serve(data + b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n") == [fault]


@pytest.mark.parametrize("data", BAD_BODIES.values(), ids=BAD_BODIES)
def test_malformed_chunks_are_refused(data: bytes) -> None:
    """Requests and answers alike, whole and byte by byte, after the data that came before."""
    request = b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n4\r\ngood\r\n"
    response = b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n4\r\ngood\r\n"
    for whole, bytewise in (
        (serve(request + data), serve(*each_byte(request + data))),
        (answer(response + data), answer(*each_byte(response + data))),
    ):
        assert isinstance(whole[1], bytes)
        assert whole[1].startswith(b"good")
        assert isinstance(whole[-1], Malformed)
        assert not whole[-1].truncated
        assert whole == bytewise


def test_fields_are_passed_as_they_came() -> None:
    """Values in small letters only if the provider wrote them so."""
    [head, *_] = answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\nX: A\r\n\r\n0\r\n\r\n")
    assert isinstance(head, ResponseHead)
    assert head.headers == [(b"transfer-encoding", b"Chunked"), (b"x", b"A")]


@with_each_codec
@pytest.mark.parametrize(("data", "body"), GOOD_ANSWERS.values(), ids=GOOD_ANSWERS)
def test_well_formed_answers_are_read_to_their_end(http: Codecs, data: bytes, body: bytes) -> None:
    """Whole and byte by byte; then the connection may be used again, but not with a byte left over."""
    codec = asked(http=http)
    whole = feed(codec, [data])
    assert isinstance(whole[0], ResponseHead)
    assert whole[1:] == ([body] if body else []) + [Signal.END]
    assert codec.reusable
    assert answer(*each_byte(data)) == whole

    trailing = asked(http=http)
    assert feed(trailing, [data + b"H"]) == whole
    assert not trailing.reusable


@pytest.mark.parametrize("data", BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_malformed_answers_are_refused(data: bytes) -> None:
    """They are held to the same rules as requests, whole and byte by byte."""
    [fault] = answer(data)
    assert isinstance(fault, Malformed)
    assert not fault.truncated
    assert answer(*each_byte(data)) == [fault]


def test_heads_have_limits() -> None:
    """A head or a trailer section over 64 KiB or 200 fields is a 431, as soon as that is clear."""
    start = b"GET / HTTP/1.1\r\n" + HOST
    room = HEAD_LIMIT - len(start) - len(b"x: \r\n\r\n")
    fits = start + b"x: " + b"a" * room + b"\r\n\r\n"
    assert serve(fits)[-1] is Signal.END
    for big in (
        start + b"x: " + b"a" * (room + 1) + b"\r\n\r\n",
        start + b"x: " + b"a" * HEAD_LIMIT,
        start + b"a: b\r\n" * FIELD_LIMIT + b"\r\n",
        b"a" * (HEAD_LIMIT + 1),
    ):
        [fault] = serve(big)
        assert isinstance(fault, Malformed)
        assert fault.status == 431
    body = b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n0\r\n"
    for big in (body + b"a: b\r\n" * (FIELD_LIMIT + 1) + b"\r\n", body + b"a: " + b"a" * HEAD_LIMIT):
        fault = serve(big)[-1]
        assert isinstance(fault, Malformed)
        assert fault.status == 431


def test_request_heads_tell_all() -> None:
    """Names in lower case, values stripped, repeated fields kept in order; how long the body is; who waits for 100."""
    [head, _] = serve(
        b"POST /a?b=%20 HTTP/1.1\r\nHost:  gateway \t\r\nX-Many: 1\r\nContent-Length: 3\r\nx-many: 2\r\n"
        b"Expect: 100-Continue\r\n\r\n"
    )
    assert head == RequestHead(
        method="POST",
        target=b"/a?b=%20",
        headers=HeaderFields(
            [
                (b"host", b"gateway"),
                (b"x-many", b"1"),
                (b"x-many", b"2"),
                (b"expect", b"100-Continue"),
            ]
        ),
        http_1_0=False,
        content_length=3,
        expects_continue=True,
    )
    [old, _] = serve(b"POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n")
    assert isinstance(old, RequestHead)
    assert (old.http_1_0, old.content_length, old.expects_continue) == (True, None, False)


def test_nothing_that_was_sent_is_quoted() -> None:
    """A refusal's message does not repeat the client's bytes, which may hold its key."""
    for data in BAD_REQUESTS.values():
        [fault] = serve(data.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer sk-planted\r\n\r\n"))
        assert isinstance(fault, Malformed)
        assert "planted" not in repr(fault)
    [head, _] = serve(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-planted\r\n\r\n")
    assert "planted" not in repr(head)


def test_a_client_that_leaves() -> None:
    """Between requests that is normal; inside a head or a body the message is truncated."""
    assert serve(b"") == [Signal.CLOSED]
    for data in (b"GET / HT", b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc"):
        fault = serve(data, b"")[-1]
        assert isinstance(fault, Malformed)
        assert fault.truncated


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nConten",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5\r\nhel",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"\r\n5\r\nhello\r\n0\r\n",
    ],
)
def test_a_provider_that_breaks_off(data: bytes) -> None:
    """An answer that is cut anywhere is truncated, never complete."""
    fault = answer(data, b"")[-1]
    assert isinstance(fault, Malformed)
    assert fault.truncated
    assert answer(*each_byte(data), b"")[-1] == fault


def test_a_provider_that_says_nothing() -> None:
    """Closing before the head, also after an interim one, is its own case: no answer has begun."""
    assert answer(b"") == [Signal.CLOSED]
    assert answer(b"HTTP/1.1 100 Continue\r\n\r\n", b"") == [Signal.CLOSED]


@with_each_codec
def test_answers_that_end_with_their_connection(http: Codecs) -> None:
    """Without a length the body goes on until the provider closes; then the connection is used up."""
    for version in (b"1.0", b"1.1"):
        codec = asked(http=http)
        assert feed(codec, [b"HTTP/" + version + b" 200 OK\r\n\r\nhel", b"lo"])[1:] == [b"hello", Signal.NEED_DATA]
        codec.receive(b"")
        assert drain(codec) == [Signal.END]
        assert not codec.reusable


@with_each_codec
def test_answers_to_head_have_no_body(http: Codecs) -> None:
    """Whatever their length says; the next answer on the connection is read from its first byte."""
    codec = asked("HEAD")
    assert feed(codec, [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"])[1:] == [Signal.END]
    assert codec.reusable
    codec.request("GET", b"/", [(b"host", b"provider")], b"")
    assert not codec.reusable
    assert feed(codec, [b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"])[1:] == [b"ok", Signal.END]


@with_each_codec
def test_when_a_connection_is_used_up(http: Codecs) -> None:
    """After `connection: close`, an HTTP/1.0 answer, or an end of the stream it takes no other request."""
    for data in (
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""],
    ):
        codec = asked(http=http)
        feed(codec, data)
        assert codec.next_event() is Signal.END
        assert not codec.reusable


MESSAGES = st.sampled_from(
    [
        *GOOD_REQUESTS.values(),
        *BAD_REQUESTS.values(),
        *(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n2\r\nok\r\n" + body for body in BAD_BODIES.values()),
    ]
)


@given(MESSAGES, st.binary(max_size=20), CUTS)
def test_cuts_do_not_matter_for_requests(message: bytes, more: bytes, cuts: list[int]) -> None:
    """However the bytes of a request arrive, and whatever follows, the events are the same."""
    assert serve(*split(message + more, cuts)) == serve(message + more)


@given(st.sampled_from([data for data, _ in GOOD_ANSWERS.values()] + list(BAD_ANSWERS.values())), st.binary(), CUTS)
def test_cuts_do_not_matter_for_answers(message: bytes, more: bytes, cuts: list[int]) -> None:
    """However the bytes of an answer arrive, and whatever follows, the events are the same."""
    assert answer(*split(message + more, cuts)) == answer(message + more)


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b"a", b"1", b"0", b":", b";", b"\0", b"x: y"])), CUTS)
def test_cuts_do_not_matter_for_noise(pieces: list[bytes], cuts: list[int]) -> None:
    """The same for what is hardly HTTP at all, in a head and in a chunked body."""
    noise = b"".join(pieces)
    for prefix in (b"GET / HTTP/1.1\r\n" + HOST, b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n"):
        data = prefix + noise
        expected = serve(data)
        assert serve(*split(data, [len(prefix) + cut for cut in cuts])) == expected
        assert serve(*each_byte(data)) == expected


@with_each_codec
def test_ends_and_faults_are_final(http: Codecs) -> None:
    """However often one asks, and whatever comes after: the message has ended, or is broken."""
    server = http.server()
    whole = feed(server, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    server.receive(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert [server.next_event(), server.next_event()] == [whole[-1]] * 2

    for codec in (http.server(), asked(http=http)):
        [fault] = feed(codec, [b"nonsense\r\n\r\n"])
        codec.receive(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert codec.next_event() == fault
