"""How strict mode takes requests and answers apart, whatever their endpoint."""

import gzip
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core._decoding import decoder
from onwards_core._errors import broken_stream_event
from onwards_core._sse import MAX_EVENT
from onwards_core._strict import Fault, _chat, _completions, _embeddings, _responses, endpoint, standard_error
from tests.core.strict_support import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, at, conforms, event, transform, whole

ALL = [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES]
CHUNK = b'{"choices":[{"delta":{"content":"x"}}]}'
WHOLE = b'{"choices":[{"message":{"content":"x"}}]}'


@pytest.mark.parametrize(
    "path", [b"", b"/v1/models", b"/chat/completions", b"/v1/chat/completions/", b"/v1/Embeddings"]
)
def test_no_endpoint(path: bytes) -> None:
    """Only the exact paths are endpoints."""
    assert endpoint(path) is None


# Requests


# Good for all endpoints
REQUEST = b'{"model":"m","messages":[{"role":"user","content":"x"}],"input":"x"}'
NO_JSON = [b"", b"{", REQUEST + b"}", b'{"user":"\xff"}', b'{"x":' + b"[" * 100_000]


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("body", NO_JSON, ids=lambda body: body[:20])
def test_request_that_is_no_json(path: bytes, body: bytes) -> None:
    """It is refused as a whole."""
    assert at(path).check_request(REQUEST) is None
    assert at(path).check_request(body) == Fault(None, "The body is not valid JSON.")


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("body", [b"[]", b"null", b'"x"'])
def test_request_that_is_no_object(path: bytes, body: bytes) -> None:
    """It is refused as a whole."""
    fault = at(path).check_request(body)
    assert fault is not None
    assert fault.param is None


def test_fault() -> None:
    """It tells the place and what is wrong there, and quotes no more than a little of what was sent."""
    check = at(CHAT).check_request
    assert check(b'{"model":"m"}') == Fault("messages", "This field is required.")
    message = b'{"model":"m","messages":[{"role":"user","content":%b}]}'
    assert check(message % b"1") == Fault("messages[0].content", "Expected `str | array`, got `int`.")
    assert check(message % b'[{"type":"text"}]') == Fault("messages[0].content[0].text", "This field is required.")
    mixed = at(COMPLETIONS).check_request(b'{"model":"m","prompt":["x",1]}')
    assert mixed == Fault("prompt", "Expected items of one type.")
    place = "messages[0].content[0].type"
    assert check(message % b'[{"type":" - at `$.x`"}]') == Fault(place, "Invalid value ' - at `$.x`'.")
    fault = check(message % b'[{"type":"%b"}]' % (b"x" * 10_000))
    assert fault is not None
    assert len(fault.message) < 250


# Whole answers

NOT_PARSABLE = [
    b"",
    b"nonsense",
    b"[]",
    b"null",
    WHOLE[:-1],
    WHOLE + WHOLE,
    b"\xef\xbb\xbf" + WHOLE,
    b'{"x":"\xff",' + WHOLE[1:],
    b'{"x":NaN,' + WHOLE[1:],
    b'{"created":1e999,' + WHOLE[1:],
    b'{"created":' + b"1" * 5000 + b"," + WHOLE[1:],
    b'{"x":' + b"[" * 100_000,
]


@pytest.mark.parametrize("body", NOT_PARSABLE, ids=lambda body: body[:30])
@pytest.mark.parametrize("path", ALL)
def test_answer_that_cannot_be_parsed(path: bytes, body: bytes) -> None:
    """There is no answer then."""
    assert at(path).whole(body, "alias", "default", 7) is None


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("error", ["secret", {"message": "secret"}, {"code": 429}], ids=str)
def test_error_as_answer(path: bytes, error: Any) -> None:
    """An error is no answer, even where an answer is beside it."""
    assert whole(path, {"error": error}) is None
    assert whole(path, {"error": error, "choices": [], "data": [], "output": []}) is None


def test_big_numbers() -> None:
    """A number is kept, however big."""
    usage = {"usage": {"total_tokens": 10**30, "prompt_tokens": 2**64, "completion_tokens": -1.5}}
    assert whole(CHAT, {"choices": [], **usage})["usage"] == usage["usage"]


