"""How a config file is read: into a `Config`, or into every problem that it has, each with its path.

A secret never is in a problem: errors quote only what can't be one, and keep no hold of the document.
"""

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import reduce
from typing import Annotated, Any, TypeAlias, get_args, get_origin

import attrs
from cattrs import AttributeValidationNote, BaseValidationError, Converter
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

from onwards_core._config import (
    AffinityConfig,
    Config,
    ConfigError,
    ConfigFile,
    PoolConfig,
    ProviderConfig,
    RoutingActionType,
    StateConfig,
    Strategy,
    Target,
    TargetConfig,
)
from onwards_core._url import parse_store_url
from onwards_core._values import MISSING, Kind, ResolveSecret, SecretKind, Wrong, described

_Hook: TypeAlias = Callable[[Any, Any], Any]


def _nowhere(kind: str, name: str) -> str:
    raise LookupError(f"secrets of {kind} are not available here")


def load_config(raw: bytes, resolve_secret: ResolveSecret = _nowhere) -> Config:
    """Read a config file's contents. Raises `ConfigError` with all its problems.

    Without `resolve_secret`, a secret that is to be found elsewhere is an error.
    """
    result = _read(raw, resolve_secret)
    if isinstance(result, Config):
        return result
    # Raised outside of any handler: an error's context would hold the document.
    raise ConfigError(result)


def _read(raw: bytes, resolve_secret: ResolveSecret) -> Config | tuple[str, ...]:
    """The config or its problems."""
    try:
        document = _parse(raw)
        file = _converter(resolve_secret).structure(document, ConfigFile)
    except BaseValidationError as error:
        return tuple(_problems(error, ""))
    except (_Syntax, Wrong) as error:
        return (str(error),)
    except RecursionError:
        return ("expected a config, got lists or objects that are nested too deeply",)
    if problems := tuple(_contradictions(file)):
        return problems
    return Config(**attrs.asdict(file, recurse=False), warnings=tuple(_warnings(document, file)))


# JSON


