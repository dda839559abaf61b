"""What strict mode makes of chat completions, with OpenAI's published types as the oracle."""

from typing import Any

import pytest
from hypothesis import given
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as Params

from onwards_core._strict import _chat
from tests.core.openai_types import examples, fields, keeps, names, pairs, published_names, values
from tests.core.strict_support import CHAT, all_names, at, fault, fault_at, streamed, whole, without_extras

REQUEST: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
REASONING = {"reasoning", "reasoning_content", "reasoning_details"}

# Requests


def test_parameters() -> None:
    """Every parameter that OpenAI publishes is typed, and no other."""
    assert names(_chat.ChatRequest) == set(fields(Params)) | {"stream"}


@pytest.mark.parametrize("request_", examples(Params), ids=lambda _: "")
def test_every_published_request(request_: Any) -> None:
    """No type of any field is refused."""
    assert fault(CHAT, request_) is None


@given(request=values(Params, extra=True))
def test_published_requests(request: Any) -> None:
    """What OpenAI's client may send is accepted, with fields that nobody knows in each object."""
    assert fault(CHAT, request, model="m", messages=request.get("messages", REQUEST["messages"])) is None


@pytest.mark.parametrize(
    "more",
    [
        {"messages": [{"role": "assistant", "content": None, "tool_calls": None}]},
        {"messages": [{"role": "assistant", "reasoning_content": "hm", "tool_calls": []}]},
        {
            "messages": [
                {"role": "tool", "tool_call_id": "c", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}
            ]
        },
        {"temperature": 0, "top_p": 1, "n": 1, "presence_penalty": -2, "frequency_penalty": 2, "seed": -1},
        dict.fromkeys(sorted(names(_chat.ChatRequest) - {"model", "messages"})),
        {"stop": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}},
        {"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}, "guided_json": {}},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
        {"model": "unheard-of", "reasoning_effort": "new", "service_tier": "new"},
    ],
    ids=str,
)
def test_request_that_passes(more: dict[str, Any]) -> None:
    """Null stands for absent, and what only the provider can judge is left to it."""
    assert fault(CHAT, REQUEST, **more) is None


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [*REQUEST["messages"], {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"text": "x"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "txt"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "u"}]}]},
            "messages[0].content[0].image_url",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {}}]}]},
            "messages[0].tool_calls[0].function.name",
        ),
        ({"model": 1}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"n": 0}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"logit_bias": {"1": 101}}, "logit_bias[...]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"stop": [1]}, "stop[0]"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "hammer"}]}, "tools[0].type"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
    ],
    ids=str,
)
def test_fault(more: dict[str, Any], place: str) -> None:
    """What no provider could understand is refused, with its place."""
    assert fault_at(CHAT, REQUEST, **more) == place


# Answers


def test_fields_of_completions() -> None:
    """Exactly the fields that OpenAI publishes are known on each level, and those for reasoning."""
    found = pairs(_chat.ChatCompletion, ChatCompletion)
    more = {_chat.ChatCompletion: {"error"}, _chat.AnswerMessage: REASONING, _chat.ToolCall: {"index"}}
    for schema, models in found.items():
        assert names(schema) == published_names(models) | more.get(schema, set()), schema


def test_fields_of_chunks() -> None:
    """Exactly the fields that OpenAI publishes are known on each level, and those for reasoning."""
    found = pairs(_chat.ChatCompletionChunk, ChatCompletionChunk)
    more = {_chat.ChatCompletionChunk: {"error"}, _chat.Delta: REASONING, _chat.ToolCall: {"custom"}}
    for schema, models in found.items():
        assert names(schema) == published_names(models) | more.get(schema, set()), schema


@given(answer=values(ChatCompletion, extra=True))
def test_completions(answer: Any) -> None:
    """All that OpenAI publishes is kept, and nothing else; model and object are the right ones."""
    got = whole(CHAT, answer)
    assert keeps(got, without_extras(answer) | {"model": "alias", "object": "chat.completion"})
    assert set(all_names(got)) <= set(all_names(without_extras(answer))) | {"role", "content", "logprobs"}


