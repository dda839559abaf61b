"""Where a body names its model, and what else of it changes when that is replaced: nothing."""

import email
import email.policy
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onwards_core import Request
from onwards_core._body import Body, JsonBody, MultipartBody, OpaqueBody, parse_body

JSON = b"application/json"


def parsed(body: bytes, *content_types: bytes) -> Body | str:
    """What becomes of a body with these content types."""
    request = Request("POST", b"/", [(b"content-type", value) for value in content_types], body)
    return parse_body(request, 128)


def understood(body: bytes, *content_types: bytes) -> Body:
    """The same, for a body that is well-formed."""
    found = parsed(body, *content_types)
    assert not isinstance(found, str), found
    return found


# JSON


def escaped(draw: st.DrawFn, text: str) -> str:
    """A string as JSON may spell it: each character plain or escaped."""
    out = []
    for character in text:
        units = character.encode("utf-16-be", "surrogatepass")
        digits = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        out.append(
            draw(st.sampled_from([plain, plain, digits, digits.replace("\\u", "\\U").upper().replace("\\U", "\\u")]))
        )
    return f'"{"".join(out)}"'


NUMBERS = [
    "0",
    "-0",
    "1.0",
    "1.10",
    "1E5",
    "1e+05",
    "-1.5e-300",
    "9" * 40,
    "123456789012345678901",
    "0.1000000000000000055",
]
SPACES = st.text(" \t\r\n", max_size=2)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NAMES = st.sampled_from(["model", "models", "a", "b", "mode", "é", "", '"model"']) | TEXTS


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    """A JSON value in any spelling."""
    kind = draw(st.integers(0, 5 if depth else 3))
    if kind == 0:
        return draw(st.sampled_from(NUMBERS))
    if kind == 1:
        return draw(st.sampled_from(["true", "false", "null", '"\\/"']))
    if kind <= 3:
        return escaped(draw, draw(st.sampled_from(["model", '"model"', "x"]) | TEXTS))
    if kind == 4:
        items = draw(st.lists(values(depth - 1), max_size=3))
        return f"[{draw(SPACES)}{(draw(SPACES) + ',').join(items)}{draw(SPACES)}]"
    return draw(objects(st.lists(st.tuples(NAMES, values(depth - 1)), max_size=3)))


@st.composite
def objects(draw: st.DrawFn, members: st.SearchStrategy[list[tuple[str, str]]]) -> str:
    """A JSON object with these members, in any spelling."""
    spelled = [
        f"{draw(SPACES)}{escaped(draw, name)}{draw(SPACES)}:{draw(SPACES)}{value}{draw(SPACES)}"
        for name, value in draw(members)
    ]
    return f"{{{','.join(spelled)}{draw(SPACES)}}}"


def raw_members(text: str) -> list[tuple[str, str]]:
    """The members of an object, names undone and values as they are spelled: by the standard library's scanner."""
    decoder = json.JSONDecoder(strict=False)
    at, found = text.index("{") + 1, []
    while text[at:].lstrip()[0] != "}":
        at = len(text) - len(text[at:].lstrip(" \t\r\n,"))
        name, at = decoder.raw_decode(text, at)
        at = len(text) - len(text[at:].lstrip(" \t\r\n:"))
        start = at
        _, at = decoder.raw_decode(text, at)
        found.append((name, text[start:at]))
    return found


def reading(text: str | bytes) -> Any:
    """A document with each number as it is spelled, and each object with all its members."""
    return json.loads(text, parse_int=str, parse_float=str, object_pairs_hook=list)


MEMBERS = st.lists(st.tuples(NAMES, values()), max_size=6).filter(
    lambda members: all(name == "model" or name.lower() != "model" for name, _ in members)
)


@given(objects(MEMBERS), TEXTS)
def test_replacing_the_model_of_json(text: str, model: str) -> None:
    """Only the value of `model` changes: every other member keeps its bytes, and numbers their spelling; of a name
    that stands twice the last one counts."""
    body = understood(text.encode(), JSON)
    before = dict(raw_members(text))
    assert list(dict(reading(text))) == list(before)
    replaced = body.with_model(model).decode()
    after = raw_members(replaced)
    if "model" not in before:
        assert replaced == text
        assert body.model is None
        return
    assert [(name, value) for name, value in after if name != "model"] == [
        (name, value) for name, value in before.items() if name != "model"
    ]
    assert [json.loads(value) for name, value in after if name == "model"] == [model]
    old = json.loads(before["model"], strict=False)
    assert body.model == (old if isinstance(old, str) else None)


