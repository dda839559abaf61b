"""Labels and routing rules, and whom trace headers reach."""

from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider

AUTH = {
    "key_definitions": {
        "batch": {"key": "sk-batch", "labels": {"purpose": "batch"}},
        "intern": {"key": "sk-intern", "labels": {"team": "interns", "purpose": "batch"}},
        "plain": {"key": "sk-plain"},
    }
}


def _configure(gateway: Gateway, provider: Provider, second: Provider, **other: Any) -> None:
    rules = [
        {"match_labels": {"team": "interns", "purpose": "batch"}, "action": {"type": "deny"}},
        {"match_labels": {"purpose": "batch"}, "action": {"type": "redirect", "target": "cheap"}},
    ]
    keys = ["batch", "intern", "plain"]
    gateway.configure(
        {
            "model": {"providers": [{"url": provider.url}], "keys": keys, "routing_rules": rules},
            "cheap": {"providers": [{"url": second.url}], "keys": ["batch"], **other},
        },
        auth=AUTH,
    )


def test_deny(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The first rule all of whose labels match decides: a 403."""
    _configure(gateway, provider, second)
    answer = gateway.ask(key="sk-intern")
    assert (answer.status, answer.code) == (403, "forbidden")
    assert provider.untouched
    assert gateway.through(provider, key="sk-plain")[1].status == 200


def test_redirect(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The other alias's pool serves it, under the other alias's name."""
    _configure(gateway, provider, second)
    call, answer = gateway.through(second, key="sk-batch")
    assert answer.status == 200
    assert b'"cheap"' in call.body
    assert provider.untouched


def test_a_redirect_is_followed_once(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """The other pool's own redirect is not."""
    back = [{"match_labels": {}, "action": {"type": "redirect", "target": "model"}}]
    _configure(gateway, provider, second, routing_rules=back)
    assert gateway.through(second, key="sk-batch")[1].status == 200
    _configure(gateway, provider, second, routing_rules=[{"match_labels": {}, "action": {"type": "deny"}}])
    assert gateway.ask(key="sk-batch").status == 403


def test_the_key_comes_first(gateway: Gateway, provider: Provider, second: Provider) -> None:
    """A wrong key is a wrong key, whatever the rules."""
    _configure(gateway, provider, second)
    answer = gateway.ask(key="sk-wrong")
    assert (answer.status, answer.code) == (403, "forbidden")
    assert gateway.ask().status == 401


def test_rules_come_before_limits(gateway: Gateway, provider: Provider) -> None:
    """Who is denied has spent nothing."""
    known = {"key": "sk-once", "rate_limit": {"requests_per_second": 0.001, "burst_size": 1}, "labels": {"a": "b"}}
    rules = [{"match_labels": {"a": "b"}, "action": {"type": "deny"}}]
    providers = [{"url": provider.url}]
    gateway.configure(
        {
            "closed": {"providers": providers, "keys": ["once"], "routing_rules": rules},
            "open": {"providers": providers, "keys": ["once"]},
        },
        auth={"key_definitions": {"once": known}},
    )
    for _ in range(3):
        assert gateway.ask("closed", key="sk-once").status == 403
    assert gateway.through(provider, "open", key="sk-once")[1].status == 200
    assert gateway.ask("open", key="sk-once").status == 429


def test_a_redirect_to_nowhere(gateway: Gateway, provider: Provider) -> None:
    """Is a mistake in the config."""
    rules = [{"match_labels": {}, "action": {"type": "redirect", "target": "nowhere"}}]
    config = {"targets": {"model": {"providers": [{"url": provider.url}], "routing_rules": rules}}}
    gateway.process.reload(config, outcome="routing_rules.*nowhere")


@pytest.mark.parametrize(
    ("pool", "own", "goes"),
    [
        ({}, {}, False),
        ({"trusted": True}, {}, True),
        ({}, {"trusted": True}, True),
        ({"trusted": True}, {"trusted": False}, False),
        ({"trusted": True}, {"propagate_trace_context": False}, False),
        ({}, {"propagate_trace_context": True}, True),
    ],
)
def test_trace_context(gateway: Gateway, provider: Provider, pool: Any, own: Any, goes: bool) -> None:
    """A client's trace headers reach trusted providers, unless the provider's entry says otherwise."""
    gateway.configure({"model": {"providers": [{"url": provider.url, **own}], **pool}})
    fields = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), ("tracestate", "a=1")]
    call, _ = gateway.through(provider, fields=fields)
    assert [call.head.get(name) for name, _ in fields] == ([value for _, value in fields] if goes else [None, None])
