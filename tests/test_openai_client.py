"""The `openai` client as it is, through the gateway to two mock providers: what most users do all day."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.conformance.support.process import Process
from tests.conformance.support.program import Program
from tests.conformance.support.provider import JSON, Call, Provider
from tests.conformance.support.wire import TIMEOUT

_KEY = "sk-client"


@pytest.fixture(scope="module")
def nowhere() -> Iterator[str]:
    """The URL of a provider that refuses connections."""
    with Provider() as provider:
        provider.stop_listening()
        yield provider.url


@pytest.fixture(scope="module")
def scripted() -> Iterator[Provider]:
    """A provider for the routes that the mock does not have."""
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, nowhere: str, scripted: Provider) -> Iterator[Process]:
    """The gateway before a provider that always fails and one that works."""
    command = ["-m", "onwards_trio", "mock-provider", "-p", "0"]
    with Program([*command, "--fail-rate", "1"]) as failing, Program(command) as working:
        bad, good = (mock.wait_for(r"http://\S+")[0] for mock in (failing, working))
        once = {"requests_per_second": 0.001}
        targets = {
            "gpt-4": {
                "strategy": "priority",
                "fallback": {"enabled": True, "on_status": [5]},
                "providers": [{"url": nowhere}, {"url": bad}, {"url": good, "onwards_model": "mock-model"}],
                "keys": [_KEY],
            },
            "org/small": {"url": good, "keys": [_KEY]},
            "clean": {"url": good, "keys": [_KEY], "sanitize_response": True},
            "others": {"url": good, "keys": ["sk-others"]},
            "rated": {"providers": [{"url": good}], "rate_limit": once},
            "failing": {"url": bad},
            "nowhere": {"url": nowhere},
            "scripted": {"url": scripted.url},
        }
        with Process("trio", tmp_path_factory.mktemp("gateway"), {"targets": targets}) as process:
            yield process


@pytest.fixture
def client(gateway: Process) -> Iterator[OpenAI]:
    with _client(gateway, _KEY) as client:
        yield client


def _client(gateway: Process, key: str) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=key, max_retries=0, timeout=TIMEOUT)


def _chat(client: OpenAI, model: str) -> str:
    completion = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Good morning"}])
    assert completion.model in (model, "mock-model")
    assert completion.usage is not None
    assert completion.usage.completion_tokens > 0
    return completion.choices[0].message.content or ""


@pytest.mark.parametrize("model", ["gpt-4", "org/small", "clean"])
def test_chat(client: OpenAI, model: str) -> None:
    """A plain chat completion, two failing providers notwithstanding."""
    assert '"Good morning"' in _chat(client, model)


@pytest.mark.parametrize("model", ["gpt-4", "org/small", "clean"])
def test_streamed_chat(client: OpenAI, model: str) -> None:
    """A streamed one says the same as the plain one, and ends with its usage."""
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Good morning"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == _chat(client, model)
    assert chunks[-1].usage is not None
    assert len(chunks) > 10


def test_completion(client: OpenAI) -> None:
    """The older completions, streamed."""
    stream = client.completions.create(model="gpt-4", prompt="Once", stream=True)
    assert '"Once"' in "".join(chunk.choices[0].text for chunk in stream)


def test_embeddings(client: OpenAI) -> None:
    """Embeddings of several texts, which the client asks for in base64."""
    embeddings = client.embeddings.create(model="gpt-4", input=["one", "two"], dimensions=8)
    assert [len(entry.embedding) for entry in embeddings.data] == [8, 8]
    assert embeddings.data[0].embedding != embeddings.data[1].embedding


def test_responses(client: OpenAI) -> None:
    """The Responses API, plain and streamed."""
    text = client.responses.create(model="gpt-4", input="Hello").output_text
    assert '"Hello"' in text
    with client.responses.stream(model="gpt-4", input="Hello") as stream:
        assert stream.get_final_response().output_text == text


def test_transcription(client: OpenAI, tmp_path: Path) -> None:
    """A multipart upload: the form names the model."""
    recording = tmp_path / "speech.wav"
    recording.write_bytes(bytes(range(256)) * 1000)
    with recording.open("rb") as file:
        transcription = client.audio.transcriptions.create(model="gpt-4", file=file)
    assert "256000 bytes" in transcription.text
    assert "speech.wav" in transcription.text


def test_models(client: OpenAI) -> None:
    """The list holds what the key opens, and each of them can be retrieved, also an ID with a slash."""
    ids = [model.id for model in client.models.list()]
    assert ids == ["gpt-4", "org/small", "clean", "rated", "failing", "nowhere", "scripted"]
    assert [client.models.retrieve(id).id for id in ids] == ids
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("others")


# Each route that has no body or none that names a model: the call, what the provider gets, and what it answers.
_Route = tuple[Callable[[OpenAI], Any], str, str, bytes]
_OVERRIDE = {"model-override": "scripted"}
_ROUTES: list[_Route] = [
    (
        lambda it: it.moderations.create(model="scripted", input="x").results,
        "POST",
        "/v1/moderations",
        b'{"id": "m", "model": "x", "results": []}',
    ),
    (
        lambda it: it.images.generate(model="scripted", prompt="x").created,
        "POST",
        "/v1/images/generations",
        b'{"created": 1, "data": []}',
    ),
    (
        lambda it: it.audio.speech.create(model="scripted", voice="alloy", input="x").read(),
        "POST",
        "/v1/audio/speech",
        b"\x00\xff\xfb sound",
    ),
    (
        lambda it: it.files.list(extra_headers=_OVERRIDE).data,
        "GET",
        "/v1/files",
        b'{"object": "list", "data": [], "has_more": false}',
    ),
    (
        lambda it: it.files.create(file=b"{}", purpose="batch", extra_headers=_OVERRIDE).id,
        "POST",
        "/v1/files",
        b'{"id": "file-1", "object": "file", "bytes": 2, "created_at": 1, "filename": "x", "purpose": "batch"}',
    ),
    (
        lambda it: it.files.content("file-1", extra_headers=_OVERRIDE).read(),
        "GET",
        "/v1/files/file-1/content",
        b"\x00\x01",
    ),
    (
        lambda it: it.files.delete("file-1", extra_headers=_OVERRIDE).deleted,
        "DELETE",
        "/v1/files/file-1",
        b'{"id": "file-1", "object": "file", "deleted": true}',
    ),
    (
        lambda it: it.batches.cancel("batch-1", extra_headers=_OVERRIDE).id,
        "POST",
        "/v1/batches/batch-1/cancel",
        b'{"id": "batch-1", "object": "batch", "status": "cancelling"}',
    ),
]


@pytest.mark.parametrize(("call", "method", "path", "body"), _ROUTES)
def test_other_routes(
    client: OpenAI, scripted: Provider, call: Callable[[OpenAI], Any], method: str, path: str, body: bytes
) -> None:
    """Routes of which the gateway knows nothing: by the body's `model`, or by the header `model-override`."""
    with ThreadPoolExecutor(1) as executor:
        result = executor.submit(call, client)
        request = scripted.call()
        assert (request.method, request.target.partition("?")[0]) == (method, path)
        request.respond(200, body, [JSON])
        assert result.result(TIMEOUT) is not None


