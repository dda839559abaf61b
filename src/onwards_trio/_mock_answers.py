"""What the mock provider says: plain functions from a request to an answer.

The text depends on the seed and the prompt alone, and begins by quoting the prompt, so that whoever sends a
request can see that it arrived, and which of two requests an answer belongs to.
"""

import base64
import io
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Annotated, Any, TypeAlias, TypeVar
from urllib.parse import unquote

import attrs
import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, parse_form

MODEL = "mock-model"
"""What the models list holds; every other name works as well."""

_QUOTED = 200  # characters of the prompt that an answer quotes
_DIMENSIONS = 16  # of an embedding, where the request does not say

_TOKEN = re.compile(r"\s*\S{1,6}|\s+")
_WORDS = (
    "a able after all also and answer as ask at before below better between beyond both bright but by calm clear "
    "close cold early each easy even every far fast few first free from full give good great half hand hard here "
    "high how idea if in into just keep kind know large last late leave less light like little long look lost make "
    "many mind more most move much name near need new next no north not now of old on once one only open or other "
    "our out over own part past place plain point quiet read right river road same say sea see set shape short "
    "side sky slow small some soon sound south stone such take than that the then there thing this through time "
    "to true turn under until up wait walk water way well what when where while wide wind with word work year yet"
).split()

_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=1)]
_Body = TypeVar("_Body", bound=msgspec.Struct)


@attrs.frozen
class Call:
    """One request, read completely, and what sets its answer apart from others."""

    method: str
    path: str
    content_type: bytes
    body: bytes = attrs.field(repr=False)
    seed: int
    number: int
    """Counts the requests of this provider, for the IDs."""
    created: int
    """Seconds of Unix time."""


@attrs.frozen
class Answer:
    """One answer. A list of pieces is an event stream, to be paced piece by piece."""

    body: bytes | list[bytes]
    tokens: int = 0
    """How many were generated for it."""
    status: int = 200
    content_type: bytes = b"application/json"


def answer(call: Call) -> Answer:
    """The answer to any request at all; faults in it get a 400 or 404 in OpenAI's form."""
    path = call.path.removeprefix("/v1")
    if call.method == "GET" and (path == "/models" or path.startswith("/models/")):
        return _models(call, unquote(path.removeprefix("/models").removeprefix("/")))
    route = _ROUTES.get(path) if call.method == "POST" else None
    if route is None:
        return failure(404, f"The mock provider has no {call.method} {call.path}.")
    try:
        return route(call)
    except (msgspec.MsgspecError, RecursionError, FormParserError) as fault:
        return failure(400, f"The request is malformed: {fault}")


def failure(status: int, message: str) -> Answer:
    """An error in OpenAI's form."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return _json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status=status)


def tokenize(text: str) -> list[str]:
    """Pieces of about the size that a language model's tokens have; joined they are the text again."""
    return _TOKEN.findall(text)


