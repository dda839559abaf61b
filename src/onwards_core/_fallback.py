"""Which provider is tried when, and after which failures. Pure functions and a frozen policy."""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from random import Random

import attrs

from onwards_core._config import Strategy


def matching_statuses(patterns: Iterable[int]) -> frozenset[int]:
    """The statuses that patterns stand for: `5` all of 500 to 599, `50` all of 500 to 509, `503` itself."""
    wanted = {str(pattern) for pattern in patterns}
    return frozenset(
        status
        for status in range(100, 600)
        if not wanted.isdisjoint((f"{status}", f"{status // 10}", f"{status // 100}"))
    )


@attrs.frozen
class FallbackPolicy:
    """When an attempt's failure is hidden from the client by another attempt."""

    enabled: bool = False
    statuses: frozenset[int] = frozenset()
    on_rate_limit: bool = False
    """Also when a provider is at its own limit, which is ours and not the provider's word."""

    @classmethod
    def of(cls, enabled: bool, on_status: Iterable[int], on_rate_limit: bool) -> "FallbackPolicy":
        """A policy that is not enabled never falls back, whatever else it says."""
        return cls(True, matching_statuses(on_status), on_rate_limit) if enabled else cls()


def provider_order(weights: Sequence[int], strategy: Strategy, random: Random) -> Iterator[int]:
    """Indices of providers, each once, in the order in which to try them.

    `priority` is the order as written. `weighted_random` draws without replacement, in proportion to the weights of
    those that are left; providers of weight 0 follow at the end as written. Lazy: most exchanges need only the first.
    """
    if strategy is Strategy.PRIORITY:
        yield from range(len(weights))
        return
    left = list(weights)
    while total := sum(left):
        drawn = bisect(list(accumulate(left)), random.random() * total)
        left[drawn] = 0
        yield drawn
    yield from (index for index, weight in enumerate(weights) if not weight)
