"""What the load generator and the stub provider say to each other: known to both, so that neither has to parse much."""

import json

HOST = "127.0.0.1"
ALIAS = "chat"
CLEAN_ALIAS = "chat-clean"
CLIENT_KEY = "sk-benchmark-client"
OK = b"HTTP/1.1 200 "
REFUSED = b"HTTP/1.1 429 "

# The message tells the stub how to answer, since all gateways pass that on: `stub-stream EVENTS INTERVAL` with a
# stream, `stub-delay SECONDS` late, `stub-size BYTES` with so many bytes.

_EXTENSIONS = {"provider_region": "eu-1", "provider_timings": {"queue": 0.001, "prefill": 0.02}}

# 600 bytes, as a short chat completion has them.
ANSWER_BODY = json.dumps(
    {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "stub-model",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "All is well. ".ljust(231, ".")},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 40, "total_tokens": 49},
        **_EXTENSIONS,
    }
).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req-benchmark\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER_BODY), ANSWER_BODY)
)

FAILURE = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req-benchmark\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
STREAM_END = b"0\r\n\r\n"
STAMP_START = b'"content":"'
STAMP_LENGTH = 19
"""Each event's text is the time at which it was sent, in nanoseconds of the system's monotonic clock."""

_EVENT = (
    b'data: {"id":"chatcmpl-benchmark","object":"chat.completion.chunk","created":1700000000,"model":"stub-model",'
    b'"choices":[{"index":0,"delta":{%b%%0*d"},"finish_reason":null}],"provider_region":"eu-1"}\n\n' % STAMP_START
)


def event_chunk(now: int) -> bytes:
    """One event in one HTTP chunk."""
    event = _EVENT % (STAMP_LENGTH, now)
    return b"%x\r\n%b\r\n" % (len(event), event)


def request(
    model: str,
    *,
    size: int = 0,
    stream: tuple[int, float] | None = None,
    delay: float = 0.0,
    answer_size: int | None = None,
) -> bytes:
    """A whole chat completion request with the fields that OpenAI's client sends.

    size: the least length of the body. stream: how many events to ask for, and the seconds between them. delay: the
    seconds that the provider takes. answer_size: the bytes of the answer's body.
    """
    chat = {"model": model, "messages": [{"role": "user", "content": "How are things?"}], "stream": bool(stream)}
    if stream:
        chat["messages"][0]["content"] = f"stub-stream {stream[0]} {stream[1]:f}"
    elif answer_size is not None:
        chat["messages"][0]["content"] = f"stub-size {answer_size}"
    elif delay:
        chat["messages"][0]["content"] = f"stub-delay {delay:f}"
    chat["messages"][0]["content"] += " And further?" * max(0, (size - len(json.dumps(chat))) // 13 + 1)
    body = json.dumps(chat).encode()
    fields = {
        b"host": HOST.encode(),
        b"accept-encoding": b"gzip, deflate",
        b"connection": b"keep-alive",
        b"accept": b"application/json",
        b"content-type": b"application/json",
        b"user-agent": b"OpenAI/Python 2.0.0",
        b"x-stainless-lang": b"python",
        b"x-stainless-package-version": b"2.0.0",
        b"x-stainless-os": b"Linux",
        b"x-stainless-arch": b"x64",
        b"x-stainless-runtime": b"CPython",
        b"authorization": b"Bearer " + CLIENT_KEY.encode(),
        b"content-length": b"%d" % len(body),
    }
    lines = b"".join(b"%b: %b\r\n" % field for field in fields.items())
    return b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n%b" % (lines, body)
