"""A new config while the gateway runs."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import REFUSED, RELOADED, Gateway, Process
from tests.conformance.support.provider import Provider

_ONE = {"concurrency_limit": {"max_concurrent_requests": 1}}


def _pool(*providers: Provider, **members: Any) -> dict[str, Any]:
    urls = [{"url": provider.url} for provider in providers]
    return {"strategy": "priority", "providers": urls, "fallback": {"enabled": True, "on_status": [5]}, **members}


def test_next_request(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The next request meets the new config, also on a connection that was open before."""
    gateway.configure({"model": _pool(provider)})
    client = gateway.connect()
    client.request()
    provider.call().respond()
    assert client.answer().status == 200
    gateway.configure({"model": _pool(second)})
    client.request()
    second.call().respond()
    assert client.answer().status == 200
    assert provider.untouched


def test_as_a_whole(gateway: Gateway, provider: Provider) -> None:
    """Aliases, keys and limits change together."""
    gateway.configure({"old": _pool(provider, keys=["sk-old"])})
    assert gateway.through(provider, "old", key="sk-old")[1].status == 200
    gateway.configure({"new": _pool(provider, keys=["sk-new"])})
    assert gateway.ask("old", key="sk-old").status == 404
    assert gateway.ask("new", key="sk-old").status == 403
    assert gateway.through(provider, "new", key="sk-new")[1].status == 200


def test_exchange_under_way(gateway: Gateway, provider: Provider, second: Provider, third: Provider) -> None:
    """An exchange goes on under the config that it began with: its providers, its fallback, its headers."""
    gateway.configure({"model": _pool(provider, second, response_headers={"x-config": "old"})})
    client = gateway.connect()
    client.request()
    call = provider.call()
    gateway.configure({"model": _pool(third, response_headers={"x-config": "new"})})
    call.respond(503)
    second.call().respond()
    assert client.answer().head.get("x-config") == "old"
    assert third.untouched


def test_stream_under_way(gateway: Gateway, provider: Provider) -> None:
    """A stream goes on though its alias is gone."""
    gateway.configure({"model": _pool(provider)})
    client = gateway.connect()
    client.request(stream=True)
    call = provider.call()
    call.start()
    call.send_chunk(b"data: 1\n\n")
    client.head()
    client.expect(b"data: 1\n\n")
    gateway.configure({"other": _pool(provider)})
    assert gateway.ask().status == 404
    call.send_chunk(b"data: 2\n\n")
    client.expect(b"data: 2\n\n")
    call.finish()
    assert client.read_body() == b""


@pytest.mark.parametrize(
    "bad",
    [
        "",
        '{"targets": {"model": ',
        "[]",
        '{"targets": {"model": {"url": "ftp://x"}}}',
        '{"targets": {"model": {"url": "http://x", "weight": -1}}}',
        '{"targets": {"model": {"providers": [{"onwards_key": "sk"}]}}}',
        '{"targets": {"model": {"url": "http://x", "onwards_key": "${env:ONWARDS_TEST_THAT_IS_NOT_SET}"}}}',
    ],
)
def test_bad_config(gateway: Gateway, provider: Provider, bad: str) -> None:
    """A config with mistakes is refused with a word in the log, and the old one stays in force."""
    gateway.configure({"model": _pool(provider)})
    gateway.process.reload(bad, outcome=REFUSED)
    assert gateway.through(provider)[1].status == 200
    gateway.configure({"other": _pool(provider)})
    assert gateway.through(provider, "other")[1].status == 200


def test_all_mistakes_at_once(trio_gateway: Gateway, provider: Provider) -> None:
    """The log names every mistake with its path.

    The asyncio example prints the same error; one look at it is enough.
    """
    trio_gateway.configure({"model": _pool(provider)})
    lines = trio_gateway.process.lines
    providers = [{"url": "http://x"}, {"url": "http://x", "weight": "x"}]
    trio_gateway.process.reload(
        {"targets": {"a": {"providers": providers}, "b": {"url": "http://x", "keys": 7}}}, outcome=REFUSED
    )
    trio_gateway.process.wait_for(r"targets\.a\.providers\[1\]\.weight", after=lines)
    trio_gateway.process.wait_for(r"targets\.b\.keys", after=lines)


