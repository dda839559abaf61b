"""The checks before any provider is tried, in the order of their answers."""

import json
from random import Random
from typing import Any

import attrs
import pytest

from onwards_core import Gateway, Headers, Record, Request, SendUpstream, Snapshot, load_config
from onwards_core._admission import refused
from onwards_core._ledger import Refusal
from tests.core.gateway_support import answered, chat, error_code, gateway

URL = "http://p/"
TIGHT = {"rate_limit": {"requests_per_second": 0.5}}


def outcome(at: Gateway, request: Request, now: float = 0.0) -> str | int:
    """The code of the refusal, or the status of another answer, or `sent`. What was admitted ends at once."""
    with at.admit(request, now) as exchange:
        action = exchange.begin(now)
        if isinstance(action, SendUpstream):
            return "sent"
        return error_code(action) if action.status >= 400 else action.status


def post(body: bytes, *headers: tuple[bytes, bytes]) -> Request:
    """A request with this body."""
    return Request("POST", b"/v1/embeddings", list(headers), body)


@pytest.mark.parametrize("target", [b"/v1/../x", b"*", b"http://evil/", b"/a b"])
def test_the_target_comes_first(target: bytes) -> None:
    """A target that could lead elsewhere is a 400, also for the models list and whoever asks."""
    at = gateway({"m": {"url": URL}}, global_keys=["sk"])
    answer = answered(at.admit(attrs.evolve(chat(), target=target), 0.0))
    assert (answer.status, error_code(answer)) == (400, "bad_request")


def test_models_list() -> None:
    """The models list needs no model, and counts against no limit."""
    at = gateway({"m": {"url": URL, "keys": ["team"]}}, key_definitions={"team": {"key": "sk", **TIGHT}})
    for _ in range(3):
        exchange = at.admit(Request("GET", b"/v1/models?limit=1", [(b"x-api-key", b"sk")]), 0.0)
        assert [model["id"] for model in json.loads(answered(exchange).body)["data"]] == ["m"]
    assert json.loads(answered(at.admit(Request("GET", b"/models", []), 0.0)).body)["data"] == []


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"model": 1}', b"{", b'{"model": "a", "Model": "b"}'])
def test_no_model(body: bytes) -> None:
    """Without a usable model the answer is a 400 about `model`."""
    answer = answered(gateway({"m": {"url": URL}}).admit(post(body), 0.0))
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"], error["param"]) == (400, "bad_request", "model")


def test_unknown_alias() -> None:
    """An alias that does not exist is a 404 about `model`, and is not recorded: anybody can make up names."""
    at = gateway({"m": {"url": URL}}, global_keys=["sk"])
    for request in (chat("x"), chat("x", key="wrong"), post(b"", (b"model-override", b"x\xff"))):
        exchange = at.admit(request, 0.0)
        answer = answered(exchange)
        error = json.loads(answer.body)["error"]
        assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
        assert exchange.record.alias is None


def test_model_override() -> None:
    """The header goes before the body, which may be anything then."""
    at = gateway({"m": {"url": URL}, "n": {"url": URL, "keys": ["k"]}, "ü": {"url": URL}})
    for body in (b"", b"{", b'{"model": "n"}', b"\xff"):
        with at.admit(post(body, (b"model-override", b"m")), 0.0) as exchange:
            action = exchange.begin(0.0)
            assert isinstance(action, SendUpstream)
            assert (action.body, exchange.record.alias) == (body, "m")
    assert outcome(at, chat("m", headers=[(b"model-override", b"n")])) == "unauthenticated"
    assert outcome(at, chat("m", headers=[(b"model-override", "ü".encode())])) == "sent"


@pytest.mark.parametrize(
    ("headers", "body", "expected"),
    [
        ([], b'{"model": "x", "n": 1.0}', b'{"model":"large","n":1.0}'),
        ([], b'{"n": 1.0 }', b'{"n": 1.0 }'),
        ([], b"", b""),
        ([(b"content-type", b"audio/wav")], b"RIFF", b"RIFF"),
        ([], b"[1]", b"[1]"),
        ([], b'{"model": "x", "n": NaN}', None),
        ([(b"content-type", b"application/json")], '{"model": "x"}'.encode("utf-16"), None),
        ([(b"content-type", b"multipart/form-data")], b"--", None),
        ([(b"content-type", b"text/plain"), (b"content-type", b"application/json")], b"{}", None),
    ],
)
def test_model_override_where_the_model_is_replaced(headers: Headers, body: bytes, expected: bytes | None) -> None:
    """Where a provider's model has to go into the body, no body is passed on that could hide another one."""
    at = gateway({"m": {"url": URL, "onwards_model": "large"}})
    with at.admit(post(body, (b"model-override", b"m"), *headers), 0.0) as exchange:
        action = exchange.begin(0.0)
    if expected is None:
        assert not isinstance(action, SendUpstream)
        assert (action.status, error_code(action), at.ledger.permits_out()) == (400, "bad_request", 0)
    else:
        assert isinstance(action, SendUpstream)
        assert action.body == expected


