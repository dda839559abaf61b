"""How often, when and at whom a request is tried: attempts, waits, `Retry-After`, circuits, strategies."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import JSON, Provider, next_call

ON = {"enabled": True, "on_status": [429, 5]}
SOON = {"initial_ms": 20, "jitter": "none"}


def _configure(gateway: Gateway, *providers: Provider, fallback: dict[str, Any] | None = None, **pool: Any) -> None:
    targets = [{"url": provider.url} for provider in providers]
    settings = {"strategy": "priority", "providers": targets, "fallback": {**ON, **(fallback or {})}, **pool}
    gateway.configure({"model": settings})


def test_fewer_attempts(gateway: Gateway, provider: Provider, second: Provider, third: Provider) -> None:
    """`max_attempts` ends the search; the last real response is the answer."""
    _configure(gateway, provider, second, third, fallback={"max_attempts": 2})
    client = gateway.connect()
    client.request()
    provider.call().respond(500)
    second.call().respond(503, b'"second"')
    answer = client.answer()
    assert (answer.status, answer.body) == (503, b'"second"')
    assert third.untouched


def test_more_attempts(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """More attempts than providers: the pool is gone through again."""
    _configure(gateway, provider, second, fallback={"max_attempts": 3})
    client = gateway.connect()
    client.request()
    provider.call().respond(500)
    second.call().respond(500)
    provider.call().respond(200, b'"at last"')
    assert client.answer().body == b'"at last"'


def test_with_replacement(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The same provider may be drawn again at once. That it never is in 64 requests: less likely than 1 in 10^18."""
    fallback = {"max_attempts": 2, "with_replacement": True}
    _configure(gateway, provider, second, strategy="weighted_random", fallback=fallback)
    client = gateway.connect()
    pairs = set()
    for _ in range(64):
        client.request()
        ports = []
        for status in (500, 200):
            call = next_call([provider, second])
            assert call is not None
            call.respond(status)
            ports.append(call.port)
        assert client.answer().status == 200
        pairs.add(ports[0] == ports[1])
    assert pairs == {True, False}


def test_a_wait_holds_no_permit(gateway: Gateway, provider: Provider) -> None:
    """While one request waits for its retry, another one gets the provider's only permit."""
    backoff = {"initial_ms": 1500, "jitter": "none"}
    limited = {"url": provider.url, "concurrency_limit": {"max_concurrent_requests": 1}}
    fallback = {"max_attempts": 2, "backoff": backoff}
    _configure(gateway, fallback=fallback, providers=[limited])
    waiting, other = gateway.connect(), gateway.connect()
    waiting.request(text="waits")
    provider.call().respond(503)
    other.request(text="other")
    while (call := next_call([provider], other)) is None:  # It came before the gateway had seen the 503.
        assert other.answer().status == 429
        other.request(text="other")
    assert b"other" in call.body
    call.respond(200, b'"other"')
    assert other.answer().body == b'"other"'
    call = provider.call()
    assert b"waits" in call.body
    call.respond(200, b'"waited"')
    assert waiting.answer().body == b'"waited"'


def test_a_wait_beyond_the_budget(gateway: Gateway, provider: Provider) -> None:
    """Is not begun."""
    _configure(gateway, provider, fallback={"max_attempts": 9, "backoff": SOON, "max_total_backoff_ms": 30})
    client = gateway.connect()
    client.request()
    provider.call().respond(500)
    provider.call().respond(503, b'"last"')
    assert client.answer().body == b'"last"'
    assert provider.untouched


def test_a_client_that_leaves_ends_the_wait(gateway: Gateway, provider: Provider) -> None:
    """Its request is never sent again; the next one is served as ever."""
    _configure(gateway, provider, fallback={"max_attempts": 2, "backoff": {"initial_ms": 300, "jitter": "none"}})
    client = gateway.connect()
    client.request(text="gone")
    provider.call().respond(503)
    client.close()
    other = gateway.connect()
    other.request(text="still here")
    for status in (503, 200):
        call = provider.call()
        assert b"still here" in call.body
        call.respond(status)
    assert other.answer().status == 200
    assert provider.untouched


