"""The mock provider: what the openai client makes of it, its pace, its failures, and that it is repeatable."""

import json
import queue
import re
import threading
from contextlib import contextmanager

import openai
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from onwards_trio._mock import MockOptions, MockProvider, serve_mock
from onwards_trio._mock_answers import MODEL, Answer, Call, answer, tokenize

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What's the weather?"}]


@contextmanager
def client_of(options):
    """OpenAI's own client, and a mock provider for it in another thread.

    Its variant for Trio leaves generators behind, which would be warnings and thus failures here.
    """
    started = queue.SimpleQueue()

    async def main():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                url = await nursery.start(serve_mock, options)
                started.put((url, trio.lowlevel.current_trio_token(), scope))

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    url, token, scope = started.get(timeout=10)
    try:
        with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
            yield client
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


@pytest.fixture(scope="module")
def client():
    """The client of a mock provider without latency or failures."""
    with client_of(MockOptions()) as client:
        yield client


def call(path, content, *, seed=0, number=1):
    """A POST with a JSON body."""
    return Call("POST", path, b"application/json", json.dumps(content).encode(), seed, number, 1_700_000_000)


def chat(content, **settings):
    """The decoded answer to a chat completion request with one message."""
    reply = answer(call("/chat/completions", {"model": "m", "messages": [{"content": content}]}, **settings))
    return json.loads(reply.body)


