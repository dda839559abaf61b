"""Which provider answers: steps 7, 8 and 9 of an exchange."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import JSON, Call, Provider, next_call
from tests.conformance.support.wire import BrokenOff


def _pool(providers: Iterable[Provider], *, fallback: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    """A pool that is tried in order."""
    pool = {"strategy": "priority", "providers": [{"url": provider.url} for provider in providers], **members}
    return {"model": pool if fallback is None else {**pool, "fallback": fallback}}


_ON = {"enabled": True}


def test_priority(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """`priority`: the first provider gets every request as long as it answers."""
    gateway.configure(_pool([provider, second]))
    for _ in range(10):
        assert gateway.through(provider)[1].status == 200
    assert second.untouched


def test_weights(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """`weighted_random` is the default strategy. A provider of weight 0 gets a request only if another has failed."""
    providers = [{"url": second.url, "weight": 0}, {"url": provider.url, "weight": 2}]
    gateway.configure({"model": {"providers": providers, "fallback": {"enabled": True, "on_status": [500]}}})
    for _ in range(10):
        assert gateway.through(provider)[1].status == 200
    assert second.untouched
    client = gateway.connect()
    client.request()
    provider.call().respond(500)
    second.call().respond()
    assert client.answer().status == 200


def test_weighted_random_draws(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """With equal weights each provider gets some of many requests, whatever order they stand in."""
    # All 64 to one provider: less likely than one in 10^18.
    gateway.configure(_pool([provider, second], strategy="weighted_random", fallback={**_ON, "on_status": [503]}))
    ports = set()
    client = gateway.connect()
    for _ in range(64):
        client.request()
        call = next_call([provider, second])
        assert call is not None
        ports.add(call.port)
        call.respond()
        assert client.answer().status == 200
    assert ports == {provider.port, second.port}


@pytest.mark.parametrize(
    ("on_status", "status", "falls_back"),
    [
        ([503], 503, True),
        ([503], 502, False),
        ([50], 503, True),
        ([50], 509, True),
        ([50], 511, False),
        ([5], 500, True),
        ([5], 599, True),
        ([5], 429, False),
        ([429, 5], 429, True),
        ([429, 5], 504, True),
        ([429, 5], 200, False),
        ([4], 404, True),
        ([2], 200, True),
        ([], 500, False),
    ],
)
def test_status_patterns(
    gateway: Gateway, provider: Provider, second: Provider, on_status: list[int], status: int, falls_back: bool
) -> None:
    """`on_status` takes whole statuses and what they begin with; another status goes to the client as it is."""
    gateway.configure(_pool([provider, second], fallback={**_ON, "on_status": on_status}))
    client = gateway.connect()
    client.request()
    provider.call().respond(status, b'"first"', [JSON, ("x-from", "first")])
    if falls_back:
        second.call().respond(200, b'"second"', [JSON, ("x-from", "second")])
    answer = client.answer()
    expected = (200, b'"second"', "second") if falls_back else (status, b'"first"', "first")
    assert (answer.status, answer.body, answer.head.get("x-from")) == expected
    assert second.untouched


@pytest.mark.parametrize("fallback", [None, {"enabled": False, "on_status": [5]}])
def test_no_fallback_unless_enabled(
    gateway: Gateway, provider: Provider, second: Provider, fallback: dict[str, Any] | None
) -> None:
    """Without `enabled` the first provider's answer is the answer."""
    gateway.configure(_pool([provider, second], fallback=fallback))
    client = gateway.connect()
    client.request()
    provider.call().respond(503, b'"first"')
    answer = client.answer()
    assert (answer.status, answer.body) == (503, b'"first"')
    assert second.untouched


def test_each_attempt_gets_the_whole_request(
    gateway: Gateway, provider: Provider, second: Provider, third: Provider
) -> None:
    """A fallback sends the same request again, for the provider that it goes to."""
    providers = [
        {"url": provider.url, "onwards_key": "sk-1", "onwards_model": "m-1"},
        {"url": second.url + "base", "onwards_key": "sk-2"},
        {"url": third.url, "onwards_model": "m-3"},
    ]
    gateway.configure(
        {"model": {"strategy": "priority", "providers": providers, "fallback": {**_ON, "on_status": [5]}}}
    )
    client = gateway.connect()
    client.request(text="x" * 100_000)
    seen = []
    for upstream, status in ((provider, 500), (second, 503), (third, 200)):
        call = upstream.call()
        assert len(call.body) > 100_000
        seen.append((call.target, call.head.get("authorization"), call.body[:18]))
        call.respond(status)
    assert client.answer().status == 200
    assert seen == [
        ("/v1/chat/completions", "Bearer sk-1", b'{"model":"m-1","te'),
        ("/base/v1/chat/completions", "Bearer sk-2", b'{"model": "model",'),
        ("/v1/chat/completions", None, b'{"model":"m-3","te'),
    ]


# Ways to have no response head.


def _close(call: Call) -> None:
    call.close()


def _reset(call: Call) -> None:
    call.reset()


def _cut_head(call: Call) -> None:
    call.send(b"HTTP/1.1 200 OK\r\ncontent-")
    call.close()


def _not_http(call: Call) -> None:
    call.send(b"nonsense\r\n\r\n")


