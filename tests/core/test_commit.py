"""The commit point: up to the first content another provider may still be tried; and what becomes of whom it is late
for."""

import gzip
import json
from random import Random
from typing import Any

import pytest

from onwards_core import (
    Action,
    BodyCollected,
    BodyRead,
    BreakOff,
    CollectBody,
    Event,
    Exchange,
    Gateway,
    Headers,
    PassedOn,
    PassOn,
    ReadBody,
    Request,
    Respond,
    SendUpstream,
    Snapshot,
    StreamThrough,
    UpstreamFailed,
    UpstreamResponded,
    WaitOver,
    load_config,
)
from tests.core.gateway_support import chat, error_code, gateway, pool

EVENTS: Headers = [(b"content-type", b"text/event-stream"), (b"x-from", b"first")]
JSON: Headers = [(b"content-type", b"application/json")]
STREAM = UpstreamResponded(200, EVENTS)
ROLE = b'data: {"choices":[{"delta":{"role":"assistant"}}]}\n\n'
CONTENT = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'
LIMITED = b'data: {"error":{"message":"secret","code":"429"}}\n\n'
FALLBACK = {"fallback": {"enabled": True, "on_status": [429, 5]}}


def read(data: bytes, *, ended: bool = False) -> BodyRead:
    return BodyRead(data, ended)


def run(target: dict[str, Any], *events: Event, step: float = 1.0, **body: Any) -> tuple[Exchange, list[Action]]:
    """What an exchange asks for as these events come, a step apart."""
    request = chat()
    if body:
        request = type(request)("POST", request.target, request.headers, json.dumps({"model": "m", **body}).encode())
    with gateway({"m": target}).admit(request, 0.0) as exchange:
        actions = [exchange.begin(0.0)]
        for number, event in enumerate(events, 1):
            actions.append(exchange.feed(event, number * step))
    return exchange, actions


def outcomes(exchange: Exchange) -> list[str | None]:
    return [attempt.outcome for attempt in exchange.record.attempts]


# Without content


def test_the_beginning_is_held_back() -> None:
    """Until there is content; then all of it goes out, and the rest passes."""
    exchange, actions = run(pool("a", "b", **FALLBACK), STREAM, read(b": hi\n\n" + ROLE), read(CONTENT), step=0.1)
    assert actions[1] == ReadBody(None)
    assert actions[2] == ReadBody(pytest.approx(2.2))
    answer = actions[3]
    assert isinstance(answer, StreamThrough)
    assert (answer.status, answer.data) == (200, b": hi\n\n" + ROLE + CONTENT)
    assert answer.transform is not None
    assert exchange.record.first_content == pytest.approx(0.3)
    assert outcomes(exchange) == ["ok"]


def test_nothing_is_looked_into_unless_asked_for() -> None:
    """Without fallback, and with `on_embedded_error` off, a stream is the answer at once."""
    off = {"fallback": {"enabled": True, "on_status": [5], "on_embedded_error": False}}
    for settings in ({}, off):
        _, actions = run(pool("a", "b", **settings), STREAM)
        assert isinstance(actions[-1], StreamThrough)


@pytest.mark.parametrize(
    ("pieces", "outcome"),
    [
        ([read(LIMITED)], "embedded_429"),
        ([read(ROLE), read(LIMITED)], "embedded_429"),
        ([read(b'data: {"type":"response.failed","response":{}}\n\n')], "embedded_500"),
        ([read(b"", ended=True)], "empty"),
        ([read(ROLE), read(b"data: [DONE]\n\n", ended=True)], "empty"),
        ([UpstreamFailed("reset")], "reset"),
        ([read(ROLE), UpstreamFailed("idle_timeout")], "idle_timeout"),
    ],
)
def test_an_attempt_without_content_has_failed(pieces: list[Event], outcome: str) -> None:
    """The next provider is asked, and nothing of the first one is in the answer."""
    second = UpstreamResponded(200, [*JSON, (b"x-from", b"second")])
    exchange, actions = run(pool("a", "b", **FALLBACK), STREAM, *pieces, second)
    assert isinstance(actions[-2], SendUpstream)
    assert actions[-1] == StreamThrough(200, second.headers, actions[-1].transform)
    assert outcomes(exchange) == [outcome, "ok"]


