"""Configs for the tests of what reads them: valid ones that hypothesis makes up, and places in them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import strategies as st

from onwards_core import ConfigError, TargetConfig, load_config
from onwards_core._values import ResolveSecret

Steps = tuple[str | int, ...]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SECRET = st.text("abcXYZ0189-_", min_size=1, max_size=8)
KEYS = st.lists(SECRET | st.just("sha256:" + "0a" * 32), max_size=2)
URL = st.sampled_from(
    ["http://h", "https://h.example/", "HTTPS://h:8443/v1/", "http://[::1]:80/a/b", "http://10.0.0.1/é"]
)
HEADERS = st.dictionaries(st.sampled_from(["x-a", "X-B", "server"]), st.text("abc é", max_size=5), max_size=2)
HEADER_NAME = st.sampled_from(["api-key", "X-Key"])
STATUS = st.integers(1, 5) | st.integers(10, 59) | st.integers(100, 599)


Kinds = dict[str, st.SearchStrategy[Any]]


def optional(required: Kinds, fields: Kinds, null: Kinds) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with the `required` members, and any of the other two; those in `null` may be null."""
    return st.fixed_dictionaries(
        required, optional={**fields, **{name: kind | st.none() for name, kind in null.items()}}
    )


RATE_LIMIT = optional(
    {"requests_per_second": st.integers(1, 1000) | st.floats(1e-9, 1e9).filter(lambda rate: rate != int(rate))},
    {},
    {"burst_size": st.integers(1, 2**63 - 1)},
)
CONCURRENCY_LIMIT = optional({"max_concurrent_requests": st.integers(1, 9)}, {}, {})
LIMITS = {"rate_limit": RATE_LIMIT, "concurrency_limit": CONCURRENCY_LIMIT}
PROVIDER_FIELDS = {"weight": st.integers(0, 9), "sanitize_response": st.booleans(), "http2": st.booleans()}
PROVIDER_NULL = {
    "name": TEXT,
    "onwards_key": SECRET | st.just(""),
    "onwards_model": TEXT,
    **LIMITS,
    "upstream_auth_header_name": HEADER_NAME,
    "upstream_auth_header_prefix": st.sampled_from(["", "Bearer ", "Token "]),
    "response_headers": HEADERS,
    "proxy": st.sampled_from(["http://proxy:3128", "socks5://user:pass@proxy/"]),
    "trusted": st.booleans(),
    "propagate_trace_context": st.booleans(),
    "timeouts": optional({}, {}, dict.fromkeys(("connect", "first_content", "idle"), st.integers(1, 99))),
}
PROVIDER = optional({"url": URL}, PROVIDER_FIELDS, PROVIDER_NULL)
TARGET = optional({"url": URL}, PROVIDER_FIELDS, {**PROVIDER_NULL, "keys": KEYS})
BACKOFF = optional(
    {"initial_ms": st.integers(0, 99)},
    {"max_ms": st.integers(0, 99), "factor": st.floats(1, 9), "jitter": st.sampled_from(["full", "none"])},
    {},
)
FALLBACK = optional(
    {},
    {
        "enabled": st.booleans(),
        "on_status": st.lists(STATUS, max_size=3),
        "on_rate_limit": st.booleans(),
        "with_replacement": st.booleans(),
        "honor_retry_after": st.booleans(),
    },
    {
        "on_embedded_error": st.booleans(),
        "max_attempts": st.integers(1, 9),
        "backoff": BACKOFF,
        "max_total_backoff_ms": st.integers(0, 99),
        "retry_non_idempotent_on_timeout": st.booleans(),
    },
)
HEALTH = optional(
    {},
    {
        "window_secs": st.integers(1, 99),
        "min_requests": st.integers(1, 99),
        "cooldown_secs": st.floats(0.5, 9),
        "max_cooldown_secs": st.integers(1, 99),
    },
    {
        "consecutive_failures": st.integers(1, 9),
        "failure_rate": st.floats(0.01, 1),
        "probe": optional({"path": st.just("/v1/models")}, {"interval_secs": st.integers(1, 9)}, {}),
    },
)
AFFINITY = st.one_of(
    st.fixed_dictionaries({"header": HEADER_NAME}),
    st.fixed_dictionaries({"body": st.just("user")}),
    st.fixed_dictionaries({"prompt_bytes": st.integers(1, 99)}),
)
LABELS = st.dictionaries(TEXT, TEXT, max_size=2)
STRATEGIES = ["weighted_random", "priority", "round_robin", "least_connections", "lowest_latency"]
POOL = optional(
    {"providers": st.lists(PROVIDER, max_size=2)},
    {
        "strategy": st.sampled_from(STRATEGIES),
        "sanitize_response": st.booleans(),
        "trusted": st.booleans(),
        "inject_usage": st.booleans(),
        "routing_rules": st.lists(
            st.fixed_dictionaries({"match_labels": LABELS, "action": st.fixed_dictionaries({"type": st.just("deny")})}),
            max_size=2,
        ),
    },
    {
        "keys": KEYS,
        **LIMITS,
        "response_headers": HEADERS,
        "fallback": FALLBACK,
        "health": HEALTH,
        "affinity": AFFINITY,
        "stream_keepalive_secs": st.integers(1, 99),
    },
)
KEY_DEFINITION = optional({"key": SECRET}, {"labels": LABELS}, LIMITS)
AUTH = optional({}, {"global_keys": KEYS}, {"key_definitions": st.dictionaries(TEXT, KEY_DEFINITION, max_size=2)})
CONFIGS = optional(
    {"targets": st.dictionaries(TEXT, POOL | st.lists(TARGET, max_size=2) | TARGET, min_size=1, max_size=3)},
    {"$schema": TEXT, "strict_mode": st.booleans()},
    {"auth": AUTH},
)
"""Configs without anything to complain of."""


def places(value: Any, steps: Steps = ()) -> Iterator[Steps]:
    """The way to each part of a config that is read."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in members:
        if step != "$schema":
            yield (*steps, step)
            yield from places(part, (*steps, step))


def at(config: Any, steps: Steps) -> Any:
    """The part of a config at the end of a way."""
    for step in steps:
        config = config[step]
    return config


def put(config: Any, steps: Steps, value: Any) -> None:
    """Replace a part."""
    at(config, steps[:-1])[steps[-1]] = value


def encoded(config: Any) -> bytes:
    """The file that says it."""
    return json.dumps(config).encode()


def problems(config: Any, resolve: ResolveSecret | None = None) -> list[str]:
    """All that is wrong with a config, given as bytes or as what they say."""
    raw = config if isinstance(config, bytes) else encoded(config)
    with pytest.raises(ConfigError) as caught:
        load_config(raw, resolve) if resolve else load_config(raw)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def provider(**fields: Any) -> dict[str, Any]:
    """A config with one provider, and a field of it."""
    return {"targets": {"a": {"url": "http://h", **fields}}}


def complaint(**fields: Any) -> str:
    """The only problem of such a provider, without its path."""
    [problem] = problems(provider(**fields))
    assert problem.startswith("targets.a.")
    return problem.partition(": ")[2]


def loaded(**fields: Any) -> TargetConfig:
    """Such a provider."""
    target = load_config(encoded(provider(**fields))).targets["a"]
    assert isinstance(target, TargetConfig)
    return target
