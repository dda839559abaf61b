"""The config file: its shape as attrs classes, and how it is read.

Every problem is reported, each with its path. A secret never is: errors quote only what can't be one, and keep no
hold of the document.
"""

import difflib
import enum
import json
import re
from collections.abc import Callable, Iterator
from types import NoneType
from typing import Any, TypeAlias, get_args, get_origin

import attrs
import cattrs
from cattrs.cols import list_structure_factory
from cattrs.gen import make_dict_structure_fn, mapping_structure_factory

from onwards_core._values import (
    Boolean,
    ClientKey,
    FieldName,
    FieldValue,
    Kind,
    PositiveInteger,
    PositiveNumber,
    ProviderKey,
    ProxyUrl,
    Secret,
    SecretKind,
    StatusPattern,
    Text,
    UrlField,
    Weight,
    described,
    quoted,
)

ResolveSecret: TypeAlias = Callable[[str, str], str]
"""Gives the secret for `${env:NAME}` (called with `"env"`, `NAME`) or `${file:PATH}`. Raises `LookupError` or
`OSError`, whose text then is the problem."""


class ConfigError(Exception):
    """The config can't be used. `problems` has a line for each reason."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


# The shape. A description says what the JSON Schema tells an editor.


def _field(description: str, default: Any = attrs.NOTHING, factory: Callable[[], Any] | None = None) -> Any:
    return attrs.field(default=default, factory=factory, metadata={"description": description})


class Strategy(enum.Enum):
    """In which order a pool's providers are tried."""

    WEIGHTED_RANDOM = "weighted_random"
    PRIORITY = "priority"


@attrs.frozen(kw_only=True)
class RateLimit:
    """How many requests in a time."""

    requests_per_second: PositiveNumber = _field("Fractions too: 0.2 is one request in five seconds.")
    burst_size: PositiveInteger | None = _field("How many may come at once; the rate, rounded up, if left out.", None)


@attrs.frozen(kw_only=True)
class ConcurrencyLimit:
    """How many exchanges at a time."""

    max_concurrent_requests: PositiveInteger = _field("How many exchanges may be under way.")


@attrs.frozen(kw_only=True)
class ProviderConfig:
    """One upstream service."""

    url: UrlField = _field("Where it is; a path of a request that begins with this URL's path does not repeat it.")
    onwards_key: ProviderKey | None = _field("The credential that we send to it.", None)
    onwards_model: Text | None = _field("What `model` becomes in the request.", None)
    rate_limit: RateLimit | None = _field("Of this provider in this pool.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of this provider in this pool.", None)
    upstream_auth_header_name: FieldName | None = _field("Where the credential goes; Authorization if left out.", None)
    upstream_auth_header_prefix: FieldValue | None = _field("What stands before it; 'Bearer ' if left out.", None)
    response_headers: dict[FieldName, FieldValue] | None = _field("Replaced or added in its answers.", None)
    weight: Weight = _field("Its share of the requests; 0 is a standby.", 1)
    sanitize_response: Boolean = _field("Strip its answers to OpenAI's schema.", False)
    http2: Boolean = _field("Speak HTTP/2 to it where it can.", False)
    proxy: ProxyUrl | None = _field("Reach it through this http or socks5 proxy.", None)


@attrs.frozen(kw_only=True)
class TargetConfig(ProviderConfig):
    """A provider that is a pool of its own."""

    keys: list[ClientKey] | None = _field("Who may use it: keys, or names of key definitions.", None)


@attrs.frozen(kw_only=True)
class FallbackConfig:
    """When another provider is tried."""

    enabled: Boolean = _field("Whether it ever is.", False)
    on_status: list[StatusPattern] = _field("Statuses and their prefixes: 503, 50, 5.", factory=list)
    on_rate_limit: Boolean = _field("Also when a provider is at its own limit.", False)