def test_a_status_that_is_not_fallen_back_on() -> None:
    """Then the error is the answer, as it came."""
    error = b'data: {"error":{"code":400}}\n\n'
    exchange, actions = run(pool("a", "b", **FALLBACK), STREAM, read(error))
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].data == error
    assert outcomes(exchange) == ["embedded_400"]


def test_the_last_error_is_the_answer() -> None:
    """When nobody is left, an error passes as it came, and so does an end without content."""
    _, actions = run(pool("a", **FALLBACK), STREAM, read(LIMITED))
    assert isinstance(actions[-1], StreamThrough)
    assert (actions[-1].data, (b"x-from", b"first") in actions[-1].headers) == (LIMITED, True)
    _, actions = run(pool("a", **FALLBACK), STREAM, read(ROLE), read(b"", ended=True))
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].data == ROLE


def test_the_last_break_is_a_502() -> None:
    """Nothing was sent yet, so it can be said by a status."""
    _, actions = run(pool("a", **FALLBACK), STREAM, read(ROLE), UpstreamFailed("reset"))
    assert isinstance(actions[-1], Respond)
    assert error_code(actions[-1]) == "bad_gateway"


def test_too_much_is_passed_on() -> None:
    """What is held back has limits: then the stream is accepted, content or not."""
    _, actions = run(pool("a", "b", **FALLBACK), STREAM, read(ROLE * 9))
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].data == ROLE * 9


def test_two_seconds_are_enough() -> None:
    """Of holding back, from the first piece on; a stream without any piece may take its time."""
    _, actions = run(pool("a", "b", **FALLBACK), STREAM, read(ROLE), WaitOver())
    assert actions[2] == ReadBody(4.0)
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].data == ROLE


def test_compressed_streams() -> None:
    """They are looked into as well; what can't be decoded passes as it is."""
    zipped = UpstreamResponded(200, [*EVENTS, (b"content-encoding", b"gzip")])
    exchange, actions = run(
        pool("a", "b", **FALLBACK), zipped, read(gzip.compress(LIMITED)), UpstreamResponded(200, JSON)
    )
    assert isinstance(actions[-1], StreamThrough)
    assert outcomes(exchange) == ["embedded_429", "ok"]
    _, actions = run(pool("a", "b", **FALLBACK), zipped, read(gzip.compress(CONTENT)))
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].transform is None
    other = UpstreamResponded(200, [*EVENTS, (b"content-encoding", b"br")])
    _, actions = run(pool("a", "b", **FALLBACK), other)
    assert isinstance(actions[-1], StreamThrough)


# `first_content`


TIMED = {"timeouts": {"first_content": 3.0}}


def test_first_content_in_time() -> None:
    """It counts from the request on, and with its coming all is well."""
    _, actions = run(pool("a", **TIMED), STREAM, read(CONTENT))
    assert actions[1] == ReadBody(3.0)
    assert isinstance(actions[-1], StreamThrough)


def test_first_content_too_late() -> None:
    """The next provider is tried, with a time of its own; else it is a 504."""
    target = {**pool("a", "b", **FALLBACK), **TIMED}
    exchange, actions = run(target, STREAM, WaitOver(), STREAM, WaitOver(), step=3.0)
    assert isinstance(actions[2], SendUpstream)
    assert actions[3] == ReadBody(9.0)
    assert isinstance(actions[-1], Respond)
    assert error_code(actions[-1]) == "gateway_timeout"
    assert outcomes(exchange) == ["first_content_timeout"] * 2


