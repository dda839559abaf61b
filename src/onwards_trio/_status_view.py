"""What the status page, `/status.json` and `top` show: a `Status` in figures and words."""

from collections.abc import Iterable
from typing import Final, Literal, TypeAlias

import msgspec

from onwards_trio._status_data import (
    NOT_ITS_DOING,
    SLOT,
    SLOTS,
    TROUBLES,
    Bucket,
    ConfigInForce,
    ConfigStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    Series,
    Status,
    Trouble,
    merged_series,
    step_latency,
)

_RECENT: Final = 3
"""Slots that decide whether something fails now. The last one has only just begun."""
_MINUTE: Final = 60 // SLOT
_FAILING: Final = 0.2
"""The share of what has failed recently from which on something counts as failing."""

ProviderState: TypeAlias = Literal["ok", "idle", "paused", "trial", "failing", "open"]
PoolState: TypeAlias = Literal["ok", "idle", "degraded", "down"]

STATES: Final = {
    "ok": "✓ well",
    "idle": "- idle",
    "paused": "‖ paused",
    "trial": "? on trial",
    "failing": "✕ failing",
    "open": "✕ out of service",
    "degraded": "! degraded",
    "down": "✕ clients get errors",
}
"""Of providers and pools, in words and with a sign that needs no colour."""
_REASONS: Final = {
    "connect": "can't be reached",
    "connect_timeout": "can't be reached in time",
    "empty": "gave an empty answer",
    "first_content_timeout": "began too late with its answer",
    "head_timeout": "did not answer in time",
    "idle_timeout": "stopped in the middle of its answer",
    "no_resources": "met a gateway without memory or files to spare",
    "protocol": "did not speak HTTP as it should",
    "reset": "closed the connection",
    "too_large": "gave an answer that is too large",
    "circuit_open": "was passed over: it has failed too often",
    "paused": "was passed over: it had asked for a pause",
    "refused_locally": "was passed over: its limit is reached",
    "bad_request": "malformed request",
    "concurrency_limit_exceeded": "too many requests at once",
    "forbidden": "wrong key, or one that may not",
    "model_not_found": "unknown model",
    "not_found": "unknown path",
    "overloaded": "no room at the moment",
    "payload_too_large": "request too large",
    "request_timeout": "request too slow",
    "rate_limit": "too many requests",
    "service_unavailable": "no room, or no provider",
    "unauthenticated": "no key",
}


class History(msgspec.Struct):
    """Of the last five minutes, in steps of `history_seconds`; the last one has only just begun."""

    done: list[int]
    failed: list[int]
    median: list[float | None]


class Figures(msgspec.Struct):
    """Of exchanges, or of attempts at a provider. Shares and latencies are those of the last minute."""

    per_second: float
    """Of the last ten seconds or less."""
    failed: float | None
    """Which share of those that were done; None: there were none."""
    refused: int
    """How many were not done."""
    median: float | None
    """Seconds until the answer began, of those that did not fail."""
    p95: float | None
    history: History


class ProviderView(msgspec.Struct):
    provider: str
    state: ProviderState
    """`open`: its circuit is, it gets no requests; `failing`; `trial`: the next request decides whether it is well
    again; `paused`: it asked to be left alone; `idle`: no requests for five minutes; `ok`."""
    reason: str | None
    """What went wrong last, if that was within the last minute or its state is bad."""
    text: str | None
    """The reason in words."""
    until: float | None
    """Until when it is `open` or `paused`."""
    limits: Limits
    attempts: Figures


class PoolView(msgspec.Struct):
    alias: str
    state: PoolState
    """`down`: its clients get errors; `degraded`: a provider is not well; `idle`: no requests for five minutes."""
    limits: Limits
    exchanges: Figures
    providers: list[ProviderView]


class KeyView(msgspec.Struct):
    key: str
    limits: Limits


class TroubleView(msgspec.Struct):
    kind: Literal["refusal", "attempt"]
    """`refusal`: the gateway refused a request; `attempt`: one at a provider failed, or it was passed over."""
    alias: str | None
    key: str | None
    provider: str | None
    reason: str
    """A refusal's error code, an attempt's outcome."""
    by: str | None
    """Whose limit refused it: `key`, `pool`, `provider` or `server`."""
    then: str | None
    """The provider that was tried next."""
    text: str
    """The same in words."""
    count: int
    """How often, since the first time."""
    first: float
    last: float


