"""When and whom both drivers try, to the second, and what the records say of it: waits, circuits, probes, timeouts."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from tests.conformance.support.clocks import FAR, REFUSING, Ask, Call, Steps, Told, beginning, chunk, play, saying

Play = Callable[..., list[Told]]

ON = {"enabled": True, "on_status": [429, 5]}
GOOD = (saying(),)
BAD = (saying(503),)
ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
CONTENT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'
END = b"0\r\n\r\n"
STREAM = (beginning(CONTENT) + END,)
FOREVER = 10_000.0


@pytest.fixture(params=["trio", "asyncio"])
def played(request: pytest.FixtureRequest) -> Play:
    return partial(play, request.param)


def pool(*hosts: str, fallback: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """A config whose model is tried at these hosts, in this order."""
    providers = [{"url": f"http://{host}"} for host in hosts]
    members = {"strategy": "priority", "providers": providers, "fallback": {**ON, **(fallback or {})}, **settings}
    return {"targets": {"model": members}}


def by_host(**steps: Steps) -> Callable[[Call], Steps]:
    return lambda call: steps[call.host]


def each_second(seconds: int) -> list[Ask]:
    return [Ask(float(at)) for at in range(seconds)]


# Waits


@pytest.mark.parametrize(
    ("backoff", "delays"),
    [
        ({"initial_ms": 1000}, [1, 2, 4, 5, 5]),
        ({"initial_ms": 100, "factor": 3.0, "max_ms": 2000}, [0.1, 0.3, 0.9, 2, 2]),
        ({"initial_ms": 250, "factor": 1.0}, [0.25] * 5),
        ({"initial_ms": 9000, "max_ms": 3000}, [3] * 5),
        (None, [0] * 5),
    ],
)
def test_delays(played: Play, backoff: dict[str, Any] | None, delays: list[float]) -> None:
    """Before retry n, counted from its failure: initial · factor^(n-1), `max_ms` at most; 2.0 and 5000 by default."""
    settings = {"max_attempts": 6, **({"backoff": {**backoff, "jitter": "none"}} if backoff else {})}
    [told] = played(pool("a", "b", fallback=settings), by_host(a=(0.5, *BAD), b=(0.5, *BAD)), Ask(3.0))
    assert [host for host, _ in told.outcomes] == ["a", "b"] * 3
    expected = [0.0]
    for delay in delays:
        expected.append(expected[-1] + 0.5 + delay)
    assert told.times == pytest.approx(expected)
    assert told.status == 503


def test_jitter(played: Play) -> None:
    """By default a delay is anything between none and the whole."""
    fallback = {"max_attempts": 4, "backoff": {"initial_ms": 1000}}
    delays = []
    for told in played(pool("a", fallback=fallback), by_host(a=BAD), *[Ask(20.0 * at) for at in range(40)]):
        assert len(told.times) == 4
        delays.append([later - earlier for earlier, later in zip(told.times, told.times[1:], strict=False)])
    for number, whole in enumerate((1, 2, 4)):
        column = [each[number] for each in delays]
        assert 0 <= min(column) < whole / 4
        assert whole * 3 / 4 < max(column) <= whole + 1e-6


@pytest.mark.parametrize(("budget", "waits"), [(299, 1), (300, 2), (699, 2), (700, 3), (0, 0)])
def test_the_budget_of_waits(played: Play, budget: int, waits: int) -> None:
    """`max_total_backoff_ms`: a wait that would exceed it is not begun, and the client has its answer then."""
    fallback = {
        "max_attempts": 9,
        "backoff": {"initial_ms": 100, "jitter": "none"},
        "max_total_backoff_ms": budget,
    }
    [told] = played(pool("a", fallback=fallback), by_host(a=BAD), Ask())
    expected = [0.0, 0.1, 0.3, 0.7][: waits + 1]
    assert told.times == pytest.approx(expected)
    assert (told.status, told.ended) == (503, pytest.approx(expected[-1]))


@pytest.mark.parametrize(
    ("fields", "others", "delay"),
    [
        ({"retry-after": "3"}, {}, 3.0),
        ({"retry-after-ms": "250"}, {}, 0.25),
        ({"retry-after": "5"}, {}, 5.0),
        ({"retry-after": "6"}, {}, None),  # Longer than any delay may be.
        ({"retry-after": "6"}, {"max_total_backoff_ms": 7000}, 6.0),
        ({"retry-after": "6"}, {"max_total_backoff_ms": 5000}, None),
        ({"retry-after": "3"}, {"honor_retry_after": False}, 0.1),
        ({"retry-after": "soon"}, {}, 0.1),
    ],
)
def test_retry_after_in_place_of_the_delay(
    played: Play, fields: dict[str, str], others: dict[str, Any], delay: float | None
) -> None:
    """What the provider asked for is waited for, if it fits; if it does not, its answer is the client's at once."""
    answers = iter([(saying(429, **fields),), GOOD])
    fallback = {"max_attempts": 2, "backoff": {"initial_ms": 100, "jitter": "none"}, **others}
    [told] = played(pool("a", fallback=fallback), lambda _: next(answers), Ask())
    if delay is None:
        assert (told.status, told.ended) == (429, pytest.approx(0.0))
    else:
        assert (told.status, told.ended) == (200, pytest.approx(delay))


