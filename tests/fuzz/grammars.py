"""Inputs as they should be, or nearly so: hypothesis makes them up."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.core.config_support import CONFIGS, encoded
from tests.fuzz.cutting import PREFIX

_CUTS = st.binary(min_size=PREFIX, max_size=PREFIX)


def _cut(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.builds(bytes.__add__, _CUTS, messages)


def _joined(separator: bytes, *words: bytes, most: int = 6) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(words), max_size=most).map(separator.join)


# JSON

_NAMES = st.sampled_from(["model", "Model", "mod\\u0065l", "choices", "index", "delta", "id", "x", "\\ud800"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["m", "r", "é\n"]),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["model", "a"]), part, max_size=3),
    max_leaves=6,
).map(json.dumps)


def _object(members: list[tuple[str, str]]) -> bytes:
    return ("{" + ", ".join(f'"{name}": {value}' for name, value in members) + "}").encode()


_OBJECTS = st.lists(st.tuples(_NAMES, _VALUES), max_size=5).map(_object)

# Forms

_DISPOSITIONS = _joined(
    b"; ",
    *(b"form-data", b"name=model", b'name="model"', b'name="x"', b'name="Model"', b'filename="a;b"', b"name*=UTF-8''x"),
    most=4,
).map(b"Content-Disposition: ".__add__)
_PARTS = st.builds(
    lambda headers, value: b"\r\n".join([b"--b", *headers, b"", value, b""]),
    st.lists(_DISPOSITIONS | st.just(b"Content-Type: text/plain"), max_size=3),
    st.sampled_from([b"m", b"r", b"", b"\xff\0", b"-b\r\n--"]),
)
_FORMS = st.lists(_PARTS, max_size=3).map(lambda parts: b"".join(parts) + b"--b--\r\n")

# HTTP

_FIELDS = _joined(
    b"",
    *(b"Host: h\r\n", b"Model-Override: m\r\n", b"Authorization: Bearer client-key\r\n", b"Expect: 100-continue\r\n"),
    *(b"Connection: X, close\r\n", b"X: y\r\n", b"Upgrade: h2c\r\n", b"Content-Type: application/json\r\n"),
    most=3,
)
_BODIES = st.sampled_from([b"", b'{"model":"m"}', b'{"model":"k"}']) | _OBJECTS


def _framed(start: bytes, fields: bytes, body: bytes, chunk: int, trailers: bytes) -> bytes:
    """A message; a `chunk` is so many bytes, none for 0."""
    if not chunk:
        return b"%b\r\n%bContent-Length: %d\r\n\r\n%b" % (start, fields, len(body), body)
    chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    framed = b"".join(b"%X;a=b\r\n%b\r\n" % (len(part), part) for part in chunks)
    return b"%b\r\n%bTransfer-Encoding: chunked\r\n\r\n%b0\r\n%b\r\n" % (start, fields, framed, trailers)


def _messages(*starts: bytes) -> st.SearchStrategy[bytes]:
    return st.builds(_framed, st.sampled_from(starts), _FIELDS, _BODIES, st.integers(0, 9), _FIELDS)


_REQUESTS = _messages(
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: h",
    b"GET /v1/models?x HTTP/1.1\r\nHost: h",
    b"HEAD /v1/models HTTP/1.1",
    b"PUT /v1/../x HTTP/1.0",
)
_ANSWERS = _messages(b"HTTP/1.1 200 OK", b"HTTP/1.0 500", b"HTTP/1.1 103 Early Hints", b"HTTP/1.1 204 No Content")

# Streams of events

_EVENTS = st.builds(
    lambda before, data, end: before + b"data: " + data + end,
    st.sampled_from([b"", b": x\n", b"event: y\r\n", b"\xef\xbb\xbf"]),
    st.sampled_from([b'{"choices":[{"index":0,\ndata: "delta":{}}]}', b"[DONE]"]) | _OBJECTS,
    st.sampled_from([b"\n\n", b"\r\r", b"\r\n\r\n", b"\n"]),
)

GRAMMARS: dict[str, st.SearchStrategy[Any]] = {
    "request": _cut(_REQUESTS),
    "response": _cut(_ANSWERS),
    "gateway": _cut(st.lists(_REQUESTS, min_size=1, max_size=3).map(b"".join)),
    "sse": _cut(st.lists(_EVENTS, max_size=4).map(b"".join)),
    "json_body": _OBJECTS,
    "multipart": _FORMS.map(b"multipart/form-data; boundary=b\n".__add__),
    "request_target": _joined(
        b"", b"/", b"//", b".", b"..", b"v1", b"%2e", b"%252E", b"%2f", b"\\", b"%5c", b";", b"%00", b"?", b"%", b"\xe9"
    ).map(b"/".__add__),
    "config": CONFIGS.map(encoded),
}