# --- chat/completions and completions


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    content: str | list[_Part] | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _Generate(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: _Count | None = None


class _Chat(_Generate, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: _Count | None = None


class _Completion(_Generate, kw_only=True):
    prompt: str | list[str] = ""


def _chat(call: Call) -> Answer:
    body = _decode(call, _Chat)
    texts = [_text(message.content) for message in body.messages]
    reply = _Reply.to(call, texts, body.max_completion_tokens or body.max_tokens)
    frame = {"id": f"chatcmpl-mock-{call.number}", "created": call.created, "model": body.model}
    if not body.stream:
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish_reason}
        return _json(
            {**frame, "object": "chat.completion", "choices": [choice], "usage": reply.usage()}, len(reply.tokens)
        )
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": t} for t in reply.tokens), {}]
    choices: list[dict[str, Any]] = [
        {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas
    ]
    choices[-1]["finish_reason"] = reply.finish_reason
    return _stream({**frame, "object": "chat.completion.chunk"}, choices, reply, body.stream_options)


def _completion(call: Call) -> Answer:
    body = _decode(call, _Completion)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    reply = _Reply.to(call, prompts, body.max_tokens)
    frame = {
        "id": f"cmpl-mock-{call.number}",
        "object": "text_completion",
        "created": call.created,
        "model": body.model,
    }
    if not body.stream:
        choice = {"index": 0, "text": reply.text, "logprobs": None, "finish_reason": reply.finish_reason}
        return _json({**frame, "choices": [choice], "usage": reply.usage()}, len(reply.tokens))
    choices: list[dict[str, Any]] = [
        {"index": 0, "text": t, "logprobs": None, "finish_reason": None} for t in [*reply.tokens, ""]
    ]
    choices[-1]["finish_reason"] = reply.finish_reason
    return _stream(frame, choices, reply, body.stream_options)


def _stream(
    frame: dict[str, Any], choices: Sequence[dict[str, Any]], reply: "_Reply", options: _StreamOptions | None
) -> Answer:
    """One chunk for each choice, the usage if it was asked for, and the end marker."""
    chunks = [{**frame, "choices": [choice]} for choice in choices]
    if options and options.include_usage:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**frame, "choices": [], "usage": reply.usage()})
    events = [b"data: " + msgspec.json.encode(chunk) + b"\n\n" for chunk in chunks]
    return Answer([*events, b"data: [DONE]\n\n"], len(reply.tokens), content_type=b"text/event-stream")


# --- responses


class _Responses(msgspec.Struct):
    model: str
    input: str | list[_Message] = ""
    stream: bool | None = None
    max_output_tokens: _Count | None = None


def _responses(call: Call) -> Answer:
    body = _decode(call, _Responses)
    texts = [body.input] if isinstance(body.input, str) else [_text(item.content) for item in body.input]
    reply = _Reply.to(call, texts, body.max_output_tokens)
    if not body.stream:
        return _json(_response(call, body, reply, done=True), len(reply.tokens))
    events = [
        b"event: "
        + event["type"].encode()
        + b"\ndata: "
        + msgspec.json.encode({**event, "sequence_number": n})
        + b"\n\n"
        for n, event in enumerate(_response_events(call, body, reply))
    ]
    return Answer(events, len(reply.tokens), content_type=b"text/event-stream")


def _response_events(call: Call, body: _Responses, reply: "_Reply") -> Iterator[dict[str, Any]]:
    begun = _response(call, body, reply, done=False)
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    item = _output_item(call, reply)
    yield {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {**item, "status": "in_progress", "content": []},
    }
    place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    part = item["content"][0]
    yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for token in reply.tokens:
        yield {"type": "response.output_text.delta", **place, "delta": token, "logprobs": []}
    yield {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []}
    yield {"type": "response.content_part.done", **place, "part": part}
    yield {"type": "response.output_item.done", "output_index": 0, "item": item}
    ended = _response(call, body, reply, done=True)
    yield {"type": f"response.{ended['status']}", "response": ended}


