"""What strict mode makes of completions, with OpenAI's published types as the oracle."""

from typing import Any

import pytest
from hypothesis import given
from openai.types import Completion
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as Params

from onwards_core._strict import _completions
from tests.core.openai_types import examples, fields, keeps, names, pairs, published_names, values
from tests.core.strict_support import COMPLETIONS, all_names, fault, fault_at, streamed, whole, without_extras

REQUEST = {"model": "m", "prompt": "once"}


def test_parameters() -> None:
    """Every parameter that OpenAI publishes is typed, and no other."""
    assert names(_completions.CompletionRequest) == set(fields(Params)) | {"stream"}


@given(request=values(Params, extra=True))
def test_published_requests(request: Any) -> None:
    """What OpenAI's client may send is accepted, with fields that nobody knows in each object."""
    assert fault(COMPLETIONS, request) is None


@pytest.mark.parametrize("prompt", [None, "", "x", [], ["x", "y"], [1, 2], [[1], [2, 3]]], ids=str)
def test_prompt(prompt: Any) -> None:
    """Texts, tokens and lists of tokens are prompts."""
    assert fault(COMPLETIONS, REQUEST, prompt=prompt) is None


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({"prompt": 1}, "prompt"),
        ({"prompt": ["x", 1]}, "prompt"),
        ({"prompt": [1, [1]]}, "prompt"),
        ({"prompt": [1.5]}, "prompt[0]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": {}}, "prompt"),
        ({"n": 0}, "n"),
        ({"best_of": -1}, "best_of"),
        ({"echo": "yes"}, "echo"),
        ({"logprobs": True}, "logprobs"),
    ],
    ids=str,
)
def test_fault(more: dict[str, Any], place: str) -> None:
    """What no provider could understand is refused, with its place."""
    assert fault_at(COMPLETIONS, REQUEST, **more) == place


@pytest.mark.parametrize("schema", [_completions.Completion, _completions.CompletionChunk])
def test_fields(schema: Any) -> None:
    """Exactly the fields that OpenAI publishes are known on each level."""
    for found, models in pairs(schema, Completion).items():
        assert names(found) == published_names(models) | ({"error"} if found is schema else set())


@given(answer=values(Completion, extra=True))
def test_answers(answer: Any) -> None:
    """All that OpenAI publishes is kept, and nothing else, whole and streamed."""
    expected = without_extras(answer) | {"model": "alias", "object": "text_completion"}
    for got in (whole(COMPLETIONS, answer), streamed(COMPLETIONS, answer)):
        assert keeps(got, expected)
        assert set(all_names(got)) <= set(all_names(expected)) | {"logprobs"}


@pytest.mark.parametrize("answer", examples(Completion), ids=lambda _: "")
def test_every_published_answer(answer: Any) -> None:
    """Each type of each field is kept."""
    assert keeps(whole(COMPLETIONS, answer), answer | {"model": "alias"})
    assert keeps(streamed(COMPLETIONS, answer), answer | {"model": "alias"})


def test_defaults() -> None:
    """What the schema requires is filled in; only an event may lack its text."""
    head = {"id": "default", "object": "text_completion", "created": 7, "model": "alias"}
    choice = {"index": 0, "finish_reason": None, "logprobs": None}
    assert whole(COMPLETIONS, {"choices": [{"text": "x"}]}) == head | {"choices": [{"text": "x"} | choice]}
    assert streamed(COMPLETIONS, {"choices": [{}]}) == head | {"choices": [{"text": ""} | choice]}


@pytest.mark.parametrize("answer", [{}, {"choices": [{}]}, {"choices": [{"text": None}]}, {"error": "x"}], ids=str)
def test_refused(answer: Any) -> None:
    """What is no completion is not passed on."""
    assert whole(COMPLETIONS, answer) is None
