"""What strict mode makes of responses, with OpenAI's published types as the oracle."""

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from openai.types.responses import Response, ResponseErrorEvent, ResponseFailedEvent, ResponseStreamEvent
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming as Params
from openai.types.responses.response_error import ResponseError
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from onwards_core._strict import _responses
from tests.core.openai_types import EXTRA, examples, fields, keeps, members, names, pairs, published_names, values
from tests.core.strict_support import RESPONSES, all_names, fault, fault_at, streamed, whole, without_extras

REQUEST = {"model": "m", "input": "hi"}
# An error is never passed on as a field, or as an event that only the schema has seen.
EVENTS = [event for event in members(ResponseStreamEvent) if event not in (ResponseErrorEvent, ResponseFailedEvent)]
DEFAULTS = {
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "output": [],
    "parallel_tool_calls": True,
    "temperature": None,
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
}
slow = settings(max_examples=30, suppress_health_check=list(HealthCheck), deadline=None)

# Requests


def test_parameters() -> None:
    """Every parameter that OpenAI publishes is typed, and no other."""
    assert names(_responses.ResponseRequest) == set(fields(Params)) | {"stream"}


@pytest.mark.parametrize("request_", examples(Params), ids=lambda _: "")
def test_every_published_request(request_: Any) -> None:
    """No type of any field is refused."""
    assert fault(RESPONSES, request_, model="m") is None


@slow
@given(item=values(ResponseInputItemParam, extra=True))
def test_published_items(item: Any) -> None:
    """What OpenAI's client may send is accepted, with fields that nobody knows in each object."""
    assert fault(RESPONSES, REQUEST, input=[item]) is None


@slow
@given(tool=values(ToolParam, extra=True))
def test_published_tools(tool: Any) -> None:
    """What OpenAI's client may send is accepted, with fields that nobody knows in each object."""
    assert fault(RESPONSES, REQUEST, tools=[tool]) is None


def needs(published: Any) -> dict[str, set[str]]:
    """What each type of object requires."""
    return {
        type_: {name for name, (_, required) in fields(model).items() if required}
        for model in members(published)
        for member in members(fields(model)["type"][0])
        for type_ in get_args(member)
    }


def test_needs_of_items() -> None:
    """Each published type of item is known with what it requires, but for what a client without state leaves out."""
    ours = {type_: set(needed) for type_, needed in _responses.ITEM_NEEDS.items() if type_ not in (None, "message")}
    published = needs(ResponseInputItemParam)
    del published["message"]  # of three kinds
    del published["compaction_trigger"]  # needs nothing
    del published["configuration_update"]  # needs nothing
    assert ours.pop("item_reference") == published.pop("item_reference") == {"id"}
    assert ours == {type_: needed - {"type", "id", "status", "outputs"} for type_, needed in published.items()}


def test_needs_of_tools() -> None:
    """Nothing is asked of a tool that OpenAI does not require."""
    published = needs(ToolParam)
    assert all(set(needed) <= published[type_] for type_, needed in _responses.TOOL_NEEDS.items())


@pytest.mark.parametrize(
    "more",
    [
        {"input": None, "prompt": {"id": "p"}},
        {"input": [{"role": "user", "content": "hi"}]},
        {"input": [{"type": None, "role": "developer", "content": [{"type": "input_text", "text": "x"}]}]},
        {"input": [{"id": "earlier"}, {"type": "item_reference", "id": "earlier"}]},
        {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        {"input": [{"type": "something_new", "anything": {"at": "all"}}]},
        {"tools": [{"type": "something_new"}, {"type": "function", "name": "f"}]},
        {"tool_choice": {"type": "something_new"}},
        {"top_k": 5},
    ],
    ids=str,
)
def test_request_that_passes(more: dict[str, Any]) -> None:
    """What has no fault passes, with types that are not published yet."""
    assert fault(RESPONSES, REQUEST, **more) is None


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"input": 1}, "input"),
        ({"input": ["hi"]}, "input[0]"),
        ({"input": [{}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "message", "id": "m"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [1]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
        ({"input": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]}, "input[0].output"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"prompt": {}}, "prompt.id"),
        ({"tools": [{"name": "f"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"temperature": 3}, "temperature"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"truncation": "some"}, "truncation"),
        ({"reasoning": {"effort": 1}}, "reasoning.effort"),
    ],
    ids=str,
)
def test_fault(more: dict[str, Any], place: str) -> None:
    """What no provider could understand is refused, with its place."""
    assert fault_at(RESPONSES, REQUEST, **more) == place


