"""The JSON Schema of config files, held to what reads them."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import ConfigError, json_schema, load_config
from tests.core.config_support import CONFIGS, at, encoded, places, put

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def loads(config) -> bool:
    """Whether a config is read without any problem or warning."""
    try:
        return not load_config(encoded(config)).warnings
    except ConfigError:
        return False


def test_is_a_schema():
    """It follows its own rules, is JSON, and says which dialect it is."""
    schema = json.loads(json.dumps(json_schema()))
    assert schema == json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_object_and_field_is_described():
    """An editor has something to show everywhere."""
    schema = json_schema()
    for definition in [schema, *schema["$defs"].values()]:
        assert definition["title"]
        assert definition["description"]
        assert definition["additionalProperties"] is False
        for field in definition["properties"].values():
            assert field["description"]


def test_defaults():
    """The defaults that a single value has are named."""
    defaults = {
        f"{name}.{field}": schema["default"]
        for name, definition in json_schema()["$defs"].items()
        for field, schema in definition["properties"].items()
        if "default" in schema
    }
    assert defaults == {
        "BackoffConfig.factor": 2.0,
        "BackoffConfig.jitter": "full",
        "BackoffConfig.max_ms": 5000,
        "FallbackConfig.enabled": False,
        "FallbackConfig.honor_retry_after": True,
        "FallbackConfig.on_rate_limit": False,
        "FallbackConfig.with_replacement": False,
        "HealthConfig.consecutive_failures": 5,
        "HealthConfig.cooldown_secs": 10,
        "HealthConfig.max_cooldown_secs": 300,
        "HealthConfig.min_requests": 10,
        "HealthConfig.window_secs": 30,
        "HttpPoolConfig.idle_timeout_secs": 90,
        "HttpPoolConfig.max_idle_per_host": 100,
        "PoolConfig.inject_usage": False,
        "PoolConfig.sanitize_response": False,
        "PoolConfig.strategy": "weighted_random",
        "PoolConfig.trusted": False,
        "ProbeConfig.interval_secs": 10,
        "ProbeConfig.timeout_secs": 5,
        "ProviderConfig.http2": False,
        "ProviderConfig.sanitize_response": False,
        "ProviderConfig.weight": 1,
        "ServerConfig.body_bytes": 64 * 1024**2,
        "ServerConfig.body_memory_bytes": 1024**3,
        "ServerConfig.body_timeout_secs": 30,
        "ServerConfig.connections": 10_000,
        "ServerConfig.head_bytes": 64 * 1024,
        "ServerConfig.head_fields": 200,
        "ServerConfig.head_timeout_secs": 15,
        "ServerConfig.idle_timeout_secs": 75,
        "ServerConfig.json_depth": 128,
        "TargetConfig.http2": False,
        "TargetConfig.sanitize_response": False,
        "TargetConfig.weight": 1,
        "TlsConfig.insecure_skip_verification": False,
        "StateConfig.cluster": False,
        "StateConfig.lease_seconds": 10,
        "StateConfig.on_loss": "local",
        "StateConfig.prefix": "onwards",
        "StateConfig.share_load": False,
    }
    assert "default" not in json_schema()["properties"]["targets"]


@given(CONFIGS)
def test_accepts_what_is_accepted(config):
    """A valid config fits the schema."""
    VALIDATOR.validate(config)
    assert loads(config)


@given(
    CONFIGS,
    st.data(),
    st.sampled_from(
        [
            *(None, True, 0, -1, 1, 5, 7, 99, 404, 1.5, 2**63),
            *([], [{}], {}, {"url": "http://h"}, {"x": ""}),
            *("", "x", "priority", "http://h/v1", "ftp://h", "http://h?q", "http://u@h", "http://h h"),
            *("Connection", "x y", "a\nb"),
        ]
    ),
)
def test_agrees_with_the_reader(config, data, value):
    """Whatever is put anywhere, schema and reader judge alike."""
    steps = data.draw(st.sampled_from(list(places(config))))
    put(config, steps, value)
    # What a secret may be, beyond whether it may be empty, the schema can't say: it may be elsewhere.
    if not ({"onwards_key", "keys", "global_keys", "proxy", "key"} & set(map(str, steps)) and isinstance(value, str)):
        assert VALIDATOR.is_valid(config) == loads(config)


@given(CONFIGS, st.data(), st.text(max_size=5))
def test_unknown_fields(config, data, name):
    """A field that nobody knows is one that the schema does not allow, except where any name is good."""
    objects = [steps for steps in [(), *places(config)] if isinstance(at(config, steps), dict)]
    at(config, data.draw(st.sampled_from(objects))).setdefault(name, "x")
    assert VALIDATOR.is_valid(config) == loads(config)


@pytest.mark.parametrize(
    ("fields", "valid"), [({"onwards_key": ""}, True), ({"keys": [""]}, False), ({"proxy": ""}, False)]
)
def test_empty_secrets(fields, valid):
    """Only a provider may go without its secret by an empty one."""
    config = {"targets": {"a": {"url": "http://h", **fields}}}
    assert VALIDATOR.is_valid(config) == loads(config) == valid


@pytest.mark.parametrize(
    "name", ["connection", "Content-Length", "TRANSFER-ENCODING", "keep-alive", "x-te", "xte", "te"]
)
def test_reserved_headers(name):
    """Headers that a config may not set are those of the schema, in any case."""
    for fields in ({"response_headers": {name: ""}}, {"upstream_auth_header_name": name}):
        config = {"targets": {"a": {"url": "http://h", **fields}}}
        assert VALIDATOR.is_valid(config) == loads(config) == name.startswith("x")
