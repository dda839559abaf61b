"""In which order the providers of a pool are tried. Each strategy is a function of what is remembered, time and chance.

A provider of weight 0 is a standby: it comes after all others, several of them as written. For `priority` weights do
not count.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, islice
from random import Random
from typing import Final

import attrs

from onwards_core._body import Body
from onwards_core._config import AffinityConfig, Strategy
from onwards_core._events import Request
from onwards_core._ledger import Ledger
from onwards_core._snapshot import Pool, Provider

EXPLORATION: Final = 0.05
"""The share of requests for which `lowest_latency` draws at random, to see whether others have become faster."""
LATENCY_HALF_LIFE: Final = 10.0
"""Seconds after which an older latency counts for half at most."""
LATENCY_FORGOTTEN: Final = 60.0
"""Seconds without news after which a provider's latency is unknown again."""
FAILURE_LATENCY: Final = 30.0
"""Seconds that a failed attempt counts as, so that a provider that only ever fails is not taken for unknown."""


LATENCY_TRIAL: Final = 30.0
"""Seconds for which a provider of unknown latency that was just tried is not tried first again, so that not everybody
waits for whoever may be slow."""
ROTATION_FORGOTTEN: Final = 86_400.0
"""Seconds after which a round that nobody goes on with starts anew."""


@attrs.define
class _Latency:
    seconds: float
    at: float


@attrs.define
class _Rotation:
    """How far the turns of a pool's providers have come. Other providers or weights start a new one."""

    shares: Sequence[tuple[str, int]]
    """Identities and weights."""
    turns: list[int]
    at: float = 0.0


class Balancer:
    """What strategies remember of providers, by identity: over all exchanges, and over reloads."""

    def __init__(self) -> None:
        self._latencies: dict[str, _Latency] = {}
        self._tried: dict[str, float] = {}
        """When providers of unknown latency were tried first."""
        self._rotations: dict[str, _Rotation] = {}
        """By alias."""

    def order(
        self, pool: Pool, ledger: Ledger, random: Random, affinity_key: bytes | None, now: float
    ) -> Iterator[int]:
        """Indices of providers, each once, in the order in which to try them."""
        match pool.strategy:
            case Strategy.PRIORITY:
                return iter(range(len(pool.providers)))
            case Strategy.ROUND_ROBIN:
                return self._round_robin(pool, random, now)
            case Strategy.LEAST_CONNECTIONS:
                return _sorted(pool, random, lambda index: _load(pool, index, ledger, now))
            case Strategy.LOWEST_LATENCY if random.random() >= EXPLORATION:
                return self._lowest_latency(pool, random, now)
            case Strategy.AFFINITY if affinity_key is not None:
                digest = hashlib.blake2b(affinity_key).digest()
                return _sorted(pool, random, lambda index: _distance(pool, index, digest, ledger, now))
            case _:
                return weighted_order(pool.weights, random)

    def observe_latency(self, provider: Provider, seconds: float, now: float) -> None:
        """An attempt took so long to its first byte."""
        known = self._known(provider.identity, now)
        if known is None:
            self._latencies[provider.identity] = _Latency(seconds, now)
            return
        share = max(0.1, 1 - 0.5 ** ((now - known.at) / LATENCY_HALF_LIFE))
        known.seconds += share * (seconds - known.seconds)
        known.at = now

    def prune(self, now: float) -> None:
        """Forget what no longer counts."""
        self._latencies = {
            identity: latency for identity, latency in self._latencies.items() if now - latency.at <= LATENCY_FORGOTTEN
        }
        self._tried = {identity: at for identity, at in self._tried.items() if now - at <= LATENCY_TRIAL}
        self._rotations = {
            alias: rotation for alias, rotation in self._rotations.items() if now - rotation.at <= ROTATION_FORGOTTEN
        }

    def _known(self, identity: str, now: float) -> _Latency | None:
        known = self._latencies.get(identity)
        return None if known is None or now - known.at > LATENCY_FORGOTTEN else known

    def _lowest_latency(self, pool: Pool, random: Random, now: float) -> Iterator[int]:
        """Who is unknown comes first, to become known: one exchange goes there and tells the others."""
        for index in _sorted(pool, random, lambda index: self._expected(pool.providers[index].identity, now)):
            identity = pool.providers[index].identity
            if self._known(identity, now) is None:
                self._tried[identity] = now
            yield index

    def _expected(self, identity: str, now: float) -> float:
        if (known := self._known(identity, now)) is not None:
            return known.seconds
        return 0.0 if now - self._tried.get(identity, -math.inf) > LATENCY_TRIAL else math.inf

    def _round_robin(self, pool: Pool, random: Random, now: float) -> Iterator[int]:
        """Smooth weighted round robin, as nginx has it: of each round, everyone's turns are spread evenly.

        Only the first of an order is a turn. If it can't be had, chance by weight decides among the others: by their
        turns it would be the same one each time, which would have to bear all of an absent provider's load.
        """
        total = sum(pool.weights)
        if total:
            shares = [(each.identity, weight) for each, weight in zip(pool.providers, pool.weights, strict=True)]
            rotation = self._rotations.get(pool.alias)
            if rotation is None or rotation.shares != shares:
                rotation = self._rotations[pool.alias] = _Rotation(shares, [0] * len(shares))
            rotation.at = now
            turns = rotation.turns = [turn + weight for turn, weight in zip(rotation.turns, pool.weights, strict=True)]
            first = turns.index(max(turns))
            turns[first] -= total
            yield first
            others = [0 if index == first else weight for index, weight in enumerate(pool.weights)]
            yield from islice(weighted_order(others, random), len(others) - others.count(0))
        yield from _standbys(pool.weights)


