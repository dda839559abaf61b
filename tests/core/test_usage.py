"""How many tokens an answer took, found in what passes by."""

import json
import re
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import Exchange, Record, Request, SendUpstream, StreamThrough, Transform, UpstreamResponded, Usage
from onwards_core._sanitize import PassEvents
from onwards_core._usage import TAIL, HideUsage, UsageReader, Watched, find_usage
from tests.core.gateway_support import chat, gateway, pool
from tests.core.sse_support import defined

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


NUMBERS = st.none() | st.integers(0, 10**20) | st.just("{") | st.just(1.5)
OTHERS = st.text(alphabet='{}[]:,"\\ü', max_size=6) | st.lists(st.dictionaries(st.just("x"), st.just({"y": {}})))
USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"), NUMBERS),
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({"cached_tokens": NUMBERS, "other": OTHERS}),
        "other": OTHERS,
    },
)


@given(USAGES, st.integers(0, 8000))
def test_where_it_stands_does_not_matter(usage: dict[str, Any], size: int) -> None:
    """At the end of a body, before a long rest, inside of another object, in an event: it means the same."""
    wholes: list[dict[str, Any]] = [
        {"choices": [], "usage": usage},
        {"usage": usage, "rest": {"text": "a" * size}},
        {"response": {"usage": usage}},
    ]
    texts = [json.dumps(whole, ensure_ascii=False, indent=size % 3 or None).encode() for whole in wholes]
    numbers = [value for name, value in usage.items() if name.endswith("tokens")]
    details = usage.get("prompt_tokens_details") or {"cached_tokens": None}
    fits = all(value is None or isinstance(value, int) for value in [*numbers, details["cached_tokens"]])

    taken = next((usage[name] for name in ("prompt_tokens", "input_tokens") if usage.get(name) is not None), None)
    expected = None
    if fits and taken is not None:
        made = usage.get("completion_tokens") or usage.get("output_tokens") or 0
        expected = Usage(taken, made, details["cached_tokens"] or 0)
    for text in [*texts, b"data: %b\n\ndata: [DONE]\n\n" % texts[0]]:
        assert find_usage(text) == expected


@pytest.mark.parametrize(
    "tail", [b"", b'"usage"', b'"usage": ', b'"usage": {"prompt_tokens": 1', b'"usage": ' + b"[" * 5000]
)
def test_what_is_cut(tail: bytes) -> None:
    """A body that ended too early tells nothing."""
    assert find_usage(tail) is None


def test_what_is_broken_behind_it() -> None:
    """It counts all the same, be the rest nested without end."""
    for rest in (b"", b"]", b', "x": ' + b"[" * 4000 + b"}", b', "x": ' + b"[" * 5000 + b"}"):
        assert find_usage(b'{"usage": {"prompt_tokens": 1}' + rest) == Usage(1, 0)


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


def test_only_the_end_is_kept() -> None:
    """Of a long stream, so that it takes no more memory than a short one."""
    through = Watched(None, None)
    pieces = [b"%04d" % number * 256 for number in range(40)]
    for piece in pieces:
        through.feed(piece)
    assert through.tail() == b"".join(pieces[-TAIL // 1024 :])


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


# `inject_usage`

USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":30}}'
EVENTS = [
    b'data: {"choices":[{"delta":{"content":"\\"usage\\""}}],"usage":null}',
    b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":1}}',
    b'data: {"choices":[],"usage":null}',
    b'data: {"choices":[],"prompt_filter_results":[]}',
    b'data: "usage"',
    b'data: {"usage": \xff',
    b": usage",
    b'event: x\nid: 1\ndata: {"type":"usage"}',
    b"data: [DONE]",
]
ENDS = st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])


@given(st.data())
def test_only_that_event_is_hidden(data: st.DataObject) -> None:
    """All others pass as they are, however the stream was cut."""
    events = data.draw(st.lists(st.sampled_from([USAGE, *EVENTS]), max_size=8))
    ends = [data.draw(ENDS) for _ in events]
    stream = b"".join(map(bytes.__add__, events, ends))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    hide = HideUsage(PassEvents())
    passed = b"".join(hide.feed(stream[a:b]) for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))
    assert not hide.failed
    kept = b"".join(event + end for event, end in zip(events, ends, strict=True) if event is not USAGE)
    passed += hide.finish()
    assert defined(passed) == defined(kept)
    # But for half a line end that an event's end was cut in, which ends no event.
    assert re.sub(rb"[\r\n]", b"", passed) == re.sub(rb"[\r\n]", b"", kept)


def test_the_last_event_may_lack_its_end() -> None:
    """It is hidden if it is the one, and passes if not; a stream that breaks off is told as without this."""
    for event, passed in ((USAGE, b""), (EVENTS[0], EVENTS[0])):
        hide = HideUsage(PassEvents())
        assert hide.feed(event) == b""
        assert hide.finish() == passed
    hide = HideUsage(PassEvents())
    assert hide.feed(b"data: 1") == b""
    assert hide.abort().startswith(b"data: 1\n\ndata: {")


def test_a_long_event_passes() -> None:
    """Nothing is held for long."""
    hide = HideUsage(PassEvents())
    event = b"data: " + b"a" * 1_100_000
    assert hide.feed(event) == event


@pytest.mark.parametrize(
    ("members", "sent"),
    [
        ({"stream": True}, {"include_usage": True}),
        ({"stream": True, "stream_options": None}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"x": 1.0}}, {"x": 1.0, "include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}),
        ({"stream": True, "stream_options": {"include_usage": True}}, None),
        ({"stream": True, "stream_options": "x"}, None),
        ({"stream": False}, None),
        ({}, None),
    ],
)
def test_streams_are_asked(members: dict[str, Any], sent: dict[str, Any] | None) -> None:
    """Those that were not; the rest of the body stays. Only then is the event hidden, and told of in the record."""
    at = gateway({"m": pool("one", inject_usage=True)})
    raw = json.dumps({"model": "m", "big": 10**30, **members}).encode()
    request = Request("POST", b"/v1/chat/completions", [(b"content-type", b"application/json")], raw)
    with at.admit(request, 0.0) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert json.loads(action.body) == {**json.loads(raw), **({"stream_options": sent} if sent else {})}
        assert ((b"accept-encoding", b"identity") in action.headers) is (sent is not None)
        answer = exchange.feed(UpstreamResponded(200, [(b"content-type", b"text/event-stream")]), 1.0)
        assert isinstance(answer, StreamThrough)
        assert answer.transform is not None
        assert answer.transform.feed(USAGE + b"\n\n") == (b"" if sent else USAGE + b"\n\n")
    assert exchange.record.usage == Usage(12, 30)


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        (b"/v1/responses", b"application/json", b'{"model": "m", "stream": true}'),
        (b"/v1/completions", b"text/plain", b"stream"),
        (
            b"/v1/completions",
            b"multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--\r\n',
        ),
    ],
)
def test_other_requests_are_not_asked(path: bytes, kind: bytes, body: bytes) -> None:
    """What has no `stream_options` goes as it came."""
    at = gateway({"m": pool("one", inject_usage=True)})
    headers = [(b"content-type", kind), (b"model-override", b"m")]
    with at.admit(Request("POST", path, headers, body), 0.0) as exchange:
        action = exchange.begin(0.0)
    assert isinstance(action, SendUpstream)
    assert action.body == body
