"""What the core reads: streams of events, configs, bodies and request targets."""

import email
import gzip
import json
import posixpath
import secrets
import traceback
from collections.abc import Iterable
from email.message import Message
from itertools import takewhile
from typing import Any
from urllib.parse import unquote_to_bytes

from onwards_core import ConfigError, Request, Snapshot, load_config
from onwards_core._body import Body, JsonBody, MultipartBody, OpaqueBody, parse_body
from onwards_core._decoding import decoder
from onwards_core._request import safe_target, upstream_target
from onwards_core._sanitize import SanitizeEvents
from onwards_core._sse import Framer
from tests.core.sse_support import defined
from tests.fuzz.cutting import in_pieces
from tests.fuzz.slow_json import Pairs, decoded
from tests.trio.wire_support import each_byte

# Streams of events


def sse(data: bytes) -> None:
    """A stream of events: the same ones however it is cut, and of chat completion chunks only what is parsed."""
    stream, pieces = in_pieces(data)
    events = defined(stream)
    for cut in [stream], pieces, each_byte(stream):
        assert _framed(cut) == events

    known = list(takewhile(_may_pass, events))
    out, failed = _sanitized([stream])
    assert _sanitized(pieces) == _sanitized(each_byte(stream)) == (out, failed)
    assert _sanitized([gzip.compress(stream)], b"gzip") == (out, failed)
    # What comes out is such a stream again, with nothing in it that could be taken away.
    assert _sanitized([out]) == (out, False)
    passed = defined(out)
    assert len(passed) <= len(known)
    for event in passed:
        if event not in (None, b"[DONE]"):
            chunk = decoded(event)
            assert isinstance(chunk, Pairs)
            assert [value for name, value in chunk if name == "model"] == ["alias"]


def _may_pass(event: bytes | None) -> bool:
    """Whether it is a comment, the end, or an object in JSON."""
    return event is None or event.strip() == b"[DONE]" or isinstance(decoded(event), Pairs)


def _framed(pieces: Iterable[bytes]) -> list[bytes | None]:
    framer = Framer()
    found = [event for piece in pieces for event in framer.feed(piece)] + framer.finish()
    assert not framer.failed
    return found


def _sanitized(pieces: Iterable[bytes], encoding: bytes | None = None) -> tuple[bytes, bool]:
    """What comes out, and whether it was broken off."""
    sanitizing = SanitizeEvents("alias", "default", 7, decoder(encoding))
    out = []
    for piece in pieces:
        out.append(sanitizing.feed(piece))
        if sanitizing.failed:
            return b"".join(out), True
    out.append(sanitizing.finish())
    return b"".join(out), sanitizing.failed


# Configs

# Nothing that stands in an input by chance.
_PLANTED = secrets.token_hex(16)
_SECRET_MEMBERS = frozenset(("onwards_key", "key"))
_SECRET_LISTS = frozenset(("keys", "global_keys"))


def config(data: bytes) -> None:
    """A config file: it is refused with its problems, or else can be used. Its secrets show in neither."""
    _check_config(data)
    try:
        document = json.loads(data)
        planted = json.dumps(_with_secrets(document)).encode()
    except (ValueError, RecursionError):
        return
    _check_config(planted)


def _check_config(data: bytes) -> None:
    try:
        loaded = load_config(data, lambda kind, name: _PLANTED)
    except ConfigError as error:
        shown = "".join(traceback.format_exception(error)) + repr(error)
    else:
        shown = repr(loaded) + repr(Snapshot.compile(loaded, hash_key=b"k" * 32))
    assert _PLANTED not in shown


def _with_secrets(value: Any) -> Any:
    """The same document with the planted text at the end of whatever is a secret."""
    if isinstance(value, list):
        return [_with_secrets(part) for part in value]
    if not isinstance(value, dict):
        return value
    out = {}
    for name, part in value.items():
        if name in _SECRET_MEMBERS and isinstance(part, str):
            out[name] = part + _PLANTED
        elif name in _SECRET_LISTS and isinstance(part, list):
            out[name] = [item + _PLANTED if isinstance(item, str) else item for item in part]
        else:
            out[name] = _with_secrets(part)
    return out


# Bodies


def json_body(data: bytes) -> None:
    """A JSON body: whichever of two members of one name a parser takes, it finds the model that we read."""
    body = _parsed(data, b"application/json")
    members = decoded(data)
    if not isinstance(body, JsonBody):
        return
    assert isinstance(members, Pairs)
    before = dict(members)
    model = before.get("model")
    assert body.model == (model if isinstance(model, str) and _is_text(model) else None)
    for new in None, "other":
        sent = body.with_model(new)
        members = decoded(sent)
        assert isinstance(members, Pairs)
        assert [name.lower() for name, _ in members].count("model") == ("model" in before)
        expected = before if new is None or "model" not in before else {**before, "model": new}
        assert dict(members) == expected


def _is_text(text: str) -> bool:
    return all(not "\ud800" <= character <= "\udfff" for character in text)


def multipart(data: bytes) -> None:
    """A form, after a line with its content type: another parser finds the model that we read, and replace."""
    content_type, _, raw = data.partition(b"\n")
    content_type = content_type.strip()
    if not content_type.isascii() or not content_type.decode().isprintable():
        return  # No codec lets it pass.
    body = _parsed(raw, content_type)
    if isinstance(body, OpaqueBody) and content_type.startswith(b"multipart/form-data;"):
        assert not _fields_named_model(content_type, raw)
    if not isinstance(body, MultipartBody):
        return
    start, end = body._start, body._end
    for model in body.model, "other":
        sent = body.with_model(model)
        value = raw[start:end] if model is None else model.encode()
        assert sent == raw[:start] + value + raw[end:]
        parts = _fields_named_model(content_type, sent)
        # It would look for further parts in a value that says it has some, which can't be in there.
        if not any(part.get_content_maintype() in ("multipart", "message") for part in parts):
            assert [part.get_payload(decode=True) for part in parts] == [value]


def _fields_named_model(content_type: bytes, form: bytes) -> list[Message]:
    """What the standard library's parser finds."""
    message = email.message_from_bytes(b"Content-Type: " + content_type + b"\r\n\r\n" + form)
    parts = message.get_payload() if message.is_multipart() else []
    return [part for part in parts if part.get_param("name", header="content-disposition") == "model"]


def _parsed(raw: bytes, content_type: bytes) -> Body | None:
    """None: it was refused, with a sentence."""
    body = parse_body(Request("POST", b"/", [(b"content-type", content_type)], raw), 128)
    if isinstance(body, str):
        assert body.endswith(".")
        return None
    return body


# Request targets


def request_target(data: bytes) -> None:
    """A request target: whatever a provider makes of escapes and slashes, it stays below the base of its URL."""
    if not safe_target(data):
        return
    for base in b"/v1", b"/a/b":
        target = upstream_target(base, data)
        assert target in (base + data, data)
        path = target.partition(b"?")[0]
        for _ in range(12):
            _check_below(base, path)
            path = unquote_to_bytes(path)


def _check_below(base: bytes, path: bytes) -> None:
    """However a server resolves dots in a path: by its slashes of both kinds, up to what ends it for some."""
    slashes = path.replace(b"\\", b"/")
    for reading in path, slashes, *(slashes.partition(end)[0] for end in (b"?", b"#", b"\0")):
        # Some leave out what follows a semicolon in a segment.
        plain = b"/".join(segment.partition(b";")[0] for segment in reading.split(b"/"))
        for spelled in reading, plain:
            resolved = b"/" + posixpath.normpath(spelled).lstrip(b"/")
            assert resolved == base or resolved.startswith(base + b"/")
