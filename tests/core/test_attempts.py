"""Whom an exchange tries next, and when: attempts, waits, pauses and circuits."""

import gc
import weakref
from random import Random
from typing import Any

import pytest

from onwards_core import (
    Action,
    BodyRead,
    Exchange,
    Gateway,
    Request,
    Respond,
    SendUpstream,
    StreamThrough,
    UpstreamFailed,
    UpstreamResponded,
    Wait,
    WaitOver,
)
from tests.core.gateway_support import chat, error_code, gateway, pool

BUSY = UpstreamResponded(503, [])
OK = UpstreamResponded(200, [(b"content-type", b"application/json")])


def falling_back(*names: str, backoff: dict[str, Any] | None = None, **fallback: Any) -> dict[str, Any]:
    """A pool that tries these in order, and falls back on every 5xx."""
    settings = {"enabled": True, "on_status": [429, 5], **fallback, **({"backoff": backoff} if backoff else {})}
    return pool(*names, fallback=settings)


def exchange_of(at: Gateway, now: float = 0.0, request: Request | None = None) -> Exchange:
    return at.admit(request or chat(), now)


def name(action: Action) -> str:
    """Who gets the request."""
    assert isinstance(action, SendUpstream), action
    return action.provider.label


def tried(exchange: Exchange) -> list[tuple[str, str | None]]:
    return [(attempt.provider, attempt.outcome) for attempt in exchange.record.attempts]


def held(at: Gateway) -> list[int]:
    """The permits of each provider that are out."""
    return [at.ledger.permits_out(provider.limit.identity) for provider in at.snapshot.pools["m"].providers]


FIXED = {"initial_ms": 100, "max_ms": 1000, "factor": 2, "jitter": "none"}


# How often


def test_fewer_attempts_than_providers() -> None:
    """`max_attempts` ends the search; the last response is the answer."""
    with exchange_of(gateway({"m": falling_back("a", "b", "c", max_attempts=2)})) as exchange:
        assert name(exchange.begin(0.0)) == "a"
        assert name(exchange.feed(BUSY, 1.0)) == "b"
        assert isinstance(exchange.feed(BUSY, 2.0), StreamThrough)


def test_more_attempts_than_providers() -> None:
    """Then the pool is gone through again, from its start."""
    with exchange_of(gateway({"m": falling_back("a", "b", max_attempts=5)})) as exchange:
        names = [name(exchange.begin(0.0))]
        names += [name(exchange.feed(BUSY, float(now))) for now in range(1, 5)]
        assert names == ["a", "b", "a", "b", "a"]
        assert isinstance(exchange.feed(BUSY, 9.0), StreamThrough)


