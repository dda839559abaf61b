"""The `model` in a request's body: found, and replaced, without building the rest of the body."""

import re
from typing import Protocol

import attrs
import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from onwards_core._events import Request

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_encode = msgspec.json.Encoder().encode
_minify = msgspec.json.format


class Body(Protocol):
    """A request body of one of the forms in which a model can be named."""

    @property
    def model(self) -> str | None:
        """The model that it names; None if it names none, or not by a string."""
        ...

    def with_model(self, model: str | None) -> bytes:
        """The body to send on, naming this model (None: as it is). A body that names none stays as it is."""
        ...


def parse_body(request: Request) -> "Body | str":
    """The body's form, or what is wrong with it: a sentence for the caller."""
    raw = request.body
    content_types = [value for name, value in request.headers if name == b"content-type"]
    if len(content_types) > 1:
        return "The request has more than one Content-Type."
    kind, options = parse_options_header(content_types[0] if content_types else b"")
    if kind == b"multipart/form-data":
        return _parse_multipart(options.get(b"boundary", b""), raw)
    if not raw:
        return OpaqueBody(raw)
    try:
        return JsonBody(raw, _members.decode(raw))
    except msgspec.ValidationError:
        return OpaqueBody(raw)  # JSON, but not an object
    except (msgspec.DecodeError, RecursionError):
        return "The request body is not valid JSON."


@attrs.frozen
class OpaqueBody:
    """A body that can't name a model."""

    _raw: bytes = attrs.field(repr=False)
    model: None = None

    def with_model(self, model: str | None) -> bytes:
        return self._raw


@attrs.frozen
class JsonBody:
    """A JSON object, of which only the top level was looked at."""

    _raw: bytes = attrs.field(repr=False)
    _members: dict[str, msgspec.Raw] = attrs.field(repr=False)

    @property
    def model(self) -> str | None:
        try:
            return _string.decode(self._members["model"])
        except (KeyError, msgspec.DecodeError):
            return None

    def with_model(self, model: str | None) -> bytes:
        if model is not None and "model" in self._members:
            return _encode({**self._members, "model": model})
        return self._raw if self._says_it_once() else _encode(self._members)

    def _says_it_once(self) -> bool:
        """Whether every parser finds the same `model` in the bytes as they came.

        If a name stands twice, parsers differ in which one counts, and a client could choose a pool with one and a
        provider's model with the other. One plain occurrence of the name can't be twice; otherwise the body is
        compared with what we read.
        """
        if self._raw.count(b'"model"') == 1 and b"\\u" not in self._raw:
            return True
        return _minify(self._raw, indent=-1) == _minify(_encode(self._members), indent=-1)


@attrs.frozen
class MultipartBody:
    """A form, with the place of the `model` field's value."""

    _raw: bytes = attrs.field(repr=False)
    _start: int
    _end: int

    @property
    def model(self) -> str | None:
        try:
            return self._raw[self._start : self._end].decode()
        except UnicodeDecodeError:
            return None

    def with_model(self, model: str | None) -> bytes:
        if model is None:
            return self._raw
        return self._raw[: self._start] + model.encode() + self._raw[self._end :]


def _parse_multipart(boundary: bytes, raw: bytes) -> "Body | str":
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.part_begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.part_data,
                "on_part_end": form.part_end,
                "on_end": form.end,
            },
        )
        # In one piece: the parser's offsets are then offsets into the body.
        parser.write(raw)
    except FormParserError:
        form.complete = False
    if not boundary or not form.complete:
        return "The request body is not valid multipart/form-data."
    if form.ambiguous or len(form.models) > 1:
        return "The form does not name one model."
    if not form.models:
        return OpaqueBody(raw)
    return MultipartBody(raw, *form.models[0])


class _Form:
    """What the multipart parser found out about a form: where the values of its fields named `model` stand."""

    def __init__(self) -> None:
        self.models: list[tuple[int, int]] = []
        self.ambiguous = False
        """Whether parsers may differ in what is a field named `model`."""
        self.complete = False
        self._name = b""
        self._value = b""
        self._is_model = False
        self._span: tuple[int, int] | None = None

    def part_begin(self) -> None:
        self._is_model = False
        self._span = None

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        name, value, self._name, self._value = self._name, self._value, b"", b""
        if name.lower() == b"content-disposition":
            _, options = parse_options_header(value)
            names = _NAME_PARAMETER.findall(value)
            self.ambiguous |= names != [b"="] or self._is_model
            self._is_model = options.get(b"name") == b"model"
            self.ambiguous |= self._is_model and b"filename" in options

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._span = (self._span[0] if self._span else start, end)

    def part_end(self) -> None:
        if self._is_model and self._span:
            self.models.append(self._span)

    def end(self) -> None:
        self.complete = True


# `name=` and not the extended form `name*=`, which some parsers undo and others don't.
_NAME_PARAMETER = re.compile(rb";\s*name\s*(\*?=)", re.IGNORECASE)