def test_first_content_after_the_commit_point() -> None:
    """What is held back for too long is passed on; from there on a stream without content is broken off."""
    target = {**pool("a", "b", **FALLBACK), "timeouts": {"first_content": 9.0}}
    late = [STREAM, read(ROLE), WaitOver(), PassedOn()]
    exchange, actions = run(target, *late, WaitOver(), step=2.5)
    assert actions[2] == ReadBody(7.0)
    assert actions[3] == PassOn(200, EVENTS, ROLE)
    assert actions[4] == ReadBody(9.0)
    assert isinstance(actions[-1], BreakOff)
    assert b'"error"' in actions[-1].data
    assert outcomes(exchange) == ["first_content_timeout"]
    _, actions = run(target, *late, read(CONTENT), step=2.0)
    assert actions[-1] == StreamThrough(200, EVENTS, actions[-1].transform, CONTENT)
    _, actions = run(target, *late, read(LIMITED), step=2.0)
    assert isinstance(actions[-1], StreamThrough)
    assert actions[-1].data == LIMITED
    _, actions = run(target, *late, UpstreamFailed("reset"), step=2.0)
    assert isinstance(actions[-1], BreakOff)
    _, actions = run(target, *late, read(ROLE * 9), PassedOn(), step=2.0)
    assert actions[-2] == PassOn(200, EVENTS, ROLE * 9)


def test_a_compressed_stream_that_is_broken_off() -> None:
    """Can't be told so."""
    zipped = UpstreamResponded(200, [*EVENTS, (b"content-encoding", b"gzip")])
    target = {**pool("a"), "timeouts": {"first_content": 9.0}}
    _, actions = run(target, zipped, read(gzip.compress(ROLE)), WaitOver(), PassedOn(), WaitOver(), step=2.5)
    assert actions[-1] == BreakOff(b"")


# Answers that are looked into


SANITIZED = {**pool("a", "b", **FALLBACK), "sanitize_response": True}


def test_a_plain_answer_that_is_an_error() -> None:
    """Counts as the status that it names, and falls back; the last one's status is told in our words."""
    body = b'{"error": {"message": "secret", "code": "rate_limit_exceeded"}}'
    responded = UpstreamResponded(200, JSON)
    exchange, actions = run(SANITIZED, responded, BodyCollected(body), responded, BodyCollected(body))
    assert isinstance(actions[2], SendUpstream)
    assert isinstance(actions[-1], Respond)
    assert (actions[-1].status, error_code(actions[-1])) == (429, "upstream_error")
    assert b"secret" not in actions[-1].body
    assert outcomes(exchange) == ["embedded_429"] * 2


@pytest.mark.parametrize(("body", "outcome"), [(b"", "empty"), (b" \n", "empty"), (b"<html>", "protocol")])
def test_a_plain_answer_that_is_none(body: bytes, outcome: str) -> None:
    """It counts as 502."""
    exchange, actions = run(SANITIZED, UpstreamResponded(200, JSON), BodyCollected(body), UpstreamResponded(200, JSON))
    assert isinstance(actions[2], SendUpstream)
    assert isinstance(actions[-1], CollectBody)
    assert outcomes(exchange)[0] == outcome


def test_a_plain_answer_that_breaks_off() -> None:
    """Nothing of it was sent, so another provider can be asked."""
    exchange, actions = run(SANITIZED, UpstreamResponded(200, JSON), UpstreamFailed("reset"))
    assert isinstance(actions[-1], SendUpstream)
    assert outcomes(exchange) == ["reset", None]


def test_a_sanitized_stream_that_is_an_error() -> None:
    """Before content it is an answer of ours, with its status."""
    _, actions = run({**SANITIZED, "fallback": {"enabled": True}}, STREAM, read(LIMITED))
    assert isinstance(actions[-1], Respond)
    assert (actions[-1].status, b"secret" in actions[-1].body) == (429, False)


