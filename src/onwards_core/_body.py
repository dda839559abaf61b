"""The `model` in a request's body: found, and replaced, without building the rest of the body."""

import re
from typing import Protocol
from urllib.parse import unquote_to_bytes

import attrs
import msgspec
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from onwards_core._events import Request
from onwards_core._immutable import immutable

_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string = msgspec.json.Decoder(str)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)
_encode = msgspec.json.Encoder().encode
_minify = msgspec.json.format
_MODEL = frozenset(("model",))


class Body(Protocol):
    """A request body of one of the forms in which a model can be named."""

    @property
    def model(self) -> str | None:
        """The model that it names; None if it names none, or not by a string."""
        ...

    def member(self, name: str) -> bytes | None:
        """The JSON of a member of an object at the top level; None if there is none."""
        ...

    def with_model(self, model: str | None) -> bytes:
        """The body to send on, naming this model (None: as it is). A body that names none stays as it is."""
        ...

    def asking_for_usage(self) -> "Body | None":
        """The same, asking for the usage of a stream. None: it asks for no stream, or for its usage already."""
        ...


def parse_body(request: Request, depth: int) -> "Body | str":
    """The body's form, or what is wrong with it: a sentence for the caller. `depth`: how deep JSON may be nested."""
    raw, headers = request.body, request.headers
    content_type = headers.by_name.get(b"content-type", b"")
    if len(headers.by_name) < len(headers) and [name for name, _ in headers].count(b"content-type") > 1:
        return "The request has more than one Content-Type."
    kind = content_type.partition(b";")[0].strip().lower()
    if kind == b"multipart/form-data":
        return _parse_multipart(_parameter(b"boundary", content_type), raw)
    if not raw:
        return OpaqueBody(raw)
    members = None
    try:
        members = _members.decode(raw)
    except msgspec.ValidationError:
        pass  # JSON, but not an object
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return "The request body is not valid JSON." if not kind or b"json" in kind else OpaqueBody(raw)
    if _is_deeper(raw, depth):
        return "The request body is nested too deeply."
    if members is None:
        return OpaqueBody(raw)
    # Go's decoder, for one, does not care about the case of names.
    if "model" in map(str.lower, members.keys() - _MODEL):
        return "The request body names its model in another case than 'model'."
    return JsonBody(raw, members)


