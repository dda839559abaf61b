"""Reading config files: what is accepted, and what is said about the rest."""

import json
import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import (
    AuthConfig,
    ConcurrencyLimit,
    ConfigError,
    FallbackConfig,
    KeyDefinition,
    PoolConfig,
    ProviderConfig,
    RateLimit,
    Secret,
    Snapshot,
    StateConfig,
    Strategy,
    TargetConfig,
    Url,
    load_config,
)
from tests.core.config_support import CONFIGS, at, encoded, places, problems, put

URL = "http://h"


class TestShape:
    def test_pool(self):
        """A pool, with every field."""
        config = load_config(
            encoded(
                {
                    "targets": {
                        "gpt-4": {
                            "providers": [
                                {
                                    "url": "https://one.example/v1/",
                                    "onwards_key": "sk-1",
                                    "onwards_model": "four",
                                    "rate_limit": {"requests_per_second": 0.5, "burst_size": 3},
                                    "concurrency_limit": {"max_concurrent_requests": 2},
                                    "upstream_auth_header_name": "api-key",
                                    "upstream_auth_header_prefix": "",
                                    "response_headers": {"X-Price": "1 ¢"},
                                    "weight": 0,
                                    "sanitize_response": True,
                                    "http2": True,
                                    "proxy": "socks5://user:pass@proxy:1080",
                                }
                            ],
                            "keys": [],
                            "rate_limit": {"requests_per_second": 10},
                            "concurrency_limit": {"max_concurrent_requests": 1},
                            "response_headers": {},
                            "fallback": {"enabled": True, "on_status": [5, 50, 503], "on_rate_limit": True},
                            "strategy": "priority",
                            "sanitize_response": True,
                        }
                    },
                    "auth": {
                        "global_keys": ["sk-a"],
                        "key_definitions": {
                            "bob": {
                                "key": "sk-b",
                                "rate_limit": {"requests_per_second": 1},
                                "concurrency_limit": {"max_concurrent_requests": 1},
                            }
                        },
                    },
                }
            )
        )
        one = ConcurrencyLimit(max_concurrent_requests=1)
        assert config.targets == {
            "gpt-4": PoolConfig(
                providers=[
                    ProviderConfig(
                        url=Url("https", "one.example", 443, b"/v1"),
                        onwards_key=Secret("sk-1"),
                        onwards_model="four",
                        rate_limit=RateLimit(requests_per_second=0.5, burst_size=3),
                        concurrency_limit=ConcurrencyLimit(max_concurrent_requests=2),
                        upstream_auth_header_name="api-key",
                        upstream_auth_header_prefix="",
                        response_headers={"X-Price": "1 ¢"},
                        weight=0,
                        sanitize_response=True,
                        http2=True,
                        proxy=Secret("socks5://user:pass@proxy:1080"),
                    )
                ],
                keys=[],
                rate_limit=RateLimit(requests_per_second=10.0),
                concurrency_limit=one,
                response_headers={},
                fallback=FallbackConfig(enabled=True, on_status=[5, 50, 503], on_rate_limit=True),
                strategy=Strategy.PRIORITY,
                sanitize_response=True,
            )
        }
        assert config.auth == AuthConfig(
            global_keys=[Secret("sk-a")],
            key_definitions={
                "bob": KeyDefinition(
                    key=Secret("sk-b"), rate_limit=RateLimit(requests_per_second=1.0), concurrency_limit=one
                )
            },
        )
        assert config.warnings == ()

    def test_defaults(self):
        """What is left out has the original's defaults."""
        config = load_config(
            b'{"targets": {"a": {"providers": []}, "b": [{"url": "http://h"}], "c": {"url": "http://h"}}}'
        )
        assert config.targets == {
            "a": PoolConfig(
                providers=[],
                keys=None,
                rate_limit=None,
                concurrency_limit=None,
                response_headers=None,
                fallback=None,
                strategy=Strategy.WEIGHTED_RANDOM,
                sanitize_response=False,
            ),
            "b": [TargetConfig(url=Url("http", "h", 80, b""), weight=1, sanitize_response=False, http2=False)],
            "c": TargetConfig(url=Url("http", "h", 80, b""), keys=None),
        }
        assert config.auth is None

    def test_a_pool_may_have_a_url(self):
        """As in the original, an object with `providers` is a pool whatever else it has."""
        config = load_config(b'{"targets": {"a": {"providers": [], "url": "http://h"}}}')
        assert config.targets["a"] == PoolConfig(providers=[])
        [warning] = config.warnings
        assert warning.startswith("targets.a.url: unknown field")

    @pytest.mark.parametrize(
        ("target", "problem"),
        [
            ({}, 'targets.a: expected an object with "providers" or "url", got one with neither'),
            ({"provider": []}, 'targets.a: expected an object with "providers" or "url", got one with neither'),
            ("sk-1", "targets.a: expected an object or a list of objects, got a string"),
            (None, "targets.a: expected an object or a list of objects, got null"),
            ([3], "targets.a[0]: expected an object, got a number"),
            ([{}], "targets.a[0].url: expected a URL, got nothing"),
            ({"providers": {}}, "targets.a.providers: expected a list, got an object"),
            ({"providers": None}, "targets.a.providers: expected a list, got null"),
            ({"url": None}, "targets.a.url: expected a URL, got null"),
        ],
    )
    def test_formats_are_told_by_shape(self, target, problem):
        """Problems are those of the format that is meant."""
        assert problems({"targets": {"a": target}}) == [problem]

    @given(CONFIGS)
    def test_valid_configs(self, config):
        """Every valid config is read without a word, and compiles."""
        read = load_config(encoded(config))
        assert read.warnings == ()
        assert list(read.targets) == list(config["targets"])
        assert list(Snapshot.compile(read, hash_key=bytes(16)).pools) == list(config["targets"])