def test_a_sanitized_stream_that_does_not_parse() -> None:
    """Before anything was sent it counts as 502."""
    exchange, actions = run(SANITIZED, STREAM, read(b"data: secret\n\n"), STREAM, read(b"data: secret\n\n"))
    assert isinstance(actions[2], SendUpstream)
    assert isinstance(actions[-1], Respond)
    assert error_code(actions[-1]) == "bad_gateway"
    assert outcomes(exchange) == ["protocol"] * 2
    timed = {**pool("a"), "sanitize_response": True, "timeouts": {"first_content": 99}}
    _, actions = run(timed, STREAM, read(b'data: {"type": "ping"}\n\n'), WaitOver(), step=2.0)
    assert isinstance(actions[-1], Respond)
    late = [STREAM, read(ROLE), WaitOver(), PassedOn()]
    _, actions = run(timed, *late, read(b"data: secret\n\n"), step=2.0)
    assert isinstance(actions[-1], BreakOff)
    assert b"secret" not in actions[-1].data
    _, actions = run(timed, *late, read(b'data: {"type": "ping"}\n\n' * 9), step=2.0)
    assert isinstance(actions[-1], BreakOff)


def test_a_sanitized_stream_in_an_unknown_encoding() -> None:
    """Can't be looked into, so nothing of it may pass."""
    exchange, actions = run(SANITIZED, UpstreamResponded(200, [*EVENTS, (b"content-encoding", b"br")]))
    assert isinstance(actions[-1], SendUpstream)
    assert outcomes(exchange) == ["protocol", None]


# `stream_keepalive_secs`


KEPT = {**pool("a", "b", **FALLBACK), "stream_keepalive_secs": 5}


def begun(target: dict[str, Any], *events: Event) -> Action:
    """The last action for a client that has the head of a stream since the first attempt."""
    request = chat()
    request = type(request)("POST", request.target, request.headers, b'{"model": "m", "stream": true}')
    with gateway({"m": target}).admit(request, 0.0) as exchange:
        action = exchange.begin(0.0)
        exchange.answer_begun()
        for event in events:
            action = exchange.feed(event, 1.0)
    return action


def test_who_is_kept_waiting() -> None:
    """Who asks for a stream, and nobody else."""
    kept, _ = run(KEPT, stream=True)
    assert kept.keep_alive is not None
    assert kept.keep_alive.interval == 5
    assert kept.keep_alive.comment == b": keep-alive\n\n"
    assert dict(kept.keep_alive.headers)[b"content-type"] == b"text/event-stream"
    assert run(KEPT, stream=False)[0].keep_alive is None
    assert run(pool("a"), stream=True)[0].keep_alive is None


def test_a_stream_after_waiting() -> None:
    """It is passed on as ever, also another provider's."""
    action = begun(KEPT, STREAM, read(LIMITED), STREAM, read(CONTENT))
    assert isinstance(action, StreamThrough)
    assert action.data == CONTENT


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([UpstreamFailed("reset"), UpstreamFailed("reset")], b"bad_gateway"),
        ([UpstreamResponded(404, JSON), BodyCollected(b'{"error":\n{"code": "theirs"}}')], b"theirs"),
        ([UpstreamResponded(404, JSON), BodyCollected(b"<html>")], b"upstream_error"),
        ([UpstreamResponded(404, [(b"content-encoding", b"br")]), BodyCollected(b"x")], b"upstream_error"),
        ([UpstreamResponded(200, JSON), UpstreamResponded(200, JSON)], b"bad_gateway"),
        ([STREAM, read(b"", ended=True), UpstreamFailed("head_timeout")], b"gateway_timeout"),
    ],
)
def test_an_error_after_waiting(events: list[Event], said: bytes) -> None:
    """It is the stream's last event, and the answer is broken off: the head can't say it any more."""
    action = begun(KEPT, *events)
    assert isinstance(action, BreakOff)
    assert action.data.startswith(b"data: {")
    assert action.data.endswith(b"}\n\n")
    assert action.data.count(b"\n") == 2
    assert said in action.data


