"""The HTTP/1.1 codecs' writing: answers framed for who asked, nothing injected, and each side reads the other."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_trio._wire import Malformed, RequestHead, ResponseHead, Signal
from onwards_trio._wire._choose import Codecs
from tests.trio.wire_support import CHUNKED, CUTS, HOST, asked, drain, feed, serve, split, with_each_codec


@with_each_codec
def test_keep_alive_and_pipelining(http: Codecs) -> None:
    """Requests that came together are answered one by one, over the same connection."""
    codec = http.server()
    codec.receive(b"GET /1 HTTP/1.1\r\n" + HOST + b"\r\nGET /2 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
    [first, _] = drain(codec)
    assert isinstance(first, RequestHead)
    assert first.target == b"/1"
    assert codec.respond(200, [(b"a", b"b")], b"x") == b"HTTP/1.1 200 OK\r\na: b\r\ncontent-length: 1\r\n\r\nx"
    assert codec.keep_alive
    codec.next_cycle()
    [second, _] = drain(codec)
    assert isinstance(second, RequestHead)
    assert second.target == b"/2"
    assert b"close" in codec.respond(200, [], b"")
    assert not codec.keep_alive


@with_each_codec
def test_answers_without_a_length_are_chunked(http: Codecs) -> None:
    """To an HTTP/1.0 client they end with the connection instead."""
    codec = http.server()
    feed(codec, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    assert codec.start(200, []).lower() == b"http/1.1 200 ok\r\ntransfer-encoding: chunked\r\n\r\n"
    assert [codec.data(b"abc"), codec.data(b""), codec.finish()] == [b"3\r\nabc\r\n", b"", b"0\r\n\r\n"]
    assert codec.keep_alive

    old = http.server()
    feed(old, [b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"])
    assert old.start(200, []).lower() == b"http/1.1 200 ok\r\nconnection: close\r\n\r\n"
    assert [old.data(b"abc"), old.finish()] == [b"abc", b""]
    assert not old.keep_alive


@with_each_codec
def test_answers_with_a_length_keep_it(http: Codecs) -> None:
    """And too much or too little data for it is a fault of ours that raises."""
    codec = http.server()
    feed(codec, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    assert codec.start(200, [(b"content-length", b"3")]) == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"
    assert codec.data(b"ab") == b"ab"
    with pytest.raises(ValueError, match="can't be sent"):
        codec.finish()


@with_each_codec
@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_answers_without_a_body(http: Codecs, method: bytes, status: int) -> None:
    """HEAD, 204 and 304 get no body, however it is given, and the connection stays usable."""
    for whole in (True, False):
        codec = http.server()
        feed(codec, [method + b" / HTTP/1.1\r\n" + HOST + b"\r\n"])
        if whole:
            sent = codec.respond(status, [], b"body")
        else:
            sent = codec.start(status, []) + codec.data(b"body") + codec.finish()
        assert sent.endswith(b"\r\n\r\n")
        assert b"body" not in sent
        assert (b"content-length" in sent) == (whole and status != 204)
        assert codec.keep_alive


@with_each_codec
def test_a_refusal_after_head_has_its_body(http: Codecs) -> None:
    """What the last request was says nothing about what comes after it and is no request."""
    codec = http.server()
    feed(codec, [b"HEAD / HTTP/1.1\r\n" + HOST + b"\r\n"])
    codec.respond(200, [], b"x")
    codec.next_cycle()
    assert isinstance(feed(codec, [b"nonsense\r\n\r\n"])[-1], Malformed)
    assert codec.respond(400, [], b"no").endswith(b"\r\n\r\nno")


@with_each_codec
@pytest.mark.parametrize(
    "rest", [b" / HTTP/2.0\r\n\r\n", b" / HTTP/1.0\r\n" + CHUNKED + b"\r\n", b" * HTTP/1.1\r\n\r\n"]
)
def test_a_head_request_can_be_refused(http: Codecs, rest: bytes) -> None:
    """Whatever is wrong with it: the refusal can be written."""
    codec = http.server()
    assert isinstance(feed(codec, [b"HEAD" + rest])[-1], Malformed)
    assert codec.respond(400, [], b"no").startswith(b"HTTP/1.1 400 ")


@with_each_codec
def test_an_answer_before_the_request_has_ended(http: Codecs) -> None:
    """Possible from the head on, but then the connection closes; so it does after a refusal, and when told to."""
    codec = http.server()
    feed(codec, [b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc"])
    assert b"connection: close" in codec.respond(413, [], b"too large")
    assert not codec.keep_alive

    codec = http.server()
    feed(codec, [b"nonsense\r\n\r\n"])
    assert (
        codec.respond(400, [], b"no") == b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno"
    )

    codec = http.server()
    feed(codec, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    assert b"connection: close" in codec.respond(200, [], b"", close=True)
    assert not codec.keep_alive


@with_each_codec
def test_the_client_that_waits_for_100_gets_it(http: Codecs) -> None:
    """And then sends its body."""
    codec = http.server()
    head = b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    assert feed(codec, [head])[-1] is Signal.NEED_DATA
    assert codec.continue_100() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert feed(codec, [b"x"]) == [b"x", Signal.END]
    assert codec.respond(200, [], b"").startswith(b"HTTP/1.1 200 ")
    assert codec.keep_alive


@with_each_codec
@pytest.mark.parametrize("field", [(b"x", b"a\r\nset-cookie: b"), (b"x\r\ny", b"a"), (b"x", b"a\0"), (b"x y", b"a")])
def test_headers_cannot_be_injected(http: Codecs, field: tuple[bytes, bytes]) -> None:
    """A field that would become two is refused on both sides, and not even the traceback quotes it."""
    server = http.server()
    feed(server, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    secret = (field[0], b"sk-planted" + field[1])
    for send in (
        lambda: server.respond(200, [secret], b""),
        lambda: http.client().request("GET", b"/", [(b"host", b"a"), secret], b""),
    ):
        with pytest.raises(ValueError, match="can't be sent") as raised:
            send()
        assert "planted" not in "".join(traceback.format_exception(raised.value, chain=True))


@with_each_codec
@pytest.mark.parametrize("target", [b"/ HTTP/1.1\r\nx: y\r\n\r\nGET /", b"/a b", b"/\n", b""])
def test_request_lines_cannot_be_injected(http: Codecs, target: bytes) -> None:
    """A target that would become more than that is refused."""
    with pytest.raises(ValueError, match="can't be sent"):
        http.client().request("GET", target, [(b"host", b"a")], b"")


TOKENS = st.from_regex(rb"\A[!#$%&'*+.^_`|~0-9a-z-]{1,12}\Z").filter(
    lambda name: name not in (b"content-length", b"transfer-encoding", b"host", b"connection", b"expect", b"upgrade")
)
VALUES = st.from_regex(rb"\A([\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]{0,20}[\x21-\x7e\x80-\xff])?)?\Z")
FIELDS = st.lists(st.tuples(TOKENS, VALUES), max_size=8)


@with_each_codec
@given(FIELDS, st.binary(max_size=300), CUTS)
def test_requests_make_the_round_trip(
    http: Codecs, fields: list[tuple[bytes, bytes]], body: bytes, cuts: list[int]
) -> None:
    """What the client codec writes the server codec reads: the same method, target, fields and body."""
    headers = [(b"host", b"provider"), *fields]
    sent = http.client().request("POST", b"/v1/x?y", [*headers, (b"content-length", b"%d" % len(body))], body)
    events = serve(*split(sent, cuts))
    head = events[0]
    assert isinstance(head, RequestHead)
    assert (head.method, head.target, head.headers) == ("POST", b"/v1/x?y", headers)
    assert events[1:] == ([body] if body else []) + [Signal.END]


@with_each_codec
@given(FIELDS, st.lists(st.binary(max_size=100), max_size=5), st.booleans(), CUTS)
def test_answers_make_the_round_trip(
    http: Codecs, fields: list[tuple[bytes, bytes]], pieces: list[bytes], chunked: bool, cuts: list[int]
) -> None:
    """What the server codec writes the client codec reads, repeated fields included, with a length or in chunks."""
    body = b"".join(pieces)
    server = http.server()
    feed(server, [b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"])
    length = (b"content-length", b"%d" % len(body))
    sent = server.start(200, fields if chunked else [*fields, length])
    sent += b"".join([server.data(piece) for piece in pieces]) + server.finish()
    assert server.keep_alive

    codec = asked(http=http)
    events = feed(codec, split(sent, cuts))
    head = events[0]
    assert isinstance(head, ResponseHead)
    assert head.status == 200
    assert head.headers == [*fields, (b"transfer-encoding", b"chunked") if chunked else length]
    assert events[1:] == ([body] if body else []) + [Signal.END]
    assert codec.reusable