class TestWithTheOpenAIClient:
    def test_chat(self, client):
        """A plain completion quotes the last message and has its tokens counted."""
        completion = client.chat.completions.create(model="gpt-9", messages=MESSAGES)
        assert completion.model == "gpt-9"
        [choice] = completion.choices
        assert choice.message.content.startswith('You said: "What\'s the weather?".')
        assert choice.finish_reason == "stop"
        assert completion.usage.prompt_tokens > 0
        assert completion.usage.completion_tokens == len(tokenize(choice.message.content))
        assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens

    def test_streamed_chat_says_the_same_as_the_plain_one(self, client):
        """The deltas joined are the plain answer, one token each; usage comes last, if asked for."""
        plain = client.chat.completions.create(model="m", messages=MESSAGES)
        stream = client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
        chunks = list(stream)
        *generated, last = chunks
        assert "".join(c.choices[0].delta.content or "" for c in generated) == plain.choices[0].message.content
        assert [c.choices[0].finish_reason for c in generated] == [None] * (len(generated) - 1) + ["stop"]
        assert last.choices == []
        assert last.usage == plain.usage
        assert len(generated) == plain.usage.completion_tokens + 2

    def test_stream_without_usage(self, client):
        """Without `include_usage` no chunk is without a choice."""
        stream = client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert all(len(chunk.choices) == 1 for chunk in stream)

    def test_token_limit(self, client):
        """A limit cuts the answer, and the finish reason says so."""
        completion = client.chat.completions.create(model="m", messages=MESSAGES, max_tokens=3)
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage.completion_tokens == 3

    def test_content_parts(self, client):
        """A message given in parts is quoted like one given as text."""
        parts = [{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]
        completion = client.chat.completions.create(model="m", messages=parts)
        assert completion.choices[0].message.content.startswith('You said: "in parts".')

    def test_completions(self, client):
        """The older completions route, plain and streamed."""
        plain = client.completions.create(model="m", prompt="Once")
        stream = client.completions.create(model="m", prompt="Once", stream=True)
        assert "".join([chunk.choices[0].text for chunk in stream]) == plain.choices[0].text
        assert plain.choices[0].text.startswith('You said: "Once".')

    def test_embeddings(self, client):
        """Vectors of length one: the same for the same text, whether as base64 (the client's default) or floats."""
        packed = client.embeddings.create(model="m", input=["one", "two", "one"])
        floats = client.embeddings.create(model="m", input="one", encoding_format="float")
        one, two, again = (item.embedding for item in packed.data)
        assert one == again != two
        assert one == pytest.approx(floats.data[0].embedding, abs=1e-6)
        assert sum(x * x for x in one) == pytest.approx(1)
        assert packed.usage.prompt_tokens == 3

    def test_embedding_of_tokens(self, client):
        """Inputs may be lists of token numbers, and the dimensions may be chosen."""
        one = client.embeddings.create(model="m", input=[1, 2, 3], dimensions=5)
        two = client.embeddings.create(model="m", input=[[1, 2, 3], [4]], dimensions=5)
        assert [len(item.embedding) for item in one.data] == [5]
        assert two.data[0].embedding == one.data[0].embedding
        assert one.usage.prompt_tokens == 3
        assert two.usage.prompt_tokens == 4
        mixed = client.embeddings.create(model="m", input=["one", [1, 2], 3])
        assert mixed.usage.prompt_tokens == 4

    def test_responses(self, client):
        """A response, plain, from a text and from a list of messages."""
        text = client.responses.create(model="m", input="Hello")
        messages = client.responses.create(model="m", input=[{"role": "user", "content": "Hello"}])
        assert text.output_text == messages.output_text
        assert text.output_text.startswith('You said: "Hello".')
        assert text.status == "completed"
        assert text.usage.output_tokens == len(tokenize(text.output_text))

    def test_streamed_responses(self, client):
        """A streamed response: numbered events whose deltas joined are the final text."""
        stream = client.responses.create(model="m", input="Hello", stream=True)
        events = list(stream)
        assert [event.sequence_number for event in events] == list(range(len(events)))
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert events[0].type == "response.created"
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == text

    def test_incomplete_response(self, client):
        """A response that its limit cut short is incomplete."""
        response = client.responses.create(model="m", input="Hello", max_output_tokens=2)
        assert response.status == "incomplete"
        assert response.incomplete_details.reason == "max_output_tokens"
        assert response.usage.output_tokens == 2

    def test_models(self, client):
        """The list names one model; any other can be retrieved as well, slashes and all."""
        assert [model.id for model in client.models.list()] == [MODEL]
        assert client.models.retrieve("org/model").id == "org/model"

    def test_transcription(self, client):
        """An upload is parsed: its size and name come back, as JSON or as text."""
        upload = ("hello.wav", b"x" * 1234)
        transcription = client.audio.transcriptions.create(model="m", file=upload)
        assert transcription.text == "A recording of 1234 bytes, named hello.wav."
        text = client.audio.transcriptions.create(model="m", file=upload, response_format="text")
        assert text == "A recording of 1234 bytes, named hello.wav.\n"

    def test_unknown_route(self, client):
        """A route that the mock lacks is a 404 that says which."""
        with pytest.raises(openai.NotFoundError, match="POST /v1/moderations"):
            client.moderations.create(input="x")

    def test_missing_messages(self, client):
        """A body that lacks a field gets a 400 that names it."""
        with pytest.raises(openai.BadRequestError, match="messages"):
            client.post("/chat/completions", body={"model": "m"}, cast_to=object)

    def test_form_without_a_file(self, client):
        """An upload without a file gets a 400."""
        with pytest.raises(openai.BadRequestError, match="has no file"):
            client.post(
                "/audio/transcriptions",
                body={"model": "m"},
                files={"other": b"x"},
                options={"headers": {"content-type": "multipart/form-data; boundary=b"}},
                cast_to=object,
            )

    @pytest.mark.parametrize(("status", "error"), [(503, openai.InternalServerError), (429, openai.RateLimitError)])
    def test_told_to_fail(self, status, error):
        """With a rate of 1 every request fails, with the chosen status, in OpenAI's form."""
        options = MockOptions(fail_rate=1, fail_status=status)
        with client_of(options) as client, pytest.raises(error, match="told to fail"):
            client.chat.completions.create(model="m", messages=MESSAGES)


class TestRepeatable:
    def test_text_depends_on_seed_and_prompt_alone(self):
        """Two providers of one seed say the same; another seed or prompt changes it, the request's number does not."""
        text = chat("Hi")["choices"][0]["message"]["content"]
        assert chat("Hi", number=7)["choices"][0]["message"]["content"] == text
        assert chat("Hi", seed=1)["choices"][0]["message"]["content"] != text
        assert chat("Ho")["choices"][0]["message"]["content"].removeprefix('You said: "Ho"') != text.removeprefix(
            'You said: "Hi"'
        )

    def test_every_request_has_its_own_id(self):
        """IDs differ even where the texts are the same."""
        assert chat("Hi", number=1)["id"] != chat("Hi", number=2)["id"]

    def test_long_prompt_is_not_quoted_whole(self):
        """The answer to a long prompt stays short."""
        assert len(chat("x" * 100_000)["choices"][0]["message"]["content"]) < 600

    async def test_failures_repeat(self, autojump_clock):
        """Of two providers with one seed the same requests fail, about as many as asked for."""
        runs = [await statuses(MockOptions(fail_rate=0.3, seed=5), 200) for _ in range(2)]
        assert runs[0] == runs[1]
        assert len(runs[0]) == 200
        assert 40 <= runs[0].count(503) <= 80
        assert await statuses(MockOptions(fail_rate=0.3, seed=6), 200) != runs[0]


class TestPace:
    async def test_latency_and_tokens_per_second(self, autojump_clock):
        """The head comes after the latency, then one event each 1/rate seconds, to the last."""
        body = {"model": "m", "messages": [{"content": "Hi"}], "stream": True}
        pieces = await exchange(MockOptions(latency=2, tokens_per_second=4), post("/v1/chat/completions", body))
        (head_time, head), *events = pieces
        assert head.startswith(b"HTTP/1.1 200")
        assert head_time == pytest.approx(2)
        expected = answer(call("/chat/completions", body)).body
        data = [(when, piece) for when, piece in events if b"data:" in piece]
        assert [when for when, _ in data] == pytest.approx([2 + n / 4 for n in range(len(expected))])

    async def test_plain_answer_takes_as_long_as_its_tokens(self, autojump_clock):
        """A plain answer comes when the last of its tokens would have come."""
        body = {"model": "m", "messages": [{"content": "Hi"}]}
        pieces = await exchange(MockOptions(latency=1, tokens_per_second=10), post("/v1/chat/completions", body))
        tokens = chat("Hi")["usage"]["completion_tokens"]
        assert pieces[0][0] == pytest.approx(1 + tokens / 10)


class TestConnection:
    async def test_keep_alive(self, autojump_clock):
        """Several requests on one connection are answered in order."""
        requests = b"".join(
            post("/v1/chat/completions", {"model": "m", "messages": [{"content": f"number {n}"}]}) for n in range(3)
        )
        received = b"".join(piece for _, piece in await exchange(MockOptions(), requests))
        places = [received.index(f"number {n}".encode()) for n in range(3)]
        assert places == sorted(places)
        assert received.count(b"HTTP/1.1 200") == 3

    async def test_malformed_request(self, autojump_clock):
        """What is not HTTP gets a 400, and the connection ends."""
        [(_, reply)] = await exchange(MockOptions(), b"nonsense\r\n\r\n")
        assert reply.startswith(b"HTTP/1.1 400")

    async def test_expect_continue(self, autojump_clock):
        """A client that asks first is told to go on."""
        request = post("/v1/chat/completions", {}).replace(b"\r\n\r\n", b"\r\nexpect: 100-continue\r\n\r\n", 1)
        pieces = await exchange(MockOptions(), request)
        assert pieces[0][1].startswith(b"HTTP/1.1 100")
        assert pieces[1][1].startswith(b"HTTP/1.1 400")

    async def test_connection_close(self, autojump_clock):
        """`connection: close` is honoured."""
        request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        received = b"".join(piece for _, piece in await exchange(MockOptions(), request + request))
        assert received.count(b"HTTP/1.1 200") == 1

    async def test_client_that_goes_away(self, autojump_clock):
        """A client that leaves in the middle of a stream ends its connection's task, without an error."""
        client, server = trio.testing.memory_stream_pair()
        body = {"model": "m", "messages": [{"content": "Hi"}], "stream": True}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(MockProvider(MockOptions(tokens_per_second=1)).serve_connection, server)
            await client.send_all(post("/v1/chat/completions", body))
            await client.receive_some()
            await client.aclose()


@given(st.text())
def test_tokens_joined_are_the_text(text):
    """Nothing gets lost between tokens, whatever the text."""
    assert "".join(tokenize(text)) == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
members = st.sampled_from(["model", "messages", "prompt", "input", "stream", "max_tokens", "dimensions", "content"])
bodies = st.dictionaries(members, json_values).map(json.dumps).map(str.encode) | st.binary()
routes = ["/chat/completions", "/completions", "/embeddings", "/responses", "/audio/transcriptions", "/models", "/"]
content_types = st.sampled_from([b"application/json", b"multipart/form-data; boundary=b", b"multipart/form-data", b""])


@given(st.sampled_from(["GET", "POST"]), st.sampled_from(routes), content_types, bodies)
def test_every_request_has_an_answer(method, path, content_type, body):
    """Whatever comes in, an answer goes out, and a fault in it is the caller's."""
    reply = answer(Call(method, "/v1" + path, content_type, body, 0, 1, 0))
    assert isinstance(reply, Answer)
    assert reply.status in (200, 400, 404)


def post(path, content):
    """The bytes of a POST request with a JSON body."""
    body = json.dumps(content).encode()
    return f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


async def exchange(options, requests):
    """Everything that a provider sends in answer to these bytes: (time, piece) from a clock that began at 0."""
    client, server = trio.testing.memory_stream_pair()
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def serve():
            async with server:
                await MockProvider(options).serve_connection(server)

        nursery.start_soon(serve)
        await client.send_all(requests)
        await client.send_eof()
        return [(trio.current_time() - begun, bytes(piece)) async for piece in client]


async def statuses(options, count):
    """The status of each of so many requests, one after the other on one connection."""
    pieces = await exchange(options, b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" * count)
    received = b"".join(piece for _, piece in pieces)
    return [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", received)]