def test_a_provider_is_left_alone(played: Play) -> None:
    """Until the time that it named, by all requests; the records say why."""
    answers = iter([(saying(429, retry_after="10"),), GOOD, GOOD])
    asked = [Ask(at) for at in (0.0, 1.0, 9.9, 10.0, 10.5)]
    told = played(pool("a", "b"), lambda call: next(answers) if call.host == "a" else GOOD, *asked)
    assert [each.outcomes for each in told] == [
        [("a", "status_429"), ("b", "ok")],
        [("a", "paused"), ("b", "ok")],
        [("a", "paused"), ("b", "ok")],
        [("a", "ok")],
        [("a", "ok")],
    ]


# Circuits


HEALTH = {"consecutive_failures": 2, "cooldown_secs": 10, "max_cooldown_secs": 35}


def test_cooldowns(played: Play) -> None:
    """Each is twice as long as the one before, up to the cap; one trial at the end of each; one that goes well closes
    the circuit, and what was is forgotten."""
    calls = []

    def answer(call: Call) -> Steps:
        if call.host == "b":
            return GOOD
        calls.append(call.at)
        return BAD if call.at < 120 or call.at > 140 else GOOD

    told = played(pool("a", "b", health=HEALTH), answer, *each_second(165))
    assert all(each.status == 200 for each in told)
    # 10, 20, then 35 and not 40; well from 136 to 140; two failures again, and 10 again.
    assert calls == pytest.approx([0, 1, 11, 31, 66, 101, 136, 137, 138, 139, 140, 141, 142, 152])
    assert told[1].outcomes == [("a", "status_503"), ("b", "ok")]
    assert told[10].outcomes == [("a", "circuit_open"), ("b", "ok")]
    assert told[11].outcomes == [("a", "status_503"), ("b", "ok")]
    assert told[136].outcomes == told[140].outcomes == [("a", "ok")]


@pytest.mark.parametrize("well", [True, False])
def test_one_trial_at_a_time(played: Play, well: bool) -> None:
    """While it is under way, others go on without the provider; what it comes to decides about those after it."""

    def answer(call: Call) -> Steps:
        if call.host == "b":
            return GOOD
        return BAD if call.at < 10 else (5.0, *(GOOD if well else BAD))

    trial = [Ask(at) for at in (12.0, 12.5, 16.9, 17.5)]
    told = played(pool("a", "b", health=HEALTH), answer, Ask(0.0), Ask(1.0), *trial)
    skipped = [("a", "circuit_open"), ("b", "ok")]
    assert [each.outcomes for each in told[2:]] == (
        [[("a", "ok")], skipped, skipped, [("a", "ok")]]
        if well
        else [[("a", "status_503"), ("b", "ok")], skipped, skipped, skipped]
    )


@pytest.mark.parametrize("hosts", [("a",), ("a", "b"), ("a", "b", "c")])
def test_the_last_healthy_provider(played: Play, hosts: tuple[str, ...]) -> None:
    """Is never taken out, though all are sick: the others are, it alone gets every request, and nobody is refused."""
    health = {**HEALTH, "cooldown_secs": 1000, "max_cooldown_secs": 1000}
    told = played(pool(*hosts, health=health), lambda _: BAD, *each_second(8))
    assert {each.status for each in told} == {503}
    for each in told[2:]:
        assert each.outcomes == [(host, "circuit_open") for host in hosts[:-1]] + [(hosts[-1], "status_503")]


def test_failure_rate(played: Play) -> None:
    """What is older than the window counts no more."""
    health = {
        "consecutive_failures": None,
        "failure_rate": 0.5,
        "window_secs": 20,
        "min_requests": 4,
        "cooldown_secs": 1000,
        "max_cooldown_secs": 1000,
    }
    fails = {0.0, 1.0, 30.0, 31.0}
    asked = [Ask(at) for at in (0.0, 1.0, 27.0, 28.0, 30.0, 31.0, 32.0)]
    told = played(
        pool("a", "b", health=health), lambda call: BAD if call.host == "a" and call.at in fails else GOOD, *asked
    )
    assert [each.outcomes[0] for each in told] == [
        ("a", "status_503"),
        ("a", "status_503"),
        ("a", "ok"),
        ("a", "ok"),
        ("a", "status_503"),
        ("a", "status_503"),
        ("a", "circuit_open"),
    ]