@given(objects(MEMBERS))
def test_one_reading_of_json(text: str) -> None:
    """What goes on unchanged in meaning is byte for byte the same, unless it names its model twice: then all but the
    one that counts are gone, however they were spelled."""
    body = understood(text.encode(), JSON)
    sent = body.with_model(None).decode()
    names = [name for name, _ in reading(text)]
    if names.count("model") == 1 and len(set(names)) == len(names):
        assert reading(sent) == reading(text)
    if "model" not in names or (names.count("model") == text.count('"model"') == 1 and "\\u" not in text):
        assert sent == text
    models = [value for name, value in reading(sent) if name == "model"]
    assert len(models) <= 1
    assert dict(reading(sent)) == dict(reading(text))


ESCAPES = st.sampled_from(
    [r"\b", r"\f", r"\n", r"\r", r"\t", r"\"", r"\\", r"\/", r"\u0001", r"\u007f", "/", "\x7f", "\u2028", "é"]
)


@given(st.lists(ESCAPES, max_size=30).map("".join), st.sampled_from(["", " "]))
def test_names_in_few_bytes_hide_no_second_model(name: str, blank: str) -> None:
    """However another member's name is spelled, what is written again is never longer, which would make up for it."""
    once = f'{{"{name}":{blank}1,"model":{blank}"a"}}'.encode()
    assert json.loads(understood(once).with_model(None)) == json.loads(once)
    twice = once[:-1] + b',"model":"b"}'
    assert json.loads(understood(twice).with_model(None)) == json.loads(twice)
    assert understood(twice).with_model(None).count(b'"model"') == 1


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "a", "model": "b"}',
        '{"model": "a", "\\u006dodel": "b"}',
        '{"\\u006dodel": "a", "model": "b"}',
        '{"mod\\u0065l": "a", "\\u006Dodel": "b"}',
        '{"model": 1, "model": "b"}',
        '{"x": "\\"model\\"", "model": "a", "model"\n: "b"}',
    ],
)
def test_a_model_named_twice(text: str) -> None:
    """Whatever parser a provider has, it reads the model that chose the pool."""
    body = understood(text.encode(), JSON)
    assert body.model == "b"
    assert [value for name, value in reading(body.with_model(None)) if name == "model"] == ["b"]
    assert [value for name, value in reading(body.with_model("c")) if name == "model"] == ["c"]


@pytest.mark.parametrize("name", ["Model", "MODEL", "\\u004dodel", "mOdEl"])
def test_a_model_in_another_case(name: str) -> None:
    """Some parsers take `Model` for `model`: such a body is not passed on at all."""
    assert "another case" in str(parsed(f'{{"model": "a", "{name}": "b"}}'.encode(), JSON))
    assert "another case" in str(parsed(f'{{"{name}": "b"}}'.encode(), JSON))
    understood(f'{{"model": "a", "x": {{"{name}": "b"}}}}'.encode(), JSON)


@pytest.mark.parametrize(
    "text",
    [
        '{"model": "a"}',
        ' \r\n{ "messages" :[{"model": "x", "n": 1.0}],\t"model"  : "a" , "seed": 12345678901234567890}\n',
        '{"model": "a", "messages": [{"content": "say \\"model\\" twice, \\u00e9"}]}',
    ],
)
def test_an_honest_body_is_not_touched(text: str) -> None:
    """A body that names one model goes on as the very same bytes."""
    assert understood(text.encode(), JSON).with_model(None) == text.encode()


@pytest.mark.parametrize("value", [b"7", b"null", b"true", b"{}", b'["a"]', b'"\xff"', b'"\xed\xa0\x80"'])
def test_a_model_that_is_no_text(value: bytes) -> None:
    """A `model` that is not a string, in UTF-8, names no model."""
    body = understood(b'{"model": %b}' % value, JSON)
    assert body.model is None
    assert reading(body.with_model("x")) == [("model", "x")]


@pytest.mark.parametrize("body", [b"[]", b'"model"', b"1", b"null", b'[{"model": "a"}]', b" true "])
def test_json_that_is_no_object(body: bytes) -> None:
    """JSON of another kind names no model and is not touched."""
    found = understood(body, JSON)
    assert (type(found), found.model, found.with_model("x")) == (OpaqueBody, None, body)


