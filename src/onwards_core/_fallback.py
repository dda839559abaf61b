"""After which failures another attempt is made, and when. Pure functions and frozen policies."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from random import Random
from typing import Final, Self

import attrs

from onwards_core._config import BackoffConfig, FallbackConfig, Jitter
from onwards_core._events import FailureReason, Headers


def matching_statuses(patterns: Iterable[int]) -> frozenset[int]:
    """The statuses that patterns stand for: `5` all of 500 to 599, `50` all of 500 to 509, `503` itself."""
    wanted = {str(pattern) for pattern in patterns}
    return frozenset(
        status
        for status in range(100, 600)
        if not wanted.isdisjoint((f"{status}", f"{status // 10}", f"{status // 100}"))
    )


@attrs.frozen
class Backoff:
    """How long to wait before a retry: seconds."""

    initial: float = 0.0
    longest: float = 0.0
    factor: float = 1.0
    jitter: bool = False

    @classmethod
    def of(cls, config: BackoffConfig) -> Self:
        return cls(config.initial_ms / 1000, config.max_ms / 1000, config.factor, config.jitter is Jitter.FULL)

    def delay(self, retry: int, random: Random) -> float:
        """Before the retry of this number, counted from 1."""
        # A higher power may be no number any more.
        whole = min(self.initial * self.factor ** min(retry - 1, 100), self.longest)
        return random.random() * whole if self.jitter else whole


@attrs.frozen
class FallbackPolicy:
    """When an attempt's failure is hidden from the client by another attempt. The default: never."""

    enabled: bool = False
    statuses: frozenset[int] = frozenset()
    on_rate_limit: bool = False
    """Also when a provider is at its own limit, which is ours and not the provider's word."""
    on_embedded_error: bool = False
    """Also for errors and ends that come after a 2xx head, but before any content."""
    max_attempts: int | None = None
    """None: as many as there are providers."""
    with_replacement: bool = False
    backoff: Backoff = Backoff()
    longest_wait: float | None = None
    """Seconds, over all waits of an exchange. None: no limit."""
    honor_retry_after: bool = False
    resend_unknown: bool | None = None
    """Whether a request that is not idempotent is sent again if nobody knows what became of it. None: for inference."""

    @classmethod
    def of(cls, config: FallbackConfig) -> Self:
        """A policy that is not enabled never falls back, whatever else it says."""
        if not config.enabled:
            return cls()
        embedded, backoff = config.on_embedded_error, config.backoff
        return cls(
            enabled=True,
            statuses=matching_statuses(config.on_status),
            on_rate_limit=config.on_rate_limit,
            on_embedded_error=True if embedded is None else embedded,
            max_attempts=config.max_attempts,
            with_replacement=config.with_replacement,
            backoff=Backoff.of(backoff) if backoff else Backoff(),
            longest_wait=None if config.max_total_backoff_ms is None else config.max_total_backoff_ms / 1000,
            honor_retry_after=config.honor_retry_after,
            resend_unknown=config.retry_non_idempotent_on_timeout,
        )

    def may_wait(self, seconds: float, waited: float) -> bool:
        """Whether an exchange that has waited for so long may wait for so much longer."""
        if self.longest_wait is not None:
            return waited + seconds <= self.longest_wait + _ROUNDING
        return seconds <= self.backoff.longest

    def may_resend(self, method: str, path: bytes, reason: FailureReason) -> bool:
        """Whether a request that failed like this may be sent again."""
        if reason in ("connect", "connect_timeout") or method in _IDEMPOTENT:
            return True
        return _is_inference(path) if self.resend_unknown is None else self.resend_unknown


_ROUNDING = 1e-6  # of sums of seconds

_IDEMPOTENT = frozenset(("GET", "HEAD", "PUT", "DELETE", "OPTIONS"))  # RFC 9110, 9.2.2
_INFERENCE = (
    b"/completions",
    b"/embeddings",
    b"/responses",
    b"/messages",
    b"/moderations",
    b"/rerank",
    b"/audio/speech",
    b"/audio/transcriptions",
    b"/audio/translations",
    b"/images/generations",
    b"/images/edits",
    b"/images/variations",
)


def _is_inference(path: bytes) -> bool:
    """Whether a request to it does nothing but compute its answer."""
    return path.endswith(_INFERENCE)


def retry_after(headers: Headers) -> float | None:
    """For how many seconds a provider asks to be left alone: `retry-after-ms`, or `retry-after` (RFC 9110, 10.2.3)."""
    fields = dict(headers)
    try:
        if (milliseconds := fields.get(b"retry-after-ms")) is not None:
            seconds = float(milliseconds) / 1000
        elif (text := fields.get(b"retry-after")) is None:
            return None
        elif text.isdigit():
            seconds = float(text)
        else:  # A date. Its difference to the provider's own clock counts, not to anybody else's.
            seconds = (_date(text) - _date(fields.get(b"date", b""))).total_seconds()
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_PAUSE) if math.isfinite(seconds) else None


LONGEST_PAUSE: Final = 300.0
"""Seconds that a provider is left alone at most, whatever it asks for."""


def _date(text: bytes) -> datetime:
    return datetime.strptime(text.decode("latin-1"), "%a, %d %b %Y %H:%M:%S GMT").replace(tzinfo=UTC)