KEYS: dict[str, Any] = {
    "global_keys": ["sk-global", "ops"],
    "key_definitions": {"team": {"key": "sk-team"}, "ops": {"key": "sk-ops"}},
}


@pytest.mark.parametrize(
    ("keys", "auth", "opening", "refusing"),
    [
        (None, {}, [None, "anything"], []),
        (None, {"key_definitions": KEYS["key_definitions"]}, [None, "sk-team", "team"], []),
        (None, KEYS, ["sk-global", "sk-ops"], ["sk-team", "ops", "x"]),
        (["sk-own"], {}, ["sk-own"], ["x", "sk-global"]),
        (["sk-own", "team"], KEYS, ["sk-own", "sk-team", "sk-global", "sk-ops"], ["team", "ops", "x"]),
        ([], {}, [], ["x", ""]),
        ([], KEYS, ["sk-global", "sk-ops"], ["sk-team", "x"]),
        (["sha256:" + "0" * 64], {}, [], ["sha256:" + "0" * 64]),
        # The hash of `sk-hashed`.
        (["sha256:c291001835042e213221b2f9fca79c9c91d08813d599b717bc695a268edb2ea6"], {}, ["sk-hashed"], ["sk-other"]),
    ],
)
@pytest.mark.parametrize("header", [b"authorization", b"x-api-key", b"api-key"])
def test_keys(
    keys: list[str] | None,
    auth: dict[str, Any],
    opening: list[str | None],
    refusing: list[str],
    header: bytes,
) -> None:
    """A pool is opened by its own keys and the global ones; names of definitions stand for their keys and are none
    themselves. No key: 401, and how to send one. A wrong one: 403."""
    at = gateway({"m": {"url": URL, "keys": keys}}, **auth)

    def ask(key: str | None) -> str | int:
        prefix = "bEaReR " if header == b"authorization" else ""
        return outcome(at, chat(headers=[(header, f"{prefix}{key}".encode())] if key is not None else []))

    assert [ask(key) for key in opening] == ["sent"] * len(opening)
    assert [ask(key) for key in refusing if key] == ["forbidden"] * len([key for key in refusing if key])
    if None not in opening:
        answer = answered(at.admit(chat(headers=[(header, b"")]), 0.0))
        assert (answer.status, error_code(answer)) == (401, "unauthenticated")
        assert (b"www-authenticate", b"Bearer") in answer.headers


def test_the_last_of_repeated_keys_counts() -> None:
    """Of a key's header that is repeated the last one counts."""
    at = gateway({"m": {"url": URL, "keys": ["sk"]}})
    fields = [(b"x-api-key", b"sk"), (b"x-api-key", b"wrong")]
    assert outcome(at, chat(headers=fields)) == "forbidden"
    assert outcome(at, chat(headers=fields[::-1])) == "sent"


def test_empty_pool() -> None:
    """A pool without providers is not available; who lacks a key does not learn that; its limits are not charged."""
    at = gateway({"m": {"providers": [], "keys": ["sk"], **TIGHT}, "n": []})
    assert outcome(at, chat()) == "unauthenticated"
    assert outcome(at, chat(key="x")) == "forbidden"
    for _ in range(3):
        answer = answered(at.admit(chat(key="sk"), 0.0))
        assert (answer.status, error_code(answer)) == (503, "service_unavailable")
    assert outcome(at, chat("n")) == "service_unavailable"


