"""Limits of keys, pools and providers: step 6, and where permits come back: step 10."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider
from tests.conformance.support.wire import BrokenOff, Message

# One request now, and the next one in a little over a quarter of an hour.
_ONCE = {"requests_per_second": 0.001}
_ONE = {"max_concurrent_requests": 1}


def _assert_refused(answer: Message, code: str) -> None:
    assert (answer.status, answer.code) == (429, code)
    seconds, milliseconds = answer.head.get("retry-after"), answer.head.get("retry-after-ms")
    assert seconds is not None
    assert milliseconds is not None
    assert int(milliseconds) >= 1
    assert int(seconds) == max(1, -(-int(milliseconds) // 1000))


def test_rate_of_a_pool(gateway: Gateway, provider: Provider) -> None:
    """More requests than the pool's rate allows get a 429, which says when to try again."""
    gateway.configure({"rated": {"providers": [{"url": provider.url}], "rate_limit": _ONCE}})
    assert gateway.through(provider, "rated")[1].status == 200
    refused = gateway.ask("rated")
    _assert_refused(refused, "rate_limit")
    assert 900 < int(refused.head.get("retry-after") or 0) <= 1000
    assert provider.untouched


def test_burst(gateway: Gateway, provider: Provider) -> None:
    """As many requests as `burst_size` says may come at once."""
    gateway.configure({"burst": {"providers": [{"url": provider.url}], "rate_limit": {**_ONCE, "burst_size": 3}}})
    assert [gateway.through(provider, "burst")[1].status for _ in range(3)] == [200] * 3
    _assert_refused(gateway.ask("burst"), "rate_limit")


def test_concurrency_of_a_pool(gateway: Gateway, provider: Provider) -> None:
    """More exchanges at the same time than the pool allows get a 429; the limit does not count finished ones."""
    gateway.configure({"busy": {"providers": [{"url": provider.url}], "concurrency_limit": _ONE}})
    client = gateway.connect()
    client.request("busy")
    call = provider.call()
    _assert_refused(gateway.ask("busy"), "concurrency_limit_exceeded")
    call.respond()
    assert client.answer().status == 200
    gateway.admitted(provider, "busy")


@pytest.mark.parametrize("closed", [True, False])
def test_rate_of_a_key(gateway: Gateway, provider: Provider, closed: bool) -> None:
    """A key definition's limit counts over all pools, open ones included."""
    key = f"sk-rated-{closed}"
    keys = {"keys": ["alice"]} if closed else {}
    gateway.configure(
        {"a": {"url": provider.url, **keys}, "b": {"url": provider.url, **keys}},
        {"key_definitions": {"alice": {"key": key, "rate_limit": _ONCE}}},
    )
    assert gateway.through(provider, "a", key=key)[1].status == 200
    _assert_refused(gateway.ask("b", key=key), "rate_limit")
    if not closed:
        assert gateway.through(provider, "b")[1].status == 200


def test_concurrency_of_a_key(gateway: Gateway, provider: Provider) -> None:
    """The same for exchanges at the same time."""
    gateway.configure(
        {"a": {"url": provider.url}, "b": {"url": provider.url}},
        {"key_definitions": {"alice": {"key": "sk-busy", "concurrency_limit": _ONE}}},
    )
    client = gateway.connect()
    client.request("a", key="sk-busy")
    call = provider.call()
    _assert_refused(gateway.ask("b", key="sk-busy"), "concurrency_limit_exceeded")
    call.respond()
    client.answer()
    gateway.admitted(provider, "b", key="sk-busy")


def test_a_refusal_by_the_key_costs_the_pool_nothing(gateway: Gateway, provider: Provider) -> None:
    """All or nothing: what the key's limit refuses takes no token of the pool."""
    gateway.configure(
        {"pool-rated": {"providers": [{"url": provider.url}], "rate_limit": {**_ONCE, "burst_size": 2}}},
        {"key_definitions": {"alice": {"key": "sk-nothing", "rate_limit": _ONCE}}},
    )
    assert gateway.through(provider, "pool-rated", key="sk-nothing")[1].status == 200
    for _ in range(5):
        _assert_refused(gateway.ask("pool-rated", key="sk-nothing"), "rate_limit")
    assert gateway.through(provider, "pool-rated")[1].status == 200
    _assert_refused(gateway.ask("pool-rated"), "rate_limit")


