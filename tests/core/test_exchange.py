"""One exchange, decision by decision: which provider is tried, and what the client gets in the end."""

import gzip
import json
from typing import Any, get_args

import pytest

from onwards_core import (
    Action,
    BodyCollected,
    CollectBody,
    Event,
    Exchange,
    FailureReason,
    Headers,
    Request,
    Respond,
    SendUpstream,
    StreamThrough,
    UpstreamFailed,
    UpstreamResponded,
)
from tests.core.gateway_support import answered, chat, error_code, gateway, pool

JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]
FALLBACK = {"fallback": {"enabled": True, "on_status": [5, 429]}}
COMPLETION = b'{"id": "1", "choices": [{"index": 0, "message": {"role": "assistant"}}], "vendor": "secret"}'


def responded(status: int = 200, headers: Headers | None = None) -> UpstreamResponded:
    """A response head."""
    return UpstreamResponded(status, JSON if headers is None else headers)


def drive(exchange: Exchange, *events: Event) -> list[Action]:
    """All the actions that an exchange asks for as these events come of them, a second apart; then it is closed."""
    with exchange:
        actions = [exchange.begin(0.0)]
        for now, event in enumerate(events, 1):
            actions.append(exchange.feed(event, float(now)))
    return actions


def run(target: dict[str, Any], *events: Event, request: Request | None = None) -> tuple[Exchange, list[Action]]:
    """An exchange of its own gateway, and its actions."""
    exchange = gateway({"m": target}).admit(request or chat(), 0.0)
    return exchange, drive(exchange, *events)


def tried(exchange: Exchange) -> list[tuple[str, str | None]]:
    """The attempts, and what came of them."""
    return [(attempt.provider, attempt.outcome) for attempt in exchange.record.attempts]


def limited(*names: str, on_rate_limit: bool = True, **settings: Any) -> dict[str, Any]:
    """A pool of providers of which each takes one exchange at a time."""
    return {
        "providers": [
            {"url": f"http://{name}/", "concurrency_limit": {"max_concurrent_requests": 1}} for name in names
        ],
        "strategy": "priority",
        "fallback": {"enabled": True, "on_status": [5], "on_rate_limit": on_rate_limit},
        **settings,
    }


# Sending


def test_what_is_sent() -> None:
    """The upstream request is complete: provider, method, target, headers and body with the provider's model."""
    target = {"url": "https://h.test/v1", "onwards_key": "up", "onwards_model": "large"}
    request = chat(key="sk", path=b"/v1/chat/completions?a=%20b")
    exchange, (action,) = run(target, request=request)
    assert isinstance(action, SendUpstream)
    assert (action.provider.label, action.method, action.target) == ("h.test", "POST", b"/v1/chat/completions?a=%20b")
    assert json.loads(action.body) == {"model": "large"}
    assert dict(action.headers) == {
        b"host": b"h.test",
        b"content-type": b"application/json",
        b"authorization": b"Bearer up",
        b"x-forwarded-proto": b"http",
        b"content-length": b"%d" % len(action.body),
    }
    assert exchange.record.path == b"/v1/chat/completions"
    assert (exchange.record.method, exchange.record.alias, exchange.record.key) == ("POST", "m", None)


def test_a_body_without_a_new_model_is_unchanged() -> None:
    """Without `onwards_model` the body goes on as it is."""
    _, (action,) = run({"url": "http://a/"})
    assert isinstance(action, SendUpstream)
    assert action.body == chat().body


def test_each_provider_gets_its_own_request() -> None:
    """A fallback makes the request anew: for that provider's URL, credential and model."""
    target = pool("a", **FALLBACK)
    target["providers"].append({"url": "http://b/base/", "onwards_model": "x", "onwards_key": "k"})
    _, (first, second) = run(target, responded(500))
    assert isinstance(first, SendUpstream)
    assert isinstance(second, SendUpstream)
    assert (first.target, second.target) == (b"/v1/chat/completions", b"/base/v1/chat/completions")
    assert (json.loads(first.body)["model"], json.loads(second.body)["model"]) == ("m", "x")
    assert (dict(first.headers).get(b"authorization"), dict(second.headers)[b"authorization"]) == (None, b"Bearer k")


