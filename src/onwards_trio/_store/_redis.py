"""Limits in Redis or Valkey: each kind of call is a script there, and a batch of calls a pipeline.

All keys of one limit are in one slot, by the tag in braces. A single server has one tag for all; in a cluster there are
many, and the limits are spread over them.
"""

import logging
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from hashlib import blake2b
from importlib.resources import files
from typing import Any, Final, TypeAlias

import attrs
import coredis
import trio
from coredis.connection import TCPLocation
from coredis.exceptions import NoScriptError, RedisError
from coredis.retry import NoRetryPolicy

from onwards_core import StateConfig
from onwards_core._lease_calls import (
    LISTED,
    Absence,
    Beat,
    Beaten,
    Call,
    HoldPermits,
    InForce,
    Load,
    PermitsHeld,
    Reply,
    TakeTokens,
    TokensTaken,
)
from onwards_core._url import parse_store_url
from onwards_trio._store._protocol import StoreError, Talk
from onwards_trio._tls import provider_context

_PARTS: Final = 32
"""Of a cluster. Each is a slot."""
_TIMEOUT: Final = 2.0
"""Seconds for connecting, and for answers, where the caller has no deadline of its own."""

# What breaks is told in our own words; coredis would add pages of tracebacks.
logging.getLogger("coredis").setLevel(logging.CRITICAL + 1)


def _script(name: str) -> str:
    return files("onwards_trio._store").joinpath(f"_{name}.lua").read_text()


_SCRIPTS: Final = {name: _script("about") + _script(name) for name in ("tokens", "permits", "beat", "touch")}


_TOUCH_KEYS: Final = ("store", "alive", "said")
_BEAT_KEYS: Final = (*_TOUCH_KEYS, "since", "configs", "absences", "loads", "load", "rollout")


@attrs.frozen
class _Command:
    """A script with what it wants to know."""

    script: str
    keys: list[str]
    arguments: list[str | int]


_Understand: TypeAlias = Callable[[list[Any]], Reply]


class RedisStore:
    """A store in Redis or Valkey, as the config has it."""

    def __init__(self, config: StateConfig) -> None:
        assert config.url is not None  # or there is no store
        self._config = config
        self._url = parse_store_url(config.url.reveal())
        self._parts = _PARTS if config.cluster else 1

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Talk]:
        """See `Store`."""
        inside: Exception | None = None
        try:
            async with self._client() as client:
                try:
                    yield _Connection(client, self._config.prefix, self._parts).talk
                except Exception as error:
                    inside = error
                    raise
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001  # What coredis raises has many forms, and comes in groups.
            if inside is not None:
                raise inside from None
            raise StoreError(_reason(error)) from None

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[Any]:
        url, config = self._url, self._config
        options: dict[str, Any] = {
            "username": url.user,
            "password": url.password,
            "ssl_context": provider_context(config.tls) if url.secure else None,
            "connect_timeout": _TIMEOUT,
            "stream_timeout": _TIMEOUT,
        }
        # A call that is repeated behind our back would count twice, hence no retries.
        common: dict[str, Any] = {"retry_policy": NoRetryPolicy(), "verify_version": False}
        places = [TCPLocation(host, port) for host, port in url.hosts]
        if config.cluster:
            async with coredis.RedisCluster(startup_nodes=places, **options, **common) as cluster:
                yield cluster
        else:
            if config.sentinel_master is not None:
                places = [await self._primary(config.sentinel_master, places, options["ssl_context"])]
            (place,) = places
            async with coredis.Redis(place.host, place.port, db=url.database, **options, **common) as single:
                yield single

    async def _primary(self, name: str, sentinels: list[TCPLocation], context: ssl.SSLContext | None) -> TCPLocation:
        """Where the first sentinel that knows it says that it is. Should that be wrong, it refuses to write."""
        password = self._config.sentinel_password
        options: dict[str, Any] = {
            "password": password.reveal() if password else None,
            "ssl_context": context,
            "verify_version": False,
        }
        for place in sentinels:
            # One that is silent must leave time for the others. What goes wrong has many forms, as above.
            with suppress(Exception), trio.move_on_after(_TIMEOUT / (len(sentinels) + 1)):
                async with coredis.Redis(place.host, place.port, **options) as sentinel:
                    if found := await sentinel.sentinel_get_master_addr_by_name(name):
                        return TCPLocation(*found)
        raise StoreError("no sentinel that answers knows the primary")