def test_another_pass_needs_somebody_who_can_be_tried() -> None:
    """Passes in which everybody is at their limits end the search."""
    target = falling_back("a", "b", max_attempts=9, on_rate_limit=True)
    for provider in target["providers"]:
        provider["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    with exchange_of(at) as first, exchange_of(at) as second, exchange_of(at) as third:
        assert (name(first.begin(0.0)), name(second.begin(0.0))) == ("a", "b")
        answer = third.begin(0.0)
        assert isinstance(answer, Respond)
        assert error_code(answer) == "concurrency_limit_exceeded"
        assert tried(third) == [("a", "refused_locally"), ("b", "refused_locally")]


def test_with_replacement() -> None:
    """Each attempt is drawn anew by weight: in the long run as often as weights say, also right after a failure."""
    target = falling_back("a", "b", max_attempts=2, with_replacement=True)
    target["strategy"] = "weighted_random"
    at = gateway({"m": target})
    pairs = []
    for _ in range(400):
        with exchange_of(at) as exchange:
            pairs.append(name(exchange.begin(0.0)) + name(exchange.feed(BUSY, 1.0)))
    assert all(60 < pairs.count(pair) < 140 for pair in ("aa", "ab", "ba", "bb"))


# Waits


def test_backoff() -> None:
    """Each retry waits twice as long as the one before; no permit of a provider is held meanwhile."""
    at = gateway({"m": falling_back("a", "b", max_attempts=4, backoff=FIXED)})
    with exchange_of(at) as exchange:
        assert name(exchange.begin(0.0)) == "a"
        assert held(at) == [1, 0]
        now = 1.0
        for delay, following in ((0.1, "b"), (0.2, "a"), (0.4, "b")):
            waiting = exchange.feed(BUSY, now)
            assert waiting == Wait(pytest.approx(now + delay))
            assert held(at) == [0, 0]
            now += delay
            assert name(exchange.feed(WaitOver(), now)) == following
        assert isinstance(exchange.feed(BUSY, now), StreamThrough)
    assert at.ledger.permits_out() == 0


def test_backoff_within_its_budget() -> None:
    """A wait that would go beyond it is not begun; the last outcome is the answer."""
    target = falling_back("a", max_attempts=9, backoff=FIXED, max_total_backoff_ms=300)
    with exchange_of(gateway({"m": target})) as exchange:
        exchange.begin(0.0)
        assert isinstance(exchange.feed(BUSY, 0.0), Wait)
        exchange.feed(WaitOver(), 0.1)
        assert isinstance(exchange.feed(BUSY, 0.1), Wait)
        exchange.feed(WaitOver(), 0.3)
        assert isinstance(exchange.feed(BUSY, 0.3), StreamThrough)


def test_nobody_is_left_after_a_wait() -> None:
    """The response was given up by then: its status remains, with a body of ours."""
    target = falling_back("a", max_attempts=2, backoff=FIXED, on_rate_limit=True)
    target["providers"][0]["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    with exchange_of(at) as exchange, exchange_of(at) as other:
        exchange.begin(0.0)
        assert isinstance(exchange.feed(BUSY, 0.0), Wait)
        assert name(other.begin(0.05)) == "a"
        answer = exchange.feed(WaitOver(), 0.1)
        assert isinstance(answer, Respond)
        assert (answer.status, error_code(answer)) == (503, "internal_error")
        assert tried(exchange) == [("a", "status_503"), ("a", "refused_locally")]


def test_no_fallback_on_local_limits_after_a_wait() -> None:
    """Without `on_rate_limit` a provider at its limit ends the exchange, also after a wait."""
    target = falling_back("a", max_attempts=2, backoff=FIXED)
    target["providers"][0]["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    with exchange_of(at) as exchange, exchange_of(at) as other:
        exchange.begin(0.0)
        exchange.feed(BUSY, 0.0)
        other.begin(0.05)
        answer = exchange.feed(WaitOver(), 0.1)
        assert isinstance(answer, Respond)
        assert error_code(answer) == "concurrency_limit_exceeded"


def test_unknown_outcomes_are_not_sent_twice() -> None:
    """A request that may have made something is sent again only if it was never sent."""
    at = gateway({"m": falling_back("a", "b")})
    request = chat(path=b"/v1/batches")
    with exchange_of(at, request=request) as exchange:
        exchange.begin(0.0)
        answer = exchange.feed(UpstreamFailed("head_timeout"), 1.0)
        assert isinstance(answer, Respond)
        assert answer.status == 504
    with exchange_of(at, request=request) as exchange:
        exchange.begin(0.0)
        assert name(exchange.feed(UpstreamFailed("connect"), 1.0)) == "b"


# Retry-After


def limited(seconds: bytes) -> UpstreamResponded:
    return UpstreamResponded(429, [(b"retry-after", seconds)])


def test_retry_after_leaves_a_provider_alone() -> None:
    """For all exchanges, until it is over."""
    at = gateway({"m": falling_back("a", "b")})
    with exchange_of(at) as exchange:
        exchange.begin(0.0)
        assert name(exchange.feed(limited(b"5"), 1.0)) == "b"
    with exchange_of(at, 5.9) as exchange:
        assert name(exchange.begin(5.9)) == "b"
        assert tried(exchange) == [("a", "paused"), ("b", None)]
    with exchange_of(at, 6.0) as exchange:
        assert name(exchange.begin(6.0)) == "a"


def test_retry_after_replaces_the_delay() -> None:
    """If nobody else is there, the exchange waits for as long as the provider asked, if its budget allows it."""
    target = falling_back("a", max_attempts=3, backoff=FIXED, max_total_backoff_ms=6000)
    with exchange_of(gateway({"m": target})) as exchange:
        exchange.begin(0.0)
        assert exchange.feed(limited(b"5"), 1.0) == Wait(6.0)
        assert name(exchange.feed(WaitOver(), 6.0)) == "a"
        assert isinstance(exchange.feed(limited(b"5"), 7.0), StreamThrough)
        assert tried(exchange) == [("a", "status_429"), ("a", "paused"), ("a", "status_429"), ("a", "paused")]


def test_retry_after_of_the_one_who_asked_for_least() -> None:
    """Of several who want rest, the first to be back is waited for."""
    target = falling_back("a", "b", max_attempts=3, backoff=FIXED, max_total_backoff_ms=60_000)
    with exchange_of(gateway({"m": target})) as exchange:
        exchange.begin(0.0)
        assert exchange.feed(limited(b"50"), 0.0) == Wait(0.1)
        assert name(exchange.feed(WaitOver(), 0.1)) == "b"
        assert exchange.feed(limited(b"5"), 1.0) == Wait(6.0)
        assert name(exchange.feed(WaitOver(), 6.0)) == "b"


def test_retry_after_without_another_pass() -> None:
    """Whoever asked for rest is waited for, and then everybody has been tried."""
    target = falling_back("a", "b", backoff=FIXED, max_total_backoff_ms=60_000)
    at = gateway({"m": target})
    at.health.pause(at.snapshot.pools["m"].providers[1].identity, 5.0)
    with exchange_of(at) as exchange:
        assert name(exchange.begin(0.0)) == "a"
        assert exchange.feed(BUSY, 1.0) == Wait(5.0)
        assert name(exchange.feed(WaitOver(), 5.0)) == "b"
        assert isinstance(exchange.feed(BUSY, 6.0), StreamThrough)


def test_retry_after_is_not_honoured_if_told_so() -> None:
    """Then only the backoff counts."""
    with exchange_of(gateway({"m": falling_back("a", max_attempts=2, honor_retry_after=False)})) as exchange:
        exchange.begin(0.0)
        assert name(exchange.feed(limited(b"5"), 1.0)) == "a"


def test_everybody_wants_rest() -> None:
    """Better one that may fail than none at all: it is tried in spite of its wish."""
    at = gateway({"m": falling_back("a", "b")})
    with exchange_of(at) as exchange:
        exchange.begin(0.0)
        exchange.feed(limited(b"5"), 0.0)
        assert isinstance(exchange.feed(limited(b"5"), 0.0), StreamThrough)
    with exchange_of(at, 1.0) as exchange:
        assert name(exchange.begin(1.0)) == "a"
        assert tried(exchange) == [("a", "paused"), ("b", "paused"), ("a", None)]


# Circuits


HEALTH = {"consecutive_failures": 2, "cooldown_secs": 10}


def sick(at: Gateway, times: int = 2, now: float = 0.0) -> None:
    """Let the first provider fail, and the second one answer."""
    for _ in range(times):
        with exchange_of(at, now) as exchange:
            assert name(exchange.begin(now)) == "a"
            assert name(exchange.feed(UpstreamFailed("connect"), now)) == "b"
            exchange.feed(OK, now)


def test_a_sick_provider_is_left_out() -> None:
    """After its failures it is skipped, with the reason; after the cool-down one exchange tries it."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    sick(at)
    with exchange_of(at, 5.0) as exchange:
        assert name(exchange.begin(5.0)) == "b"
        assert tried(exchange) == [("a", "circuit_open"), ("b", None)]
    with exchange_of(at, 10.0) as trial, exchange_of(at, 10.0) as other:
        assert (name(trial.begin(10.0)), name(other.begin(10.0))) == ("a", "b")
        trial.feed(OK, 10.5)
    with exchange_of(at, 11.0) as exchange:
        assert name(exchange.begin(11.0)) == "a"


def test_a_trial_whose_client_leaves() -> None:
    """Shows nothing: the next exchange tries again."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    sick(at)
    for _ in range(2):
        with exchange_of(at, 10.0) as exchange:
            assert name(exchange.begin(10.0)) == "a"


def test_circuits_outlive_a_reload() -> None:
    """As long as alias, URL, credential and model are the same."""
    targets = {"m": {**falling_back("a", "b"), "health": HEALTH}}
    at = gateway(targets)
    sick(at)
    at.snapshot = gateway(targets).snapshot
    with exchange_of(at, 5.0) as exchange:
        assert name(exchange.begin(5.0)) == "b"


def test_a_trial_at_its_own_limit() -> None:
    """Is none: the next exchange may try."""
    target = {**falling_back("a", "b", on_rate_limit=True), "health": HEALTH}
    target["providers"][0]["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    long = exchange_of(at)
    long.begin(0.0)
    failing = {**target, "providers": [{"url": "http://a/"}, target["providers"][1]]}
    at.snapshot = gateway({"m": failing}).snapshot
    sick(at)
    at.snapshot = gateway({"m": target}).snapshot
    with exchange_of(at, 10.0) as exchange:
        assert name(exchange.begin(10.0)) == "b"
        assert tried(exchange) == [("a", "refused_locally"), ("b", None)]
    long.close()
    with exchange_of(at, 10.0) as exchange:
        assert name(exchange.begin(10.0)) == "a"


def test_all_are_sick_but_one_is_full() -> None:
    """A refusal is an answer; nobody sick is tried for it."""
    target = {**falling_back("a", "b", on_rate_limit=True), "health": HEALTH}
    target["providers"][1]["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    sick(at)
    with exchange_of(at, 5.0) as first, exchange_of(at, 5.0) as second:
        assert name(first.begin(5.0)) == "b"
        answer = second.begin(5.0)
        assert isinstance(answer, Respond)
        assert answer.status == 429


def test_left_out_and_full() -> None:
    """If whoever is left out can't be tried either, the answer is the limit's."""
    target = falling_back("a", "b", on_rate_limit=True)
    for provider in target["providers"]:
        provider["concurrency_limit"] = {"max_concurrent_requests": 1}
    at = gateway({"m": target})
    for provider in at.snapshot.pools["m"].providers:
        at.health.pause(provider.identity, 99.0)
    with exchange_of(at) as first, exchange_of(at) as second, exchange_of(at) as third:
        assert (name(first.begin(0.0)), name(second.begin(0.0))) == ("a", "b")
        answer = third.begin(0.0)
        assert isinstance(answer, Respond)
        assert answer.status == 429


def test_a_break_in_the_middle_counts() -> None:
    """An answer that the driver found broken is a failure of its provider after all."""
    at = gateway({"m": {**pool("a", "b"), "health": HEALTH}})
    for _ in range(2):
        with exchange_of(at) as exchange:
            exchange.begin(0.0)
            assert isinstance(exchange.feed(OK, 0.0), StreamThrough)
            exchange.answer_broke("idle_timeout", 1.0)
            assert tried(exchange) == [("a", "idle_timeout")]
    with exchange_of(at, 2.0) as exchange:
        assert name(exchange.begin(2.0)) == "b"


def test_an_older_exchange_decides_nothing_for_the_trial() -> None:
    """It began before the circuit opened. Neither its client's leaving nor its answer's end lets others in."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    waiting, streaming = exchange_of(at), exchange_of(at)
    assert (name(waiting.begin(0.0)), name(streaming.begin(0.0))) == ("a", "a")
    assert isinstance(streaming.feed(OK, 0.0), StreamThrough)
    sick(at)
    streaming.close()
    with exchange_of(at, 5.0) as exchange:
        assert name(exchange.begin(5.0)) == "b"
    with exchange_of(at, 10.0) as trial, exchange_of(at, 10.0) as other:
        assert name(trial.begin(10.0)) == "a"
        waiting.close()
        assert name(other.begin(10.0)) == "b"


def test_a_dead_provider_is_noticed_while_its_answers_end() -> None:
    """Streams that it began earlier may still come to their end: that does not interrupt its failures in a row."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    streams = [exchange_of(at) for _ in range(2)]
    for stream in streams:
        stream.begin(0.0)
        stream.feed(OK, 0.0)
    for stream in streams:
        sick(at, 1)
        stream.close()
    with exchange_of(at, 5.0) as exchange:
        assert name(exchange.begin(5.0)) == "b"


def test_failures_among_long_answers_are_not_in_a_row() -> None:
    """An answer that begins shows that its provider works, however long it takes."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    streams = []
    for _ in range(4):
        sick(at, 1)
        streams.append(exchange_of(at))
        assert name(streams[-1].begin(0.0)) == "a"
        streams[-1].feed(OK, 0.0)
    for stream in streams:
        stream.close()


def test_a_reload_without_health() -> None:
    """Nobody is left out any more, as nobody would be let in again."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    sick(at)
    at.snapshot = gateway({"m": falling_back("a", "b")}).snapshot
    for now in (5.0, 10.0, 10.0):
        with exchange_of(at, now) as exchange:
            assert name(exchange.begin(now)) == "a"
            exchange.feed(OK, now)


@pytest.mark.parametrize(("status", "counts"), [(500, True), (418, False), (429, True)])
def test_which_statuses_count(status: int, counts: bool) -> None:
    """From 500 on, and those that are fallen back on; another refusal shows that the provider works."""
    at = gateway({"m": {**falling_back("a", "b"), "health": {**HEALTH, "consecutive_failures": 1}}})
    with exchange_of(at) as exchange:
        exchange.begin(0.0)
        exchange.feed(UpstreamResponded(status, []), 0.0)
    with exchange_of(at, 1.0) as exchange:
        assert name(exchange.begin(1.0)) == ("b" if counts else "a")


def test_probes() -> None:
    """Failures of probes count; a success is the trial, and nothing before that."""
    probe = {"probe": {"path": "/v1/models"}}
    target = {**falling_back("a", "b"), "health": {**HEALTH, **probe}}
    target["providers"][0] = {"url": "http://a/v1", "onwards_key": "sk"}
    at = gateway({"m": target})
    asked = at.snapshot.pools["m"]
    first = asked.providers[0]
    request = at.probe(asked, first)
    assert (request.method, request.target, request.body) == ("GET", b"/v1/models", b"")
    assert (b"authorization", b"Bearer sk") in request.headers

    def goes_to(now: float) -> str:
        with exchange_of(at, now) as exchange:
            return name(exchange.begin(now))

    at.probed(asked, first, ok=False, now=0.0)
    at.probed(asked, first, ok=True, now=0.0)
    assert goes_to(0.0) == "a"
    at.probed(asked, first, ok=False, now=0.0)
    assert goes_to(1.0) == "b"
    at.probed(asked, first, ok=True, now=5.0)
    assert goes_to(5.0) == "b"
    at.probed(asked, first, ok=False, now=10.0)
    assert goes_to(29.0) == "b"
    at.probed(asked, first, ok=True, now=30.0)
    assert goes_to(30.0) == "a"


def test_latencies_are_observed() -> None:
    """`lowest_latency` learns from what exchanges saw, failures included."""
    target = {**falling_back("a", "b"), "strategy": "lowest_latency"}
    at = gateway({"m": target})
    firsts = []
    for turn in range(40):
        with exchange_of(at, float(turn)) as exchange:
            first = name(exchange.begin(float(turn)))
            firsts.append(first)
            if first == "a":
                assert name(exchange.feed(UpstreamFailed("connect"), turn + 0.01)) == "b"
            exchange.feed(OK, turn + 0.5)
    assert firsts.count("b") > 30


def test_pruning() -> None:
    """A gateway forgets what no longer counts, of limits, health and latencies alike."""
    at = gateway({"m": {**falling_back("a", "b"), "health": HEALTH}})
    sick(at)
    at.prune(10_000.0)
    with exchange_of(at, 10_000.0) as exchange:
        assert name(exchange.begin(10_000.0)) == "a"


def test_chance_is_given() -> None:
    """Nothing but the gateway's own source of randomness decides."""
    target = falling_back("a", "b", max_attempts=4, backoff={"initial_ms": 100})
    target["strategy"] = "weighted_random"
    runs = []
    for _ in range(2):
        at = Gateway(gateway({"m": target}).snapshot, random=Random(7))
        with exchange_of(at) as exchange:
            runs.append([name(exchange.begin(0.0)), exchange.feed(BUSY, 0.0)])
    assert runs[0] == runs[1]


def test_misuse() -> None:
    """What does not belong to the last action raises."""
    with exchange_of(gateway({"m": falling_back("a", backoff=FIXED, max_attempts=2)})) as exchange:
        exchange.begin(0.0)
        for event in (WaitOver(), BodyRead(b"", ended=True)):
            with pytest.raises(RuntimeError, match="SENDING"):
                exchange.feed(event, 0.0)
        exchange.feed(BUSY, 0.0)
        with pytest.raises(RuntimeError, match="WAITING"):
            exchange.feed(BUSY, 0.0)


# What is left of it


def test_no_work_for_the_garbage_collector() -> None:
    """An exchange that is over is gone at once, also when it did not need all of its providers."""
    at = gateway({"m": falling_back("a", "b", "c")})
    gc.disable()
    try:
        with exchange_of(at) as exchange:
            exchange.begin(0.0)
            exchange.feed(BUSY, 0.1)
            exchange.feed(OK, 0.2)
        attempts = weakref.ref(exchange._attempts)
        del exchange
        assert attempts() is None
    finally:
        gc.enable()