def _response(call: Call, body: _Responses, reply: "_Reply", *, done: bool) -> dict[str, Any]:
    usage = {
        "input_tokens": reply.prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": len(reply.tokens),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": reply.prompt_tokens + len(reply.tokens),
    }
    return {
        "id": f"resp_mock_{call.number}",
        "object": "response",
        "created_at": call.created,
        "status": ("incomplete" if reply.cut else "completed") if done else "in_progress",
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if done and reply.cut else None,
        "instructions": None,
        "max_output_tokens": body.max_output_tokens,
        "metadata": {},
        "model": body.model,
        "output": [_output_item(call, reply)] if done else [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": usage if done else None,
    }


def _output_item(call: Call, reply: "_Reply") -> dict[str, Any]:
    return {
        "id": f"msg_mock_{call.number}",
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if reply.cut else "completed",
        "content": [{"type": "output_text", "text": reply.text, "annotations": []}],
    }


# --- the rest


class _Embeddings(msgspec.Struct):
    model: str
    # Texts, or texts as token numbers, one or many: four forms, which msgspec can't tell apart as one union.
    input: str | list[str | int | list[int]]
    dimensions: _Count | None = None
    encoding_format: str | None = None


def _embeddings(call: Call) -> Answer:
    body = _decode(call, _Embeddings)
    several = isinstance(body.input, list) and not all(isinstance(item, int) for item in body.input)
    inputs = body.input if several else [body.input]
    data = []
    tokens = 0
    for index, item in enumerate(inputs):
        random = Random(f"{call.seed} {item}")
        vector = [random.gauss(0, 1) for _ in range(body.dimensions or _DIMENSIONS)]
        length = sum(x * x for x in vector) ** 0.5
        vector = [x / length for x in vector]
        packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
        data.append(
            {"object": "embedding", "index": index, "embedding": packed if body.encoding_format == "base64" else vector}
        )
        match item:
            case str():
                tokens += len(tokenize(item))
            case list():
                tokens += len(item)
            case _:
                tokens += 1
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _json({"object": "list", "data": data, "model": body.model, "usage": usage})


def _transcription(call: Call) -> Answer:
    fields: dict[bytes, bytes] = {}
    files: dict[bytes, tuple[str, int]] = {}

    def on_field(field: Field) -> None:
        fields[field.field_name or b""] = field.value or b""

    def on_file(file: File) -> None:
        files[file.field_name or b""] = (file.file_name or b"").decode(errors="replace"), file.size
        file.close()

    parse_form({"Content-Type": call.content_type}, io.BytesIO(call.body), on_field, on_file)
    if b"file" not in files:
        return failure(400, "The form has no file.")
    name, size = files[b"file"]
    text = f"A recording of {size} bytes, named {name}."
    if fields.get(b"response_format") == b"text":
        return Answer(text.encode() + b"\n", content_type=b"text/plain; charset=utf-8")
    return _json({"text": text})


def _models(call: Call, name: str) -> Answer:
    model = {"id": name or MODEL, "object": "model", "created": call.created, "owned_by": "onwards-mock"}
    return _json(model if name else {"object": "list", "data": [model]})


_ROUTES: dict[str, Callable[[Call], Answer]] = {
    "/audio/transcriptions": _transcription,
    "/chat/completions": _chat,
    "/completions": _completion,
    "/embeddings": _embeddings,
    "/responses": _responses,
}


# --- what they share


@attrs.frozen
class _Reply:
    """A generated text."""

    tokens: list[str]
    prompt_tokens: int
    cut: bool
    """Whether the caller's limit ended it."""

    @classmethod
    def to(cls, call: Call, texts: Sequence[str], limit: int | None) -> "_Reply":
        """The reply to the last of `texts`, in at most `limit` tokens."""
        prompt = texts[-1] if texts else ""
        random = Random(f"{call.seed} {prompt}")
        quoted = prompt if len(prompt) <= _QUOTED else prompt[:_QUOTED] + "…"
        words = " ".join(random.choices(_WORDS, k=random.randint(12, 24)))
        tokens = tokenize(f'You said: "{quoted}". {words.capitalize()}.')
        cut = limit is not None and limit < len(tokens)
        return cls(tokens[:limit] if cut else tokens, sum(len(tokenize(text)) for text in texts), cut)

    @property
    def text(self) -> str:
        return "".join(self.tokens)

    @property
    def finish_reason(self) -> str:
        return "length" if self.cut else "stop"

    def usage(self) -> dict[str, int]:
        prompt, completion = self.prompt_tokens, len(self.tokens)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _text(content: str | list[_Part] | None) -> str:
    """A message's text, however it was given; pictures and sounds in it say nothing."""
    return " ".join(part.text for part in content) if isinstance(content, list) else content or ""


def _decode(call: Call, kind: type[_Body]) -> _Body:
    return msgspec.json.decode(call.body, type=kind)


def _json(content: object, tokens: int = 0, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(content), tokens, status)
