"""What a client gets to see of a provider's answer, and what it never does."""

import gzip
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import BaseModel
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionChunk, chat_completion, chat_completion_chunk
from openai.types.completion_usage import CompletionTokensDetails, PromptTokensDetails

from onwards_core._actions import Transform
from onwards_core._decoding import decoder
from onwards_core._errors import broken_stream_event
from onwards_core._sanitize import PassEvents, SanitizeEvents, sanitize_completion
from onwards_core._sse import MAX_EVENT

CHUNK = b'{"id":"c1","object":"chat.completion.chunk","created":5,"model":"x","choices":[{"index":0,"delta":{}}]}'


def sanitizer(content_encoding: bytes | None = None) -> SanitizeEvents:
    """A sanitizer as an exchange would make it."""
    return SanitizeEvents("alias", "default", 7, decoder(content_encoding))


def event(data: bytes) -> bytes:
    """Data that is one line, framed."""
    return b"data: " + data + b"\n\n"


def sanitized(chunk: bytes) -> Any:
    """The one chunk that becomes of this one."""
    sanitizing = sanitizer()
    out = sanitizing.feed(event(chunk))
    assert not sanitizing.failed
    assert out.startswith(b"data: ")
    assert out.endswith(b"\n\n")
    assert out.count(b"\n") == 2
    return json.loads(out.removeprefix(b"data: "))


def sanitized_completion(body: bytes) -> Any:
    """What becomes of a plain completion."""
    out = sanitize_completion(body, "alias", "default", 7)
    assert out is not None
    return json.loads(out)


def with_extras(fields: dict[str, Any]) -> dict[str, Any]:
    """The same object with something in it that only this provider knows."""
    return {"provider": "acme", **fields, "x_groq": {"id": 1}, "Model": "y"}


def filled(schema: type[BaseModel], /, **fields: Any) -> dict[str, Any]:
    """An object with every field of one of OpenAI's models: those given, and 1 for the others."""
    return {name: fields.get(name, 1) for name in schema.model_fields}


USAGE = {
    "prompt_tokens_details": filled(PromptTokensDetails),
    "completion_tokens_details": filled(CompletionTokensDetails),
}
FREE = {"a": [1.50, None], "extra": {"deep": True}}


def test_chunk_fields() -> None:
    """Exactly the fields that OpenAI's client knows are kept on each level; the delta stays whole."""
    choice = filled(chat_completion_chunk.Choice, delta=FREE, logprobs=FREE)
    usage = filled(CompletionUsage, **USAGE)
    expected = filled(ChatCompletionChunk, choices=[choice, choice], usage=usage, moderation=FREE, model="alias")
    sent = with_extras(
        expected
        | {"choices": [with_extras(choice), with_extras(choice)], "model": "gpt-secret"}
        | {"usage": with_extras(usage | {name: with_extras(details) for name, details in USAGE.items()})}
    )
    assert sanitized(json.dumps(sent).encode()) == expected


def test_completion_fields() -> None:
    """Exactly the fields that OpenAI's client knows are kept on each level; the message stays whole."""
    choice = filled(chat_completion.Choice, message=FREE, logprobs=FREE)
    usage = filled(CompletionUsage, **USAGE)
    expected = filled(
        ChatCompletion, choices=[choice, choice], usage=usage, metadata=FREE, moderation=FREE, model="alias"
    )
    sent = with_extras(
        expected
        | {"choices": [with_extras(choice), with_extras(choice)], "model": "gpt-secret"}
        | {"usage": with_extras(usage | {name: with_extras(details) for name, details in USAGE.items()})}
    )
    assert sanitized_completion(json.dumps(sent).encode()) == expected


@pytest.mark.parametrize(
    "start", ['{"choices":[]}', '{"choices":[],"id":null,"object":null,"created":null,"model":null}']
)
def test_defaults(start: str) -> None:
    """What the schema requires is filled in when it is missing or null, the model always."""
    expected = {"choices": [], "id": "default", "created": 7, "model": "alias"}
    assert sanitized(start.encode()) == expected | {"object": "chat.completion.chunk"}
    assert sanitized_completion(start.encode()) == expected | {"object": "chat.completion"}


def test_absent_and_null() -> None:
    """What is absent stays absent and what is null stays null."""
    chunk = {"id": "", "object": "", "created": 0, "model": "alias", "choices": [{}], "usage": None}
    chunk |= {"service_tier": None, "moderation": None}
    assert sanitized(json.dumps(chunk).encode()) == chunk
    chunk["choices"] = [{"index": None, "delta": None, "finish_reason": None, "logprobs": None}]
    chunk["usage"] = {"prompt_tokens": None, "prompt_tokens_details": None, "completion_tokens_details": {}}
    assert sanitized(json.dumps(chunk).encode()) == chunk