class TestJson:
    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"", "line 1 column 1: Expecting value"),
            (b'{"targets" {}}', "line 1 column 12: Expecting ':' delimiter"),
            (b'{"targets": {}} x', "line 1 column 17: Extra data"),
            (b'{"targets": "\xff"}', "line 1 column 14: expected UTF-8, got other bytes"),
            (b'{\n"NaN": "\\"NaN", "targets": NaN}', "line 2 column 28: NaN is not a number"),
            (b"[-Infinity]", "line 1 column 2: -Infinity is not a number"),
            (b"[" * 100_000, "expected a config, got lists or objects that are nested too deeply"),
            (b"[]", "expected an object, got a list"),
            (b'"x"', "expected an object, got a string"),
            (b"{}", "targets: expected an object, got nothing"),
        ],
    )
    def test_no_config(self, raw, problem):
        """What is no JSON is told with its place, what is no object is told as well."""
        [told] = problems(raw)
        # Python's own words have grown longer in some versions.
        assert told.startswith(problem)

    def test_byte_order_mark(self):
        """Some editors begin a file with one, which is no error."""
        assert load_config(b'\xef\xbb\xbf{"targets": {}}').targets == {}

    @pytest.mark.parametrize("digits", [5, 300, 301, 10_000])
    def test_long_integers(self, digits):
        """Integers of any length are read; those that are too large are refused."""
        raw = b'{"targets": {"a": {"url": "http://h", "weight": %s}}}' % (b"9" * digits)
        if digits == 5:
            assert load_config(raw).targets["a"].weight == 99999
        else:
            [problem] = problems(raw)
            assert problem.startswith("targets.a.weight: expected an integer")
            assert len(problem) < 200


STEP = re.compile(r'\.?([A-Za-z0-9_$/:@-]+)|\[(\d+|"(?:[^"\\]|\\.)*")\]')


def steps_of(path: str) -> tuple:
    """The way that a path describes."""
    assert STEP.sub("", path) == ""
    return tuple(name or json.loads(bracketed) for name, bracketed in STEP.findall(path))