def test_a_refusal_by_the_pool_costs_the_key_nothing(gateway: Gateway, provider: Provider) -> None:
    """All or nothing, the other way round: of tokens and of permits."""
    limits = {"rate_limit": {**_ONCE, "burst_size": 2}, "concurrency_limit": {"max_concurrent_requests": 2}}
    gateway.configure(
        {"narrow": {"providers": [{"url": provider.url}], "concurrency_limit": _ONE}, "wide": {"url": provider.url}},
        {"key_definitions": {"alice": {"key": "sk-pool", **limits}}},
    )
    first, second = gateway.connect(), gateway.connect()
    first.request("narrow", key="sk-pool")
    call = provider.call()
    for _ in range(5):
        _assert_refused(gateway.ask("narrow", key="sk-pool"), "concurrency_limit_exceeded")
    second.request("wide", key="sk-pool")
    provider.call().respond()
    assert second.answer().status == 200
    call.respond()
    assert first.answer().status == 200


@pytest.mark.parametrize("target", ["unknown", "locked"])
def test_a_refused_request_costs_nothing(gateway: Gateway, provider: Provider, target: str) -> None:
    """Only a request that is let in counts: not one without a key, nor one to an alias that does not exist."""
    key = f"sk-free-{target}"
    gateway.configure(
        {"model": {"url": provider.url}, "locked": {"url": provider.url, "keys": ["sk-other"]}},
        {"key_definitions": {"alice": {"key": key, "rate_limit": _ONCE}}},
    )
    for _ in range(3):
        assert gateway.ask(target, key=key).status in (403, 404)
    assert gateway.through(provider, key=key)[1].status == 200
    assert gateway.ask(key=key).status == 429


_PROVIDER_LIMITS: list[tuple[dict[str, Any], str]] = [
    ({"rate_limit": _ONCE}, "rate_limit"),
    ({"concurrency_limit": _ONE}, "concurrency_limit_exceeded"),
]


@pytest.mark.parametrize(("limit", "code"), _PROVIDER_LIMITS)
@pytest.mark.parametrize("fallback", [None, {"enabled": True}, {"enabled": False, "on_rate_limit": True}])
def test_limit_of_a_provider(
    gateway: Gateway,
    provider: Provider,
    second: Provider,
    limit: dict[str, Any],
    code: str,
    fallback: dict[str, Any] | None,
) -> None:
    """A provider at its own limit ends the request with a 429, unless fallback on limits is on."""
    pool: dict[str, Any] = {"strategy": "priority", "providers": [{"url": provider.url, **limit}, {"url": second.url}]}
    gateway.configure({"model": pool if fallback is None else {**pool, "fallback": fallback}})
    client = gateway.connect()
    client.request()
    call = provider.call()
    _assert_refused(gateway.ask(), code)
    call.respond()
    assert client.answer().status == 200
    assert second.untouched


@pytest.mark.parametrize(("limit", "code"), _PROVIDER_LIMITS)
def test_fallback_on_limits(
    gateway: Gateway, provider: Provider, second: Provider, limit: dict[str, Any], code: str
) -> None:
    """With fallback on limits the next provider is tried; if all are at their limits, the answer is a 429."""
    providers = [{"url": provider.url, **limit}, {"url": second.url, **limit}]
    fallback = {"enabled": True, "on_rate_limit": True}
    gateway.configure({"model": {"strategy": "priority", "providers": providers, "fallback": fallback}})
    clients = [gateway.connect(), gateway.connect()]
    calls = []
    for client, expected in zip(clients, (provider, second), strict=True):
        client.request()
        calls.append(expected.call())
    _assert_refused(gateway.ask(), code)
    for client, call in zip(clients, calls, strict=True):
        call.respond()
        assert client.answer().status == 200