def test_raw_bytes() -> None:
    """Deltas, messages and log probabilities keep the spelling of their numbers, escapes and spaces."""
    raw = b'{"content": "\\u00e9\xc3\xa9\\/", "n": [1.50, 1e2, 123456789012345678901234567890] , "a":1, "a":2}'
    chunk = b'{"choices":[{"delta":%b,"logprobs":%b}]}' % (raw, raw)
    out = sanitizer().feed(event(chunk))
    assert b'"delta":' + raw in out
    assert b'"logprobs":' + raw in out
    completion = sanitize_completion(b'{"choices":[{"message":%b}]}' % raw, "alias", "default", 7)
    assert completion is not None
    assert b'"message":' + raw in completion


@given(name=st.text())
def test_model_is_what_the_client_asked_for(name: str) -> None:
    """Whatever a client calls its model comes back as it was."""
    out = SanitizeEvents(name, "default", 7).feed(event(CHUNK))
    assert json.loads(out.removeprefix(b"data: "))["model"] == name


NOT_PARSABLE = [
    b"",
    b"nonsense",
    b"[]",
    b'"choices"',
    b"{}",
    b'{"choices":null}',
    b'{"choices":{}}',
    b'{"choices":[1]}',
    b'{"choices":[null]}',
    b'{"choices":[]',
    b'{"choices":[]}{"choices":[]}',
    b'{"choices":[],"usage":[]}',
    b'{"choices":[],"id":{"secret":1}}',
    b'{"choices":[],"usage":{"total_tokens":["secret"]}}',
    b'{"choices":[{"delta":NaN}]}',
    b'{"choices":[],"x":Infinity}',
    b'{"choices":[{"delta":"\xff","message":"\xff"}]}',
    b'{"choices":[],"x":"\xc3"}',
    b'{"choices":[{"delta":"\x01","message":"\x01"}]}',
    b'{"choices":[],"id":' + b"1" * 5000 + b"}",
    b'{"choices":[{"delta":%b,"message":1}]}' % (b"[" * 100_000 + b"]" * 100_000),
    b'{"choices":[],"x":' + b'{"a":' * 100_000,
    b'{"error":{"message":"secret"}}',
    b"\xef\xbb\xbf{}",
]


@pytest.mark.parametrize("data", NOT_PARSABLE[1:], ids=lambda data: data[:40])
def test_chunk_that_cannot_be_parsed(data: bytes) -> None:
    """It is a failure, nothing of it or after it passes, and what came before it does."""
    sanitizing = sanitizer()
    before = sanitizing.feed(event(CHUNK))
    assert sanitizing.feed(event(CHUNK) + event(data) + event(CHUNK)) == before
    assert sanitizing.failed
    assert sanitizing.abort() == broken_stream_event()


@pytest.mark.parametrize("body", NOT_PARSABLE, ids=lambda data: data[:40])
def test_completion_that_cannot_be_parsed(body: bytes) -> None:
    """There is no answer then."""
    assert sanitize_completion(body, "alias", "default", 7) is None


def test_data_in_several_lines() -> None:
    """A chunk over several lines comes out as one line, with the same meaning."""
    sanitizing = sanitizer()
    out = sanitizing.feed(
        b'data: {"choices": [\ndata: {"delta": {\ndata:"content":\r\ndata: "a\\nb"\rdata: }}]}\r\n\r\n'
    )
    assert out.count(b"\n") == 2
    assert b"\r" not in out
    assert json.loads(out.removeprefix(b"data: "))["choices"] == [{"delta": {"content": "a\nb"}}]


def test_line_break_inside_a_string() -> None:
    """A string that is cut over two lines is no JSON."""
    sanitizing = sanitizer()
    assert sanitizing.feed(b'data: {"choices": [{"delta": "a\ndata: b"}]}\n\n') == b""
    assert sanitizing.failed


def test_comments() -> None:
    """A comment keeps the client's connection alive, but its text stays here."""
    out = sanitizer().feed(b": ACME PROCESSING\n\n: data: x\n" + event(CHUNK))
    assert out.startswith(b":\n\n:\n\ndata: {")
    assert b"ACME" not in out


def test_events_without_data() -> None:
    """Other fields do not pass, and an event that has nothing else is gone."""
    sanitizing = sanitizer()
    assert sanitizing.feed(b"event: ping\nid: 1\n\n\n\ndata:\n\n") == b""
    assert b"acme" not in sanitizing.feed(b"event: acme\nid: acme\n" + event(CHUNK))
    assert not sanitizing.failed


