"""What the tests of all endpoints of strict mode share."""

import json
from collections.abc import Iterable
from types import NoneType
from typing import Any, get_args, get_origin

import msgspec

from onwards_core._decoding import Decoder
from onwards_core._strict import Endpoint, Fault, endpoint
from onwards_core._strict._endpoint import StrictEvents
from tests.core.openai_types import EXTRA, members

CHAT = b"/v1/chat/completions"
COMPLETIONS = b"/v1/completions"
EMBEDDINGS = b"/v1/embeddings"
RESPONSES = b"/v1/responses"


def at(path: bytes) -> Endpoint:
    """The endpoint at a path that has one."""
    found = endpoint(path)
    assert found is not None
    return found


def event(data: bytes) -> bytes:
    """Data that is one line, framed."""
    return b"data: " + data + b"\n\n"


def fault(path: bytes, request: Any, **more: Any) -> Fault | None:
    """What is wrong with a request, and with these further fields."""
    return at(path).check_request(json.dumps(request | more).encode())


def fault_at(path: bytes, request: Any, **more: Any) -> str | None:
    """The place of what is wrong with a request."""
    found = fault(path, request, **more)
    assert found is not None
    assert found.message
    return found.param


def whole(path: bytes, body: Any) -> Any:
    """What becomes of a plain answer; None if it is refused."""
    out = at(path).whole(json.dumps(body).encode(), "alias", "default", 7)
    return None if out is None else json.loads(out)


def transform(path: bytes, decoder: Decoder | None = None, *, trusted: bool = False) -> StrictEvents:
    """A transform as an exchange would make it."""
    return at(path).events("alias", "default", 7, decoder, trusted=trusted)


def streamed(path: bytes, data: Any) -> Any:
    """What becomes of an event's data; None if the event is left out."""
    strict = transform(path)
    out = strict.feed(event(json.dumps(data).encode()))
    assert not strict.failed
    head, _, sent = out.rpartition(b"data: ")
    if not out:
        return None
    assert sent.endswith(b"\n\n")
    if path == RESPONSES:
        assert head == b"event: %b\n" % json.loads(sent)["type"].encode()
    else:
        assert head == b""
    return json.loads(sent)


def without_extras(value: Any) -> Any:
    """The same value, without the fields that no schema knows."""
    match value:
        case dict():
            return {name: without_extras(inner) for name, inner in value.items() if name != EXTRA}
        case list():
            return [without_extras(inner) for inner in value]
        case _:
            return value


def all_names(value: Any) -> Iterable[str]:
    """The names of all fields in a value."""
    match value:
        case dict():
            yield from value
            for inner in value.values():
                yield from all_names(inner)
        case list():
            for inner in value:
                yield from all_names(inner)


def conforms(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type of ours, without fields that its schemas don't know."""
    types = list(members(annotation))
    if msgspec.Raw in types:
        return True
    match value:
        case dict():
            known = {
                field.encode_name: field.type
                for schema in types
                if isinstance(schema, type) and issubclass(schema, msgspec.Struct)
                for field in msgspec.structs.fields(schema)
            }
            maps = [get_args(it)[1] for it in types if get_origin(it) is dict]
            of_schema = bool(known) and all(
                name in known and conforms(inner, known[name]) for name, inner in value.items()
            )
            return of_schema or any(all(conforms(inner, type_) for inner in value.values()) for type_ in maps)
        case list():
            lists = [get_args(it)[0] for it in types if get_origin(it) is list]
            return any(all(conforms(inner, type_) for inner in value) for type_ in lists)
        case None:
            return NoneType in types
        case _:
            return type(value) in types