class TestProblems:
    def test_all_at_once(self):
        """Every problem is named, each with its path."""
        assert problems(
            {
                "targets": {
                    "gpt-4": {"providers": [{"url": URL}, {"url": URL, "weight": "x"}], "keys": "sk-a"},
                    "a.b": [{"url": URL, "onwards_key": 5}],
                },
                "auth": {"key_definitions": {"alice": {}}},
            }
        ) == [
            'targets.gpt-4.providers[1].weight: expected an integer ≥ 0, got "x"',
            "targets.gpt-4.keys: expected a list, got a string",
            'targets["a.b"][0].onwards_key: expected a string, got a number',
            "auth.key_definitions.alice.key: expected a string, got nothing",
        ]

    @pytest.mark.parametrize(
        ("alias", "path"),
        [
            ("gpt-4", "targets.gpt-4"),
            ("openai/gpt_4:free", "targets.openai/gpt_4:free"),
            ("gpt-3.5", 'targets["gpt-3.5"]'),
            ("a b", 'targets["a b"]'),
            ("a[0]", 'targets["a[0]"]'),
            ('"', r'targets["\""]'),
            ("", 'targets[""]'),
            ("é", r'targets["\u00e9"]'),
        ],
    )
    def test_names_in_paths(self, alias, path):
        """A name that would be ambiguous in a path is quoted."""
        assert problems({"targets": {alias: 3}}) == [f"{path}: expected an object or a list of objects, got a number"]

    @given(CONFIGS, st.data())
    def test_name_what_was_broken(self, config, data):
        """Whatever is broken in a valid config, exactly that is named."""
        chosen: list[tuple] = []
        for steps in data.draw(st.lists(st.sampled_from(list(places(config))), min_size=1, max_size=4, unique=True)):
            if not any(steps[: len(other)] == other or other[: len(steps)] == steps for other in chosen):
                chosen.append(steps)
        for steps in chosen:
            put(config, steps, -1)  # valid nowhere
        paths = [problem.partition(": expected ")[0] for problem in problems(config)]
        assert sorted(map(str, map(steps_of, paths))) == sorted(map(str, chosen))

    @given(CONFIGS, st.data())
    def test_name_what_is_missing(self, config, data):
        """A required field that is left out is named."""
        required = {"requests_per_second", "max_concurrent_requests", "key", "providers", "url", "targets"}
        found = [
            steps
            for steps in places(config)
            if steps[-1] in required and at(config, steps) is not None and "response_headers" not in steps
        ]
        # An alias or a name of a key may be any of these words; without what tells its format, a target is named.
        found = [steps for steps in found if len(steps) == 1 or not (steps[0] == "targets" and len(steps) in {2, 3})]
        found = [steps for steps in found if steps[-2:-1] != ("key_definitions",)]
        steps = data.draw(st.sampled_from(found))
        del at(config, steps[:-1])[steps[-1]]
        [problem] = problems(config)
        assert steps_of(problem.partition(": expected ")[0]) == steps
        assert problem.endswith(", got nothing")

    @given(CONFIGS, st.data())
    def test_never_show_a_secret(self, config, data):
        """However a secret is mangled, neither the problems nor a traceback nor a `repr` shows it."""
        planted = "hush-3f9c"
        mangled = [planted, f"{planted}\n", f" {planted}", f"€{planted}", f"sha256:{planted}", f"${{env:{planted}"]
        mangled += [[planted], {planted: planted}, f"http://{planted}@h", f"http://h?{planted}", f"{planted}€@"]
        secret = [
            steps
            for steps in places(config)
            if steps[-1] in {"onwards_key", "proxy", "key", "url"} or "keys" in str(steps[-2:-1])
        ]
        for steps in data.draw(st.lists(st.sampled_from(secret)) if secret else st.just([])):
            put(config, steps, data.draw(st.sampled_from(mangled)))
        put(config, ("auth",), {"global_keys": ["", planted, 987654321]})
        with pytest.raises(ConfigError) as caught:
            load_config(encoded(config))
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "hush" not in shown
        assert "987654321" not in shown
        assert caught.value.__context__ is None
        assert caught.value.__cause__ is None


class TestWarnings:
    @pytest.mark.parametrize(
        ("config", "warning"),
        [
            ({"targets": {}, "target": {}}, "target: unknown field; the nearest known one is targets"),
            (
                {"targets": {"a": {"url": URL, "wieght": 1}}},
                "targets.a.wieght: unknown field; the nearest known one is weight",
            ),
            (
                {"targets": {"a.b": [{"url": URL, "rate_limit": {"requests_per_second": 1, "burst": 1}}]}},
                'targets["a.b"][0].rate_limit.burst: unknown field; the nearest known one is burst_size',
            ),
            (
                {"targets": {"a": {"providers": [{"url": URL, "keys": []}]}}},
                "targets.a.providers[0].keys: ignored; it is for a pool, beside its `providers`",
            ),
            (
                {"targets": {"a": {"url": URL, "fallback": {"enabled": True}}}},
                "targets.a.fallback: ignored; it is for a pool, beside its `providers`",
            ),
            (
                {"targets": {}, "auth": {"$schema": ""}},
                "auth.$schema: unknown field; the nearest known one is ",
            ),
            ({"targets": {}, "warnings": []}, "warnings: unknown field; the nearest known one is targets"),
            ({"targets": {}, "\n": []}, r'["\n"]: unknown field; the nearest known one is '),
        ],
    )
    def test_unknown_fields(self, config, warning):
        """A field that nobody knows is no error; the nearest known one may have been meant."""
        [told] = load_config(encoded(config)).warnings
        assert told.startswith(warning)

    def test_a_schema_may_be_named(self):
        """`$schema` is for editors."""
        assert load_config(b'{"$schema": "onwards.schema.json", "targets": {}}').warnings == ()

    def test_names_given_twice(self):
        """As JSON has it, the last one counts, but hardly anybody means that."""
        config = load_config(
            b'{"targets": {"b": {}}, "targets": {"a": {"url": "http://x", "weight": "x", "weight": 2, "weight": 3},'
            b'"a": {"url": "http://y", "weight": "x", "weight": 4}}}'
        )
        assert config.targets == {"a": TargetConfig(url=Url("http", "y", 80, b""), weight=4)}
        twice = "stands there more than once, and the last one counts"
        assert config.warnings == (f"targets: {twice}", f"targets.a: {twice}", f"targets.a.weight: {twice}")