def _interim_then_close(call: Call) -> None:
    call.send(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
    call.close()


_FAILURES = [_close, _reset, _cut_head, _not_http, _interim_then_close]


@pytest.mark.parametrize("fail", _FAILURES)
def test_fallback_without_a_head(
    gateway: Gateway, provider: Provider, second: Provider, fail: Callable[[Call], None]
) -> None:
    """A connection that fails before the response head leads to the next provider, whatever `on_status` says."""
    gateway.configure(_pool([provider, second], fallback=_ON))
    client = gateway.connect()
    client.request()
    fail(provider.call())
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'


@pytest.mark.parametrize("fail", _FAILURES)
@pytest.mark.parametrize("fallback", [None, _ON])
def test_bad_gateway(
    gateway: Gateway, provider: Provider, fail: Callable[[Call], None], fallback: dict[str, Any] | None
) -> None:
    """Without a provider to fall back on it is a 502."""
    gateway.configure(_pool([provider], fallback=fallback))
    client = gateway.connect()
    client.request()
    fail(provider.call())
    answer = client.answer()
    assert (answer.status, answer.code) == (502, "bad_gateway")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_unreachable_provider(gateway: Gateway, provider: Provider, second: Provider, scheme: str) -> None:
    """A provider that refuses connections is passed over with fallback, and a 502 without."""
    provider.stop_listening()
    providers = [{"url": f"{scheme}://127.0.0.1:{provider.port}"}, {"url": second.url}]
    gateway.configure(
        {
            "on": {"strategy": "priority", "providers": providers, "fallback": _ON},
            "off": {"strategy": "priority", "providers": providers},
        }
    )
    assert gateway.through(second, "on")[1].status == 200
    answer = gateway.ask("off")
    assert (answer.status, answer.code) == (502, "bad_gateway")
    assert second.untouched


def test_tls_handshake_that_fails(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A provider that speaks no TLS where TLS is wanted counts as unreachable."""
    providers = [{"url": provider.url.replace("http:", "https:")}, {"url": second.url}]
    gateway.configure({"model": {"strategy": "priority", "providers": providers, "fallback": _ON}})
    client = gateway.connect()
    client.request()
    peer = provider.accept()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.close()
    second.call().respond()
    assert client.answer().status == 200


def test_last_real_response_is_the_answer(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """When no provider is left, the client gets the last one's response: status, headers and body."""
    gateway.configure(_pool([provider, second], fallback={**_ON, "on_status": [5, 429]}))
    client = gateway.connect()
    client.request()
    provider.call().respond(503, b'"first"', [JSON, ("x-from", "first")])
    second.call().respond(429, b'"second"', [JSON, ("x-from", "second"), ("retry-after", "7")])
    answer = client.answer()
    assert (answer.status, answer.body) == (429, b'"second"')
    assert (answer.head.get("x-from"), answer.head.get("retry-after")) == ("second", "7")


def test_last_failure_is_the_answer(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A failure after a real response is a 502: the last attempt counts."""
    gateway.configure(_pool([provider, second], fallback={**_ON, "on_status": [5]}))
    client = gateway.connect()
    client.request()
    provider.call().respond(503, b'"first"')
    second.call().close()
    answer = client.answer()
    assert (answer.status, answer.code) == (502, "bad_gateway")


def test_provider_at_its_limit_is_no_attempt(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """If the others are at their limits, what came of the one attempt is the answer."""
    providers = [
        {"url": provider.url},
        {"url": second.url, "rate_limit": {"requests_per_second": 0.001}},
    ]
    fallback = {**_ON, "on_status": [5], "on_rate_limit": True}
    gateway.configure({"model": {"strategy": "priority", "providers": providers, "fallback": fallback}})
    client = gateway.connect()
    client.request()
    provider.call().respond(503)
    second.call().respond()
    assert client.answer().status == 200
    client.request()
    provider.call().respond(503, b'"first"')
    answer = client.answer()
    assert (answer.status, answer.body) == (503, b'"first"')
    assert second.untouched


def test_each_provider_is_tried_once(gateway: Gateway, provider: Provider) -> None:
    """A provider that failed is not tried again for the same request."""
    gateway.configure(_pool([provider], fallback={**_ON, "on_status": [5]}))
    client = gateway.connect()
    client.request()
    provider.call().respond(500)
    assert client.answer().status == 500
    assert provider.untouched


def test_no_fallback_after_content(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Once an answer was accepted, its provider's failure is not hidden by another one's answer."""
    gateway.configure(_pool([provider, second], fallback={**_ON, "on_status": [5]}))
    client = gateway.connect()
    client.request()
    call = provider.call()
    call.start()
    call.send_chunk(b"data: 1\n\n")
    client.head()
    call.reset()
    with pytest.raises(BrokenOff):
        client.read_body()
    assert second.untouched


def test_discarded_answer_of_any_length(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """An answer that leads to fallback is dropped at once, even if its body never ends."""
    gateway.configure(_pool([provider, second], fallback={**_ON, "on_status": [5]}))
    client = gateway.connect()
    client.request()
    call = provider.call()
    call.start(500)
    call.send_chunk(b"data: 1\n\n")
    second.call().respond(200, b'"second"')
    assert client.answer().body == b'"second"'
    assert call.closed()


def test_provider_that_answers_before_it_has_the_whole_body(gateway: Gateway, provider: Provider) -> None:
    """An answer that comes early, as a 413 does, gets to the client though the provider reads no further."""
    gateway.configure(_pool([provider]))
    client = gateway.connect()
    client.request(text="x" * 4_000_000)
    provider.accept().send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig")
    answer = client.answer()
    assert (answer.status, answer.body) == (413, b"big")