MALFORMED = [
    b"{",
    b'{"model": "a"',
    b'{"model": "a"}}',
    b'{"model": "a"} {"model": "b"}',
    b"{'model': 'a'}",
    b'{"model": "a", "x": NaN}',
    b'{"model": "a",}',
    b'{"model": "a", // no\n "x": 1}',
    b'\xef\xbb\xbf{"model": "a"}',
    '{"model": "a"}'.encode("utf-16"),
    b'{"\xff": 1, "model": "a"}',
    b'{"model": "\\ud800"}',
    b'{"model": "a", "x": "\\udc00"}',
    b'{"a":' * 100_000,
    b'{"model": "a", "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("content_types", [[], [b"application/json; charset=utf-8"], [b"Application/Vnd.x+JSON"]])
def test_malformed_json(body: bytes, content_types: list[bytes]) -> None:
    """What another parser might make sense of is an error, not a body without a model."""
    assert parsed(body, *content_types) == "The request body is not valid JSON."


@pytest.mark.parametrize("content_type", [b"audio/wav", b"application/octet-stream", b"text/plain"])
def test_a_body_of_another_kind(content_type: bytes) -> None:
    """What neither is JSON nor says so may be anything; JSON is recognised whatever it says it is."""
    found = understood(b"RIFF\0", content_type)
    assert (found.model, found.with_model(None), found.with_model("x")) == (None, b"RIFF\0", b"RIFF\0")
    assert understood(b'{"model": "a"}', content_type).model == "a"


def test_no_body() -> None:
    """Without a body there is no model, whatever its type."""
    for content_types in ([], [JSON], [b"text/plain"]):
        assert isinstance(understood(b"", *content_types), OpaqueBody)


def test_two_content_types() -> None:
    """Who sends two content types may mean two things."""
    assert parsed(b'{"model": "a"}', JSON, JSON) == "The request has more than one Content-Type."


def test_bodies_stay_out_of_reprs() -> None:
    """What people ask a model is nobody else's."""
    json_body = understood(b'{"model": "secret"}', JSON)
    assert isinstance(json_body, JsonBody)
    for body in (json_body, MultipartBody(b"secret", 0, 1), OpaqueBody(b"secret")):
        assert "secret" not in repr(body)


# Forms

BOUNDARIES = st.text("aZ09-_+=", min_size=1, max_size=30).map(str.encode)
FORM_NAMES = st.sampled_from(["file", "models", "prompt", "response_format", "timestamp_granularities[]", "mode l"])
CONTENTS = st.lists(
    st.sampled_from([b"\r\n", b"\r", b"\n", b"--", b"-", b"model", b"\r\n--", b'name="model"', b"\0\xff"]) | st.binary()
).map(b"".join)


def part(disposition: bytes, content: bytes) -> bytes:
    """A part without its delimiters."""
    return b"Content-Disposition: form-data" + disposition + b"\r\n\r\n" + content + b"\r\n"


def form(boundary: bytes, *parts: bytes) -> bytes:
    """A form of parts."""
    return b"".join(b"--" + boundary + b"\r\n" + it for it in parts) + b"--" + boundary + b"--\r\n"


@st.composite
def forms(draw: st.DrawFn) -> tuple[bytes, bytes, int, int]:
    """A boundary, a form with one model, and where its value begins and ends."""
    boundary = draw(BOUNDARIES)
    parts = [
        part(
            f'; name="{draw(FORM_NAMES)}"'.encode() + draw(st.sampled_from([b"", b'; filename="a b.wav"'])),
            draw(CONTENTS | st.sampled_from([b"--" + boundary[:-1], b"\r\n--" + boundary[:-1]])),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]
    place = draw(st.integers(0, len(parts)))
    spelled = draw(st.sampled_from([b'; name="model"', b";name=model", b' ;\tNAME = "model" ;x=y', b"; name=model ;"]))
    value = draw(CONTENTS).decode("latin-1").encode() or b"whisper"
    parts.insert(place, part(spelled, value))
    # No delimiter inside of a part: then this would be another form.
    assume(all(b"--" + boundary not in it for it in parts))
    start = len(form(boundary, *parts[:place])) - len(b"--\r\n") + len(b"\r\n") + len(parts[place]) - len(value) - 2
    return boundary, form(boundary, *parts), start, start + len(value)


def form_type(boundary: bytes, quote: bytes = b"") -> bytes:
    """The content type of a form."""
    return b"multipart/form-data; boundary=" + quote + boundary + quote


@given(forms(), TEXTS, st.sampled_from([b"", b'"']))
def test_replacing_the_model_of_a_form(made: tuple[bytes, bytes, int, int], model: str, quote: bytes) -> None:
    """Only the bytes of the value change, wherever it stands and whatever stands beside it."""
    boundary, raw, start, end = made
    body = understood(raw, form_type(boundary, quote))
    assert body.model == raw[start:end].decode()
    assert body.with_model(None) == raw
    assert body.with_model(model) == raw[:start] + model.encode() + raw[end:]


@given(forms(), st.data())
def test_a_truncated_form(made: tuple[bytes, bytes, int, int], data: st.DataObject) -> None:
    """A form that does not come to its end is refused, wherever it was cut."""
    boundary, raw, _, _ = made
    cut = data.draw(st.integers(0, len(raw) - len(b"-\r\n")))
    assert parsed(raw[:cut], form_type(boundary)) == "The request body is not valid multipart/form-data."


def test_another_parser_agrees() -> None:
    """The standard library's parser of messages finds the same form, with another model."""
    raw = form(b"b", part(b'; name="file"; filename="a.wav"', b"RIFF\0\r\n"), part(b'; name="model"', b"alias"))
    sent = understood(raw, form_type(b"b")).with_model("large")
    message = email.message_from_bytes(
        b"Content-Type: " + form_type(b"b") + b"\r\n\r\n" + sent, policy=email.policy.HTTP
    )
    contents = [(it.get_param("name", header="content-disposition"), it.get_content()) for it in message.iter_parts()]
    assert contents == [("file", "RIFF\0\r\n"), ("model", "large")]


def test_a_form_without_a_model() -> None:
    """A form that names no model is not touched."""
    for parts in ([], [part(b'; name="file"', b"model")]):
        raw = form(b"b", *parts)
        found = understood(raw, form_type(b"b"))
        assert (found.model, found.with_model("x")) == (None, raw)


def test_the_model_of_a_form_is_utf_8() -> None:
    """Other bytes are no text, and name no model."""
    assert understood(form(b"b", part(b"; name=model", b"\xff")), form_type(b"b")).model is None
    assert understood(form(b"b", part(b"; name=model", b"\xc3\xa9")), form_type(b"b")).model == "é"


MODEL = part(b'; name="model"', b"a")
HEADER = b"Content-Disposition: form-data; "


@pytest.mark.parametrize(
    "parts",
    [
        [MODEL, MODEL],
        [part(b'; name="model"', b"")],
        [part(b'; name="model"', b""), MODEL],
        [MODEL, part(b'; name="Model"', b"b")],
        [MODEL, part(b'; name="%6dodel"', b"b")],
        [MODEL, part(b'; name="=?utf-8?q?model?="', b"b")],
        [part(b'; name="model"\r\nContent-Transfer-Encoding: base64', b"YQ==")],
        [MODEL, part(b'; name=" model"', b"b")],
        [MODEL, part(b'; name="model"; filename="x"', b"b")],
        [part(b'; name="model"; filename="x"', b"b")],
        [part(b"; name=\"model\"; FileName*=UTF-8''x", b"b")],
        [part(b'; name="x"; name="model"', b"a")],
        [part(b'; name="model"; name="x"', b"a")],
        [part(b"; name=\"x\"; name*=UTF-8''model", b"a")],
        [part(b"; name*=UTF-8''model", b"a")],
        [part(b'; name="model"; name*0="x"', b"a")],
        [part(b'; name="mod\\el"', b"a")],
        [part(b'; name="model', b"a")],
        [part(b"; name='model'", b"a")],
        [part(b'; name="x; name=model"', b"a")],
        [part(b'; x="; name="model', b"a")],
        [part(b'; x=y"; name="model"', b"a")],
        [part(b'; x="y\\"; name="model"', b"a")],
        [part(b"", b"a")],
        [part(b'; name=""', b"a")],
        [part(b' name="model"', b"a")],
        [b"\r\na\r\n"],
        [b"Content-Type: text/plain\r\n\r\na\r\n"],
        [HEADER + b"name=model\r\n" + HEADER + b"name=x\r\n\r\na\r\n"],
        [HEADER + b"name=x\r\n" + HEADER + b"name=model\r\n\r\na\r\n"],
        [b"X: ; name=model\r\nContent-Disposition:\r\n\r\na\r\n"],
        [b'Content-Disposition: name=model; name="x"\r\n\r\na\r\n'],
    ],
)
def test_a_form_with_two_readings(parts: list[bytes]) -> None:
    """A form whose model is named twice, or in a way that parsers differ in, is refused."""
    assert parsed(form(b"b", *parts), form_type(b"b")) == "The form does not name one model."


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"no form",
        b'{"model": "a"}',
        form(b"c", MODEL),
        b"preamble\r\n" + form(b"b", MODEL),
        b"\r\npreamble" + form(b"b", MODEL),
        form(b"b", MODEL) + form(b"b", MODEL),
        b"\r\n--c\r\n\r\n" + form(b"b", MODEL)[:-4],
        form(b"b", part(b"; name=file", b"x\n--b\nContent-Disposition: form-data; name=model\n\nb"), MODEL),
        form(b"b", MODEL).replace(b"\r\n", b"\n"),
        form(b"b", b"Content-Disposition : form-data; name=model\r\n\r\na\r\n"),
        form(b"b", b"Content-Disposition: form-data;\r\n name=model\r\n\r\na\r\n"),
        form(b"b", b"X: y\r\n" * 100 + MODEL),
        form(b"b", b"X: y\nContent-Disposition: form-data; name=file\r\n" + MODEL),
        form(b"b", part(b'; name="model"', b"a")).removesuffix(b"\r\n") + b"x\r\n",
    ],
)
def test_a_malformed_form(raw: bytes) -> None:
    """A form that is not strictly well-formed is refused: another parser might find something else in it."""
    assert parsed(raw, form_type(b"b")) == "The request body is not valid multipart/form-data."


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b'multipart/form-data; boundary=""',
        b'multipart/form-data; boundary="b',
        b"multipart/form-data; boundary=b; boundary=b",
        b"multipart/form-data; boundary=c; boundary=b",
        b"multipart/form-data; boundary=b; boundary*=UTF-8''c",
        b"multipart/form-data; boundary*0=b",
        b"multipart/form-data; boundary=" + b"b" * 300,
    ],
)
def test_a_boundary_with_two_readings(content_type: bytes) -> None:
    """A content type that does not say plainly where its parts end is refused."""
    assert parsed(form(b"b", MODEL), content_type) == "The request body is not valid multipart/form-data."