def test_rate_limits() -> None:
    """A pool's and a key's rates refuse with a 429 and the time after which it is worth another try."""
    at = gateway({"m": {"providers": [{"url": URL}], **TIGHT}})
    assert outcome(at, chat(), 0.0) == "sent"
    answer = answered(at.admit(chat(), 0.25), 0.25)
    assert (answer.status, error_code(answer)) == (429, "rate_limit")
    assert answer.headers[1:] == [(b"retry-after", b"2"), (b"retry-after-ms", b"1750")]
    assert outcome(at, chat(), 1.999) == "rate_limit"
    assert outcome(at, chat(), 2.0) == "sent"


def test_a_definition_limits_its_key_on_open_pools_too() -> None:
    """A token that is a defined key meets its limits wherever it is used, and the record has the name; without it, or
    in another pool, others are not concerned."""
    at = gateway({"m": {"url": URL}, "n": {"url": URL}}, key_definitions={"team": {"key": "sk", **TIGHT}})
    exchange = at.admit(chat(key="sk"), 0.0)
    exchange.close()
    assert (exchange.record.key, exchange.record.alias) == ("team", "m")
    assert outcome(at, chat("n", key="sk")) == "rate_limit"
    assert [outcome(at, chat()), outcome(at, chat(key="team")), outcome(at, chat("n", key="x"))] == ["sent"] * 3


def test_all_limits_or_none() -> None:
    """Who is refused by the pool has not spent a token of the key, and the other way round."""
    at = gateway(
        {"m": {"providers": [{"url": URL}], **TIGHT}, "n": {"url": URL}},
        key_definitions={
            "slow": {"key": "sk-slow", **TIGHT},
            "one": {"key": "sk-one", "concurrency_limit": {"max_concurrent_requests": 1}},
        },
    )
    assert outcome(at, chat(), 0.0) == "sent"
    assert outcome(at, chat(key="sk-slow"), 0.0) == "rate_limit"
    assert outcome(at, chat("n", key="sk-slow"), 0.0) == "sent"
    assert outcome(at, chat(key="sk-slow"), 2.0) == "sent"

    with at.admit(chat("n", key="sk-one"), 4.0):
        answer = answered(at.admit(chat("m", key="sk-one"), 4.0), 4.0)
        assert (answer.status, error_code(answer)) == (429, "concurrency_limit_exceeded")
        assert answer.headers[1:] == [(b"retry-after", b"1"), (b"retry-after-ms", b"1000")]
    assert outcome(at, chat("m", key="sk-one"), 4.0) == "sent"


@pytest.mark.parametrize(
    ("retry_after", "whole_seconds", "milliseconds"),
    [
        (1e-9, b"1", b"1"),
        (0.001, b"1", b"1"),
        (0.9995, b"1", b"1000"),
        (1.0001, b"2", b"1001"),
        (60.0, b"60", b"60000"),
    ],
)
def test_retry_after(retry_after: float, whole_seconds: bytes, milliseconds: bytes) -> None:
    """Times are rounded up, to a whole second at least: never is it said that it is worth a try too early."""
    assert refused(Refusal("rate_limit", retry_after, "pool")).headers[1:] == [
        (b"retry-after", whole_seconds),
        (b"retry-after-ms", milliseconds),
    ]


def screened(at: Gateway, *headers: tuple[bytes, bytes], target: bytes = b"/v1/chat/completions") -> str | None:
    """The code of the refusal that a head leads to."""
    answer = at.screen(Request("POST", target, list(headers)), 0.0)
    return error_code(answer) if answer else None


def test_whose_limit_it_was() -> None:
    """The record of a refused request says whether it was the key's, the pool's or the provider's limit."""
    twice = {"rate_limit": {"requests_per_second": 0.5, "burst_size": 2}}
    at = gateway(
        {"key": {"url": URL}, "pool": {"providers": [{"url": URL}], **TIGHT}, "provider": {"url": URL, **TIGHT}},
        key_definitions={"team": {"key": "sk", **twice}},
    )

    def refusal(model: str, *headers: tuple[bytes, bytes]) -> tuple[str | None, str | None]:
        for _ in range(3):
            with at.admit(attrs.evolve(chat(model), headers=list(headers)), 0.0) as exchange:
                exchange.begin(0.0)
        return exchange.record.refused_by, exchange.record.code

    assert refusal("key", (b"x-api-key", b"sk")) == ("key", "rate_limit")
    assert refusal("pool") == ("pool", "rate_limit")
    assert refusal("provider") == ("provider", "rate_limit")