def test_a_sanitized_pool_asks_for_plain_answers() -> None:
    """Only where the answer has to be looked into, an encoding is not asked for."""
    request = chat(headers=[(b"accept-encoding", b"br")])
    for sanitize, encoding in ((True, b"identity"), (False, b"br")):
        _, (action,) = run(pool("a", sanitize_response=sanitize), request=request)
        assert isinstance(action, SendUpstream)
        assert dict(action.headers)[b"accept-encoding"] == encoding


def test_the_order_is_the_strategys() -> None:
    """Weights decide who comes first, and nobody is tried twice."""
    target = {"providers": [{"url": "http://a/", "weight": 0}, {"url": "http://b/", "weight": 9}], **FALLBACK}
    exchange, actions = run(target, responded(500), responded(500))
    assert tried(exchange) == [("b", "status_500"), ("a", "status_500")]
    assert isinstance(actions[-1], StreamThrough)


# Falling back


@pytest.mark.parametrize("status", [500, 503, 599, 429])
def test_fallback_on_status(status: int) -> None:
    """A status that the policy names leads to the next provider, without a trace for the client."""
    exchange, actions = run(pool("a", "b", **FALLBACK), responded(status), responded(201))
    assert [type(action) for action in actions] == [SendUpstream, SendUpstream, StreamThrough]
    assert tried(exchange) == [("a", f"status_{status}"), ("b", "ok")]
    assert exchange.record.status == 201
    times = [(attempt.started, attempt.ended) for attempt in exchange.record.attempts]
    assert times == [(0.0, 1.0), (1.0, 2.0)]


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        (FALLBACK, 200),
        (FALLBACK, 404),
        (FALLBACK, 302),
        ({}, 500),
        ({"fallback": {"enabled": False, "on_status": [5]}}, 500),
        ({"fallback": {"enabled": True}}, 500),
    ],
)
def test_no_fallback_on_status(settings: dict[str, Any], status: int) -> None:
    """Every other status is the answer, with what the provider said."""
    headers = [*JSON, (b"retry-after", b"7")]
    exchange, (_, answer) = run(pool("a", "b", **settings), responded(status, headers))
    assert answer == StreamThrough(status, headers, answer.transform)
    assert tried(exchange) == [("a", f"status_{status}" if status >= 400 else "ok")]


OURS = ("too_large", "no_resources")  # which another provider would not change
PROVIDERS = [reason for reason in get_args(FailureReason) if reason not in OURS]


@pytest.mark.parametrize("reason", PROVIDERS)
def test_fallback_on_failure(reason: FailureReason) -> None:
    """Where there is no response, any enabled fallback leads to the next provider."""
    target = pool("a", "b", fallback={"enabled": True})
    exchange, actions = run(target, UpstreamFailed(reason), responded())
    assert isinstance(actions[-1], StreamThrough)
    assert tried(exchange) == [("a", reason), ("b", "ok")]
    assert exchange.record.attempts[0].ended == 1.0


FAILURES = {
    **{reason: (504, "gateway_timeout") for reason in get_args(FailureReason) if reason.endswith("_timeout")},
    "no_resources": (503, "overloaded"),
}


@pytest.mark.parametrize("reason", get_args(FailureReason))
@pytest.mark.parametrize("settings", [{}, {"fallback": {"enabled": False, "on_status": [5]}}])
def test_no_fallback_on_failure(reason: FailureReason, settings: dict[str, Any]) -> None:
    """Otherwise it is a 502, or a 504 where the provider took too long."""
    exchange, (_, answer) = run(pool("a", "b", **settings), UpstreamFailed(reason))
    assert isinstance(answer, Respond)
    expected = FAILURES.get(reason, (502, "bad_gateway"))
    assert (answer.status, error_code(answer)) == expected
    assert exchange.record.status == expected[0]
    assert tried(exchange) == [("a", reason)]


def test_the_last_response_is_the_answer() -> None:
    """When no provider is left, the client gets the last one's real response, whatever came before."""
    exchange, actions = run(pool("a", "b", **FALLBACK), UpstreamFailed("reset"), responded(503, [(b"x", b"last")]))
    assert actions[-1] == StreamThrough(503, [(b"x", b"last")], None)
    assert tried(exchange) == [("a", "reset"), ("b", "status_503")]


def test_the_last_failure_is_the_answer() -> None:
    """When the last provider did not respond, earlier responses are gone."""
    _, actions = run(pool("a", "b", **FALLBACK), responded(503), UpstreamFailed("head_timeout"))
    assert isinstance(actions[-1], Respond)
    assert error_code(actions[-1]) == "gateway_timeout"