def test_padding_and_epilogue() -> None:
    """Space after a delimiter, and text after the last one, belong to no part."""
    raw = form(b"b", MODEL, part(b"; name=x", b"y")).replace(b"\n--b\r", b"\n--b \t\r") + b"the end"
    body = understood(raw, b"Multipart/Form-Data;charset=utf-8;Boundary=b")
    assert body.with_model("new") == raw.replace(b"\r\n\r\na\r\n", b"\r\n\r\nnew\r\n")


JSON_VALUES = st.recursive(
    st.none() | st.text('[]{}"\\\\a', max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('[]{}"\\\\a', max_size=3), inner, max_size=4),
    max_leaves=30,
)


def depth_of(value: object) -> int:
    """How deep lists and objects are nested."""
    match value:
        case list():
            return 1 + max(map(depth_of, value), default=0)
        case dict():
            return 1 + max(map(depth_of, value.values()), default=0)
        case _:
            return 0


@given(JSON_VALUES, st.integers(1, 8))
def test_depth_is_that_of_the_value(value: object, limit: int) -> None:
    """A body is refused if, and only if, it is nested deeper than the limit."""
    request = Request("POST", b"/", [], json.dumps(value).encode())
    assert (parse_body(request, limit) == "The request body is nested too deeply.") == (depth_of(value) > limit)


def test_members() -> None:
    """Of a JSON object the members can be had as they stand; nothing else has any."""
    body = parse_body(Request("POST", b"/", [], b'{"model": "m", "stream": true, "user": {"a": 1.0}}'), 9)
    assert not isinstance(body, str)
    assert (body.member("stream"), body.member("user"), body.member("none")) == (b"true", b'{"a": 1.0}', None)
    assert OpaqueBody(b'{"a": 1}').member("a") is None
    assert MultipartBody(b"a", 0, 1).member("a") is None