@attrs.frozen(kw_only=True)
class PoolConfig:
    """An alias with several providers."""

    providers: list[ProviderConfig] = _field("May be empty: the alias then answers 503.")
    keys: list[ClientKey] | None = _field("Who may use it: keys, or names of key definitions.", None)
    rate_limit: RateLimit | None = _field("Of the alias.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of the alias.", None)
    response_headers: dict[FieldName, FieldValue] | None = _field("Replaced or added in each provider's answers.", None)
    fallback: FallbackConfig | None = _field("When another provider is tried.", None)
    strategy: Strategy = _field("In which order the providers are tried.", Strategy.WEIGHTED_RANDOM)
    sanitize_response: Boolean = _field("Strip all its providers' answers to OpenAI's schema.", False)


@attrs.frozen(kw_only=True)
class KeyDefinition:
    """A named key of a client."""

    key: ClientKey = _field("The key itself.")
    rate_limit: RateLimit | None = _field("Of the key, over all pools.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of the key, over all pools.", None)


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Clients' keys."""

    global_keys: list[ClientKey] = _field("Open every pool, and close it to everyone without a key.", factory=list)
    key_definitions: dict[str, KeyDefinition] | None = _field("Names for keys that have limits.", None)


Target: TypeAlias = PoolConfig | list[TargetConfig] | TargetConfig


@attrs.frozen(kw_only=True)
class Config:
    """A whole config file."""

    targets: dict[str, Target] = _field("Aliases, the names that clients put in `model`.")
    auth: AuthConfig | None = _field("Clients' keys.", None)
    warnings: tuple[str, ...] = attrs.field(default=(), init=False)
    """What is odd about the file, though no error: fields that nobody knows."""


# Reading it


def load_config(raw: bytes, resolve_secret: ResolveSecret | None = None) -> Config:
    """Read a config file's contents. Raises `ConfigError` with all its problems.

    Without `resolve_secret`, a secret that is to be found elsewhere is an error.
    """
    repeated: list[str] = []
    try:
        document = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_noting(repeated))
    except json.JSONDecodeError as error:
        problem = f"line {error.lineno} column {error.colno}: {error.msg}"
    except UnicodeDecodeError:
        problem = "expected UTF-8, got other bytes"
    except RecursionError:
        problem = "nested too deeply"
    else:
        return _structure(document, repeated, resolve_secret or _nowhere)
    # Outside the handler: an error's context would hold the document.
    raise ConfigError((problem,))


def _structure(document: object, repeated: list[str], resolve_secret: ResolveSecret) -> Config:
    try:
        config = _converter(resolve_secret).structure(document, Config)
    except Exception as error:  # noqa: BLE001  # cattrs groups whatever the hooks raised; `_problems` tells it apart.
        problems = tuple(_problems(error, ""))
    else:
        warnings = [f"the name {name} stands more than once in one object" for name in repeated]
        warnings += _unknown_fields(document, Config, "")
        # Set here and not by `evolve`: it is no field of the file.
        object.__setattr__(config, "warnings", tuple(warnings))
        return config
    raise ConfigError(problems)


def _noting(repeated: list[str]) -> Callable[[list[tuple[str, Any]]], dict[str, Any]]:
    def pairs(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) < len(members):
            names = [name for name, _ in members]
            repeated.extend(quoted(name) for name in found if names.count(name) > 1)
        return found

    return pairs


def _nowhere(kind: str, name: str) -> str:
    raise LookupError(f"secrets of {kind} are not available here")


_REFERENCE = re.compile(r"\$\{(env|file):(.+)\}", re.DOTALL)