class _Connection:
    def __init__(self, client: Any, prefix: str, parts: int) -> None:
        self._client = client
        self._hashes: dict[str, str] = {}
        """Of the scripts, once they are loaded."""
        self._tags = [f"{{{prefix}}}" if parts == 1 else f"{{{prefix}:{part}}}" for part in range(parts)]

    async def talk(self, calls: Sequence[Call]) -> list[Reply]:
        translated = [self._translated(call) for call in calls]
        try:
            results = await self._run([command for commands, _ in translated for command in commands])
        except Exception as error:  # noqa: BLE001  # as above
            raise StoreError(_reason(error)) from None
        replies = []
        for commands, understand in translated:
            mine, results = results[: len(commands)], results[len(commands) :]
            try:
                replies.append(understand(mine))
            except (TypeError, ValueError, IndexError):
                raise StoreError("it answers something else than its scripts do") from None
        return replies

    async def _run(self, commands: list[_Command]) -> list[Any]:
        if not self._hashes:
            await self._load()
        results = await self._pipeline(commands)
        missing = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if missing:  # The server is another one than before, or forgot them.
            await self._load()
            again = await self._pipeline([commands[index] for index in missing])
            for index, result in zip(missing, again, strict=True):
                results[index] = result
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    async def _load(self) -> None:
        for name, text in _SCRIPTS.items():
            digest = await self._client.script_load(text)
            self._hashes[name] = digest.decode() if isinstance(digest, bytes) else digest

    async def _pipeline(self, commands: list[_Command]) -> list[Any]:
        async with self._client.pipeline(transaction=False, raise_on_error=False) as pipeline:
            waiting = [
                pipeline.evalsha(self._hashes[command.script], command.keys, command.arguments) for command in commands
            ]
        return [await _result(each) for each in waiting]

    # Calls as commands

    def _translated(self, call: Call) -> tuple[list[_Command], _Understand]:
        match call:
            case TakeTokens():
                return [self._tokens(call)], _tokens_taken
            case HoldPermits():
                return [self._permits(call)], _permits_held
            case Beat():
                # Each part has a name of its own, since each may lose its data alone.
                knew = call.knew.split() or [""] * len(self._tags)
                heard = call.heard.split() or [""] * len(self._tags)
                commands = []
                for tag, *known in zip(self._tags, knew, heard, strict=True):
                    told: list[str | int] = [call.process, call.lease, call.grace, *known, int(call.said)]
                    if tag == self._tags[0]:
                        keys = [f"{tag}{name}" for name in _BEAT_KEYS]
                        commands.append(_Command("beat", keys, told + _to_tell_others(call)))
                    else:
                        keys = [f"{tag}{name}" for name in _TOUCH_KEYS]
                        commands.append(_Command("touch", keys, told))
                return commands, _beaten

    def _key(self, kind: str, identity: str) -> tuple[str, str]:
        """A limit's tag and key. Names of pools and keys don't go into the store."""
        digest = blake2b(identity.encode(), digest_size=16)
        tag = self._tags[digest.digest()[0] % len(self._tags)]
        return tag, f"{tag}{kind}:{digest.hexdigest()}"

    def _tokens(self, call: TakeTokens) -> _Command:
        tag, key = self._key("rate", call.bucket)
        pace = [call.pace.time, call.pace.tokens, call.pace.slack]
        wish = [call.wanted, call.stock, call.lifetime]
        return _Command(
            "tokens",
            [f"{tag}store", key],
            [*pace, *wish, call.returned, call.returned_from, call.owed, call.owed_since, call.owed_until],
        )

    def _permits(self, call: HoldPermits) -> _Command:
        tag, key = self._key("permits", call.identity)
        account: list[str | int] = [call.limit, call.process, call.turn, call.holds]
        wish = [call.wanted, call.stock, call.lease, call.grace]
        return _Command("permits", [f"{tag}store", key, f"{key}:until"], [*account, *wish])


def _to_tell_others(call: Beat) -> list[str | int]:
    arguments: list[str | int] = [call.config, LISTED, len(call.absences)]
    for absence in call.absences:
        arguments += [f"{absence.kind} {absence.identity}", absence.time]
    for load in call.loads:
        arguments += [load.identity, load.count]
    return arguments


async def _result(waiting: Any) -> Any:
    try:
        return await waiting
    except RedisError as error:
        return error


def _tokens_taken(results: list[Any]) -> TokensTaken:
    return TokensTaken(*map(int, results[0]))


def _permits_held(results: list[Any]) -> PermitsHeld:
    now, granted, stocked, contended, opens_in, over = map(int, results[0])
    return PermitsHeld(now, granted, stocked, bool(contended), opens_in, over)


def _beaten(results: list[Any]) -> Beaten:
    processes, rank, configs, in_force, absences, loads = results[0][4:]
    names, marks, opens_in, permits_in = zip(*(part[:4] for part in results), strict=True)
    named = [(name.decode().split(" ", 1), int(time)) for name, time in zip(absences[::2], absences[1::2], strict=True)]
    return Beaten(
        int(marks[0]),
        b" ".join(names).decode(),
        b" ".join(marks).decode(),
        processes,
        rank,
        max(opens_in),
        max(permits_in),
        configs,
        tuple(InForce(each[0].decode(), each[1], tuple(name.decode() for name in each[2])) for each in in_force),
        tuple(Absence(kind, identity, time) for (kind, identity), time in sorted(named)),
        tuple(
            Load(identity.decode(), int(count)) for identity, count in sorted(zip(loads[::2], loads[1::2], strict=True))
        ),
    )


def _reason(error: BaseException) -> str:
    """What went wrong, without anything that may be secret: messages of coredis may quote commands and URLs, those of
    the system, which lie below, do not."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__
