"""Both parsers against each other: what one of them takes for a message, the other has to take for the same message.

A gateway that is stricter than one of the two is as strict as the other; see docs/http.md for what was settled.
"""

from hypothesis import example, given, settings
from hypothesis import strategies as st

from onwards_trio._wire import RequestHead, Signal
from onwards_trio._wire._choose import codecs
from tests.trio.wire_support import BOTH, CUTS, answer, each_byte, feed, serve, split

REQUESTS = [
    b"GET /v1/models?x=1 HTTP/1.1\r\nHost: gateway\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST /v1/embeddings HTTP/1.1\r\nHost: gateway\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nX: y\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: gateway\r\nConnection: close, upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
    b"POST / HTTP/1.1\r\nhost:h\r\ntransfer-encoding:chunked\r\nupgrade:x\r\nconnection:upgrade\r\n\r\n0\r\n\r\n",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nhi",
]
PIECES = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b" ",
        b"\t",
        b"\0",
        b"\x7f",
        b"\xff",
        b":",
        b";",
        b",",
        b"+",
        b"-",
        b'"',
        b"\\",
        b"=",
    ),
    *(b"0", b"1", b"0x5", b"-1", b"+5", b"5, 5", b"ffffffffffffffff", b"99999999999999999999", b"00005", b" 5", b"5 "),
    *(b"Content-Length: 5\r\n", b"Content-Length: 6\r\n", b"content-length : 5\r\n", b"Content-Length:\r\n"),
    *(b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: xchunked\r\n"),
    *(b"transfer-encoding:\tchunked\r\n", b"Transfer-Encoding: identity\r\n", b"Transfer-Encoding\r\n", b": x\r\n"),
    *(b"Host: other\r\n", b" folded\r\n", b"X: y\r\n", b"X y: z\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n"),
    *(
        b"HTTP/1.0",
        b"HTTP/1.1",
        b"HTTP/0.9",
        b"HTTP/2.0",
        b"http/1.1",
        b"GET",
        b"HEAD",
        b"CONNECT",
        b"/",
        b"http://h/",
        b"*",
    ),
    *(b"0\r\n\r\n", b"5\r\nhello\r\n", b"5;x\r\n", b"5;\r\n", b"5 ;x=y\r\n", b'5;x="y z"\r\n', b"hello"),
]


@st.composite
def damaged(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """One or two messages with some of their bytes replaced, left out, or joined by what means something to HTTP."""
    data = b"".join(draw(st.lists(st.sampled_from(messages), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        left_out = draw(st.integers(0, 3))
        put_in = draw(st.sampled_from([b"", *PIECES]) | st.binary(max_size=2))
        data = data[:start] + put_in + data[start + left_out :]
    return data


@given(damaged(REQUESTS), CUTS)
@settings(max_examples=500)
@example(b"POST  / HTTP/1.1\r\nHost: h\r\n\r\n", [])
@example(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", [])
def test_servers_agree(data: bytes, cuts: list[int]) -> None:
    """On every event of a request, wherever its bytes are cut."""
    whole = serve(data)
    assert serve(*split(data, cuts)) == whole
    assert serve(*each_byte(data)) == whole


@given(damaged(ANSWERS), CUTS, st.sampled_from(["GET", "HEAD"]))
@settings(max_examples=500)
@example(b"HTTP/1.1 099 Low\r\n\r\n", [], "GET")
def test_clients_agree(data: bytes, cuts: list[int], method: str) -> None:
    """The same for an answer, also one that ends with its connection."""
    whole = answer(data, b"", method=method)
    assert answer(*split(data, cuts), b"", method=method) == whole
    assert answer(*each_byte(data), b"", method=method) == whole


# Between what stands before and after the number of bytes of the body, which are two of these.
KEPT_ALIVE = [
    (b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nContent-Length: ", b"\r\nX-A: 5\r\n\r\n"),
    (b"PUT / HTTP/1.1\r\ncontent-length:", b" \t\r\nHOST: 22\r\nX: content-length: 22\r\n\r\n"),
    (b"POST /22 HTTP/1.1\r\nX-Content-Length: 22\r\nHost: h\r\nCONTENT-LENGTH:\t ", b"\r\n\r\n"),
    (b"POST / HTTP/1.1\r\nConnection: keep-alive\r\nContent-Length: ", b"\r\nX: 1\r\nx: 2\r\nHost: h\r\n\r\n"),
]
LENGTHS = st.integers(0, 30).map(lambda length: b"%d" % length) | st.sampled_from(
    [
        b"",
        b"022",
        b"2 2",
        b"22, 22",
        b"+22",
        b"-1",
        b"2\r\nX: 2",
        b"2\r\nContent-Length: 2",
        b"2\n",
        b"0x2",
        "²".encode(),
    ]
)


@st.composite
def requests_in_a_row(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two that are alike, but for the length, or for what was damaged."""
    before, after = draw(st.sampled_from(KEPT_ALIVE))
    first = before + b"22" + after
    second = draw(damaged([first]) | LENGTHS.map(lambda length: before + length + after))
    body = b"a" * 22
    return first + body, second + draw(st.sampled_from([body, b"", b"\r\n\r\n", b"a" * 200]))


@given(requests_in_a_row(), CUTS)
@settings(max_examples=500)
def test_what_came_before_has_no_say(requests: tuple[bytes, bytes], cuts: list[int]) -> None:
    """A request that looks like the last one on its connection is read like the first one on another."""
    first, second = requests
    for http in BOTH:
        codec = http.server()
        feed(codec, [first])
        codec.respond(200, [], b"")
        assert codec.keep_alive
        codec.next_cycle()
        assert feed(codec, split(second, cuts)) == feed(http.server(), split(second, cuts))


def test_the_same_head_is_the_same_object() -> None:
    """So what was found out about it need not be found out again; and it is not another request's."""
    codec = codecs("httptools").server()

    def head(raw: bytes) -> RequestHead:
        codec.receive(raw)
        head = codec.next_event()
        while codec.next_event() is not Signal.END:
            pass
        codec.respond(200, [], b"")
        codec.next_cycle()
        assert isinstance(head, RequestHead)
        return head

    before, after = KEPT_ALIVE[0]
    first = head(before + b"2" + after + b"hi")
    again = head(before + b"10" + after + b"0123456789")
    other = head(before.replace(b"chat/", b"") + b"2" + after + b"hi")
    assert again.headers is first.headers
    assert (first.content_length, again.content_length) == (2, 10)
    assert other.headers is not first.headers
    assert (again.target, other.target) == (b"/v1/chat/completions", b"/v1/completions")