def test_rate_survives(gateway: Gateway, provider: Provider) -> None:
    """A rate limit whose numbers did not change keeps what was spent, of a pool, of a key and of a provider."""
    rate = {"rate_limit": {"requests_per_second": 0.001}}
    targets = {
        "reload-pool": _pool(provider, **rate),
        "reload-key": _pool(provider),
        "reload-provider": {"url": provider.url, **rate},
    }
    auth = {"key_definitions": {"alice": {"key": "sk-reload", **rate}}}
    gateway.configure(targets, auth)
    for alias in targets:
        assert gateway.through(provider, alias, key="sk-reload" if alias == "reload-key" else None)[1].status == 200
    gateway.configure({"another": _pool(provider), **targets}, auth)
    for alias in targets:
        assert gateway.ask(alias, key="sk-reload" if alias == "reload-key" else None).status == 429


def _waiting(gateway: Gateway, alias: str) -> Client:
    client = gateway.connect()
    client.request(alias)
    return client


def test_permits_survive(gateway: Gateway, provider: Provider) -> None:
    """Permits that are out count under the new config, also where the limit itself is new or another one."""
    gateway.configure({"reload-permits": _pool(provider)})
    clients = [_waiting(gateway, "reload-permits") for _ in range(2)]
    calls = [provider.call() for _ in range(2)]
    gateway.configure({"reload-permits": _pool(provider, **_ONE)})
    assert gateway.ask("reload-permits").status == 429
    gateway.configure({"reload-permits": _pool(provider, concurrency_limit={"max_concurrent_requests": 2})})
    assert gateway.ask("reload-permits").status == 429
    gateway.configure({"reload-permits": _pool(provider, concurrency_limit={"max_concurrent_requests": 3})})
    assert gateway.through(provider, "reload-permits")[1].status == 200
    for call in calls:
        call.respond()
    for client in clients:
        assert client.answer().status == 200
    gateway.configure({"reload-permits": _pool(provider, **_ONE)})
    gateway.admitted(provider, "reload-permits")


# What follows is for the Trio gateway only: the asyncio example does not watch its file.


@pytest.fixture
def watching(tmp_path: Path, provider: Provider) -> Iterator[Gateway]:
    """A gateway that watches its config file, for one test."""
    with Process("trio", tmp_path, {"targets": {"old": _pool(provider)}}) as process, Gateway(process) as gateway:
        yield gateway


def _assert_reloaded(gateway: Gateway, provider: Provider) -> None:
    gateway.process.wait_for(RELOADED)
    assert gateway.through(provider, "new")[1].status == 200
    assert gateway.ask("old").status == 404


def test_file_that_is_renamed_over(watching: Gateway, provider: Provider) -> None:
    """A file that takes the old one's place is noticed."""
    watching.process.write({"targets": {"new": _pool(provider)}})
    _assert_reloaded(watching, provider)


def test_file_that_is_written_in_place(watching: Gateway, provider: Provider) -> None:
    """So is one that is written in place."""
    watching.process.config.write_text(json.dumps({"targets": {"new": _pool(provider)}}))
    _assert_reloaded(watching, provider)


def test_symlink_that_is_swapped(tmp_path: Path, provider: Provider) -> None:
    """So is the way in which a mounted ConfigMap changes: a link to a folder of links is replaced."""
    for name, alias in (("..1", "old"), ("..2", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"targets": {alias: _pool(provider)}}))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "config.json").symlink_to("..data/config.json")
    with Process("trio", tmp_path) as process, Gateway(process) as gateway:
        assert gateway.through(provider, "old")[1].status == 200
        (tmp_path / "..new").symlink_to("..2")
        (tmp_path / "..new").replace(tmp_path / "..data")
        _assert_reloaded(gateway, provider)


def test_file_that_vanishes(watching: Gateway, provider: Provider) -> None:
    """Without its file the gateway goes on as before; when the file is back, it counts."""
    lines = watching.process.lines
    watching.process.config.unlink()
    watching.process.signal(signal.SIGHUP)
    watching.process.wait_for(REFUSED, after=lines)
    assert watching.through(provider, "old")[1].status == 200
    watching.process.write({"targets": {"new": _pool(provider)}})
    _assert_reloaded(watching, provider)


def test_secrets_are_resolved_again(tmp_path: Path, provider: Provider) -> None:
    """A reload reads secrets' files again."""
    secret = tmp_path / "secret"
    secret.write_text("sk-1\n")
    config = {"targets": {"model": {"url": provider.url, "onwards_key": f"${{file:{secret}}}"}}}
    with Process("trio", tmp_path, config, "--no-watch") as process, Gateway(process) as gateway:
        assert gateway.through(provider)[0].head.get("authorization") == "Bearer sk-1"
        secret.write_text("sk-2\n")
        process.reload(config)
        assert gateway.through(provider)[0].head.get("authorization") == "Bearer sk-2"
