"""The beginning of an event stream: what is held back, and what ends that."""

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core._decoding import decoder
from onwards_core._preamble import MAX_BYTES, MAX_EVENTS, Found, Preamble

PREAMBLES = [
    b": a comment\n\n",
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    b'data: {"choices":[{"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}\n\n',
    b'data: {"choices":[],"prompt_filter_results":[]}\n\n',
    b'data: {"choices":[{"index":0,"text":"","finish_reason":null}]}\n\n',
    b'event: response.created\ndata: {"type":"response.created","response":{"error":null}}\n\n',
    b'data: {"type":"response.queued"}\n\n',
    b'data: {"type":"response.in_progress"}\n\n',
    b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n',
    b'event: ping\ndata: {"type":"ping"}\n\n',
]
CONTENTS = [
    b'data: {"choices":[{"index":0,"delta":{"content":"x"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{"reasoning_content":"hm"}}]}\n\n',
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
    b'data: {"choices":[{"index":0,"text":"x"}]}\n\n',
    b'data: {"type":"response.output_text.delta","delta":"x"}\n\n',
    b'data: {"type":"response.output_item.added"}\n\n',
    b'data: {"type":"content_block_start"}\n\n',
    b"data: 1\n\n",
    b"data: no JSON\n\n",
    b'data: {"choices":"odd"}\n\n',
    b"data: \xff\n\n",
]
ERRORS = {
    b'data: {"error":{"message":"m","code":429}}\n\n': 429,
    b'data: {"error":{"code":"rate_limit_exceeded"}}\n\n': 429,
    b'data: {"error":{"code":null}}\n\n': 500,
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"}}\n\n': 529,
    b'data: {"type":"response.failed","response":{"error":{"code":"server_error"}}}\n\n': 500,
}
ENDINGS = {
    **dict.fromkeys(CONTENTS, Found.CONTENT),
    **ERRORS,
    b"data: [DONE]\n\n": Found.NOTHING,
}


@pytest.mark.parametrize("event", PREAMBLES)
def test_preambles(event: bytes) -> None:
    """They are held back; a stream that ends after them had no content."""
    preamble = Preamble()
    assert preamble.feed(event, ended=False) is None
    assert preamble.feed(b"", ended=True) is Found.NOTHING
    assert preamble.take() == event
    assert preamble.take() == b""


@pytest.mark.parametrize(("event", "found"), ENDINGS.items())
def test_what_ends_them(event: bytes, found: Found | int) -> None:
    """Content, an error with the status that it names, or the end."""
    assert Preamble().feed(event, ended=False) == found


@given(
    st.lists(st.sampled_from(PREAMBLES), max_size=12),
    st.sampled_from(list(ENDINGS)),
    st.lists(st.integers(0, 600), max_size=8),
    st.booleans(),
)
def test_any_cut(before: list[bytes], last: bytes, cuts: list[int], compressed: bool) -> None:
    """However the bytes arrive, the finding is the same, and nothing of them is lost."""
    stream = b"".join(before) + last
    sent = gzip.compress(stream, mtime=0) if compressed else stream
    places = sorted({min(cut, len(sent)) for cut in cuts} | {0, len(sent)})
    preamble = Preamble(decoder(b"gzip") if compressed else None)
    found, fed = None, b""
    for start, end in pairwise(places):
        fed += sent[start:end]
        found = preamble.feed(sent[start:end], ended=False)
        if found is not None:
            break
    expected = ENDINGS[last]
    if len(before) > MAX_EVENTS and found is Found.TOO_MUCH:
        # There may have been content in the same piece, or there is some later.
        assert preamble.take() == fed
        while found is Found.TOO_MUCH:
            start, end = len(fed), min(len(fed) + 50, len(sent))
            fed += sent[start:end]
            found = preamble.feed(sent[start:end], ended=False)
            assert found is not None
            assert preamble.take() == sent[start:end]
    else:
        assert len(before) <= MAX_EVENTS or expected is Found.CONTENT
        assert preamble.take() == fed
    assert found == expected


def test_an_event_without_its_empty_line() -> None:
    """The end of the stream completes the last event."""
    assert Preamble().feed(CONTENTS[0].rstrip(), ended=True) is Found.CONTENT


def test_not_more_than_so_many_events() -> None:
    """After eight of them the stream is taken for the answer."""
    preamble = Preamble()
    for _ in range(MAX_EVENTS):
        assert preamble.feed(PREAMBLES[0], ended=False) is None
    assert preamble.feed(PREAMBLES[1], ended=False) is Found.TOO_MUCH


def test_not_more_than_so_many_bytes() -> None:
    """The same after 16 KiB, be it of half an event."""
    preamble = Preamble()
    assert preamble.feed(b"data: " + b"x" * (MAX_BYTES - 6), ended=False) is None
    assert preamble.feed(b"x", ended=False) is Found.TOO_MUCH


def test_what_cannot_be_decoded() -> None:
    """It is for whoever looks into the answer to complain."""
    assert Preamble(decoder(b"gzip")).feed(b"no gzip", ended=False) is Found.CONTENT