def test_a_head_is_refused_where_its_body_does_not_matter() -> None:
    """By its target, by a key that opens nothing, and by the pool that a header names."""
    at = gateway({"m": {"url": URL, "keys": ["team"]}, "n": {"url": URL, "keys": ["other"]}}, global_keys=["all"])
    assert screened(at, target=b"/../x") == "bad_request"
    assert screened(at) == "unauthenticated"
    assert screened(at, (b"x-api-key", b"wrong")) == "forbidden"
    for key in (b"team", b"other", b"all"):
        assert screened(at, (b"x-api-key", key)) is None
    assert screened(at, (b"x-api-key", b"team"), (b"model-override", b"m")) is None
    assert screened(at, (b"x-api-key", b"team"), (b"model-override", b"n")) == "forbidden"
    assert screened(at, (b"model-override", b"m")) == "unauthenticated"
    assert screened(at, (b"model-override", b"x")) == "model_not_found"


def test_a_head_is_refused_for_a_limit_and_takes_nothing_from_it() -> None:
    """Of its key, and of a pool that a header names. Where one pool is open, everyone's body is read."""
    definitions = {"team": {"key": "sk", **TIGHT}}
    at = gateway({"m": {"providers": [{"url": URL}], **TIGHT}}, key_definitions=definitions)
    key, named = (b"x-api-key", b"sk"), (b"model-override", b"m")
    for _ in range(3):
        assert screened(at) is screened(at, key) is screened(at, named) is None
    assert outcome(at, chat(key="sk")) == "sent"
    assert screened(at) is None
    assert screened(at, key) == screened(at, named) == "rate_limit"
    assert at.ledger.permits_out() == 0


def test_nesting_is_limited() -> None:
    """As deep as the config allows, whatever else is in the body."""
    config = b'{"targets": {"m": {"url": "http://p/"}}, "server": {"json_depth": 4}}'
    at = Gateway(Snapshot.compile(load_config(config), hash_key=bytes(16)), random=Random(1))

    def answer(rest: bytes) -> str | int:
        return outcome(at, post(b'{"model": "m", "x": %b}' % rest))

    assert answer(b"[[[]]]") == "sent"
    assert answer(b"[[[]],{},[],[],[[],[]],{}]") == "sent"
    assert answer(b'"[[[[[[[[[["') == "sent"
    assert answer(rb'["\"[[[[[[[[\\", [[]]]') == "sent"
    assert answer(b"[[[[]]]]") == "bad_request"
    assert answer(b'[[{"a":[]}]]') == "bad_request"


# Routing rules

LABELLED = {
    "batch": {"key": "sk-batch", "labels": {"purpose": "batch", "tier": "low"}},
    "intern": {"key": "sk-intern", "labels": {"team": "interns"}},
    "plain": {"key": "sk-plain"},
}
DENY = {"type": "deny"}


def ruled(*rules: tuple[dict[str, str], dict[str, str]], **others: Any) -> Gateway:
    """A gateway whose alias `m` has these rules, beside other aliases."""
    target = {
        "providers": [{"url": URL}],
        "keys": ["batch", "intern", "plain"],
        "routing_rules": [{"match_labels": labels, "action": action} for labels, action in rules],
    }
    return gateway({"m": target, **others}, key_definitions=LABELLED)


def test_deny() -> None:
    """A key with all labels of a rule is denied the alias; others are not."""
    at = ruled(({"purpose": "batch", "tier": "low"}, DENY), ({"team": "interns", "tier": "low"}, DENY))
    assert outcome(at, chat(key="sk-batch")) == "forbidden"
    assert outcome(at, chat(key="sk-intern")) == "sent"
    assert outcome(at, chat(key="sk-plain")) == "sent"
    with at.admit(chat(key="sk-batch"), 0.0) as exchange:
        assert (exchange.record.alias, exchange.record.key) == ("m", "batch")


def test_the_first_rule_that_matches() -> None:
    """Decides; one without labels matches everybody, and one that matches nobody is passed over."""
    to = {"type": "redirect", "target": "other"}
    at = ruled(({"purpose": "batch"}, to), ({}, DENY), other={"url": "http://other/"})
    with at.admit(chat(key="sk-batch"), 0.0) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert action.provider.label == "other"
        assert exchange.record.alias == "other"
    assert outcome(at, chat(key="sk-plain")) == "forbidden"


