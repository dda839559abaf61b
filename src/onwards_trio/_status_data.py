"""What goes on in the gateway, as plain data: taken in one process, merged and shown in another.

Nothing in it is secret, and nothing comes from clients: names are those of the config, reasons those of the core.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

import msgspec

SLOT: Final = 5
"""Seconds that are counted together."""
SLOTS: Final = 60
"""How many of them are kept."""
TROUBLES: Final = 50
"""How many kinds of trouble are kept: the latest ones."""

PASSED_OVER: Final = frozenset(("refused_locally", "circuit_open", "paused"))
"""Outcomes of attempts that were none."""
CLIENTS_FAULT: Final = frozenset(
    f"status_{status}" for status in range(400, 500) if status not in (401, 402, 403, 407, 408, 429)
)
"""Outcomes that say nothing against a provider. What is left out is about the account that we have with it."""
NOT_ITS_DOING: Final = PASSED_OVER | {"no_resources"}
"""Outcomes that tell of the gateway, not of the provider."""

_GROWTH: Final = math.log(1.1)
_SHORTEST: Final = -97
"""The step of what takes less than 0.1 ms."""
_STEPS: Final = tuple(math.exp(step * _GROWTH) for step in range(_SHORTEST + 1, 150))
"""Where the others begin, up to a fortnight."""

_T = TypeVar("_T")


class Bucket(msgspec.Struct, array_like=True):
    """What ended within one slot: exchanges, or attempts at a provider."""

    done: int = 0
    failed: int = 0
    """Of those that were done."""
    refused: int = 0
    """Not done: by a limit or a check; or a provider that was passed over."""
    latencies: dict[int, int] = msgspec.field(default_factory=dict)
    """How many of those that did not fail were how slow, in steps of a tenth; see `latency_step`."""


Series: TypeAlias = dict[int, Bucket]
"""By slot: Unix time divided by `SLOT`. Slots in which nothing ended are missing."""


def latency_step(seconds: float) -> int:
    return _SHORTEST + bisect_right(_STEPS, seconds)


def step_latency(step: int, within: float = 0.5) -> float:
    """In the middle of the step, so it is off by 5 % at most; or at another place within it, from 0 to 1. Seconds."""
    return math.exp((step + within) * _GROWTH)


class Limits(msgspec.Struct):
    """The limits of a key, a pool or a provider, and how full they are."""

    held: int = 0
    """Requests under way."""
    permits: int | None = None
    """How many of them there may be; None: any number."""
    tokens: float | None = None
    """How many requests the rate limit would let through at once; None: there is none."""
    burst: int | None = None
    """Of these at most."""
    per_second: float | None = None


Circuit: TypeAlias = Literal["closed", "trial", "open"]


class ProviderStatus(msgspec.Struct):
    provider: str
    limits: Limits
    circuit: Circuit = "closed"
    open_until: float | None = None
    """Unix time; None: it is not open."""
    paused_until: float | None = None
    """Until when it asked to be left alone: Unix time."""
    attempts: Series = msgspec.field(default_factory=dict)


class PoolStatus(msgspec.Struct):
    alias: str
    limits: Limits
    providers: list[ProviderStatus]
    exchanges: Series = msgspec.field(default_factory=dict)


class KeyStatus(msgspec.Struct):
    key: str
    """The name of its definition."""
    limits: Limits


class Trouble(msgspec.Struct, kw_only=True):
    """Something that went wrong, once or more often."""

    kind: Literal["refusal", "attempt"]
    """`refusal`: the gateway refused a request; `attempt`: one at a provider failed, or it was passed over."""
    alias: str | None
    key: str | None
    """Whose request was refused; None also for attempts: providers do not know it."""
    provider: str | None
    reason: str
    """A refusal's error code, an attempt's outcome."""
    by: str | None
    """Whose limit refused it: `key`, `pool`, `provider` or `server`."""
    then: str | None
    """The provider that was tried next; None: nobody."""
    count: int = 0
    first: float = math.inf
    """Unix time, of the end of the first one."""
    last: float = 0.0

    @property
    def what(self) -> tuple[str | None, ...]:
        """The same for those that are counted together."""
        return self.kind, self.alias, self.key, self.provider, self.reason, self.by, self.then


class ReloadStatus(msgspec.Struct):
    """The last attempt to put a changed config in force."""

    at: float
    """Unix time."""
    problems: list[str]
    """Why it failed."""


class ConfigInForce(msgspec.Struct):
    """A config among all processes that share limits."""

    digest: str
    processes: int
    """How many have it."""
    names: list[str]
    """The first of them, where not all have the same config."""


class ConfigStatus(msgspec.Struct):
    digests: list[str]
    """SHA-256 of the file. Several processes may have several in force for a moment."""
    loaded: float
    """Unix time."""
    reload: ReloadStatus | None = None
    in_force: list[ConfigInForce] = []
    """By the store's account, the commonest first; empty where no limits are shared."""