FIELDS = """
    choices message delta content tool_calls function arguments logprobs usage prompt_tokens_details error finish_reason
    data embedding index text top_logprobs tokens output type item part annotations action sources response status
    model id created object metadata tools parameters filters x_acme
""".split()
anything: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=30,
)
typed = {
    CHAT: (_chat.ChatCompletion, _chat.ChatCompletionChunk),
    COMPLETIONS: (_completions.Completion, _completions.CompletionChunk),
    EMBEDDINGS: (_embeddings.Embeddings, _embeddings.Embeddings),
    RESPONSES: (_responses.Response, _responses.Event),
}


@pytest.mark.parametrize("path", ALL)
@given(inner=anything, name=st.sampled_from(FIELDS), other=anything)
def test_whatever_comes_conforms(path: bytes, inner: Any, name: str, other: Any) -> None:
    """Known names in any place, with any values: what comes out is of the schema on all levels, or nothing does."""
    answer, of_event = typed[path]
    body = {"choices": [{"message": inner, "delta": inner, "text": "x"}], "data": [{"embedding": [1]}]}
    body |= {"output": [{"content": [inner], "action": other}], "type": "response.created", "item": inner, name: other}
    got = whole(path, body)
    assert got is None or conforms(got, answer)
    strict = transform(path)
    out = strict.feed(event(json.dumps(body).encode()))
    for line in out.splitlines():
        if line.startswith(b"data: {") and not line.startswith(b'data: {"error"'):
            assert conforms(json.loads(line.removeprefix(b"data: ")), of_event)


@pytest.mark.parametrize("path", ALL)
@given(request=st.dictionaries(st.sampled_from(["messages", "input", "prompt", "tools", "model"]), anything))
def test_any_request_is_judged(path: bytes, request: Any) -> None:
    """A request passes or has a fault that can be told, whatever it is."""
    fault = at(path).check_request(json.dumps(request).encode())
    assert fault is None or fault.message.endswith(".")


def test_too_many_objects_in_a_request() -> None:
    """What would take a multiple of its size to look at is not looked at."""
    chat = endpoint(b"/v1/chat/completions")
    assert chat is not None
    fault = chat.check_request(b'{"model": "m", "messages": [%b{}]}' % (b"[]," * 250_000))
    assert fault == Fault(None, "The body has too many objects and lists.")


def test_too_many_objects() -> None:
    """An answer of nothing but objects, which take far more memory than their text, is refused."""
    body = b'{"output":[%b]}'
    assert at(RESPONSES).whole(body % b",".join([b"{}"] * 249_999), "alias", "default", 7) is not None
    assert at(RESPONSES).whole(body % b",".join([b"{}"] * 250_000), "alias", "default", 7) is None


# Streams


def test_comments_and_done() -> None:
    """Comments are dropped, and so is all but data; `[DONE]` passes where it came, and is never added."""
    strict = transform(CHAT)
    chunk = strict.feed(b": ACME\n\nid: 1\nevent: acme\n" + event(CHUNK) + b":\n\n")
    assert re.fullmatch(rb'data: \{"id":"default".*\}\n\n', chunk)
    assert strict.feed(b"data:[DONE] \n\n") == b"data: [DONE]\n\n"
    strict = transform(CHAT)
    assert b"DONE" not in strict.feed(event(CHUNK)) + strict.finish() + strict.abort()


@pytest.mark.parametrize("data", [*NOT_PARSABLE[1:], WHOLE[1:]], ids=lambda data: data[:30])
@pytest.mark.parametrize("path", ALL)
def test_event_that_cannot_be_parsed(path: bytes, data: bytes) -> None:
    """It is a failure, and nothing of it or after it passes."""
    strict = transform(path)
    assert strict.feed(event(data) + event(b"[DONE]")) == b""
    assert strict.failed
    assert strict.abort() == broken_stream_event()


def test_what_came_before_a_failure_passes() -> None:
    """The events before the one that can't be parsed are good."""
    expected = transform(CHAT).feed(event(CHUNK))
    strict = transform(CHAT)
    assert strict.feed(event(CHUNK) + event(b"{}") + event(CHUNK)) == expected
    assert strict.failed


def test_event_without_an_end() -> None:
    """It fails over its limit, with nothing of it passed on."""
    strict = transform(CHAT)
    assert strict.feed(b"data: " + b"x" * MAX_EVENT) == b""
    assert strict.failed