@given(chunk=values(ChatCompletionChunk, extra=True))
def test_chunks(chunk: Any) -> None:
    """All that OpenAI publishes is kept, and nothing else; model and object are the right ones."""
    got = streamed(CHAT, chunk)
    assert keeps(got, without_extras(chunk) | {"model": "alias", "object": "chat.completion.chunk"})
    assert set(all_names(got)) <= set(all_names(without_extras(chunk))) | {"finish_reason"}


@pytest.mark.parametrize("answer", examples(ChatCompletion), ids=lambda _: "")
def test_every_published_completion(answer: Any) -> None:
    """Each type of each field is kept."""
    assert keeps(whole(CHAT, answer), answer | {"model": "alias"})


@pytest.mark.parametrize("chunk", examples(ChatCompletionChunk), ids=lambda _: "")
def test_every_published_chunk(chunk: Any) -> None:
    """Each type of each field is kept."""
    assert keeps(streamed(CHAT, chunk), chunk | {"model": "alias"})


def test_defaults() -> None:
    """What the schema requires is filled in, and choices are counted."""
    head = {"id": "default", "created": 7, "model": "alias"}
    message = {"role": "assistant", "content": None}
    rest = {"finish_reason": None, "logprobs": None, "message": message}
    assert whole(CHAT, {"choices": [{"message": {}}, {"message": {}}]}) == head | {
        "object": "chat.completion",
        "choices": [{"index": 0, **rest}, {"index": 1, **rest}],
    }
    assert streamed(CHAT, {"choices": [{}], "id": None, "created": None}) == head | {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "finish_reason": None, "delta": {}}],
    }


def test_thoughts() -> None:
    """Reasoning is kept in all its spellings, and nothing beside it."""
    thoughts: dict[str, Any] = {"reasoning": "a", "reasoning_content": "b"}
    detail = {"type": "reasoning.text", "text": "c", "signature": None, "id": "r", "format": "f", "index": 0}
    sent = thoughts | {"reasoning_details": [detail | {"cost": 1}], "provider": "acme"}
    kept = thoughts | {"reasoning_details": [detail]}
    assert streamed(CHAT, {"choices": [{"delta": sent}]})["choices"][0]["delta"] == kept
    got = whole(CHAT, {"choices": [{"message": sent}]})["choices"][0]["message"]
    assert got == kept | {"role": "assistant", "content": None}


def test_tool_call_deltas() -> None:
    """A call of a tool is kept piece by piece."""
    calls = [{"index": 1, "function": {"arguments": '{"a"'}}, {"index": 2, "id": "c", "type": "function"}]
    assert streamed(CHAT, {"choices": [{"delta": {"tool_calls": calls}}]})["choices"][0]["delta"] == {
        "tool_calls": calls
    }


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": None},
        {"choices": [{}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": {"secret": 1}}}]},
        {"choices": [{"message": {"content": ["x"]}}]},
        {"choices": [], "id": {"secret": 1}},
        {"choices": [], "usage": {"total_tokens": "many"}},
        {"error": {"message": "secret"}, "choices": []},
    ],
    ids=str,
)
def test_refused_completion(answer: Any) -> None:
    """What is no chat completion is not passed on."""
    assert whole(CHAT, answer) is None


def test_null_error() -> None:
    """An error that is null is none, and is not passed on."""
    assert "error" not in whole(CHAT, {"error": None, "choices": []})
    assert "error" not in streamed(CHAT, {"error": None, "choices": []})


def test_raw_model() -> None:
    """Any name that a client asks for comes back as it was."""
    out = at(CHAT).whole(b'{"choices":[]}', 'a"\n\u20ac', "default", 7)
    assert out is not None
    assert b'"model":"a\\"\\n\xe2\x82\xac"' in out
