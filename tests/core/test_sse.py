"""The framer against a slow definition of server-sent events that sees the whole stream at once."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwards_core._sse import MAX_EVENT, Framer
from tests.core.sse_support import defined


def in_pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream`, cut at these places."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


def framed(pieces: list[bytes], *, finish: bool) -> list[bytes | None]:
    """What a framer makes of these pieces."""
    framer = Framer()
    found = [event for piece in pieces for event in framer.feed(piece)]
    if finish:
        found += framer.finish()
    assert not framer.failed
    return found


tokens = st.sampled_from(
    b"data|data:|data: |:| |\n|\r|\r\n|\n\n|\xef\xbb\xbf|\xc3\xa9|\xe2|\x00|\x85|id: 7|event: error|x|[DONE]".split(
        b"|"
    )
)
streams = st.lists(tokens, max_size=40).map(b"".join)
cuts = st.lists(st.integers(min_value=0, max_value=1000), max_size=10)


@given(stream=streams, cuts=cuts)
def test_any_cut(stream: bytes, cuts: list[int]) -> None:
    """However its bytes arrive, a stream has the events that the definition gives it."""
    expected = defined(stream)
    assert framed([stream], finish=True) == expected
    assert framed([bytes([byte]) for byte in stream], finish=True) == expected
    assert framed(in_pieces(stream, cuts), finish=True) == expected


@given(stream=streams, trailing=streams, cuts=cuts)
def test_trailing_data(stream: bytes, trailing: bytes, cuts: list[int]) -> None:
    """What comes after an event's end changes nothing about it."""
    before = framed([stream + b"\n\n"], finish=False)
    after = framed(in_pieces(stream + b"\n\n" + trailing, cuts), finish=False)
    assert after[: len(before)] == before


@settings(max_examples=30)
@given(suffix=streams, start=st.sampled_from([b"", b"\xef\xbb\xbf", b": x\n", b"data: 1\n\n"]), cuts=cuts)
def test_any_cut_at_the_limit(suffix: bytes, start: bytes, cuts: list[int]) -> None:
    """Whether an event is too long does not depend on the cuts, nor does what came before it."""
    stream = start + b"data:" + b"x" * (MAX_EVENT - 20 - len(start))
    outcomes = []
    for pieces in [stream + suffix], [stream, *in_pieces(suffix, cuts)], [start, stream[len(start) :] + suffix]:
        framer = Framer()
        found: list[bytes | None] = []
        for piece in pieces:
            if not framer.failed:
                found += framer.feed(piece)
        outcomes.append((found, framer.failed))
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_an_event_comes_at_once() -> None:
    """An event is there as soon as its last byte is, also if that is a carriage return."""
    for end in b"\n\n", b"\r\r", b"\r\n\r", b"\n\r", b"\r\n\n":
        assert Framer().feed(b"data: 1" + end) == [b"1"]


def test_cut_between_cr_and_lf() -> None:
    """The second half of a line end is no line of its own, even after an empty piece."""
    framer = Framer()
    assert framer.feed(b"data: 1\r") == []
    assert framer.feed(b"") == []
    assert framer.feed(b"\ndata: 2\r") == []
    assert framer.feed(b"\n") == []
    assert framer.feed(b"\r") == [b"1\n2"]
    assert framer.feed(b"\n") == []
    assert framer.feed(b"data: 3\n\n") == [b"3"]


def test_data_lines() -> None:
    """One space after the colon is not data, a second one is; several lines are joined; no colon is empty data."""
    assert Framer().feed(b"data:1\n\ndata: 2\n\ndata:  3\n\n") == [b"1", b"2", b" 3"]
    assert Framer().feed(b"data: {\ndata\ndata:}\n\n") == [b"{\n\n}"]


def test_events_without_data() -> None:
    """Fields other than data are left out, and so is an event that has nothing else or empty data."""
    assert Framer().feed(b"event: x\nid: 1\nretry: 5\n\n\n\ndata:\n\nid: 2\ndata: 1\ndatas: 2\n\n") == [b"1"]


def test_a_comment_comes_with_its_line() -> None:
    """A comment need not wait for the event's end: it is there to keep the connection alive."""
    framer = Framer()
    assert framer.feed(b": thinking\n") == [None]
    assert framer.feed(b"data: 1\n:\n") == [None]
    assert framer.feed(b"\n") == [b"1"]


def test_byte_order_mark() -> None:
    """A mark at the very start is ignored, also when cut; later it is a part of the field's name."""
    mark = b"\xef\xbb\xbf"
    assert framed([mark[:1], mark[1:2], mark[2:] + b"data: 1\n\n"], finish=False) == [b"1"]
    assert framed([mark + mark + b"data: 1\n\n"], finish=False) == []
    assert framed([b"\n" + mark + b"data: 1\n\n"], finish=False) == []


def test_finish() -> None:
    """At the proper end, the last event counts without its empty line and even without its line end."""
    for end in b"", b"\n", b"\r", b"\r\n", b"\n\n":
        assert framed([b"data: 1\n\ndata: 2" + end], finish=True) == [b"1", b"2"]
    assert framed([], finish=True) == []


def test_longest_event() -> None:
    """An event may have `MAX_EVENT` bytes up to the empty line, whichever lines they are in; each starts anew."""
    event = b"data:" + b"x" * (MAX_EVENT - 10) + b"\n:" + b"y" * 2 + b"\n"
    assert len(event) == MAX_EVENT
    framer = Framer()
    for _ in range(2):
        assert framer.feed(event + b"\n") == [None, b"x" * (MAX_EVENT - 10)]
        assert not framer.failed


@pytest.mark.parametrize("cut", [0, 2, 100, MAX_EVENT])
@pytest.mark.parametrize("excess", [0, 1])
def test_longest_event_after_a_byte_order_mark(cut: int, excess: int) -> None:
    """The mark counts as a part of the first event, however it was cut."""
    stream = b"\xef\xbb\xbfdata:" + b"x" * (MAX_EVENT - 9 + excess) + b"\n\n"
    framer = Framer()
    found = framer.feed(stream[:cut]) + framer.feed(stream[cut:])
    assert (len(found), framer.failed) == (1 - excess, bool(excess))


def test_too_long_in_one_line() -> None:
    """A line that goes over the limit fails before it ends, and events before it still come out."""
    framer = Framer()
    assert framer.feed(b"data: 1\n\ndata:" + b"x" * (MAX_EVENT - 5)) == [b"1"]
    assert not framer.failed
    assert framer.feed(b"x") == []
    assert framer.failed


def test_too_long_in_many_lines() -> None:
    """Lines that are left out count too: an event without an end is one, whatever it consists of."""
    framer = Framer()
    assert framer.feed(b"data: 1\n\n" + b"id: 1\n" * (MAX_EVENT // 6)) == [b"1"]
    assert not framer.failed
    assert framer.feed(b"id: 1\n\ndata: 2\n\n") == []
    assert framer.failed