def test_retry_after(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A provider that asked for rest gets it, from all requests; `honor_retry_after` off: it does not."""
    rest = [JSON, ("retry-after", "60")]
    for honoured in (True, False):
        _configure(gateway, provider, second, fallback={"honor_retry_after": honoured, "max_attempts": 2 + honoured})
        client = gateway.connect()
        client.request()
        call = provider.call()
        if not honoured:
            break
        call.respond(429, fields=rest)
        second.call().respond()
        assert client.answer().status == 200
        assert gateway.through(second)[1].status == 200
        # Another provider, as far as its identity goes.
        provider.url += "v1"
    call.respond()
    assert client.answer().status == 200


def test_retry_after_is_waited_for(gateway: Gateway, provider: Provider) -> None:
    """If nobody else is left and it fits."""
    fallback = {"max_attempts": 2, "backoff": SOON, "max_total_backoff_ms": 500}
    _configure(gateway, provider, fallback=fallback)
    client = gateway.connect()
    client.request()
    provider.call().respond(429, fields=[JSON, ("retry-after-ms", "50")])
    provider.call().respond(200, b'"rested"')
    assert client.answer().body == b'"rested"'
    client.request()
    provider.call().respond(429, b'"too long"', [JSON, ("retry-after", "7")])
    answer = client.answer()
    assert (answer.status, answer.head.get("retry-after")) == (429, "7")


@pytest.mark.parametrize(
    ("path", "setting", "again"),
    [("/v1/batches", None, False), ("/v1/embeddings", None, True), ("/v1/batches", True, True)],
)
def test_unknown_outcomes(
    gateway: Gateway, provider: Provider, second: Provider, path: str, setting: bool | None, again: bool
) -> None:
    """What may have done something is not done twice, unless the config says so."""
    _configure(gateway, provider, second, fallback={"retry_non_idempotent_on_timeout": setting})
    client = gateway.connect()
    client.request(path=path)
    provider.call().reset()
    if again:
        second.call().respond()
    assert client.answer().status == (200 if again else 502)
    assert second.untouched


def test_a_circuit(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A provider that fails is left out after so many failures; one trial brings it back. It outlives a reload."""
    health = {"consecutive_failures": 2, "cooldown_secs": 0.3}
    _configure(gateway, provider, second, health=health)
    for _ in range(2):
        client = gateway.connect()
        client.request()
        provider.call().close()
        second.call().respond()
        assert client.answer().status == 200
    _configure(gateway, provider, second, health=health, response_headers={"x": "reloaded"})
    assert gateway.through(second)[1].status == 200
    while True:
        client = gateway.connect()
        client.request()
        call = next_call([provider, second])
        assert call is not None
        call.respond()
        assert client.answer().status == 200
        if call.port == provider.port:
            break
    assert gateway.through(provider)[1].status == 200


def test_probes(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Each provider is asked by itself; one that fails is left out, and one that is well again is brought back."""
    probe = {"path": "/up", "interval_secs": 0.1, "timeout_secs": 9}
    health = {"consecutive_failures": 1, "cooldown_secs": 0.2, "probe": probe}
    providers = [{"url": f"{each.url}base", "onwards_key": "sk-own"} for each in (provider, second)]
    _configure(gateway, providers=providers, health=health)

    def asked(status: int) -> int:
        """Send a request; to whose port it goes. Meanwhile probes are answered: this by the first provider."""
        client = gateway.connect()
        client.request()
        while True:
            call = next_call([provider, second])
            assert call is not None
            if call.method == "POST":
                call.respond()
                assert client.answer().status == 200
                client.close()
                return call.port
            assert (call.method, call.target, call.head.get("authorization")) == ("GET", "/base/up", "Bearer sk-own")
            call.respond(status if call.port == provider.port else 200)

    while asked(500) == provider.port:
        pass
    while asked(200) == second.port:
        pass


def test_the_last_healthy_provider(gateway: Gateway, provider: Provider) -> None:
    """Is never left out, however often it fails."""
    _configure(gateway, provider, health={"consecutive_failures": 1, "cooldown_secs": 60})
    for _ in range(4):
        client = gateway.connect()
        client.request()
        provider.call().respond(500)
        assert client.answer().status == 500


def test_round_robin(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Turns are as many as weights say."""
    providers = [{"url": provider.url, "weight": 2}, {"url": second.url}]
    _configure(gateway, strategy="round_robin", providers=providers)
    ports = []
    for _ in range(9):
        client = gateway.connect()
        client.request()
        call = next_call([provider, second])
        assert call is not None
        ports.append(call.port)
        call.respond()
        assert client.answer().status == 200
    assert [ports[start : start + 3].count(second.port) for start in (0, 3, 6)] == [1, 1, 1]


def test_least_connections(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Whoever has less under way gets the next one."""
    _configure(gateway, provider, second, strategy="least_connections")
    clients, calls = [], []
    for _ in range(6):
        client = gateway.connect()
        client.request()
        call = next_call([provider, second])
        assert call is not None
        clients.append(client)
        calls.append(call)
    assert [call.port for call in calls].count(provider.port) == 3
    for client, call in zip(clients, calls, strict=True):
        call.respond()
        assert client.answer().status == 200


@pytest.mark.parametrize(
    ("affinity", "request_of"),
    [
        ({"header": "x-session"}, lambda key, _: {"fields": [("x-session", f"session {key}")]}),
        ({"body": "user"}, lambda key, _: {"user": f"user {key}"}),
        (
            {"prompt_bytes": 40},
            lambda key, turn: {"messages": [{"role": "user", "content": f"{key:<50} {turn}"}]},
        ),
    ],
)
def test_affinity(
    gateway: Gateway, provider: Provider, second: Provider, affinity: Any, request_of: Callable[[int, int], Any]
) -> None:
    """Requests that have the key in common go to the same provider; not all keys do."""
    _configure(gateway, provider, second, strategy="affinity", affinity=affinity)
    homes = []
    for key in range(16):
        ports = set()
        for turn in range(3):
            client = gateway.connect()
            client.request(**request_of(key, turn))
            call = next_call([provider, second])
            assert call is not None
            ports.add(call.port)
            call.respond()
            assert client.answer().status == 200
        assert len(ports) == 1
        homes += ports
    assert len(set(homes)) == 2


@pytest.mark.parametrize("strategy", ["affinity", "least_connections"])
def test_full_ones_are_passed_over(gateway: Gateway, provider: Provider, second: Provider, strategy: str) -> None:
    """A provider at its own limit gets nothing more, whatever spoke for it; nobody is refused for that."""
    limit = {"concurrency_limit": {"max_concurrent_requests": 1}}
    providers = [{"url": each.url, "weight": 9, **limit} for each in (provider, second)]
    affinity = {"affinity": {"header": "x-session"}} if strategy == "affinity" else {}
    _configure(gateway, strategy=strategy, providers=providers, **affinity)
    for _ in range(4):
        clients, calls = [gateway.connect(), gateway.connect()], []
        for client in clients:
            client.request(fields=[("x-session", "same")])
            call = next_call([provider, second], client)
            assert call is not None
            calls.append(call)
        assert {call.port for call in calls} == {provider.port, second.port}
        for client, call in zip(clients, calls, strict=True):
            call.respond()
            assert client.answer().status == 200


def test_failure_rate(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A provider that fails half of the time is left out, too, once enough is known of it."""
    health = {"consecutive_failures": None, "failure_rate": 0.5, "min_requests": 4, "cooldown_secs": 60}
    _configure(gateway, provider, second, health=health)
    for fails in (True, False, False, True):
        client = gateway.connect()
        client.request()
        if fails:
            provider.call().respond(500)
            second.call().respond()
        else:
            provider.call().respond()
        assert client.answer().status == 200
    for _ in range(3):
        assert gateway.through(second)[1].status == 200
    assert provider.untouched


def test_lowest_latency(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """Who fails counts as slow: nearly all go to the other one."""
    _configure(gateway, provider, second, strategy="lowest_latency")
    firsts = []
    for _ in range(30):
        client = gateway.connect()
        client.request()
        call = next_call([provider, second])
        assert call is not None
        firsts.append(call.port)
        if call.port == provider.port:
            call.close()
            call = second.call()
        call.respond()
        assert client.answer().status == 200
    assert firsts.count(second.port) > 20