class ConfigView(msgspec.Struct):
    digests: list[str]
    """SHA-256 of the file. Several processes may have several in force for a moment."""
    loaded: float
    reloaded: float | None
    """When a reload was last tried."""
    problems: list[str]
    """Why that failed."""
    in_force: list[ConfigInForce] = []
    """Which configs all processes have that share limits, the commonest first; empty where none are shared."""


class View(msgspec.Struct):
    """All times are Unix time, all durations seconds."""

    at: float
    state: Literal["ok", "degraded", "down"]
    """That of the worst pool, `degraded` also after a reload that failed."""
    headline: str
    problems: list[str]
    """What is wrong, the worst first."""
    version: str
    started: float
    processes: int
    draining: bool
    in_flight: int
    config: ConfigView
    history_seconds: int
    exchanges: Figures
    pools: list[PoolView]
    keys: list[KeyView]
    troubles: list[TroubleView]
    """The latest ones first."""


def view(status: Status) -> View:
    slot = int(status.at // SLOT)
    pools = [_pool(pool, status, slot) for pool in status.pools]
    problems = [*_problems(pools, status), *_config_problems(status.config)]
    down = [pool.alias for pool in pools if pool.state == "down"]
    total = merged_series([status.others, *(pool.exchanges for pool in status.pools)])
    return View(
        at=round(status.at, 3),
        state="down" if down else "degraded" if problems else "ok",
        headline=_headline(down, pools, problems),
        problems=problems,
        version=status.version,
        started=round(status.started, 3),
        processes=status.processes,
        draining=status.draining,
        in_flight=status.in_flight,
        config=ConfigView(
            status.config.digests,
            round(status.config.loaded, 3),
            round(status.config.reload.at, 3) if status.config.reload else None,
            status.config.reload.problems if status.config.reload else [],
            status.config.in_force,
        ),
        history_seconds=SLOT,
        exchanges=_figures(total, slot, status.at),
        pools=pools,
        keys=[KeyView(key.key, _limits(key.limits)) for key in status.keys],
        troubles=[_trouble(trouble) for trouble in status.troubles[:TROUBLES]],
    )


# States


def _pool(pool: PoolStatus, status: Status, slot: int) -> PoolView:
    providers = [_provider(pool.alias, provider, status, slot) for provider in pool.providers]
    state: PoolState = "ok"
    if _fails(pool.exchanges, slot):
        state = "down"
    elif any(provider.state in ("failing", "open", "trial", "paused") for provider in providers):
        state = "degraded"
    elif _is_idle(pool.exchanges, slot):
        state = "idle"
    return PoolView(pool.alias, state, _limits(pool.limits), _figures(pool.exchanges, slot, status.at), providers)


def _provider(alias: str, provider: ProviderStatus, status: Status, slot: int) -> ProviderView:
    state: ProviderState = "ok"
    if provider.circuit != "closed":
        state = provider.circuit
    elif _fails(provider.attempts, slot):
        state = "failing"
    elif provider.paused_until is not None:
        state = "paused"
    elif _is_idle(provider.attempts, slot):
        state = "idle"
    until = {"open": provider.open_until, "paused": provider.paused_until}.get(state)
    within = 60.0 if state in ("ok", "idle") else float("inf")
    reason = _last_reason(alias, provider.provider, status, within)
    return ProviderView(
        provider.provider,
        state,
        reason,
        reason_text(reason) if reason else None,
        None if until is None else round(until, 3),
        _limits(provider.limits),
        _figures(provider.attempts, slot, status.at),
    )


def _last_reason(alias: str, provider: str, status: Status, within: float) -> str | None:
    """The last thing that went wrong at a provider itself."""
    for trouble in status.troubles:
        if (trouble.alias, trouble.provider) == (alias, provider) and trouble.reason not in NOT_ITS_DOING:
            return trouble.reason if trouble.last >= status.at - within else None
    return None


def _fails(series: Series, slot: int) -> bool:
    recent = _last(series, slot, _RECENT)
    failed = sum(bucket.failed for bucket in recent)
    return failed > 1 and failed >= _FAILING * sum(bucket.done for bucket in recent)


def _is_idle(series: Series, slot: int) -> bool:
    return not _last(series, slot, SLOTS)


# Figures


def _last(series: Series, slot: int, count: int) -> list[Bucket]:
    """Of the last `count` slots, the current one included."""
    return [series[each] for each in range(slot - count + 1, slot + 1) if each in series]


def _latencies(buckets: list[Bucket]) -> dict[int, int]:
    total: dict[int, int] = {}
    for bucket in buckets:
        for step, count in bucket.latencies.items():
            total[step] = total.get(step, 0) + count
    return total


def _figures(series: Series, slot: int, at: float) -> Figures:
    minute = _last(series, slot, _MINUTE)
    done = sum(bucket.done for bucket in minute)
    latencies = _latencies(minute)
    history = [series.get(each) or Bucket() for each in range(slot - SLOTS + 1, slot + 1)]
    return Figures(
        per_second=round(sum(bucket.done for bucket in _last(series, slot, 2)) / (at - (slot - 1) * SLOT), 2),
        failed=round(sum(bucket.failed for bucket in minute) / done, 4) if done else None,
        refused=sum(bucket.refused for bucket in minute),
        median=_quantile(latencies, 0.5),
        p95=_quantile(latencies, 0.95),
        history=History(
            [bucket.done for bucket in history],
            [bucket.failed for bucket in history],
            [_quantile(bucket.latencies, 0.5) for bucket in history],
        ),
    )


def _quantile(latencies: dict[int, int], share: float) -> float | None:
    """The latency that this share of all did not exceed, as if those in a step were spread over it."""
    wanted = share * sum(latencies.values())
    for step in sorted(latencies):
        count = latencies[step]
        if wanted <= count:
            return float(f"{step_latency(step, wanted / count):.3g}")
        wanted -= count
    return None


def _limits(limits: Limits) -> Limits:
    return msgspec.structs.replace(
        limits,
        tokens=None if limits.tokens is None else round(limits.tokens, 2),
        per_second=None if limits.per_second is None else float(f"{limits.per_second:.6g}"),
    )


# Words


def reason_text(reason: str) -> str:
    """What an attempt's outcome or an error code means. Of an attempt: what its provider did."""
    if reason.startswith("status_"):
        return f"answered {reason.removeprefix('status_')}"
    if reason.startswith("embedded_"):
        return f"answered 200 with an error {reason.removeprefix('embedded_')} in it"
    return _REASONS.get(reason, reason)


def _trouble(trouble: Trouble) -> TroubleView:
    text = reason_text(trouble.reason)
    if trouble.kind == "attempt":
        text = f"{trouble.provider} {text}" + (f"; then {trouble.then} was tried" if trouble.then else "")
    elif trouble.by:
        text += f" ({trouble.by} limit)"
    return TroubleView(
        trouble.kind,
        trouble.alias,
        trouble.key,
        trouble.provider,
        trouble.reason,
        trouble.by,
        trouble.then,
        text[0].upper() + text[1:] if trouble.kind == "refusal" else text,
        trouble.count,
        round(trouble.first, 3),
        round(trouble.last, 3),
    )


def _problems(pools: list[PoolView], status: Status) -> Iterable[str]:
    found: list[tuple[int, str]] = []
    for pool in pools:
        for provider in pool.providers:
            reason = f": it {provider.text}" if provider.text else ""
            name = f"{provider.provider} ({pool.alias})"
            failed = f", {_percent(provider.attempts.failed)} of its attempts" if provider.attempts.failed else ""
            match provider.state:
                case "open":
                    found.append((1, f"{name} is out of service{reason}"))
                case "failing":
                    found.append((2, f"{name} is failing{failed}{reason}"))
                case "trial":
                    found.append((3, f"{name} is on trial: the next request decides whether it is well again"))
                case "paused":
                    found.append((4, f"{name} has asked for a pause"))
        if pool.state == "down":
            found.append((0, f"Clients of {pool.alias} get errors, {_percent(pool.exchanges.failed)} of all answers"))
    return [text for _, text in sorted(found, key=lambda each: each[0])]


def _config_problems(config: ConfigStatus) -> Iterable[str]:
    if config.reload and config.reload.problems:
        yield "The last reload failed; the config from before stays in force"
    if len(config.digests) > 1 or len(config.in_force) > 1:
        yield "Not all processes have the same config in force"


def _headline(down: list[str], pools: list[PoolView], problems: list[str]) -> str:
    if down:
        return f"Clients of {_listed(down)} get errors"
    well = ("ok", "idle")
    bad = list(dict.fromkeys(each.provider for pool in pools for each in pool.providers if each.state not in well))
    if bad:
        spared = all(any(each.state in well for each in pool.providers) for pool in pools if pool.state == "degraded")
        others = "; clients get answers from others" if spared else ""
        return f"{_listed(bad)} {'is' if len(bad) == 1 else 'are'} not well{others}"
    return problems[0] if problems else "All is well"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.0f} %"
