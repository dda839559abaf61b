"""Messages of HTTP/1.1, as the codecs read them: both the same, wherever a message is cut."""

from tests.fuzz.cutting import in_pieces
from tests.trio.wire_support import BOTH, answer, asked, each_byte, feed, serve


def request(data: bytes) -> None:
    """A request, and then the end of the connection."""
    message, pieces = in_pieces(data)
    whole = serve(message, b"")
    assert serve(*pieces, b"") == whole
    assert serve(*each_byte(message), b"") == whole


def response(data: bytes) -> None:
    """An answer and then the end of the connection, or the next request. The input's first bit says to which method."""
    method = "HEAD" if data[:1] >= b"\x80" else "GET"
    message, pieces = in_pieces(data)
    whole = answer(message, b"", method=method)
    assert answer(*pieces, b"", method=method) == whole
    assert answer(*each_byte(message), b"", method=method) == whole

    open_ones = [asked(method, http) for http in BOTH]
    for codec in open_ones:
        feed(codec, pieces)
    assert open_ones[0].reusable == open_ones[1].reusable