class Status(msgspec.Struct):
    """Of one process, or of several; see `merge`."""

    at: float
    """Unix time, as all times are."""
    started: float
    version: str
    draining: bool
    in_flight: int
    config: ConfigStatus
    pools: list[PoolStatus]
    keys: list[KeyStatus]
    troubles: list[Trouble]
    others: Series = msgspec.field(default_factory=dict)
    """Exchanges that belong to no pool."""
    processes: int = 1


def merge(statuses: Sequence[Status]) -> Status:
    """What several processes tell, at least one, as if they were one. Their order does not matter."""
    # The config that was loaded last tells which pools, providers and keys there are, and in which order.
    ordered = sorted(statuses, key=lambda each: (each.config.loaded, each.config.digests), reverse=True)
    reloads = [each.config.reload for each in ordered if each.config.reload]
    return Status(
        at=max(each.at for each in ordered),
        started=min(each.started for each in ordered),
        version=max(each.version for each in ordered),
        draining=all(each.draining for each in ordered),
        in_flight=sum(each.in_flight for each in ordered),
        config=ConfigStatus(
            sorted({digest for each in ordered for digest in each.config.digests}),
            ordered[0].config.loaded,
            max(reloads, key=lambda reload: (reload.at, reload.problems), default=None),
            max((each.config.in_force for each in ordered), key=lambda those: (len(those), msgspec.json.encode(those))),
        ),
        pools=_alike((each.pools for each in ordered), lambda pool: pool.alias, _merged_pools),
        keys=_alike(
            (each.keys for each in ordered),
            lambda key: key.key,
            lambda keys: KeyStatus(keys[0].key, _merged_limits([key.limits for key in keys])),
        ),
        troubles=merged_troubles(each.troubles for each in ordered),
        others=merged_series([each.others for each in ordered]),
        processes=sum(each.processes for each in ordered),
    )


def merged_series(several: Sequence[Series]) -> Series:
    total: Series = {}
    for series in several:
        for slot, bucket in series.items():
            known = total.setdefault(slot, Bucket())
            known.done += bucket.done
            known.failed += bucket.failed
            known.refused += bucket.refused
            for step, count in bucket.latencies.items():
                known.latencies[step] = known.latencies.get(step, 0) + count
    return total


def merged_troubles(several: Iterable[Iterable[Trouble]]) -> list[Trouble]:
    """The latest ones first."""
    total: dict[tuple[str | None, ...], Trouble] = {}
    for trouble in (trouble for troubles in several for trouble in troubles):
        known = total.get(trouble.what)
        if known is None:
            total[trouble.what] = msgspec.structs.replace(trouble)
        else:
            known.count += trouble.count
            known.first = min(known.first, trouble.first)
            known.last = max(known.last, trouble.last)
    return sorted(total.values(), key=lambda trouble: (-trouble.last, [part or "" for part in trouble.what]))


def _alike(lists: Iterable[Iterable[_T]], name: Callable[[_T], str], merged: Callable[[list[_T]], _T]) -> list[_T]:
    """Merge those of one name."""
    named: dict[str, list[_T]] = {}
    for each in (each for several in lists for each in several):
        named.setdefault(name(each), []).append(each)
    return [merged(alike) for alike in named.values()]


def _merged_pools(pools: list[PoolStatus]) -> PoolStatus:
    return PoolStatus(
        pools[0].alias,
        _merged_limits([pool.limits for pool in pools]),
        _alike((pool.providers for pool in pools), lambda provider: provider.provider, _merged_providers),
        merged_series([pool.exchanges for pool in pools]),
    )


def _merged_providers(providers: list[ProviderStatus]) -> ProviderStatus:
    """As the worst of them has it."""
    circuits: list[Circuit] = ["closed", "trial", "open"]
    return ProviderStatus(
        providers[0].provider,
        _merged_limits([provider.limits for provider in providers]),
        max((provider.circuit for provider in providers), key=circuits.index),
        max((provider.open_until for provider in providers if provider.open_until is not None), default=None),
        max((provider.paused_until for provider in providers if provider.paused_until is not None), default=None),
        merged_series([provider.attempts for provider in providers]),
    )


def _merged_limits(several: list[Limits]) -> Limits:
    """Limits hold for all processes together. What is left is what the one that knows of least thinks."""
    return msgspec.structs.replace(
        several[0],
        held=sum(limits.held for limits in several),
        tokens=min((limits.tokens for limits in several if limits.tokens is not None), default=None),
    )