# Probes


@pytest.mark.parametrize("sick", [BAD, (saying(404),), (3.0, *GOOD), ()])
def test_probes(played: Play, sick: Steps) -> None:
    """Each provider is asked at its interval. Bad answers, late ones and none take it out; a good one brings it back
    when its cool-down is over; no client's request had to be the trial."""
    probe = {"path": "/up", "interval_secs": 4, "timeout_secs": 2}
    calls = []

    def answer(call: Call) -> Steps:
        calls.append((call.host, call.path, call.at))
        return sick if call.host == "a" and call.at < 9 else GOOD

    told = played(
        pool("a", "b", health={"consecutive_failures": 2, "cooldown_secs": 5, "probe": probe}),
        answer,
        *[Ask(at) for at in (7.0, 12.5)],
        probing=True,
    )
    assert [each.outcomes for each in told] == [[("a", "circuit_open"), ("b", "ok")], [("a", "ok")]]
    for host in ("a", "b"):
        assert [at for asked, path, at in calls if (asked, path) == (host, "/up")] == pytest.approx([0, 4, 8, 12])


# What attempts come to


def _error(**members: Any) -> Steps:
    return (beginning(b"data: %b\n\n" % json.dumps(members).encode()),)


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        (BAD, "status_503"),
        ((), "reset"),
        ((b"HTTP/1.1 200 OK\r\ncontent-",), "reset"),
        ((b"nonsense\r\n\r\n",), "protocol"),
        ((beginning(ROLE),), "reset"),
        ((beginning(ROLE) + END,), "empty"),
        ((beginning() + END,), "empty"),
        ((saying(body=b"", content_type="text/event-stream"),), "empty"),
        (_error(error={"code": 429}), "embedded_429"),
        (_error(error={"code": "429"}), "embedded_429"),
        (_error(error={"code": "rate_limit_exceeded"}), "embedded_429"),
        (_error(error={"code": None}), "embedded_500"),
        (_error(error="nonsense"), "embedded_500"),
        (_error(type="response.failed", response={"error": {"code": "server_error"}}), "embedded_500"),
    ],
)
def test_outcomes(played: Play, steps: Steps, outcome: str) -> None:
    """Each way to fail has its own name in the record; nothing of such an attempt is in the answer."""
    [told] = played(pool("a", "b"), by_host(a=steps, b=STREAM), Ask(members={"stream": True}))
    assert told.outcomes == [("a", outcome), ("b", "ok")]
    assert told.status == 200
    assert CONTENT in told.answer
    assert ROLE not in told.answer


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"error": {"code": 429}}, 429),
        ({"error": {"type": "rate_limit_exceeded"}}, 429),
        ({"error": {"code": None}}, 500),
        ({"error": "nonsense"}, 500),
        (None, 502),
    ],
)
def test_embedded_statuses(played: Play, event: Any, status: int) -> None:
    """Each is judged by `on_status` like any other; nothing at all counts as 502."""
    failing = (beginning() + END,) if event is None else (_error(**event)[0] + END,)
    for on_status, falls_back in (([status], True), ([code for code in (429, 500, 502, 503) if code != status], False)):
        config = pool("a", "b", fallback={"on_status": on_status})
        [told] = played(config, by_host(a=failing, b=STREAM), Ask(members={"stream": True}))
        assert (told.outcomes[-1] == ("b", "ok")) is falls_back
        assert len(told.outcomes) == 1 + falls_back


def test_no_connection(played: Play) -> None:
    """A host that takes none."""
    [told] = played(pool(REFUSING, "b"), by_host(b=GOOD), Ask())
    assert told.outcomes == [(REFUSING, "connect"), ("b", "ok")]


TIMEOUTS = {"timeouts": {"connect": 4, "first_content": 20, "idle": 10}, "request_timeout_secs": 30}
OWN = {"timeouts": {"connect": 2, "first_content": 15, "idle": 5}, "request_timeout_secs": 25}


@pytest.mark.parametrize(
    ("host", "steps", "outcome", "after", "own"),
    [
        (FAR, (), "connect_timeout", 4, 2),
        ("a", (FOREVER,), "head_timeout", 30, 25),
        ("a", (8.0, beginning(), FOREVER), "idle_timeout", 18, 13),
        ("a", (14.5, beginning(), FOREVER), "first_content_timeout", 20, 15),
    ],
)
def test_timeouts(played: Play, host: str, steps: Steps, outcome: str, after: float, own: float) -> None:
    """Each means one thing, and has its outcome; the provider's own are stronger than its pool's."""
    for settings, expected in (({}, after), (OWN, own)):
        config = pool(host, "b", **TIMEOUTS)
        config["targets"]["model"]["providers"][0] |= settings
        [told] = played(config, by_host(**{host: steps, "b": STREAM}), Ask(members={"stream": True}))
        assert told.outcomes == [(host, outcome), ("b", "ok")]
        # Who waits for more of a body is looked at once a second.
        assert told.times[1] == pytest.approx(expected, abs=1.0 if outcome == "idle_timeout" else 1e-6)