# Providers' own limits


def test_a_provider_at_its_limit_is_passed_over() -> None:
    """With `on_rate_limit` a provider at its limit is not tried, and the next one is."""
    at = gateway({"m": limited("a", "b")})
    with at.admit(chat(), 0.0) as first:
        first.begin(0.0)
        second = at.admit(chat(), 0.0)
        action, _ = drive(second, responded())
        assert isinstance(action, SendUpstream)
        assert action.provider.label == "b"
        assert tried(second) == [("a", "refused_locally"), ("b", "ok")]
        assert second.record.attempts[0].ended == 0.0


@pytest.mark.parametrize("settings", [{"on_rate_limit": False}, {"fallback": None}, {"fallback": {"enabled": False}}])
def test_a_provider_at_its_limit_refuses(settings: dict[str, Any]) -> None:
    """Without it the client gets a 429, and nobody else is tried."""
    at = gateway({"m": limited("a", "b", **settings)})
    with at.admit(chat(), 0.0) as first:
        first.begin(0.0)
        second = at.admit(chat(), 0.0)
        answer = answered(second)
    assert (answer.status, error_code(answer)) == (429, "concurrency_limit_exceeded")
    assert tried(second) == [("a", "refused_locally")]


def test_every_provider_at_its_limit() -> None:
    """Then it is a 429 with the time after which the first of them takes requests again."""
    rates = [0.1, 0.5, 0.25]
    providers = [
        {"url": f"http://h{index}/", "rate_limit": {"requests_per_second": rate, "burst_size": 1}}
        for index, rate in enumerate(rates)
    ]
    at = gateway({"m": {**limited(), "providers": providers}})
    for _ in rates:
        drive(at.admit(chat(), 0.0))
    exchange = at.admit(chat(), 0.5)
    answer = answered(exchange, 0.5)
    assert (answer.status, error_code(answer)) == (429, "rate_limit")
    assert (b"retry-after-ms", b"1500") in answer.headers
    assert [outcome for _, outcome in tried(exchange)] == ["refused_locally"] * 3


def test_at_the_limit_after_a_real_response() -> None:
    """If those that are left are all at their limits, the last real response is the answer; or the last failure."""
    for event, status in ((responded(503), 503), (UpstreamFailed("reset"), 502)):
        at = gateway({"m": limited("a", "b")})
        with at.admit(chat(), 0.0) as busy, at.admit(chat(), 0.0) as other:
            busy.begin(0.0)
            other.begin(0.0)
            busy.close()
            exchange = at.admit(chat(), 0.0)
            *_, answer = drive(exchange, event)
            assert not isinstance(answer, SendUpstream | CollectBody)
            assert answer.status == status
            assert [label for label, _ in tried(exchange)] == ["a", "b"]


def test_at_the_limit_after_a_real_response_without_on_rate_limit() -> None:
    """A provider at its limit that is not to be passed over ends the exchange with a 429."""
    target = limited("a", "b", on_rate_limit=False)
    del target["providers"][0]["concurrency_limit"]
    at = gateway({"m": target})
    with at.admit(chat(), 0.0) as first:
        first.begin(0.0)
        first.feed(responded(500), 0.0)
        exchange = at.admit(chat(), 0.0)
        *_, answer = drive(exchange, responded(500))
    assert isinstance(answer, Respond)
    assert error_code(answer) == "concurrency_limit_exceeded"
    assert tried(exchange) == [("a", "status_500"), ("b", "refused_locally")]


# Permits


def test_permits_are_held_to_the_end() -> None:
    """Key, pool and provider are charged until the exchange is closed; of providers only the one being tried."""
    definition = {"team": {"key": "sk", "concurrency_limit": {"max_concurrent_requests": 2}}}
    at = gateway({"m": limited("a", "b", concurrency_limit={"max_concurrent_requests": 9})}, key_definitions=definition)
    first, second = (provider.limit.identity for provider in at.snapshot.pools["m"].providers)
    (key,) = (limits.limit.identity for limits in at.snapshot.key_limits.values())

    def out() -> tuple[int, ...]:
        identities = (key, "pool m", first, second)
        assert at.ledger.permits_out() == sum(map(at.ledger.permits_out, identities))
        return tuple(map(at.ledger.permits_out, identities))

    exchange = at.admit(chat(key="sk"), 0.0)
    assert (out(), exchange.record.key) == ((1, 1, 0, 0), "team")
    exchange.begin(0.0)
    assert out() == (1, 1, 1, 0)
    exchange.feed(responded(500), 1.0)
    assert out() == (1, 1, 0, 1)
    assert isinstance(exchange.feed(responded(500), 2.0), StreamThrough)
    assert out() == (1, 1, 0, 1)
    exchange.close()
    exchange.close()
    assert out() == (0, 0, 0, 0)