class TestContradictions:
    def pool(self, **fields):
        return {"targets": {"a": {"providers": [], **fields}, "b": {"url": URL}}}

    def rule(self, **action):
        return self.pool(routing_rules=[{"match_labels": {}, "action": action}])

    def test_redirects(self):
        """A redirect needs an alias of the file, and a denial has none."""
        place = "targets.a.routing_rules[0].action"
        assert problems(self.rule(type="redirect")) == [f"{place}: expected a target to redirect to, got none"]
        assert problems(self.rule(type="redirect", target="c")) == [
            f'{place}.target: expected an alias of this file, got "c"'
        ]
        assert problems(self.rule(type="deny", target="b")) == [f"{place}.target: expected none, since the rule denies"]
        assert load_config(encoded(self.rule(type="redirect", target="b"))).warnings == ()
        assert load_config(encoded(self.rule(type="deny"))).warnings == ()

    def test_affinity(self):
        """It goes by one thing; and the strategy needs it."""
        place = "targets.a.affinity: expected"
        assert problems(self.pool(affinity={})) == [f"{place} one of header, body and prompt_bytes, got 0"]
        both = {"header": "x-a", "prompt_bytes": 9}
        assert problems(self.pool(affinity=both)) == [f"{place} one of header, body and prompt_bytes, got 2"]
        assert problems(self.pool(strategy="affinity")) == [
            f"{place} an object, since the strategy is affinity, got nothing"
        ]
        assert load_config(encoded(self.pool(strategy="affinity", affinity={"body": "user"}))).warnings == ()

    def test_all_at_once(self):
        """Each of them is told."""
        both = self.pool(affinity={}, routing_rules=[{"match_labels": {}, "action": {"type": "redirect"}}])
        assert len(problems(both)) == 2

    def test_what_onwards_has_and_we_have_not(self):
        """Is told, and ignored."""
        config = {
            "targets": {"a": {"url": URL, "reasoning_translation": {"x": 1}, "open_responses": {"adapter": True}}}
        }
        assert load_config(encoded(config)).warnings == (
            "targets.a.reasoning_translation: not supported yet, and ignored",
            "targets.a.open_responses: not supported yet, and ignored",
        )


def test_a_store_is_of_one_kind():
    """A cluster has neither sentinels nor databases; what keys begin with can't disturb them; and without a store
    there is nothing to say but that workers share their load."""

    def state(**fields):
        return problems({"targets": {}, "state": {"url": "redis://h", **fields}})

    assert load_config(json.dumps({"targets": {}, "state": {"url": "redis://h", "prefix": "a.b:c"}}).encode()).state
    assert state(cluster=True, sentinel_master="x") == [
        "state.sentinel_master: expected none, since a cluster needs no sentinels"
    ]
    assert state(sentinel_password="x") == ["state.sentinel_password: expected none, since there are no sentinels"]
    assert state(cluster=True, url="redis://h/1") == ["state.url: expected no database, since a cluster has only one"]
    missing = ["state.url: expected a string, since only share_load alone does without, got nothing"]
    alone = {"targets": {}, "state": {"share_load": True}}
    assert load_config(json.dumps(alone).encode()).state == StateConfig(share_load=True)
    for fields in ({}, {"share_load": False}, {"prefix": "onwards"}, {"share_load": True, "on_loss": "refuse"}):
        assert problems({"targets": {}, "state": fields}) == missing
    assert problems({"targets": {}, "state": {"cluster": True}}) == missing
    assert state(prefix="{a}") == ['state.prefix: expected letters, digits and any of _.:/-, got "{a}"']