def _converter(resolve_secret: ResolveSecret) -> cattrs.Converter:
    """A converter that coerces nothing. All hooks raise `ValueError` with `expected ..., got ...`."""
    converter = cattrs.Converter()

    def single(annotated: Any) -> Callable[[Any, Any], Any]:
        parse = _metadata(annotated, Kind).parse
        return lambda value, _: parse(value)

    def secret(annotated: Any) -> Callable[[Any, Any], Secret]:
        check = _metadata(annotated, SecretKind).check

        def resolve(value: Any, _: Any) -> Secret:
            if not isinstance(value, str):
                raise ValueError(f"expected a string, got {described(value)}")
            reference = _REFERENCE.fullmatch(value)
            if reference:
                try:
                    value = resolve_secret(reference[1], reference[2])
                except (LookupError, OSError) as error:
                    raise ValueError(str(error.args[0] if isinstance(error, LookupError) else error)) from None
            check(value)
            return Secret(value)

        return resolve

    def strategy(value: Any, _: Any) -> Strategy:
        names = [member.value for member in Strategy]
        if value not in names:
            raise ValueError(f"expected {' or '.join(map(quoted, names))}, got {quoted(value)}")
        return Strategy(value)

    def instance_of(json_type: type, name: str, factory: Callable[..., Any]) -> Callable[[Any], Any]:
        def make(cl: Any) -> Callable[[Any, Any], Any]:
            structure = factory(cl, converter)

            def checked(value: Any, cl: Any) -> Any:
                if not isinstance(value, json_type):
                    raise ValueError(f"expected {name}, got {described(value)}")
                return structure(value, cl)

            return checked

        return make

    def target(value: Any, _: Any) -> Target:
        structured: Target = converter.structure(value, _target_type(value))
        return structured

    register = converter.register_structure_hook_factory
    register(attrs.has, instance_of(dict, "an object", make_dict_structure_fn))
    register(_is(dict), instance_of(dict, "an object", mapping_structure_factory))
    register(_is(list), instance_of(list, "a list", list_structure_factory))
    register(lambda cl: _metadata(cl, Kind) is not None, single)
    register(lambda cl: _metadata(cl, SecretKind) is not None, secret)
    converter.register_structure_hook_func(lambda cl: cl == Target, target)
    converter.register_structure_hook_func(lambda cl: cl is Strategy, strategy)
    return converter


def _is(origin: type) -> Callable[[Any], bool]:
    return lambda cl: get_origin(cl) is origin


def _metadata(cl: Any, kind: type) -> Any:
    found = [item for item in getattr(cl, "__metadata__", ()) if isinstance(item, kind)]
    return found[0] if found else None


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
            raise ValueError('expected an object with "providers" or "url", got one with neither')
        case _:
            raise ValueError(f"expected an object or a list of objects, got {described(value)}")


def _problems(error: BaseException, path: str) -> Iterator[str]:
    if isinstance(error, cattrs.BaseValidationError):
        for inner in error.exceptions:
            for note in getattr(inner, "__notes__", ()):
                if isinstance(note, cattrs.AttributeValidationNote):
                    yield from _problems(inner, _below(path, note.name))
                elif isinstance(note, cattrs.IterableValidationNote):
                    yield from _problems(inner, _below(path, note.index))
    elif isinstance(error, KeyError):
        yield f"{path}: is missing"
    else:
        yield f"{path or 'the file'}: {error}"


def _below(path: str, step: str | int) -> str:
    if isinstance(step, int):
        return f"{path}[{step}]"
    if not re.fullmatch(r"[\w/:@-]+", step):
        return f"{path}[{quoted(step)}]"
    return f"{path}.{step}" if path else step


def _unknown_fields(value: Any, cl: Any, path: str) -> Iterator[str]:
    """A warning for each field of a valid document that no class has."""
    if NoneType in get_args(cl):
        cl = next(arg for arg in get_args(cl) if arg is not NoneType)
    if cl == Target:
        cl = _target_type(value)
    if value is None:
        return
    if attrs.has(cl):
        fields = {field.name: field.type for field in attrs.fields(cl) if field.init}
        for name, item in value.items():
            if name in fields:
                yield from _unknown_fields(item, fields[name], _below(path, name))
            elif (cl, name) != (Config, "$schema"):
                nearest = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {nearest[0]}?" if nearest else ""
                yield f"{_below(path, name)}: unknown field{hint}"
    elif get_origin(cl) is list:
        for index, item in enumerate(value):
            yield from _unknown_fields(item, get_args(cl)[0], _below(path, index))
    elif get_origin(cl) is dict:
        for name, item in value.items():
            yield from _unknown_fields(item, get_args(cl)[1], _below(path, name))