def test_rules_come_after_the_key_and_before_the_limits() -> None:
    """A wrong key is told so, and a denied request costs nothing."""
    at = ruled(({"purpose": "batch"}, DENY))
    assert outcome(at, chat(key="sk-wrong")) == "forbidden"
    assert "may not use" not in answered(at.admit(chat(key="sk-wrong"), 0.0)).body.decode()
    assert "may not use" in answered(at.admit(chat(key="sk-batch"), 0.0)).body.decode()
    assert at.ledger.permits_out() == 0


@pytest.mark.parametrize(("model", "sent"), [(None, "other"), ("inner", "inner")])
def test_what_a_redirect_sends(model: str | None, sent: str) -> None:
    """The other alias, or that provider's own model; with a header the body is left alone."""
    to = {"type": "redirect", "target": "other"}
    at = ruled(({}, to), other={"url": URL, "onwards_model": model})
    with at.admit(chat(key="sk-plain"), 0.0) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert json.loads(action.body)["model"] == sent
    named = chat("theirs", key="sk-plain", headers=[(b"model-override", b"m")])
    with at.admit(named, 0.0) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert json.loads(action.body)["model"] == (model or "theirs")


def test_a_redirect_is_followed_once() -> None:
    """The other pool's rules may deny, but not redirect again; its keys guard it as ever."""
    to = {"type": "redirect", "target": "other"}
    back = {
        "providers": [{"url": "http://other/"}],
        "routing_rules": [{"match_labels": {}, "action": {**to, "target": "m"}}],
    }
    assert outcome(ruled(({}, to), other=back), chat(key="sk-plain")) == "sent"
    denying = {"providers": [{"url": URL}], "routing_rules": [{"match_labels": {}, "action": DENY}]}
    assert outcome(ruled(({}, to), other=denying), chat(key="sk-plain")) == "forbidden"
    closed = {"url": URL, "keys": ["batch"]}
    assert outcome(ruled(({}, to), other=closed), chat(key="sk-plain")) == "forbidden"
    assert outcome(ruled(({}, to), other=closed), chat(key="sk-batch")) == "sent"
    assert outcome(ruled(({}, to), other={"providers": []}), chat(key="sk-batch")) == "service_unavailable"


def test_a_head_is_refused_by_rules() -> None:
    """Where a header names the alias, its rules count before the body is read; so do the other pool's limits."""
    to = {"type": "redirect", "target": "other"}
    at = ruled(({"purpose": "batch"}, DENY), ({"team": "interns"}, to), other={"providers": [{"url": URL}], **TIGHT})
    head = [(b"model-override", b"m")]
    refusal = at.screen(chat(key="sk-batch", headers=head), 0.0)
    assert refusal is not None
    assert refusal.status == 403
    assert at.screen(chat(key="sk-intern", headers=head), 0.0) is None
    assert outcome(at, chat(key="sk-intern")) == "sent"
    refusal = at.screen(chat(key="sk-intern", headers=head), 0.0)
    assert refusal is not None
    assert refusal.status == 429


# Strict mode


def test_strict_mode_routes() -> None:
    """Nothing but POST to its endpoints, and the models list."""
    raw = json.dumps({"strict_mode": True, "targets": {"m": {"url": URL}}}).encode()
    at = Gateway(Snapshot.compile(load_config(raw), hash_key=b"k" * 32), random=Random(1))
    body = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
    asked = attrs.evolve(chat(), body=body)
    assert outcome(at, asked) == "sent"
    assert outcome(at, attrs.evolve(asked, method="GET")) == "not_found"
    assert outcome(at, attrs.evolve(asked, target=b"/v1/files")) == "not_found"
    assert outcome(at, Request("GET", b"/v1/models", [])) == 200
    assert outcome(at, chat()) == "bad_request"


def test_a_refusal_by_the_head_is_recorded_too() -> None:
    """Whose request it was, for which alias, and whose limit refused it."""
    definitions = {"team": {"key": "sk", **TIGHT}}
    at = gateway({"m": {"providers": [{"url": URL}]}}, key_definitions=definitions)
    assert outcome(at, chat(key="sk")) == "sent"
    head = Request("POST", b"/v1/chat/completions", [(b"x-api-key", b"sk"), (b"model-override", b"m")])
    record = Record.of(head, 0.0)
    assert at.screen(head, 0.0, record) is not None
    assert (record.alias, record.key, record.refused_by) == ("m", "team", "key")