def test_leaving_by_an_exception() -> None:
    """A cancellation at any point gives everything back."""
    at = gateway({"m": limited("a")})
    for steps in range(3):
        with pytest.raises(KeyboardInterrupt), at.admit(chat(), 0.0) as exchange:
            if steps:
                exchange.begin(0.0)
            if steps > 1:
                exchange.feed(responded(), 0.0)
            assert at.ledger.permits_out() == 1 + (steps > 0)
            raise KeyboardInterrupt
        assert at.ledger.permits_out() == 0


@pytest.mark.parametrize("begun", [False, True])
def test_a_dropped_exchange(begun: bool) -> None:
    """An exchange that nobody closed says so, and its permits are back all the same, also where warnings raise."""
    at = gateway({"m": limited("a")})
    exchange = at.admit(chat(), 0.0)
    if begun:
        exchange.begin(0.0)
    with pytest.warns(ResourceWarning, match="without being closed"):
        del exchange
    assert at.ledger.permits_out() == 0

    exchange = at.admit(chat(), 0.0)
    with pytest.raises(ResourceWarning):
        exchange.__del__()
    assert at.ledger.permits_out() == 0


def test_a_closed_exchange_is_silent() -> None:
    """Warnings are for those that were forgotten."""
    at = gateway({"m": limited("a")})
    exchange = at.admit(chat(), 0.0)
    exchange.close()
    del exchange


def test_reload() -> None:
    """An exchange under way finishes under the config it began with; what it holds counts in the new one."""
    at = gateway({"m": limited("a", "b", concurrency_limit={"max_concurrent_requests": 5})})
    exchange = at.admit(chat(), 0.0)
    exchange.begin(0.0)
    at.snapshot = gateway({"m": limited("a", concurrency_limit={"max_concurrent_requests": 1})}).snapshot
    assert error_code(answered(at.admit(chat(), 0.0))) == "concurrency_limit_exceeded"
    action = exchange.feed(responded(500), 1.0)
    assert isinstance(action, SendUpstream)
    assert action.provider.label == "b"
    exchange.close()
    assert at.ledger.permits_out() == 0
    drive(at.admit(chat(), 0.0), responded())


# Misuse


def test_misuse() -> None:
    """Calls in another order than actions ask for are faults of the driver, and change nothing."""
    at = gateway({"m": pool("a", sanitize_response=True)})
    collected, failed = BodyCollected(COMPLETION), UpstreamFailed("reset")

    def misuse(*wrong: Event) -> None:
        with pytest.raises(RuntimeError, match="not to be called"):
            exchange.begin(0.0)
        for event in wrong:
            with pytest.raises(RuntimeError, match="not to be called"):
                exchange.feed(event, 0.0)

    with at.admit(chat(), 0.0) as exchange:
        for event in (responded(), failed, collected):
            with pytest.raises(RuntimeError, match="NEW"):
                exchange.feed(event, 0.0)
        assert isinstance(exchange.begin(0.0), SendUpstream)
        misuse(collected)
        assert isinstance(exchange.feed(responded(), 0.0), CollectBody)
        misuse(responded())
        assert isinstance(exchange.feed(collected, 0.0), Respond)
        misuse(responded(), failed, collected)
    misuse(responded(), failed, collected)

    with at.admit(chat("unknown"), 0.0) as exchange:
        assert isinstance(exchange.begin(0.0), Respond)
        misuse(responded(), failed, collected)


# The answer


def test_headers_of_the_answer() -> None:
    """The provider's headers, less what was between it and us, and those that the config sets."""
    target = {
        "providers": [{"url": "http://a/", "response_headers": {"X-Set": "provider"}}],
        "response_headers": {"X-Set": "pool", "X-Pool": "1"},
    }
    headers = [*JSON, (b"content-length", b"2"), (b"connection", b"x-hop"), (b"x-hop", b"1"), (b"x-set", b"theirs")]
    _, (_, answer) = run(target, responded(200, headers))
    kept = [*JSON, (b"content-length", b"2"), (b"x-set", b"provider"), (b"x-pool", b"1")]
    assert answer == StreamThrough(200, kept, answer.transform)