# Answers


def test_fields() -> None:
    """Exactly the fields that OpenAI publishes are known on each level, of responses and of all their events."""
    found = pairs(_responses.Response, Response)
    for schema, models in pairs(_responses.Event, *EVENTS).items():
        found[schema] |= models
    # Of an error there is never more than null.
    assert found.pop(msgspec.Raw) == {ResponseError}
    for schema, models in found.items():
        assert names(schema) == published_names(models) | ({"error"} if schema is _responses.Event else set()), schema


def test_event_types() -> None:
    """Each event that OpenAI publishes is known."""
    types = {get_args(event.model_fields["type"].annotation)[0] for event in members(ResponseStreamEvent)}
    assert types == _responses.EVENTS


def test_every_published_response() -> None:
    """Each type of each field is kept."""
    first, *others = examples(Response)
    for answer in [first, *(other | {"output": [], "tools": []} for other in others)]:
        answer |= {"error": None}
        assert keeps(whole(RESPONSES, answer), answer | {"model": "alias"})


def given_a_model(event: Any) -> Any:
    """What is expected of an event."""
    if isinstance(event.get("response"), dict):
        event["response"] |= {"model": "alias", "error": None}
    return event


@pytest.mark.parametrize("type_", EVENTS, ids=lambda event: event.__name__)
def test_every_published_event(type_: Any) -> None:
    """Each type of each field is kept."""
    # Responses themselves have their own test.
    for event in examples(type_)[: 2 if "response" in type_.model_fields else None]:
        if isinstance(event.get("response"), dict):
            event["response"]["error"] = None
        assert keeps(streamed(RESPONSES, event), given_a_model(event))


@slow
@given(answer=values(Response, extra=True))
def test_responses(answer: Any) -> None:
    """All that OpenAI publishes is kept, and nothing else; the model is the right one."""
    answer |= {"error": None}
    got = whole(RESPONSES, answer)
    expected = without_extras(answer) | {"model": "alias"}
    assert keeps(got, expected)
    assert set(all_names(got)) <= set(all_names(expected)) | set(DEFAULTS)


def test_nothing_unknown() -> None:
    """A field that no schema knows does not pass, wherever it is."""

    def spiced(value: Any) -> Any:
        match value:
            case dict():
                return {name: spiced(inner) for name, inner in value.items()} | {EXTRA: {EXTRA: 1}}
            case list():
                return [spiced(inner) for inner in value]
            case _:
                return value

    item = {
        "type": "message",
        "content": [{"type": "output_text", "text": "x", "annotations": [{"type": "file_path", "index": 1}]}],
        "action": {"type": "search", "sources": [{"type": "url"}]},
    }
    response = {"output": [item], "usage": {"input_tokens_details": {}}, "tools": [{"type": "mcp", "tools": [{}]}]}
    got = whole(RESPONSES, spiced(response))
    assert keeps(got, response)
    assert EXTRA not in all_names(got)
    for event in (
        {"type": "response.completed", "response": response},
        {"type": "response.output_item.done", "item": item},
    ):
        got = streamed(RESPONSES, spiced(event))
        assert keeps(got, event)
        assert EXTRA not in all_names(got)


def test_defaults() -> None:
    """What the schema requires is filled in; only in an event may a response lack its output."""
    head = {"id": "default", "object": "response", "created_at": 7, "model": "alias"}
    assert whole(RESPONSES, {"output": []}) == head | DEFAULTS
    created = {"type": "response.created", "response": {"id": "r", "created_at": 5}}
    expected = head | DEFAULTS | {"id": "r", "created_at": 5}
    assert streamed(RESPONSES, created) == {"type": "response.created", "response": expected}


@pytest.mark.parametrize("answer", [{}, {"output": None}, {"output": ["x"]}, {"output": [], "error": "x"}], ids=str)
def test_refused(answer: Any) -> None:
    """What is no response, or an error, is not passed on."""
    assert whole(RESPONSES, answer) is None


def test_unknown_events() -> None:
    """Of an event that is not published nothing is known, so nothing of it passes; the stream goes on."""
    assert streamed(RESPONSES, {"type": "response.something_new", "delta": "x"}) is None


def test_error_outside_its_event() -> None:
    """An error that comes with a response under way is not passed on."""
    got = streamed(RESPONSES, {"type": "response.completed", "response": {"error": {"message": "secret"}}})
    assert got["response"]["error"] is None