@pytest.mark.parametrize(
    ("key", "model", "exception", "status"),
    [
        ("sk-wrong", "gpt-4", openai.PermissionDeniedError, 403),
        (_KEY, "others", openai.PermissionDeniedError, 403),
        (_KEY, "unknown", openai.NotFoundError, 404),
        (_KEY, "failing", openai.InternalServerError, 503),
        (_KEY, "nowhere", openai.InternalServerError, 502),
    ],
)
def test_exceptions(
    gateway: Process, key: str, model: str, exception: type[openai.APIStatusError], status: int
) -> None:
    """Each error is the exception that the client has for it."""
    with _client(gateway, key) as client, pytest.raises(exception) as raised:
        _chat(client, model)
    assert raised.value.status_code == status


def test_missing_key(client: OpenAI) -> None:
    """A request without a key is an `AuthenticationError`."""
    with pytest.raises(openai.AuthenticationError) as raised:
        client.chat.completions.create(model="gpt-4", messages=[], extra_headers={"Authorization": openai.Omit()})
    assert raised.value.status_code == 401
    assert raised.value.code == "unauthenticated"


def test_rate_limit(client: OpenAI) -> None:
    """A limit is a `RateLimitError`, which says when to try again in the header that the client reads."""
    _chat(client, "rated")
    with pytest.raises(openai.RateLimitError) as raised:
        _chat(client, "rated")
    assert (raised.value.code, raised.value.type) == ("rate_limit", "rate_limit_error")
    assert 900_000 < int(raised.value.response.headers["retry-after-ms"]) <= 1_000_000


def _open_stream(client: OpenAI, scripted: Provider) -> tuple[openai.Stream[Any], Call]:
    """A stream of which one event was sent, and the provider's end of it."""
    with ThreadPoolExecutor(1) as executor:
        opened = executor.submit(
            client.chat.completions.create,
            model="scripted",
            messages=[{"role": "user", "content": "x"}],
            stream=True,
        )
        call = scripted.call()
        call.start()
        stream = opened.result(TIMEOUT)
    call.send_chunk(b'data: {"id": "1", "choices": [], "created": 1, "model": "x", "object": "x"}\n\n')
    return stream, call


def test_leaving_a_stream(client: OpenAI, scripted: Provider) -> None:
    """A stream that the client closes early is over for the provider, too."""
    stream, call = _open_stream(client, scripted)
    assert next(iter(stream)).id == "1"
    stream.close()
    assert call.closed()


def test_stream_that_breaks_off(client: OpenAI, scripted: Provider) -> None:
    """A stream that its provider does not finish is an exception, not a short text."""
    stream, call = _open_stream(client, scripted)
    call.close()
    with pytest.raises(openai.APIError):
        list(stream)