def test_slow_is_no_failure(played: Play) -> None:
    """However long things take: unless the config says more, only silence within an answer counts, of 300 seconds."""
    slow = (5000.0, beginning(), 299.0, chunk(ROLE), 299.0, chunk(CONTENT) + END)
    [told] = played(pool("a", "b"), by_host(a=slow, b=STREAM), Ask(members={"stream": True}))
    assert told.outcomes == [("a", "ok")]
    assert told.ended == pytest.approx(5598.0)
    assert CONTENT in told.answer


@pytest.mark.parametrize(("seconds", "comments"), [(5, 4), (7, 3), (None, 0)])
def test_keep_alive(played: Play, seconds: int | None, comments: int) -> None:
    """A comment each `stream_keepalive_secs` until there is content, over attempts; without it, none."""
    settings = {} if seconds is None else {"stream_keepalive_secs": seconds}
    slow = by_host(a=(12.0, *BAD), b=(12.0, *STREAM))
    [told] = played(pool("a", "b", **settings), slow, Ask(members={"stream": True}))
    assert told.outcomes == [("a", "status_503"), ("b", "ok")]
    assert told.answer.count(b": keep-alive\n\n") == comments
    assert CONTENT in told.answer


def test_refused_locally(played: Play) -> None:
    """A provider at its own limit is told in the record as what was not tried."""
    config = pool("a", "b", fallback={"on_rate_limit": True})
    config["targets"]["model"]["providers"][0]["concurrency_limit"] = {"max_concurrent_requests": 1}
    told = played(config, by_host(a=(5.0, *GOOD), b=GOOD), Ask(0.0), Ask(4.0), Ask(6.0))
    refused = [("a", "refused_locally"), ("b", "ok")]
    assert [each.outcomes for each in told] == [[("a", "ok")], refused, [("a", "ok")]]


def test_nobody_is_left_but_those_left_out(played: Play) -> None:
    """A circuit that is open is better than no provider: who is left out is told first, then what came of it."""
    config = pool("a", "b", fallback={"on_rate_limit": True}, health={**HEALTH, "consecutive_failures": 1})
    answers = {"a": BAD, "b": (saying(429, retry_after="60"),)}
    told = played(config, lambda call: answers[call.host] if call.at < 1 else GOOD, Ask(0.0), Ask(2.0))
    assert told[0].outcomes == [("a", "status_503"), ("b", "status_429")]
    assert told[1].outcomes == [("a", "circuit_open"), ("b", "paused"), ("a", "ok")]


# Strategies that go by time


def test_lowest_latency(played: Play) -> None:
    """Most requests go to the fastest; some explore, so that one which has become faster is found."""
    calls: list[Call] = []

    def answer(call: Call) -> Steps:
        calls.append(call)
        fast = "b" if call.at < 400 else "a"
        return (0.1 if call.host == fast else 0.9, *GOOD)

    played(pool("a", "b", strategy="lowest_latency"), answer, *[Ask(2.0 * at) for at in range(400)])
    before = [call.host for call in calls if call.at < 400]
    after = [call.host for call in calls if call.at >= 600]
    assert 0.9 < before.count("b") / len(before) < 1
    assert 0.9 < after.count("a") / len(after) < 1


def test_least_connections_by_weight(played: Play) -> None:
    """Who weighs twice as much has twice as many under way."""
    config = pool("a", "b", strategy="least_connections")
    config["targets"]["model"]["providers"][0]["weight"] = 2
    asked = [Ask(0.01 * at) for at in range(9)]
    told = played(config, lambda _: (60.0, *GOOD), *asked)
    assert [host for each in told for host, _ in each.outcomes].count("a") == 6


def test_affinity_moves_only_what_it_must(played: Play) -> None:
    """Where a provider goes, its keys move to the others, and no other key does."""
    asked = [Ask(float(at), members={"user": f"user {at}"}) for at in range(60)]

    def homes(*hosts: str) -> list[str]:
        config = pool(*hosts, strategy="affinity", affinity={"body": "user"})
        return [each.outcomes[0][0] for each in played(config, lambda _: GOOD, *asked)]

    before, after = homes("a", "b", "c"), homes("a", "c")
    assert set(before) == {"a", "b", "c"}
    assert {now for was, now in zip(before, after, strict=True) if was == "b"} == {"a", "c"}
    assert all(was == now for was, now in zip(before, after, strict=True) if was != "b")
