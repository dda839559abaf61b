"""A real model answers through the gateway as it does directly. Needs `requirements/real-model.txt`."""

from collections.abc import Iterator

import attrs
import pytest
from openai import OpenAI

pytest.importorskip("xllamacpp", reason="requirements/real-model.txt is not installed")

from docs.examples import real_model

pytestmark = pytest.mark.real_model


@attrs.frozen
class Answer:
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with real_model.model_server() as url:
        yield url


def _request(*, stream: bool) -> dict:
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    messages = [{"role": "user", "content": "Name three colours, and say «où?» in between."}]
    return {
        "model": real_model.ALIAS,
        "messages": messages,
        "max_completion_tokens": 24,
        "temperature": 0,
        "seed": 7,
        **options,
    }


def _plain(url: str) -> Answer:
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        completion = client.chat.completions.create(**_request(stream=False))
    choice = completion.choices[0]
    return Answer(
        choice.message.content,
        choice.finish_reason,
        completion.usage.prompt_tokens,
        completion.usage.completion_tokens,
    )


def _streamed(url: str) -> tuple[Answer, list[str]]:
    """The answer put together, and the pieces of text that it came in."""
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        chunks = list(client.chat.completions.create(**_request(stream=True)))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    pieces = [choice.delta.content for choice in choices if choice.delta.content]
    [finish_reason] = [choice.finish_reason for choice in choices if choice.finish_reason]
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    return Answer("".join(pieces), finish_reason, usage.prompt_tokens, usage.completion_tokens), pieces


def test_plain_and_streamed_answers_are_those_of_a_direct_call(model: str) -> None:
    """Text, why it ends, usage and the pieces of a stream are the same with and without the gateway, and the dead
    provider was tried before each of the answers."""
    direct = _plain(model)
    directly_streamed, pieces = _streamed(model)
    with real_model.dead_server() as dead, real_model.Gateway(real_model.config(dead, model)) as gateway:
        assert _plain(gateway.url) == direct
        assert _streamed(gateway.url) == (directly_streamed, pieces)
        log = gateway.stop()
    assert log.count("attempts=127.0.0.1#1:connect,127.0.0.1#2:ok") == 2
    assert direct.completion_tokens > len(direct.text.split()) > 1
    assert len(pieces) > 1


def test_the_example_prints_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    """Run as a program, it prints the model's text and a log in which the dead provider was tried first."""
    real_model.main("What is a gateway?")
    text, _, log = capsys.readouterr().out.partition("\n\nThe gateway's log:\n")
    assert len(text.split()) > 5
    assert "127.0.0.1#1:connect,127.0.0.1#2:ok" in log