# Each way in which an exchange can end, as the test drives it: the one permit has to be free after it.


def _success(client: Client, provider: Provider) -> None:
    provider.call().respond()
    assert client.answer().status == 200


def _streamed(client: Client, provider: Provider) -> None:
    call = provider.call()
    call.start()
    call.send_chunk(b"data: 1\n\n")
    call.finish()
    assert client.answer().body == b"data: 1\n\n"


def _error(client: Client, provider: Provider) -> None:
    provider.call().respond(500)
    assert client.answer().status == 500


def _reset(client: Client, provider: Provider) -> None:
    provider.call().reset()
    assert client.answer().status == 502


def _not_http(client: Client, provider: Provider) -> None:
    call = provider.call()
    call.send(b"nonsense\r\n\r\n")
    assert client.answer().status == 502


def _gone_while_waiting(client: Client, provider: Provider) -> None:
    call = provider.call()
    client.close()
    assert call.closed()


def _reset_while_waiting(client: Client, provider: Provider) -> None:
    call = provider.call()
    client.reset()
    assert call.closed()


def _gone_while_streaming(client: Client, provider: Provider) -> None:
    call = provider.call()
    call.start()
    call.send_chunk(b"data: 1\n\n")
    client.head()
    client.expect(b"data: 1\n\n")
    client.close()
    assert call.closed()


def _cut_stream(client: Client, provider: Provider) -> None:
    call = provider.call()
    call.start()
    call.send_chunk(b"data: 1\n\n")
    call.close()
    with pytest.raises(BrokenOff):
        client.answer()


def _cut_body(client: Client, provider: Provider) -> None:
    call = provider.call()
    call.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345")
    call.close()
    with pytest.raises(BrokenOff):
        client.answer()


_ENDINGS = [
    _success,
    _streamed,
    _error,
    _reset,
    _not_http,
    _gone_while_waiting,
    _reset_while_waiting,
    _gone_while_streaming,
    _cut_stream,
    _cut_body,
]


@pytest.mark.parametrize("end", _ENDINGS)
def test_permits_come_back(gateway: Gateway, provider: Provider, end: Callable[[Client, Provider], None]) -> None:
    """However an exchange ends, the permits of its key, its pool and its provider are free again, and each of them
    limited it until then."""
    target = {"providers": [{"url": provider.url, "concurrency_limit": _ONE}], "concurrency_limit": _ONE}
    key = f"sk{end.__name__}"
    gateway.configure({"permits": target}, {"key_definitions": {"alice": {"key": key, "concurrency_limit": _ONE}}})
    client = gateway.connect()
    for _ in range(2):
        client.request("permits", key=key)
        end(client, provider)
        client = gateway.admitted(provider, "permits", key=key)


def test_permits_are_held_while_streaming(gateway: Gateway, provider: Provider) -> None:
    """An exchange counts until the last byte of its answer, not only until its head."""
    gateway.configure({"held": {"providers": [{"url": provider.url}], "concurrency_limit": _ONE}})
    client = gateway.connect()
    client.request("held")
    call = provider.call()
    call.start()
    client.head()
    for piece in (b"data: 1\n\n", b"data: 2\n\n"):
        call.send_chunk(piece)
        client.expect(piece)
        assert gateway.ask("held").status == 429
    call.finish()
    assert client.read_body() == b""
    gateway.admitted(provider, "held")


def test_permit_of_a_failed_attempt(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """After a fallback the first provider's permit is free, while the second one's is held."""
    providers = [{"url": it.url, "concurrency_limit": _ONE} for it in (provider, second)]
    fallback = {"enabled": True, "on_status": [503]}
    gateway.configure({"model": {"strategy": "priority", "providers": providers, "fallback": fallback}})
    client, other = gateway.connect(), gateway.connect()
    client.request()
    provider.call().respond(503)
    waiting = second.call()
    other.request()
    provider.call().respond(200)
    assert other.answer().status == 200
    waiting.respond()
    assert client.answer().status == 200
