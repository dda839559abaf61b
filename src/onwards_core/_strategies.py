"""In which order the providers of a pool are tried. Each strategy is a function of what is remembered, time and chance.

A provider of weight 0 is a standby: it comes after all others, several of them as written. For `priority` weights do
not count.
"""

import hashlib
import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
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


@attrs.define
class _Latency:
    seconds: float
    at: float


class Balancer:
    """What strategies remember of providers, by identity: over all exchanges, and over reloads."""

    def __init__(self) -> None:
        self._latencies: dict[str, _Latency] = {}
        self._turns: dict[str, Mapping[str, float]] = {}
        """By alias: how far each provider's turn has come."""

    def order(
        self, pool: Pool, ledger: Ledger, random: Random, affinity_key: bytes | None, now: float
    ) -> Iterator[int]:
        """Indices of providers, each once, in the order in which to try them."""
        match pool.strategy:
            case Strategy.PRIORITY:
                return iter(range(len(pool.providers)))
            case Strategy.ROUND_ROBIN:
                return self._round_robin(pool)
            case Strategy.LEAST_CONNECTIONS:
                return _sorted(pool, random, lambda index: _load(pool, index, ledger, now))
            case Strategy.LOWEST_LATENCY if random.random() >= EXPLORATION:
                return _sorted(pool, random, lambda index: self._latency(pool.providers[index], now))
            case Strategy.AFFINITY if affinity_key is not None:
                return _sorted(pool, random, lambda index: _distance(pool, index, affinity_key, ledger, now))
            case _:
                return weighted_order(pool.weights, random)

    def observe_latency(self, provider: Provider, seconds: float, now: float) -> None:
        """An attempt took so long to its first byte."""
        known = self._latencies.get(provider.identity)
        if known is None or now - known.at > LATENCY_FORGOTTEN:
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

    def _latency(self, provider: Provider, now: float) -> float:
        known = self._latencies.get(provider.identity)
        # Who is unknown comes first, to become known.
        return 0.0 if known is None or now - known.at > LATENCY_FORGOTTEN else known.seconds

    def _round_robin(self, pool: Pool) -> Iterator[int]:
        """Smooth weighted round robin, as nginx has it: of each round, everyone's turns are spread evenly."""
        before = self._turns.get(pool.alias, {})
        turns = [
            before.get(provider.identity, 0) + weight
            for provider, weight in zip(pool.providers, pool.weights, strict=True)
        ]
        order = sorted((i for i, weight in enumerate(pool.weights) if weight), key=lambda i: -turns[i])
        if order:
            turns[order[0]] -= sum(pool.weights)
        self._turns[pool.alias] = {each.identity: turn for each, turn in zip(pool.providers, turns, strict=True)}
        yield from order
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


def _sorted(pool: Pool, random: Random, key: Callable[[int], object]) -> Iterator[int]:
    """By the key, and where that is equal, by weighted chance."""
    regular = len(pool.weights) - pool.weights.count(0)
    order = list(weighted_order(pool.weights, random))
    yield from sorted(order[:regular], key=key)  # type: ignore[arg-type]  # keys of one call are of one kind
    yield from order[regular:]


def _is_full(provider: Provider, ledger: Ledger, now: float) -> bool:
    return ledger.refusal((provider.limit,), now) is not None


def _load(pool: Pool, index: int, ledger: Ledger, now: float) -> tuple[bool, float]:
    provider = pool.providers[index]
    return _is_full(provider, ledger, now), ledger.permits_out(provider.limit.identity) / pool.weights[index]


def _distance(pool: Pool, index: int, key: bytes, ledger: Ledger, now: float) -> tuple[bool, float]:
    """Weighted rendezvous hashing: a provider that comes or goes moves only the keys that it gets or had.

    https://www.snia.org/sites/default/files/SDC15_presentations/dist_sys/Jason_Resch_New_Consistent_Hashings_Rev.pdf
    """
    provider = pool.providers[index]
    digest = hashlib.blake2b(key, key=hashlib.sha256(provider.identity.encode()).digest(), digest_size=8).digest()
    chance = (int.from_bytes(digest) + 0.5) / 2**64
    return _is_full(provider, ledger, now), -math.log(chance) / pool.weights[index]


def affinity_key(config: AffinityConfig, request: Request, body: Body) -> bytes | None:
    """What a request has in common with those that it is to be kept together with; None if it has nothing of it."""
    if config.header is not None:
        return dict(request.headers).get(config.header.lower().encode("ascii"))
    if config.body is not None:
        return body.member(config.body.value)
    for name in ("messages", "prompt", "input"):
        if (prompt := body.member(name)) is not None:
            return prompt[: config.prompt_bytes]
    return None
