"""The configurations that onwards 0.35 documents, or has in its own terms: they load here, and mean the same."""

import json

import pytest

from onwards_core import Snapshot, load_config

CONFIGS = {
    "minimal": {"targets": {"gpt-4": {"url": "https://api.openai.com", "onwards_key": "sk-1"}}},
    "everything of a target": {
        "strict_mode": True,
        "auth": {
            "global_keys": ["global-1"],
            "key_definitions": {
                "premium": {
                    "key": "sk-premium",
                    "rate_limit": {"requests_per_second": 100, "burst_size": 200},
                    "concurrency_limit": {"max_concurrent_requests": 10},
                    "labels": {"purpose": "batch"},
                }
            },
        },
        "targets": {
            "gpt-4": {
                "url": "https://api.openai.com",
                "onwards_key": "sk-1",
                "onwards_model": "gpt-4-turbo",
                "keys": ["premium"],
                "rate_limit": {"requests_per_second": 50, "burst_size": 100},
                "concurrency_limit": {"max_concurrent_requests": 20},
                "response_headers": {"Input-Price-Per-Token": "0.0001"},
                "sanitize_response": True,
                "trusted": True,
                "propagate_trace_context": False,
                "request_timeout_secs": 30,
                "upstream_auth_header_name": "X-API-Key",
                "upstream_auth_header_prefix": "ApiKey ",
                "weight": 2,
            }
        },
        "http_pool": {"max_idle_per_host": 1000, "idle_timeout_secs": 90},
    },
    "everything of a pool": {
        "targets": {
            "gpt-4": {
                "keys": ["k"],
                "rate_limit": {"requests_per_second": 100, "burst_size": 200},
                "concurrency_limit": {"max_concurrent_requests": 5},
                "response_headers": {"X-A": "1"},
                "strategy": "weighted_random",
                "sanitize_response": False,
                "trusted": False,
                "fallback": {
                    "enabled": True,
                    "on_status": [429, 5],
                    "on_rate_limit": True,
                    "with_replacement": True,
                    "max_attempts": 5,
                    "backoff": {"initial_ms": 100, "max_ms": 5000, "factor": 2.0, "jitter": "full"},
                    "max_total_backoff_ms": 10000,
                },
                "routing_rules": [
                    {"match_labels": {"purpose": "batch"}, "action": {"type": "redirect", "target": "cheap"}},
                    {"match_labels": {"purpose": "test"}, "action": {"type": "deny"}},
                ],
                "providers": [
                    {"url": "https://internal.example", "trusted": True, "weight": 3, "request_timeout_secs": 10},
                    {"url": "https://external.example", "onwards_key": "sk-2", "propagate_trace_context": True},
                ],
            },
            "cheap": [{"url": "https://a.example"}, {"url": "https://b.example", "weight": 4}],
        },
    },
    "nulls": {
        "auth": None,
        "http_pool": None,
        "targets": {
            "m": {
                "keys": None,
                "fallback": {"max_attempts": None, "backoff": None, "max_total_backoff_ms": None},
                "providers": [{"url": "http://h", "trusted": None, "request_timeout_secs": None, "onwards_key": None}],
            }
        },
    },
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_loads(config: object) -> None:
    """Without a warning."""
    loaded = load_config(json.dumps(config).encode())
    assert loaded.warnings == ()
    Snapshot.compile(loaded, hash_key=bytes(16))