def weighted_order(weights: Sequence[int], random: Random) -> Iterator[int]:
    """Drawn without replacement, in proportion to the weights of those that are left.

    Lazy: most exchanges need only the first.
    """
    left = list(weights)
    while total := sum(left):
        drawn = bisect(list(accumulate(left)), random.random() * total)
        left[drawn] = 0
        yield drawn
    yield from _standbys(weights)


def _standbys(weights: Sequence[int]) -> Iterator[int]:
    return (index for index, weight in enumerate(weights) if not weight)


def _sorted(pool: Pool, random: Random, key: Callable[[int], tuple[bool, float] | float]) -> Iterator[int]:
    """By the key, and where that is equal, by weighted chance."""
    weights = pool.weights

    def place(index: int) -> tuple[tuple[bool, float] | float, float]:
        # Of waiting times with these rates each is the shortest with a probability in proportion to its rate.
        return key(index), -math.log(1 - random.random()) / weights[index]

    yield from sorted((index for index, weight in enumerate(weights) if weight), key=place)
    yield from _standbys(weights)


def _load(pool: Pool, index: int, ledger: Ledger, now: float) -> tuple[bool, float]:
    provider = pool.providers[index]
    return ledger.is_full(provider.limit, now), ledger.load(provider.identity) / pool.weights[index]


def _distance(pool: Pool, index: int, key: bytes, ledger: Ledger, now: float) -> tuple[bool, float]:
    """Weighted rendezvous hashing: a provider that comes or goes moves only the keys that it gets or had.

    `key` is a digest.
    https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/Jason_Resch_New_Consistent_Hashings_Rev.pdf
    """
    provider = pool.providers[index]
    digest = hashlib.blake2b(key + provider.identity.encode(), digest_size=8).digest()
    chance = (int.from_bytes(digest) + 0.5) / 2**64
    return ledger.is_full(provider.limit, now), -math.log(chance) / pool.weights[index]


def affinity_key(config: AffinityConfig, request: Request, body: Body) -> bytes | None:
    """What a request has in common with those that it is to be kept together with; None if it has nothing of it."""
    if config.header is not None:
        return request.headers.by_name.get(config.header.lower().encode("ascii")) or None
    names = ("messages", "prompt", "input") if config.body is None else (config.body.value,)
    for name in names:
        # Whoever says nothing is not kept together with all others who do.
        if (value := body.member(name)) not in _NOTHING:
            return value if config.body is not None else value[: config.prompt_bytes]
    return None


_NOTHING: Final = (None, b"null", b'""', b"[]")