@pytest.mark.parametrize("content_type", [b"text/event-stream", b"Text/Event-Stream; charset=utf-8"])
def test_event_streams_can_be_broken_off(content_type: bytes) -> None:
    """An event stream passes as it is, but without a length, as it may get a closing event; a repeated or encoded
    one too."""
    headers = [(b"content-type", content_type), (b"content-length", b"10"), (b"x", b"1")]
    _, (_, answer) = run(pool("a"), responded(200, headers))
    assert isinstance(answer, StreamThrough)
    assert answer.headers == [(b"content-type", content_type), (b"x", b"1")]
    assert answer.transform is not None
    assert answer.transform.feed(b"data: 1\n") == b"data: 1\n"
    assert answer.transform.abort().startswith(b"\n\ndata: ")


def test_an_encoded_event_stream_is_not_touched() -> None:
    """What is compressed can't get a closing event."""
    headers = [*EVENTS, (b"content-encoding", b"gzip"), (b"content-length", b"10")]
    _, (_, answer) = run(pool("a"), responded(200, headers))
    assert answer == StreamThrough(200, headers, answer.transform)


def test_an_event_stream_of_an_error_is_one() -> None:
    """The status makes no difference to how a stream is passed on."""
    _, (_, answer) = run(pool("a"), responded(500, EVENTS))
    assert isinstance(answer, StreamThrough)
    assert (answer.status, answer.transform is None) == (500, False)


# Sanitizing

SANITIZED = pool("a", sanitize_response=True, response_headers={"x-set": "1"})
ABOUT_BODY = [
    *[(name, b"x") for name in (b"content-range", b"accept-ranges", b"etag", b"content-md5", b"content-digest")],
    *[(b"repr-digest", b"x"), (b"digest", b"x"), (b"content-length", b"9")],
]


@pytest.mark.parametrize("body", [COMPLETION, gzip.compress(COMPLETION)], ids=["plain", "gzip"])
def test_a_sanitized_answer(body: bytes) -> None:
    """A plain completion is collected, and answered with the schema's fields and the alias as its model; what was said
    about the provider's body is gone."""
    encoding = [(b"content-encoding", b"gzip")] if body != COMPLETION else []
    headers = [*JSON, *ABOUT_BODY, *encoding, (b"x", b"7"), (b"x-request-id", b"7")]
    exchange, (_, collect, answer) = run(SANITIZED, responded(201, headers), BodyCollected(body))
    assert isinstance(collect, CollectBody)
    assert collect.limit == 16 * 1024 * 1024
    assert isinstance(answer, Respond)
    assert answer.status == exchange.record.status == 201
    assert answer.headers == [(b"x", b"7"), *JSON, (b"x-set", b"1")]
    assert json.loads(answer.body) == {
        "id": "1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant"}}],
    }


def test_a_default_id_is_drawn() -> None:
    """An answer without an id gets one, from the gateway's own randomness."""
    at = gateway({"m": SANITIZED})
    ids = set()
    for _ in range(2):
        *_, answer = drive(at.admit(chat(), 0.0), responded(), BodyCollected(b'{"choices": []}'))
        assert isinstance(answer, Respond)
        ids.add(json.loads(answer.body)["id"])
    assert all(len(id) == len("chatcmpl-") + 24 and id.startswith("chatcmpl-") for id in ids)
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("headers", "body", "outcome"),
    [
        (JSON, b"<html>", "protocol"),
        (JSON, b"", "empty"),
        ([*JSON, (b"content-encoding", b"br")], COMPLETION, "protocol"),
        ([*JSON, (b"content-encoding", b"gzip"), (b"content-encoding", b"gzip")], COMPLETION, "protocol"),
    ],
)
def test_an_answer_that_cannot_be_sanitized(headers: Headers, body: bytes, outcome: str) -> None:
    """What can't be parsed is never passed through: it is a 502."""
    exchange, (*_, answer) = run(SANITIZED, responded(200, headers), BodyCollected(body))
    assert isinstance(answer, Respond)
    assert (answer.status, error_code(answer)) == (502, "bad_gateway")
    assert tried(exchange) == [("a", outcome)]


