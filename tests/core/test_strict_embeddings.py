"""What strict mode makes of embeddings, with OpenAI's published types as the oracle."""

from typing import Any

import pytest
from hypothesis import given
from openai.types import CreateEmbeddingResponse, EmbeddingCreateParams

from onwards_core._strict import _embeddings
from tests.core.openai_types import fields, keeps, names, pairs, published_names, values
from tests.core.strict_support import EMBEDDINGS, all_names, at, fault, fault_at, streamed, whole, without_extras


def test_parameters() -> None:
    """Every parameter that OpenAI publishes is typed, and no other."""
    assert names(_embeddings.EmbeddingRequest) == set(fields(EmbeddingCreateParams))


@given(request=values(EmbeddingCreateParams, extra=True))
def test_published_requests(request: Any) -> None:
    """What OpenAI's client may send is accepted, with fields that nobody knows."""
    assert fault(EMBEDDINGS, request) is None


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": ["x", 1]}, "input"),
        ({"input": "x", "dimensions": 0}, "dimensions"),
    ],
    ids=str,
)
def test_fault(more: dict[str, Any], place: str) -> None:
    """What no provider could understand is refused, with its place."""
    assert fault_at(EMBEDDINGS, {"model": "m"}, **more) == place


def test_fields() -> None:
    """Exactly the fields that OpenAI publishes are known on each level."""
    for found, models in pairs(_embeddings.Embeddings, CreateEmbeddingResponse).items():
        assert names(found) == published_names(models) | ({"error"} if found is _embeddings.Embeddings else set())


@given(answer=values(CreateEmbeddingResponse, extra=True))
def test_answers(answer: Any) -> None:
    """All that OpenAI publishes is kept, and nothing else."""
    got = whole(EMBEDDINGS, answer)
    expected = without_extras(answer) | {"model": "alias", "object": "list"}
    assert keeps(got, expected)
    assert set(all_names(got)) == set(all_names(expected))
    assert streamed(EMBEDDINGS, answer) == got


def test_spelling() -> None:
    """Numbers are kept byte for byte."""
    embedding = b"[ -0.10, 1e-05,\t3,\n0.123456789012345678901 ]"
    out = at(EMBEDDINGS).whole(b'{"data":[{"embedding":%b}]}' % embedding, "alias", "default", 7)
    assert out is not None
    assert embedding in out


def test_base64() -> None:
    """An embedding may be text, and what the schema requires is filled in."""
    assert whole(EMBEDDINGS, {"data": [{"embedding": "AAA="}, {"embedding": [1]}], "error": None}) == {
        "object": "list",
        "model": "alias",
        "data": [
            {"object": "embedding", "index": 0, "embedding": "AAA="},
            {"object": "embedding", "index": 1, "embedding": [1]},
        ],
    }


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"data": [{}]},
        {"data": [{"embedding": None}]},
        {"data": [{"embedding": 1}]},
        {"data": [{"embedding": [{"secret": 1}]}]},
        {"data": [{"embedding": ["x"]}]},
        {"data": [], "error": "x"},
    ],
    ids=str,
)
def test_refused(answer: Any) -> None:
    """What holds no embeddings is not passed on."""
    assert whole(EMBEDDINGS, answer) is None
