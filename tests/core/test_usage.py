"""How many tokens an answer took, found in what passes by."""

import json
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import Exchange, Record, SendUpstream, StreamThrough, Transform, UpstreamResponded, Usage
from onwards_core._sanitize import PassEvents
from onwards_core._usage import TAIL, UsageReader, Watched, find_usage
from tests.core.gateway_support import chat, gateway, pool

CHAT = {"prompt_tokens": 12, "completion_tokens": 30, "prompt_tokens_details": {"cached_tokens": 8}}
RESPONSE = {"input_tokens": 12, "output_tokens": 30, "input_tokens_details": {"cached_tokens": 8}}
EMBEDDING = {"prompt_tokens": 12, "total_tokens": 12}
WHOLE = Usage(12, 30, 8)

LIES = st.text(alphabet='"\\:{}usage 019', max_size=30) | st.just('"usage": {"prompt_tokens": 9}')


def body(usage: Any, text: str = "hello") -> bytes:
    """A completion with this text."""
    return json.dumps({"id": "x", "choices": [{"message": {"content": text}}], "usage": usage}).encode()


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (CHAT, WHOLE),
        (RESPONSE, WHOLE),
        (EMBEDDING, Usage(12, 0)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": None}, Usage(1, 2)),
        ({"prompt_tokens": 1, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": None}}, Usage(1, 2)),
        (None, None),
        ("many", None),
        ({"prompt_tokens": "many"}, None),
        ({"total_tokens": 3}, None),
    ],
)
def test_forms(usage: Any, found: Usage | None) -> None:
    """Those of chat completions, completions, embeddings and responses; what is none of them tells nothing."""
    assert find_usage(body(usage)) == found


@given(LIES, LIES)
def test_no_text_is_taken_for_it(before: str, after: str) -> None:
    """Whatever a model writes, or stands in a value: only the member counts."""
    text = json.dumps({"content": before, "usage": CHAT, "metadata": {"note": after, "usage": after}})
    assert find_usage(text.encode()) == WHOLE


@pytest.mark.parametrize(
    "tail", [b"", b'"usage"', b'"usage": ', b'"usage": {"prompt_tokens": 1', b'"usage": ' + b"[" * 5000]
)
def test_what_is_cut(tail: bytes) -> None:
    """A body that ended too early tells nothing."""
    assert find_usage(tail) is None


def watched(path: bytes, transform: Transform | None, encoding: bytes | None = None) -> tuple[Transform | None, Any]:
    """What a body goes through, and the record and the reader that look at it."""
    record = Record("POST", path, 0.0)
    reader = UsageReader(record)
    return reader.watch(transform, encoding), (record, reader)


@given(st.integers(0, 3 * TAIL), st.data())
def test_passes_by(size: int, data: st.DataObject) -> None:
    """Each byte goes on at once, however the body was cut, and the end of it is enough."""
    whole = body(CHAT, "a" * size)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    through, (record, reader) = watched(b"/v1/chat/completions", None)
    assert isinstance(through, Watched)
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    for piece in pieces:
        assert through.feed(piece) == piece
    assert (through.finish(), through.abort(), through.failed) == (b"", b"", False)
    assert (
        len(through.tail())
        < TAIL + max(len(whole[a:b]) for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)) + 1
    )
    reader.close()
    reader.close()
    assert record.usage == WHOLE


def test_streams() -> None:
    """The last event that has one counts; what the stream's own transform does stays as it is."""
    through, (record, reader) = watched(b"/v1/responses", PassEvents())
    assert through is not None
    for piece in (
        b'data: {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}\n\n',
        b"data: " + body(RESPONSE),
        b"\n\n",
    ):
        assert through.feed(piece) == piece
    assert through.finish() == b""
    assert through.abort().startswith(b"data: ")
    reader.close()
    assert record.usage == WHOLE


@pytest.mark.parametrize(("encoding", "wbits"), [(b"gzip", 31), (b"deflate", 15)])
def test_compressed(encoding: bytes, wbits: int) -> None:
    """It is read all the same, and passes as it came."""
    compress = zlib.compressobj(wbits=wbits)
    raw = compress.compress(body(CHAT)) + compress.flush()
    through, (record, reader) = watched(b"/v1/embeddings", None, encoding)
    assert through is not None
    assert through.feed(raw[:9]) + through.feed(raw[9:]) == raw
    reader.close()
    assert record.usage == WHOLE


def test_what_cannot_be_read() -> None:
    """Other encodings, broken ones and other endpoints pass without a look."""
    assert watched(b"/v1/completions", None, b"br")[0] is None
    assert watched(b"/v1/files", None)[0] is None
    through, (record, reader) = watched(b"/v1/completions", None, b"gzip")
    assert through is not None
    assert through.feed(b"not gzip") + through.feed(b" at all") == b"not gzip at all"
    reader.close()
    reader.read(body(CHAT))
    assert record.usage == WHOLE
    other = Record("POST", b"/v1/files", 0.0)
    UsageReader(other).read(body(CHAT))
    assert other.usage is None


def through_exchange(exchange: Exchange, content_type: bytes, pieces: list[bytes]) -> bytes:
    """What a client gets of an answer in these pieces."""
    with exchange:
        assert isinstance(exchange.begin(0.0), SendUpstream)
        action = exchange.feed(UpstreamResponded(200, [(b"content-type", content_type)]), 1.0)
        assert isinstance(action, StreamThrough)
        assert action.transform is not None
        return b"".join(map(action.transform.feed, pieces)) + action.transform.finish()


def test_in_an_exchange() -> None:
    """The record has it when the exchange is closed, of plain answers and of streams."""
    at = gateway({"m": pool("one")})
    plain = at.admit(chat(), 0.0)
    assert through_exchange(plain, b"application/json", [body(CHAT)]) == body(CHAT)
    assert plain.record.usage == WHOLE
    streamed = at.admit(chat(), 0.0)
    event = b"data: %b\n\n" % body(CHAT)
    assert through_exchange(streamed, b"text/event-stream", [event, b"data: [DONE]\n\n"]).startswith(event)
    assert streamed.record.usage == WHOLE