class _Syntax(ValueError):
    """The file is no JSON."""

    def __init__(self, message: str, text: str, index: int) -> None:
        line = text.count("\n", 0, index) + 1
        column = index - text.rfind("\n", 0, index)
        super().__init__(f"line {line} column {column}: {message}")


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its names stood there more than once."""

    repeated: tuple[str, ...] = ()


def _parse(raw: bytes) -> Any:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Syntax("expected UTF-8, got other bytes", raw.decode("latin-1"), error.start) from None

    def constant(name: str) -> None:
        # The file is well-formed up to here, so it is the first one that stands in no string.
        index = next(found.start() for found in _STRING_OR_CONSTANT.finditer(text) if found[1])
        raise _Syntax(f"{name} is not a number", text, index)

    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_integer, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise _Syntax(error.msg, text, error.pos) from None


_STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')


def _object(members: list[tuple[str, Any]]) -> _Object:
    found = _Object(members)
    if len(found) < len(members):
        counts = Counter(name for name, _ in members)
        found.repeated = tuple(name for name, count in counts.items() if count > 1)
    return found


def _integer(digits: str) -> int | float:
    # Python refuses to read thousands of digits. As a float they are infinite, which nothing here accepts.
    return int(digits) if len(digits) <= 300 else float(digits)


# Structure


def _converter(resolve_secret: ResolveSecret) -> Converter:
    """A converter that coerces nothing. Where a value is wrong, its hooks raise `Wrong`."""
    converter = Converter()

    def single(annotated: Any) -> _Hook:
        kind: Kind | SecretKind = get_args(annotated)[1]
        if isinstance(kind, SecretKind):
            return lambda value, _: kind.parse(value, resolve_secret)
        return lambda value, _: kind.parse(value)

    def target(value: Any, _: Any) -> Any:
        return converter.structure(value, _target_type(value))

    register = converter.register_structure_hook_factory
    register(attrs.has, lambda cl: _only(dict, _attrs_hook(cl, converter)))
    register(_is(dict), lambda cl: _only(dict, mapping_structure_factory(cl, converter)))
    register(_is(list), lambda cl: _only(list, list_structure_factory(cl, converter)))
    register(_is(Annotated), single)
    converter.register_structure_hook_func(lambda cl: cl == Target, target)
    return converter


def _is(origin: Any) -> Callable[[Any], bool]:
    return lambda cl: get_origin(cl) is origin


def _only(json_type: type, structure: _Hook) -> _Hook:
    def strict(value: Any, cl: Any) -> Any:
        if not isinstance(value, json_type):
            raise Wrong(described(json_type()), described(value))
        return structure(value, cl)

    return strict


def _attrs_hook(cls: type[attrs.AttrsInstance], converter: Converter) -> _Hook:
    # Linecache would keep the code of every load.
    structure = make_dict_structure_fn(cls, converter, _cattrs_use_linecache=False)
    required = {field.name: MISSING for field in attrs.fields(cls) if field.default is attrs.NOTHING}
    return lambda value, _: structure(required | value, cls)


def _target_type(value: object) -> Any:
    """Which of the three formats is meant: told by shape, so that errors are those of the right one."""
    match value:
        case list():
            return list[TargetConfig]
        case {"providers": _}:
            return PoolConfig
        case {"url": _}:
            return TargetConfig
        case dict():
            raise Wrong('an object with "providers" or "url"', "one with neither")
        case _:
            raise Wrong("an object or a list of objects", described(value))


# What there is to say


def _problems(error: Exception, path: str) -> Iterator[str]:
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            # Cattrs says in a note which part of the value it was.
            note: Any = inner.__notes__[0]
            step = note.name if isinstance(note, AttributeValidationNote) else note.index
            yield from _problems(inner, _below(path, step))
    elif isinstance(error, Wrong):
        yield f"{path}: {error}"
    else:
        raise error  # The resolver's own mistake is no problem of the file.


def _contradictions(file: ConfigFile) -> Iterator[str]:
    """What is wrong between values that are right in themselves."""
    if file.state is not None:
        yield from _contradictions_of_state(file.state)
    for alias, pool in file.targets.items():
        if not isinstance(pool, PoolConfig):
            continue
        for index, rule in enumerate(pool.routing_rules):
            path = ("targets", alias, "routing_rules", index, "action")
            match rule.action.type, rule.action.target:
                case RoutingActionType.REDIRECT, None:
                    yield f"{_path(*path)}: expected a target to redirect to, got none"
                case RoutingActionType.REDIRECT, target if target not in file.targets:
                    yield f"{_path(*path, 'target')}: expected an alias of this file, got {json.dumps(target)}"
                case RoutingActionType.DENY, str():
                    yield f"{_path(*path, 'target')}: expected none, since the rule denies"
        given = [value for value in attrs.astuple(pool.affinity or AffinityConfig()) if value is not None]
        if len(given) > 1 or (pool.affinity and not given):
            place = _path("targets", alias, "affinity")
            yield f"{place}: expected one of header, body and prompt_bytes, got {len(given)}"
        if pool.strategy is Strategy.AFFINITY and not pool.affinity:
            place = _path("targets", alias, "affinity")
            yield f"{place}: expected an object, since the strategy is affinity, got nothing"


def _contradictions_of_state(state: StateConfig) -> Iterator[str]:
    if state.url is None and state != StateConfig(share_load=True):
        yield "state.url: expected a string, since only share_load alone does without, got nothing"
    if state.cluster and state.sentinel_master is not None:
        yield "state.sentinel_master: expected none, since a cluster needs no sentinels"
    if state.sentinel_password is not None and state.sentinel_master is None:
        yield "state.sentinel_password: expected none, since there are no sentinels"
    if state.cluster and state.url is not None and parse_store_url(state.url.reveal()).database:
        yield "state.url: expected no database, since a cluster has only one"


# Fields of onwards that its users know, for which there is nothing here.
_NOT_SUPPORTED = frozenset(("open_responses", "reasoning_translation"))


def _warnings(raw: Any, read: Any, *steps: str | int) -> Iterator[str]:
    """Walks along a value and what was read from it. The path is put together where there is something to say."""
    if isinstance(raw, list):
        for index, part in enumerate(raw):
            yield from _warnings(part, read[index], *steps, index)
    elif isinstance(raw, _Object):
        for name in raw.repeated:
            yield f"{_path(*steps, name)}: stands there more than once, and the last one counts"
        known = read if isinstance(read, dict) else attrs.asdict(read, recurse=False)
        for name, part in raw.items():
            if name in known:
                yield from _warnings(part, known[name], *steps, name)
            elif name in _NOT_SUPPORTED:
                yield f"{_path(*steps, name)}: not supported yet, and ignored"
            elif isinstance(read, ProviderConfig) and name in attrs.fields_dict(PoolConfig):
                yield f"{_path(*steps, name)}: ignored; it is for a pool, beside its `providers`"
            elif (*steps, name) != ("$schema",):
                [nearest] = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
                yield f"{_path(*steps, name)}: unknown field; the nearest known one is {nearest}"


def _path(*steps: str | int) -> str:
    """Where a part is: `targets.gpt-4.providers[1]`, `targets["a.b"]`."""
    return reduce(_below, steps, "")


def _below(path: str, step: str | int) -> str:
    if isinstance(step, int) or not re.fullmatch(r"[A-Za-z0-9_$/:@-]+", step):
        return f"{path}[{json.dumps(step)}]"
    return f"{path}.{step}" if path else step