def test_done() -> None:
    """`[DONE]` passes where the provider sent it, and is never added."""
    sanitizing = sanitizer()
    assert sanitizing.feed(b"data:[DONE] \n\n") == b"data: [DONE]\n\n"
    assert sanitizing.finish() == b""
    sanitizing = sanitizer()
    assert b"DONE" not in sanitizing.feed(event(CHUNK)) + sanitizing.finish() + sanitizing.abort()


def test_unfinished_last_event() -> None:
    """At the proper end the last event passes without its empty line; when it is broken, `finish` fails."""
    whole = sanitizer().feed(event(CHUNK))
    sanitizing = sanitizer()
    assert sanitizing.feed(b"data: " + CHUNK) == b""
    assert sanitizing.finish() == whole
    assert not sanitizing.failed
    sanitizing = sanitizer()
    assert sanitizing.feed(event(CHUNK) + b"data: " + CHUNK[:-1]) == whole
    assert sanitizing.finish() == b""
    assert sanitizing.failed


def test_event_without_an_end() -> None:
    """It fails over its limit, with nothing of it passed on."""
    sanitizing = sanitizer()
    assert sanitizing.feed(b"data: " + b"x" * (MAX_EVENT - 6)) == b""
    assert not sanitizing.failed
    assert sanitizing.feed(b"x") == b""
    assert sanitizing.failed


chunks = st.builds(
    lambda content, end: event(json.dumps({"choices": [{"delta": {"content": content}}]}).encode()).replace(b"\n", end),
    st.text(),
    st.sampled_from([b"\n", b"\r", b"\r\n"]),
) | st.sampled_from(
    [b": ping\n\n", b"event: x\n\n", event(b"[DONE]"), b'data: {"choices":\ndata: []}\n\n', event(b"{}")]
)


@given(stream=st.lists(chunks).map(b"".join), step=st.integers(min_value=1, max_value=50), gzipped=st.booleans())
def test_any_cut(stream: bytes, step: int, gzipped: bool) -> None:
    """The same comes out however the bytes arrive, compressed or not, and each event of it is framed by us."""
    whole = sanitizer()
    expected = whole.feed(stream)
    *events, end = expected.split(b"\n\n")
    assert end == b""
    assert all(re.fullmatch(rb':|data: \[DONE\]|data: \{"id":"default",.*\}', framed) for framed in events)

    sent = gzip.compress(stream) if gzipped else stream
    cut = sanitizer(b"gzip" if gzipped else None)
    out = b""
    for start in range(0, len(sent), step):
        out += cut.feed(sent[start : start + step])
        if cut.failed:
            break
    else:
        out += cut.finish()
    assert out == expected
    assert cut.failed == whole.failed


def test_truncated_compressed_stream() -> None:
    """A compressed stream that lacks its end is a failure, though all events came."""
    sent = gzip.compress(event(CHUNK))
    sanitizing = sanitizer(b"gzip")
    assert sanitizing.feed(sent[:-1]) == sanitizer().feed(event(CHUNK))
    assert sanitizing.finish() == b""
    assert sanitizing.failed


def test_corrupt_compressed_stream() -> None:
    """A compressed stream fails where it can't be decoded, and what came before passes."""
    sanitizing = sanitizer(b"gzip")
    assert sanitizing.feed(gzip.compress(event(CHUNK)) + b"rest") == sanitizer().feed(event(CHUNK))
    assert sanitizing.failed


def test_compressed_stream_stops_at_what_cannot_be_parsed() -> None:
    """No event passes after one that can't be parsed, however many pieces were still to be decoded."""
    events = event(CHUNK) + event(b"{}") + event(CHUNK) * 10_000
    sanitizing = sanitizer(b"gzip")
    assert sanitizing.feed(gzip.compress(events)) == sanitizer().feed(event(CHUNK))
    assert sanitizing.failed


tokens = st.sampled_from([b"data: 1", b"\n", b"\r", b"\r\n", b"\n\n", b":", b"abcdefgh"])


@given(pieces=st.lists(st.lists(tokens, max_size=4).map(b"".join)))
def test_pass_events(pieces: list[bytes]) -> None:
    """Every byte passes; the closing event stands by itself, after a blank line only inside an event."""
    passing: Transform = PassEvents()
    assert [passing.feed(piece) for piece in pieces] == pieces
    assert passing.finish() == b""
    assert not passing.failed
    stream = b"".join(pieces)
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    between_events = lines[-1] == b"" and lines[-2:-1] in ([], [b""])
    assert passing.abort() == (b"" if between_events else b"\n\n") + broken_stream_event()


def test_pass_events_as_they_are() -> None:
    """A chunk is not even copied."""
    data = event(CHUNK)
    assert PassEvents().feed(data) is data