@pytest.mark.parametrize("reason", get_args(FailureReason))
def test_a_collected_body_that_breaks_off(reason: FailureReason) -> None:
    """Without fallback a collected body's failure is the answer, although nothing has been sent yet."""
    exchange, (*_, answer) = run(SANITIZED, responded(), UpstreamFailed(reason))
    assert isinstance(answer, Respond)
    assert (answer.status, error_code(answer)) == FAILURES.get(reason, (502, "bad_gateway"))
    assert tried(exchange) == [("a", reason)]
    assert exchange.record.attempts[0].ended == 2.0


def test_a_sanitized_stream() -> None:
    """A stream is sanitized event by event, as it comes."""
    exchange, (_, answer) = run(SANITIZED, responded(200, [*EVENTS, *ABOUT_BODY, (b"x", b"1")]))
    assert isinstance(answer, StreamThrough)
    assert answer.headers == [(b"x", b"1"), *EVENTS, (b"x-set", b"1")]
    assert answer.transform is not None
    out = answer.transform.feed(b'data: {"choices":[],"vendor":"secret"}\n\ndata: [DONE]\n\n')
    chunk, done = out.split(b"\n\n", 1)
    assert json.loads(chunk.removeprefix(b"data: "))["model"] == "m"
    assert b"secret" not in out
    assert done == b"data: [DONE]\n\n"
    assert tried(exchange) == [("a", "ok")]


def test_a_sanitized_stream_that_is_encoded() -> None:
    """An encoding that comes unasked is undone, or, if it is not known, refused."""
    _, (_, answer) = run(SANITIZED, responded(200, [*EVENTS, (b"content-encoding", b"gzip")]))
    assert isinstance(answer, StreamThrough)
    assert (b"content-encoding", b"gzip") not in answer.headers
    assert answer.transform is not None
    assert answer.transform.feed(gzip.compress(b"data: [DONE]\n\n")) == b"data: [DONE]\n\n"
    exchange, (_, answer) = run(SANITIZED, responded(200, [*EVENTS, (b"content-encoding", b"br")]))
    assert isinstance(answer, Respond)
    assert (error_code(answer), tried(exchange)) == ("bad_gateway", [("a", "protocol")])


@pytest.mark.parametrize(
    ("status", "code"), [(302, "internal_error"), (400, "upstream_error"), (500, "internal_error")]
)
@pytest.mark.parametrize("path", [b"/v1/chat/completions", b"/v1/embeddings"])
def test_a_sanitized_error(status: int, code: str, path: bytes) -> None:
    """An answer that is no success keeps its status, whatever the path; its body is ours, whatever it was."""
    headers = [(b"content-type", b"text/event-stream"), *ABOUT_BODY, (b"retry-after", b"3")]
    exchange, (_, answer) = run(SANITIZED, responded(status, headers), request=chat(path=path))
    assert isinstance(answer, Respond)
    assert (answer.status, error_code(answer)) == (status, code)
    assert answer.headers == [(b"retry-after", b"3"), *JSON, (b"x-set", b"1")]
    assert tried(exchange) == [("a", f"status_{status}" if status >= 400 else "ok")]


@pytest.mark.parametrize("path", [b"/v1/embeddings", b"/v1/chat/completions/", b"/v1/completions?/chat/completions"])
def test_other_paths_are_not_sanitized(path: bytes) -> None:
    """A success on another path than chat completions is passed on as it is."""
    headers = [*JSON, (b"content-length", b"2")]
    _, (_, answer) = run(SANITIZED, responded(200, headers), request=chat(path=path))
    assert answer == StreamThrough(200, [*headers, (b"x-set", b"1")], answer.transform)


@pytest.mark.parametrize("path", [b"/chat/completions", b"/openai/v1/chat/completions?x=1"])
def test_paths_that_are_sanitized(path: bytes) -> None:
    """Wherever the provider has its chat completions, and whatever the query."""
    _, (_, action) = run(SANITIZED, responded(), request=chat(path=path))
    assert isinstance(action, CollectBody)


def test_sanitizing_is_the_providers_own() -> None:
    """In a pool of which one provider is sanitized, the others are not."""
    target = pool("a", **FALLBACK)
    target["providers"].append({"url": "http://b/", "sanitize_response": True})
    _, (_, _, action) = run(target, responded(500), responded())
    assert isinstance(action, CollectBody)
    _, (_, action) = run(target, responded())
    assert isinstance(action, StreamThrough)