def test_data_in_several_lines() -> None:
    """An event over several lines comes out as one line, also where it is kept byte for byte."""
    strict = transform(RESPONSES)
    item = b'{"type": "tool_search_call", "arguments": {"a":\ndata: [1,\ndata: 2]}}'
    out = strict.feed(b'data: {"type": "response.output_item.done", "item":\ndata: ' + item + b"}\n\n")
    head, data, *rest = out.split(b"\n")
    assert head == b"event: response.output_item.done"
    assert json.loads(data.removeprefix(b"data: "))["item"]["arguments"] == {"a": [1, 2]}
    assert rest == [b"", b""]


ERRORS = [
    (CHAT, {"error": {"code": 429, "message": "secret"}}, 429),
    (CHAT, {"error": {"code": 401, "message": "secret"}}, 502),
    (CHAT, {"error": "secret", "choices": []}, 500),
    (CHAT, {"object": "error", "message": "secret", "code": 400}, 400),
    (COMPLETIONS, {"error": {"type": "overloaded_error"}, "choices": []}, 529),
    (EMBEDDINGS, {"error": {"type": "not_found_error"}}, 404),
    (RESPONSES, {"type": "error", "code": "rate_limit_exceeded", "message": "secret"}, 429),
    (RESPONSES, {"type": "error", "error": {"code": "408"}}, 504),
    (RESPONSES, {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, 500),
    (RESPONSES, {"type": "response.something_new", "error": {"code": 503}}, 503),
    (RESPONSES, {"error": {"code": 503}}, 503),
]


@pytest.mark.parametrize(("path", "data", "status"), ERRORS, ids=str)
def test_untrusted_error(path: bytes, data: Any, status: int) -> None:
    """An error becomes the standard one for its status, and the stream goes on."""
    strict = transform(path)
    out = strict.feed(event(json.dumps(data).encode()) + event(b"[DONE]"))
    assert out == event(standard_error(status)) + event(b"[DONE]")
    assert not strict.failed


@pytest.mark.parametrize(("path", "data", "status"), ERRORS, ids=str)
def test_trusted_error(path: bytes, data: Any, status: int) -> None:
    """A trusted provider's error passes as it is, framed as events of its endpoint are."""
    sent = json.dumps(data).encode()
    known = data.get("type") in ("error", "response.failed")
    head = b"event: %b\n" % data["type"].encode() if known else b""
    strict = transform(path, trusted=True)
    assert strict.feed(event(sent) + event(b"[DONE]")) == head + event(sent) + event(b"[DONE]")
    assert not strict.failed


def test_trusted_error_in_several_lines() -> None:
    """The lines of its data stay lines of data."""
    sent = b'data: {"error":\ndata: {"code": 429}}\n\n'
    assert transform(CHAT, trusted=True).feed(sent) == sent


def test_truncated_compressed_stream() -> None:
    """A compressed stream that lacks its end is a failure, though all events came."""
    strict = transform(CHAT, decoder(b"gzip"))
    assert strict.feed(gzip.compress(event(CHUNK))[:-1]) == transform(CHAT).feed(event(CHUNK))
    assert strict.finish() == b""
    assert strict.failed


pieces = st.sampled_from(
    [
        *(event(CHUNK).replace(b"\n", end) for end in (b"\n", b"\r", b"\r\n")),
        event('{"choices":[{"delta":{"content":"h\u00e9\u20ac"}}]}'.encode()),
        b'data: {"choices":\ndata: []}\n\n',
        b": ping\n\n",
        b"event: x\n\n",
        event(b'{"error":{"code":429}}'),
        event(b"[DONE]"),
        event(b"{}"),
    ]
)


@given(
    stream=st.lists(pieces).map(b"".join),
    step=st.integers(min_value=1, max_value=50),
    gzipped=st.booleans(),
    trusted=st.booleans(),
)
def test_any_cut(stream: bytes, step: int, gzipped: bool, trusted: bool) -> None:
    """The same comes out however the bytes arrive, compressed or not, and each event of it is framed by us."""
    uncut = transform(CHAT, trusted=trusted)
    expected = uncut.feed(stream)
    *events, end = expected.split(b"\n\n")
    assert end == b""
    assert all(re.fullmatch(rb'data: (\[DONE\]|\{"(id|error)":.*\})', framed) for framed in events)

    sent = gzip.compress(stream) if gzipped else stream
    cut = transform(CHAT, decoder(b"gzip") if gzipped else None, trusted=trusted)
    out = b""
    for start in range(0, len(sent), step):
        out += cut.feed(sent[start : start + step])
        if cut.failed:
            break
    else:
        out += cut.finish()
    assert out == expected
    assert cut.failed == uncut.failed