_PAIR = re.compile(rb"\[\]|\{\}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _is_deeper(json: bytes, depth: int) -> bool:
    """Whether lists and objects in valid JSON are nested deeper than this."""
    # Replacing takes a tenth of the time of counting: 12 % of all CPU time for a body of 100 KB.
    if 2 * len(json) - len(json.replace(b"{", b"")) - len(json.replace(b"[", b"")) <= depth:
        return False  # as nearly always
    # Without escaped backslashes, then quotes, every quote begins or ends a string: each second piece is outside.
    outside = json.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(None, _NO_BRACKETS)
    for _ in range(depth):  # The innermost ones are pairs, and go.
        if not brackets:
            break
        brackets = _PAIR.sub(b"", brackets)
    return bool(brackets)


@immutable
class OpaqueBody:
    """A body that can't name a model."""

    _raw: bytes = attrs.field(repr=False)
    model: None = None

    def member(self, name: str) -> bytes | None:
        return None

    def with_model(self, model: str | None) -> bytes:
        return self._raw

    def asking_for_usage(self) -> None:
        return None


@immutable
class JsonBody:
    """A JSON object, of which only the top level was looked at."""

    _raw: bytes = attrs.field(repr=False)
    _members: dict[str, msgspec.Raw] = attrs.field(repr=False)

    @property
    def model(self) -> str | None:
        try:
            return _string.decode(self._members["model"])
        except (KeyError, msgspec.DecodeError, UnicodeError):
            return None

    def member(self, name: str) -> bytes | None:
        value = self._members.get(name)
        return None if value is None else bytes(value)

    def with_model(self, model: str | None) -> bytes:
        if "model" not in self._members:
            return self._raw
        if model is not None:
            return _encode({**self._members, "model": model})
        return self._raw if self._says_it_once() else _encode(self._members)

    def asking_for_usage(self) -> "JsonBody | None":
        if self.member("stream") != b"true":
            return None
        try:
            options = _options.decode(self._members.get("stream_options", b"null")) or {}
        except (msgspec.DecodeError, UnicodeError):
            return None  # The provider will say what is wrong with it.
        if bytes(options.get("include_usage", b"")) == b"true":
            return None
        asking = {**options, "include_usage": True}
        members = {**self._members, "stream_options": msgspec.Raw(_encode(asking))}
        return JsonBody(_encode(members), members)

    def _says_it_once(self) -> bool:
        """Whether every parser finds the same `model` in the bytes as they came.

        If a name stands twice, parsers differ in which one counts, and a client could choose a pool with one and a
        provider's model with the other. One plain occurrence of the name can't be twice; otherwise the body is
        compared with what we read.
        """
        # What is read says nothing twice, and no name is longer when it is written again. A `model` more would be
        # longer than the blanks that most clients write; to look for it would take 20 times as long, for 100 KB.
        if len(self._raw) - len(_encode(self._members)) < len('"model":0,'):
            return True
        if self._raw.count(b'"model"') == 1 and b"\\u" not in self._raw:
            return True
        return _minify(self._raw, indent=-1) == _minify(_encode(self._members), indent=-1)


@immutable
class MultipartBody:
    """A form, with the place of the `model` field's value."""

    _raw: bytes = attrs.field(repr=False)
    _start: int
    _end: int

    def member(self, name: str) -> bytes | None:
        return None

    def asking_for_usage(self) -> None:
        return None

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


def _parse_multipart(boundary: bytes | None, raw: bytes) -> "Body | str":
    if not boundary:
        return "The request body is not valid multipart/form-data."
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
    # More delimiters than parts: another parser, less strict about line ends, could find more parts. Something on the
    # line of the first or the last one: for a parser that is stricter it may be no delimiter.
    delimiter = b"--" + boundary
    behind = raw.rfind(delimiter + b"--") + len(delimiter) + 2
    alone = raw.startswith((delimiter, b"\r\n" + delimiter)) and _REST_OF_LINE.match(raw, behind)
    whole = form.complete and raw.count(delimiter) == form.parts + 1 and alone
    if not whole or form.control_characters:
        return "The request body is not valid multipart/form-data."
    if form.ambiguous or len(form.models) > 1:
        return "The form does not name one model."
    if not form.models:
        return OpaqueBody(raw)
    return MultipartBody(raw, *form.models[0])


_REST_OF_LINE = re.compile(rb"[ \t]*(?:\r\n|\Z)")
# A line ends at LF for some.
_CONTROL = re.compile(rb"[\0-\x08\n-\x1f\x7f]")
# What a part may say of how its value is coded; all mean that it stands there as it is.
_PLAIN_CODINGS = frozenset((b"7bit", b"8bit", b"binary"))


class _Form:
    """What the multipart parser found out about a form: where the values of its fields named `model` stand."""

    def __init__(self) -> None:
        self.parts = 0
        self.models: list[tuple[int, int]] = []
        self.ambiguous = False
        """Whether parsers may differ in what is a field named `model`."""
        self.complete = False
        self.control_characters = False
        """Whether there are any in the headers of parts."""
        self._header = b""
        self._value = b""
        self._disposition: bytes | None = None
        self._coded = False
        self._span: tuple[int, int] | None = None

    def part_begin(self) -> None:
        self.parts += 1
        self._disposition = None
        self._coded = False
        self._span = None

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = data[start:end]

    def header_end(self) -> None:
        header = self._header.lower()
        self.control_characters |= _CONTROL.search(self._value) is not None
        if header == b"content-disposition":
            self.ambiguous |= self._disposition is not None
            self._disposition = self._value
        elif header == b"content-transfer-encoding":
            self._coded |= self._value.strip().lower() not in _PLAIN_CODINGS
        self._value = b""  # an empty one is not reported

    def part_data(self, data: bytes, start: int, end: int) -> None:
        self._span = (start, end)

    def part_end(self) -> None:
        disposition = self._disposition or b""
        # In the place of the type some would read a parameter: `name=model; name="x"`.
        self.ambiguous |= disposition.partition(b";")[0].strip().lower() != b"form-data"
        name = _parameter(b"name", disposition)
        if name == b"model" and self._span and not self._coded and b"filename" not in disposition.lower():
            self.models.append(self._span)
        else:
            # As some might read it: `Model`, with an escape, with no value or a coded one, as a file.
            self.ambiguous |= name is None or b"=?" in name or unquote_to_bytes(name).strip().lower() == b"model"

    def end(self) -> None:
        self.complete = True


_PLAIN_VALUE = re.compile(rb"""\s*=\s*(?:"([^"\\]+)"|([^\s"'\\]+))\s*""")


def _parameter(name: bytes, header: bytes) -> bytes | None:
    """A parameter of a header; None if it is not there once, and so that every parser reads it alike.

    Parsers differ in repeated parameters, backslashes, broken quotes and the extended form `name*=`.
    """
    found = list(re.finditer(rb";\s*%b\b([^;]*)" % name, header, re.IGNORECASE))
    if len(found) != 1:
        return None
    before = header[: found[0].start()]
    plain = _PLAIN_VALUE.fullmatch(found[0][1])
    if plain is None or b"\\" in before or before.count(b'"') % 2:  # It may be inside of quotes.
        return None
    return plain[1] or plain[2]
