"""OpenAI's published types as an oracle: their fields, instances of them, and how schemas of ours compare."""

import types
import typing
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from openai import BaseModel
from typing_extensions import get_type_hints, is_typeddict

_LISTS = (list, Iterable, Sequence)
EXTRA = "x_acme"
"""The name of a field that no schema knows."""


def members(annotation: Any) -> Iterator[Any]:
    """The types of a union, or the one type; without what qualifies or names them."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from members(member)
    elif origin in (typing.Annotated, typing.Required, typing.NotRequired):
        yield from members(get_args(annotation)[0])
    elif hasattr(annotation, "__value__"):
        yield from members(annotation.__value__)
    else:
        yield annotation


def is_model(type_: Any) -> bool:
    """Whether it is an object with published fields."""
    return is_typeddict(type_) or (isinstance(type_, type) and issubclass(type_, BaseModel))


@cache
def fields(model: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of an object by their names in JSON: each one's type, and whether it is required."""
    if not is_typeddict(model):
        return {
            field.alias or name: (field.annotation, field.is_required()) for name, field in model.model_fields.items()
        }
    hints = get_type_hints(model, include_extras=True)
    return {
        name: (
            hint,
            get_origin(hint) is typing.Required or (model.__total__ and get_origin(hint) is not typing.NotRequired),
        )
        for name, hint in hints.items()
    }


def _list_like(member: Any) -> bool:
    origin = get_origin(member)
    return origin is not None and isinstance(origin, type) and issubclass(origin, Iterable) and origin is not dict


def _alternatives(annotation: Any) -> list[Any]:
    """The types of a union, without the `object` beside models that stands for what contains itself: filters."""
    found = list(members(annotation))
    return [member for member in found if member is not object or not any(map(is_model, found))]


@cache
def values(annotation: Any, extra: bool = False) -> st.SearchStrategy[Any]:
    """JSON values of a published type. Numbers are those that every range allows.

    `extra`: each object also has a field that no schema knows.
    """
    return st.one_of([_values(member, extra) for member in _alternatives(annotation)])


def _values(member: Any, extra: bool) -> st.SearchStrategy[Any]:
    args = get_args(member)
    if get_origin(member) is typing.Literal:
        return st.sampled_from(args)
    if get_origin(member) is dict:
        return st.dictionaries(st.text(max_size=3), values(args[1], extra), max_size=2)
    if _list_like(member):
        return st.lists(st.deferred(lambda: values(args[0], extra)), min_size=1, max_size=2)
    if is_model(member):
        return st.deferred(lambda: _objects(member, extra))
    simple: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(max_size=5),
        int: st.integers(1, 20),
        float: st.floats(0, 1),
        bool: st.booleans(),
        types.NoneType: st.none(),
        object: st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3), max_size=2),
    }
    return simple[member]


@cache
def _objects(model: Any, extra: bool) -> st.SearchStrategy[Any]:
    required = {name: values(type_, extra) for name, (type_, required) in fields(model).items() if required}
    optional = {name: values(type_, extra) for name, (type_, required) in fields(model).items() if not required}
    if extra:
        required[EXTRA] = st.just({EXTRA: 1})
    return st.fixed_dictionaries(required, optional=optional)


@cache
def examples(annotation: Any) -> list[Any]:
    """Values of a published type that have each of its fields, and each type of each field, at least once."""
    return [example for member in _alternatives(annotation) for example in _examples(member)]


def _examples(member: Any) -> list[Any]:
    args = get_args(member)
    if get_origin(member) is typing.Literal:
        return list(args)
    if get_origin(member) is dict:
        return [{"key": example} for example in examples(args[1])]
    if _list_like(member):
        return [examples(args[0])]
    if is_model(member):
        of_fields = {name: examples(type_) for name, (type_, _) in fields(member).items()}
        count = max(map(len, of_fields.values()))
        return [{name: found[number % len(found)] for name, found in of_fields.items()} for number in range(count)]
    simple: dict[Any, Any] = {str: "text", int: 3, float: 0.5, bool: True, types.NoneType: None, object: {"free": [1]}}
    return [simple[member]]


def keeps(got: Any, sent: Any) -> bool:
    """Whether everything that was sent is there; more may be."""
    match sent:
        case dict():
            return isinstance(got, dict) and all(
                name in got and keeps(got[name], value) for name, value in sent.items()
            )
        case list():
            return isinstance(got, list) and len(got) == len(sent) and all(map(keeps, got, sent))
        case _:
            return bool(got == sent)


Pairs = dict[Any, set[Any]]
"""By schema; by `Raw`, what is left whole although its fields are published."""


def pairs(schema: type[msgspec.Struct], *models: Any) -> Pairs:
    """For each schema that is reached from this one, the published types in whose places it stands.

    Fails if a published field has no place, or is left whole where its own fields are published.
    """
    found: Pairs = defaultdict(set)
    for model in models:
        _pair(model, [schema], found)
    return found


def _pair(published: Any, own: Iterable[Any], found: Pairs) -> None:
    own = [member for annotation in own for member in members(annotation)]
    free = object in members(published) or msgspec.Raw in own
    for member in members(published):
        args = get_args(member)
        if is_model(member):
            schemas = [it for it in own if isinstance(it, type) and issubclass(it, msgspec.Struct)]
            if not schemas:
                assert free, f"{member} has no schema"
                found[msgspec.Raw].add(member)
            for schema in schemas:
                if member not in found[schema]:
                    found[schema].add(member)
                    known = {field.encode_name: field.type for field in msgspec.structs.fields(schema)}
                    for name, (type_, _) in fields(member).items():
                        assert name in known, f"{schema} lacks {name} of {member}"
                        _pair(type_, [known[name]], found)
        elif _list_like(member):
            _pair(args[0], [get_args(it)[0] for it in own if get_origin(it) is list], found)
        elif get_origin(member) is dict and msgspec.Raw not in own:
            _pair(args[1], [get_args(it)[1] for it in own if get_origin(it) is dict], found)


def names(schema: type[msgspec.Struct]) -> set[str]:
    """The names that a schema knows, in JSON."""
    return {field.encode_name for field in msgspec.structs.fields(schema)}


def published_names(models: Iterable[Any]) -> set[str]:
    """The names that any of these types has, in JSON."""
    return {name for model in models for name in fields(model)}
