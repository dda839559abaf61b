"""Messages of HTTP/1.1, as the codecs read them: both the same, wherever a message is cut."""

from tests.fuzz.cutting import in_pieces
from tests.trio.wire_support import answer, each_byte, serve


def request(data: bytes) -> None:
    """A request, and then the end of the connection."""
    message, pieces = in_pieces(data)
    whole = serve(message, b"")
    assert serve(*pieces, b"") == whole
    assert serve(*each_byte(message), b"") == whole


def response(data: bytes) -> None:
    """An answer and then the end of the connection. The input's first bit says to which method."""
    method = "HEAD" if data[:1] >= b"\x80" else "GET"
    message, pieces = in_pieces(data)
    whole = answer(message, b"", method=method)
    assert answer(*pieces, b"", method=method) == whole
    assert answer(*each_byte(message), b"", method=method) == whole