def test_sanitized_answers_after_waiting() -> None:
    """The same where answers are looked into: a plain one is none."""
    action = begun({**KEPT, "sanitize_response": True}, UpstreamResponded(200, JSON), BodyCollected(b'{"choices": []}'))
    assert isinstance(action, SendUpstream)
    action = begun({**KEPT, "sanitize_response": True}, UpstreamResponded(404, JSON))
    assert isinstance(action, BreakOff)
    assert b"upstream_error" in action.data


def test_keeping_alive_where_a_header_names_the_pool() -> None:
    """The body is looked into then, and need not be JSON."""
    request = chat(headers=[(b"model-override", b"m")])
    for body, kept in ((b'{"stream": true}', True), (b"no JSON", False), (b"[1]", False)):
        asked = type(request)("POST", request.target, request.headers, body)
        with gateway({"m": KEPT}).admit(asked, 0.0) as exchange:
            assert (exchange.keep_alive is not None) is kept


def test_misuse() -> None:
    """What does not belong to the last action raises."""
    with gateway({"m": pool("a", **FALLBACK)}).admit(chat(), 0.0) as exchange:
        exchange.begin(0.0)
        exchange.feed(STREAM, 0.0)
        for event in (PassedOn(), BodyCollected(b""), STREAM):
            with pytest.raises(RuntimeError, match="READING"):
                exchange.feed(event, 0.0)


# Strict mode


def strict(target: dict[str, Any], *events: Event, path: bytes = b"/v1/chat/completions") -> Action:
    """The last action in strict mode."""
    raw = json.dumps({"strict_mode": True, "targets": {"m": target}}).encode()
    at = Gateway(Snapshot.compile(load_config(raw), hash_key=b"k" * 32), random=Random(1))
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    with at.admit(Request("POST", path, JSON, body), 0.0) as exchange:
        action = exchange.begin(0.0)
        for event in events:
            action = exchange.feed(event, 1.0)
    return action


COMPLETION = b'{"choices": [{"message": {"role": "assistant", "content": "x"}}], "vendor": "secret"}'


def test_strict_answers() -> None:
    """Plain ones are collected and rebuilt, streams go through the endpoint's transform; few headers go along."""
    headers = [*JSON, (b"x-from", b"secret"), (b"retry-after", b"1")]
    answer = strict(pool("a"), UpstreamResponded(200, headers), BodyCollected(COMPLETION))
    assert isinstance(answer, Respond)
    assert json.loads(answer.body)["model"] == "m"
    assert b"secret" not in answer.body
    assert answer.headers == [(b"retry-after", b"1"), *JSON]
    stream = strict(pool("a"), STREAM)
    assert isinstance(stream, StreamThrough)
    assert stream.transform is not None
    assert b"secret" not in stream.transform.feed(CONTENT[:-3] + b',"vendor":"secret"}\n\n')
    assert stream.headers == [EVENTS[0]]


def test_strict_errors() -> None:
    """They become standard ones; trusted providers' pass, also those in answers."""
    refused = strict(pool("a"), UpstreamResponded(401, JSON))
    assert isinstance(refused, Respond)
    assert (refused.status, json.loads(refused.body)["error"]["type"]) == (502, "api_error")
    trusted = pool("a", trusted=True)
    assert strict(trusted, UpstreamResponded(401, JSON)) == StreamThrough(401, JSON, None)
    error = b'{"error": {"message": "theirs", "code": 400}}'
    inside = strict(trusted, UpstreamResponded(200, JSON), BodyCollected(error))
    assert isinstance(inside, Respond)
    assert (inside.status, inside.body) == (200, error)
    inside = strict(pool("a"), UpstreamResponded(200, JSON), BodyCollected(error))
    assert isinstance(inside, Respond)
    assert (inside.status, b"theirs" in inside.body) == (400, False)
