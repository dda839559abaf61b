"""The statuses and failures that lead to another attempt, and when it comes."""

from random import Random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import BackoffConfig, FailureReason, FallbackConfig, Headers
from onwards_core._config import Jitter
from onwards_core._fallback import LONGEST_PAUSE, Backoff, FallbackPolicy, matching_statuses, retry_after

STATUSES = range(100, 600)


def stands_for(pattern: int) -> set[int]:
    """The definition, by arithmetic: a pattern of n digits leaves the last 3 - n of a status open."""
    for open_digits in (0, 1, 2):
        first = pattern * 10**open_digits
        if 100 <= first <= 599:
            return set(range(first, first + 10**open_digits))
    return set()


def test_each_pattern() -> None:
    """Every pattern there can be matches the statuses that it stands for, of all there are; nonsense matches none."""
    for pattern in range(-600, 6000):
        assert matching_statuses([pattern]) == stands_for(pattern), pattern


@given(st.lists(st.integers(0, 700)))
def test_several_patterns(patterns: list[int]) -> None:
    """Several patterns match what any of them does."""
    assert matching_statuses(patterns) == set().union(*map(stands_for, patterns))


def test_policy() -> None:
    """A policy that is not enabled falls back on nothing."""
    config = FallbackConfig(on_status=[50, 429], on_rate_limit=True, on_embedded_error=True, max_attempts=9)
    assert FallbackPolicy.of(config) == FallbackPolicy()
    policy = FallbackPolicy.of(attrs.evolve(config, enabled=True))
    assert policy.statuses == frozenset([*range(500, 510), 429])
    assert (policy.on_rate_limit, policy.max_attempts) == (True, 9)
    assert FallbackPolicy.of(FallbackConfig(enabled=True)).on_embedded_error
    assert not FallbackPolicy.of(FallbackConfig(enabled=True, on_embedded_error=False)).on_embedded_error


# Waits


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.floats(1, 1000),
    st.integers(1, 200),
    st.randoms(use_true_random=False),
)
def test_backoff(initial: int, longest: int, factor: float, retry: int, random: Random) -> None:
    """`min(initial · factor^(n-1), max)` before retry n; with full jitter a part of that."""
    exact = Backoff.of(BackoffConfig(initial_ms=initial, max_ms=longest, factor=factor, jitter=Jitter.NONE))
    whole = exact.delay(retry, random)
    if retry <= 100:
        assert whole == pytest.approx(min(initial * factor ** (retry - 1), longest) / 1000)
    assert whole <= longest / 1000
    jittered = Backoff.of(BackoffConfig(initial_ms=initial, max_ms=longest, factor=factor))
    assert 0 <= jittered.delay(retry, random) <= whole


def test_budgets() -> None:
    """All waits together keep to the budget; without one, each to the longest delay."""
    backoff = BackoffConfig(initial_ms=100, max_ms=400)
    policy = FallbackPolicy.of(FallbackConfig(enabled=True, backoff=backoff, max_total_backoff_ms=1000))
    assert policy.may_wait(0.75, 0.25)
    assert not policy.may_wait(0.76, 0.25)
    unlimited = FallbackPolicy.of(FallbackConfig(enabled=True, backoff=backoff))
    assert unlimited.may_wait(0.4, 99.0)
    assert not unlimited.may_wait(0.41, 0.0)
    assert not FallbackPolicy.of(FallbackConfig(enabled=True)).may_wait(0.01, 0.0)


@pytest.mark.parametrize(
    ("method", "path", "reason", "setting", "resent"),
    [
        ("POST", b"/v1/chat/completions", "head_timeout", None, True),
        ("POST", b"/v1/embeddings", "reset", None, True),
        ("POST", b"/v1/batches", "head_timeout", None, False),
        ("POST", b"/v1/batches", "reset", None, False),
        ("POST", b"/v1/batches", "connect", None, True),
        ("POST", b"/v1/batches", "connect_timeout", False, True),
        ("POST", b"/v1/batches", "head_timeout", True, True),
        ("POST", b"/v1/chat/completions", "head_timeout", False, False),
        ("GET", b"/v1/batches", "head_timeout", False, True),
        ("DELETE", b"/v1/files/1", "reset", None, True),
    ],
)
def test_what_is_sent_again(
    method: str, path: bytes, reason: FailureReason, setting: bool | None, resent: bool
) -> None:
    """What was never sent, what may be repeated by HTTP's rules, and inference, unless the config says otherwise."""
    policy = FallbackPolicy.of(FallbackConfig(enabled=True, retry_non_idempotent_on_timeout=setting))
    assert policy.may_resend(method, path, reason) is resent


DATE = b"Mon, 23 Nov 2026 20:00:00 GMT"
SOON = b"Mon, 23 Nov 2026 20:00:07 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"3")], 3.0),
        ([(b"retry-after", b"3"), (b"retry-after-ms", b"250")], 0.25),
        ([(b"date", DATE), (b"retry-after", SOON)], 7.0),
        ([(b"date", SOON), (b"retry-after", DATE)], 0.0),
        ([(b"retry-after", SOON)], None),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after-ms", b"nan")], None),
        ([(b"retry-after-ms", b"inf")], None),
        ([(b"retry-after", b"-3")], None),
        ([(b"retry-after", b"9" * 400)], None),
        ([(b"retry-after", b"999999")], LONGEST_PAUSE),
    ],
)
def test_retry_after(headers: Headers, seconds: float | None) -> None:
    """Milliseconds, seconds, or a date by the provider's own clock; at most five minutes; nonsense is nothing."""
    assert retry_after(headers) == seconds
