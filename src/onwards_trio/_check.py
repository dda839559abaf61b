"""A config as a table, for people to see whether it says what they meant."""

from collections.abc import Iterator

from onwards_core import Config, Pool, Provider, Snapshot
from onwards_core._ledger import Limit

_HEADINGS = ("ALIAS", "ACCESS", "STRATEGY", "LIMITS", "PROVIDER", "MODEL", "WEIGHT", "PROVIDER LIMITS")


def table(config: Config) -> str:
    """One line for each provider; what belongs to the alias stands on its first line only."""
    # Nothing is looked up by key here, so the keys need not be hashed with a secret.
    snapshot = Snapshot.compile(config, hash_key=bytes(16))
    rows = [_HEADINGS, *(row for pool in snapshot.pools.values() for row in _rows(pool))]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _rows(pool: Pool) -> Iterator[tuple[str, ...]]:
    of_alias = (pool.alias, "open" if pool.keys is None else "keys", pool.strategy.value, limits_text(pool.limit))
    if not pool.providers:
        yield (*of_alias, "(none)", "", "", "")
    for provider, weight in zip(pool.providers, pool.weights, strict=True):
        yield (*of_alias, _named(provider), provider.model or "-", str(weight), limits_text(provider.limit))
        of_alias = ("", "", "", "")


def _named(provider: Provider) -> str:
    """Its URL, and the name that it has in logs, metrics and `explain`, unless that is its host."""
    url = f"{provider.url.scheme}://{provider.authority.decode()}{provider.url.path.decode()}/"
    return url if provider.label in (provider.url.host, provider.authority.decode()) else f"{provider.label} ({url})"


def limits_text(limit: Limit) -> str:
    """A limit's numbers."""
    parts = []
    if limit.rate:
        parts.append(f"{1e9 / limit.rate.interval:.6g}/s, burst {limit.rate.burst}")
    if limit.permits is not None:
        parts.append(f"{limit.permits} at once")
    return ", ".join(parts) or "-"
