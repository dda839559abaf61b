"""Configs of LiteLLM: what maps does, what does not is told, and what comes out is a config."""

import json
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onwards_core import ConfigError, load_config
from onwards_trio import _import
from onwards_trio._import import from_litellm
from tests.trio.program_support import run

OPENAI = {"url": "https://api.openai.com/v1", "onwards_model": "gpt-4o", "onwards_key": "${env:OPENAI_API_KEY}"}


def load(config):
    """It loads, without a warning, and names only variables of the environment."""
    loaded = load_config(json.dumps(config).encode(), lambda kind, name: {"env": f"value-of-{name}"}[kind])
    assert loaded.warnings == ()


def convert(document, **environment):
    config, notes = from_litellm(yaml.safe_dump(document).encode(), environment)
    load(config)
    return config, notes


def deployment(alias="gpt-4o", **params):
    return {"model_name": alias, "litellm_params": {"model": "gpt-4o", **params}}


def convert_models(*models, **sections):
    """The pools of these models, and the notes, of which one is always the same: there is no master key."""
    config, notes = convert({"model_list": list(models), **sections})
    open_to_all = [note for note in notes if note.startswith("general_settings.master_key: there is none")]
    assert len(open_to_all) == 1
    assert "auth" not in config
    return config["targets"], [note for note in notes if note not in open_to_all]


def provider_of(**params):
    """The only provider of a model with these parameters."""
    targets, notes = convert_models(deployment(**params))
    [provider] = targets["gpt-4o"]["providers"]
    return provider, notes


class TestProviders:
    def test_a_plain_model(self):
        """A model of OpenAI's needs nothing but its name. One provider has nothing to fall back on."""
        assert convert_models(deployment()) == ({"gpt-4o": {"providers": [OPENAI]}}, [])

    @pytest.mark.parametrize(
        ("params", "provider"),
        [
            ({"model": "openai/gpt-4o"}, OPENAI),
            ({"model": "gpt-4o", "custom_llm_provider": "openai"}, OPENAI),
            ({"api_key": "sk-clear"}, {**OPENAI, "onwards_key": "sk-clear"}),
            ({"api_key": "os.environ/MY_KEY"}, {**OPENAI, "onwards_key": "${env:MY_KEY}"}),
            (
                {"model": "mistral/mistral-large"},
                {
                    "url": "https://api.mistral.ai/v1",
                    "onwards_model": "mistral-large",
                    "onwards_key": "${env:MISTRAL_API_KEY}",
                },
            ),
            (
                {"model": "groq/llama-3"},
                {
                    "url": "https://api.groq.com/openai",
                    "onwards_model": "llama-3",
                    "onwards_key": "${env:GROQ_API_KEY}",
                },
            ),
            (
                {"model": "hosted_vllm/meta/llama", "api_base": "http://10.0.0.5:8000/v1/"},
                {"url": "http://10.0.0.5:8000/v1", "onwards_model": "meta/llama"},
            ),
            ({"model": "ollama_chat/mistral"}, {"url": "http://localhost:11434", "onwards_model": "mistral"}),
            (
                {"model": "azure/my-gpt", "api_base": "https://my.openai.azure.com/"},
                {
                    "url": "https://my.openai.azure.com/openai",
                    "onwards_model": "my-gpt",
                    "onwards_key": "${env:AZURE_API_KEY}",
                    "upstream_auth_header_name": "api-key",
                    "upstream_auth_header_prefix": "",
                },
            ),
            ({"max_parallel_requests": 8}, {**OPENAI, "concurrency_limit": {"max_concurrent_requests": 8}}),
            ({"timeout": "7.5"}, {**OPENAI, "request_timeout_secs": 7.5}),
        ],
        ids=lambda it: " ".join(map(str, it.values())) if "url" not in it else "",
    )
    def test_what_maps_completely(self, params, provider):
        """Address, credential, model, limits and time of a provider; nothing is left to tell."""
        assert provider_of(**params) == (provider, [])

    @pytest.mark.parametrize(
        ("params", "note"),
        [
            ({"temperature": 0.2}, "temperature: requests are sent on as clients wrote them"),
            ({"organization": "org"}, "organization: no headers"),
            ({"tpm": 1000}, "tpm: tokens are not limited"),
            ({"rpm": 60}, "rpm: a share, no limit"),
            ({"rpm": "many"}, "rpm: expected a number"),
            ({"rpm": 10**400}, "rpm: expected a number"),
            ({"api_key": 7}, "api_key: expected a string"),
            ({"model": "claude-sonnet-4"}, "model: goes to Anthropic's OpenAI-compatible API"),
            ({"api_base": "https://one.example/v1"}, "api_key: there is none, so none is sent"),
            ({"api_base": "https://one.example", "api_key": "k"}, "api_base: requests go to the /v1 below it"),
            ({"litellm_credential_name": "nobody"}, "litellm_credential_name: no such credential"),
        ],
        ids=lambda it: next(iter(it)) if isinstance(it, dict) else "",
    )
    def test_what_maps_with_a_reservation(self, params, note):
        """The provider is there, and its note names the place and the reason."""
        provider, notes = provider_of(**params)
        assert provider["url"]
        [told] = notes
        assert told.startswith(f"model_list[0].litellm_params.{note}")

    @pytest.mark.parametrize(
        ("params", "note"),
        [
            ({"model": "bedrock/anthropic.claude-v2"}, "model: left out: no OpenAI-compatible API of bedrock"),
            ({"model": "command-r"}, "model: left out: no OpenAI-compatible API is known"),
            ({"model": "openai/*"}, "model: left out: an alias has a name"),
            ({"model": None}, "model: left out: an alias has a name"),
            ({"model": "azure/my-gpt"}, "api_base: left out: expected an api_base"),
            ({"api_base": "https://user:secret@one.example/v1"}, "api_base: left out: expected a URL without user"),
            ({"api_base": "os.environ/NOWHERE", "model": "azure/x"}, "api_base: the environment variable NOWHERE"),
            ({"api_base": ["x"], "model": "azure/x"}, "api_base: expected a string"),
        ],
        ids=lambda it: next(iter(it.values())) if isinstance(it, dict) else "",
    )
    def test_what_cannot_be_reached(self, params, note):
        """A deployment that nothing here can reach is left out, and a note says why. It shows no credentials."""
        targets, notes = convert_models(deployment(**params))
        assert targets == {}
        assert notes[0].startswith(f"model_list[0].litellm_params.{note}")
        assert "secret" not in "".join(notes)

    def test_an_address_from_the_environment(self):
        """Addresses take no references here, so it is looked up at the conversion, and a note says so."""
        config, notes = convert(
            {"model_list": [deployment(api_base="os.environ/BASE", api_key="k")]}, BASE="https://one.example/v1"
        )
        assert config["targets"]["gpt-4o"]["providers"][0]["url"] == "https://one.example/v1"
        assert "environment variable BASE" in notes[0]

    def test_a_named_credential(self):
        """What a deployment says itself goes before its credential's values."""
        credential = {"credential_name": "c", "credential_values": {"api_key": "os.environ/C", "timeout": 3}}
        targets, notes = convert_models(
            deployment(litellm_credential_name="c", timeout=5), credential_list=[credential]
        )
        assert targets["gpt-4o"]["providers"] == [{**OPENAI, "onwards_key": "${env:C}", "request_timeout_secs": 5.0}]
        assert notes == []


class TestPools:
    @pytest.mark.parametrize(
        ("shares", "weights"),
        [
            ([{}, {}], [1, 1]),
            ([{"weight": 9}, {"weight": 1}], [9, 1]),
            ([{"weight": 0.3}, {"weight": 0.7}], [3, 7]),
            ([{"weight": 2}, {}], [1, 0]),
            ([{"weight": 0}, {"weight": 0}], [1, 1]),
            ([{"rpm": 900, "tpm": 1}, {"rpm": 10, "tpm": 5}], [90, 1]),
            ([{"tpm": 1000}, {"tpm": 3000}], [1, 3]),
            ([{}, {"weight": 5}], [1, 1]),
        ],
    )
    def test_shares(self, shares, weights):
        """Deployments of one name are a pool. Its weights are as LiteLLM shuffles: by what the first one has."""
        targets, _ = convert_models(*(deployment(**share) for share in shares))
        assert [it.get("weight", 1) for it in targets["gpt-4o"]["providers"]] == weights
        assert targets["gpt-4o"]["fallback"] == {
            "enabled": True,
            "on_status": [401, 403, 404, 408, 409, 429, 5],
            "on_rate_limit": True,
        }

    def test_order(self):
        """With `order`, the pool is tried by it; those without one come last."""
        targets, _ = convert_models(deployment(model="o1"), deployment(model="o3", order=2), deployment(order=1))
        assert targets["gpt-4o"]["strategy"] == "priority"
        assert [it["onwards_model"] for it in targets["gpt-4o"]["providers"]] == ["gpt-4o", "o3", "o1"]

    @pytest.mark.parametrize(
        "router",
        [{"optional_pre_call_checks": ["enforce_model_rate_limits"]}, {"routing_strategy": "usage-based-routing-v2"}],
    )
    def test_enforced_limits(self, router):
        """Where LiteLLM keeps to `rpm`, it is a limit here: as many a minute, and all of them at once."""
        targets, notes = convert_models(deployment(rpm=90), router_settings=router)
        [provider] = targets["gpt-4o"]["providers"]
        assert provider["rate_limit"] == {"requests_per_second": 1.5, "burst_size": 90}
        assert not any("rpm" in note for note in notes)

    def test_timeouts_of_all(self):
        """`timeout` of the router goes before `request_timeout`."""
        targets, notes = convert_models(
            deployment(), router_settings={"timeout": 30}, litellm_settings={"request_timeout": 10}
        )
        assert targets["gpt-4o"]["request_timeout_secs"] == 30
        assert notes == []

    def test_no_retries(self):
        """Without retries the first provider's outcome is the answer, but for fallbacks that are named."""
        pool = [deployment(), deployment()]
        targets, _ = convert_models(*pool, deployment("b"), litellm_settings={"num_retries": 0})
        assert "fallback" not in targets["gpt-4o"]
        targets, _ = convert_models(
            *pool, deployment("b"), litellm_settings={"num_retries": 0, "fallbacks": [{"gpt-4o": ["b"]}]}
        )
        assert targets["gpt-4o"]["fallback"]["enabled"]

    def test_retries(self):
        """So many attempts after the first one, also in a pool of one provider; standbys have theirs beyond them. The
        router's number goes before the other one."""
        targets, notes = convert_models(
            deployment(),
            deployment("a", model="o1"),
            router_settings={"num_retries": 2, "fallbacks": [{"a": ["gpt-4o"]}]},
            litellm_settings={"num_retries": 9},
        )
        assert targets["gpt-4o"]["fallback"]["max_attempts"] == 3
        assert targets["a"]["fallback"]["max_attempts"] == 4
        assert notes == []

    @pytest.mark.parametrize(
        ("theirs", "ours"), [("least-busy", "least_connections"), ("latency-based-routing", "lowest_latency")]
    )
    def test_strategies(self, theirs, ours):
        """Those that look at how providers are doing look at no weights, and where there is a choice."""
        targets, notes = convert_models(
            deployment(weight=3), deployment(), deployment("b"), router_settings={"routing_strategy": theirs}
        )
        assert targets["gpt-4o"]["strategy"] == ours
        assert all("weight" not in provider for provider in targets["gpt-4o"]["providers"])
        assert "strategy" not in targets["b"]
        assert notes == []


class TestFallbacks:
    @pytest.mark.parametrize("section", ["router_settings", "litellm_settings"])
    def test_standbys(self, section):
        """The other alias' providers are standbys, which keep their own model, and only of this alias."""
        targets, notes = convert_models(
            deployment("a"), deployment("b", model="o1"), **{section: {"fallbacks": [{"a": ["b"]}]}}
        )
        standby = {**OPENAI, "onwards_model": "o1", "weight": 0}
        assert targets["a"]["providers"] == [OPENAI, standby]
        assert targets["a"]["fallback"]["enabled"]
        assert targets["b"] == {"providers": [{**OPENAI, "onwards_model": "o1"}]}
        assert notes == []

    @pytest.mark.parametrize(
        "settings", [{"default_fallbacks": ["b"]}, {"fallbacks": [{"*": ["b"]}]}], ids=["default", "star"]
    )
    def test_defaults(self, settings):
        """Those of all aliases are for those that have none of their own, and nobody's own."""
        targets, _ = convert_models(
            deployment("a"),
            deployment("b", model="o1"),
            deployment("c"),
            litellm_settings=settings,
            router_settings={"fallbacks": [{"c": ["a"]}]},
        )
        models = {alias: [it["onwards_model"] for it in pool["providers"]] for alias, pool in targets.items()}
        assert models == {"a": ["gpt-4o", "o1"], "b": ["o1"], "c": ["gpt-4o", "gpt-4o"]}

    @pytest.mark.parametrize(
        ("fallbacks", "note"),
        [
            ([{"a": ["nobody"]}], "router_settings.fallbacks[0].a: fallbacks are names"),
            ([{"a": [{"model": "b", "messages": []}]}], "router_settings.fallbacks[0].a: fallbacks are names"),
            ([{"nobody": ["a"]}], "router_settings.fallbacks[0].nobody: no such alias"),
            (["a"], "router_settings.fallbacks[0]: expected a mapping"),
            ("a", "router_settings.fallbacks: expected a list"),
        ],
    )
    def test_what_cannot_be_followed(self, fallbacks, note):
        """Fallbacks to what is not here are told."""
        targets, [told] = convert_models(deployment("a"), router_settings={"fallbacks": fallbacks})
        assert targets == {"a": {"providers": [OPENAI]}}
        assert told.startswith(note)

    def test_limits_that_were_one(self):
        """A provider in two aliases has its limit twice, which is told."""
        _, [told] = convert_models(
            deployment("a"), deployment("b", max_parallel_requests=2), router_settings={"fallbacks": [{"a": ["b"]}]}
        )
        assert told == "router_settings.fallbacks[0].a: limits of a provider count in each alias by themselves"

    def test_aliases_of_aliases(self):
        """`model_group_alias` is the same pool under another name. Nothing is hidden here."""
        targets, [told] = convert_models(
            deployment("a"), router_settings={"model_group_alias": {"b": "a", "c": {"model": "a", "hidden": True}}}
        )
        assert targets["b"] == targets["c"] == targets["a"]
        assert told == "router_settings.model_group_alias.c: no alias is hidden from the models list"
        _, [told] = convert_models(deployment("a"), router_settings={"model_group_alias": {"b": "nobody"}})
        assert told == "router_settings.model_group_alias.b: no such alias"


class TestSettings:
    def test_the_master_key(self):
        """It opens every alias."""
        config, notes = convert({"general_settings": {"master_key": "os.environ/MASTER"}})
        assert config == {"targets": {}, "auth": {"global_keys": ["${env:MASTER}"]}}
        assert notes == []

    def test_the_master_key_of_the_environment(self):
        """LiteLLM takes it from there if the file has none."""
        config, notes = convert({}, LITELLM_MASTER_KEY="sk-master")
        assert (config["auth"], notes) == ({"global_keys": ["${env:LITELLM_MASTER_KEY}"]}, [])

    @pytest.mark.parametrize(
        "setting", [{"master_key": 1234}, {"custom_auth": "mine.check"}, {"enable_jwt_auth": True}]
    )
    def test_nothing_is_opened(self, setting):
        """What guards the aliases there, and can't here, is an error: they would be open to everyone."""
        with pytest.raises(ConfigError, match=rf"general_settings\.{next(iter(setting))}: has no place here"):
            convert({"general_settings": setting})
        config, _ = convert({"general_settings": {**setting, "master_key": "sk-1"}})
        assert config["auth"] == {"global_keys": ["sk-1"]}

    @pytest.mark.parametrize(
        ("sections", "note"),
        [
            (
                {"router_settings": {"routing_strategy": "cost-based-routing"}},
                "router_settings.routing_strategy: weighted_random",
            ),
            ({"router_settings": {"optional_pre_call_checks": ["x"]}}, "router_settings.optional_pre_call_checks.x: "),
            (
                {"router_settings": {"optional_pre_call_checks": 3}},
                "router_settings.optional_pre_call_checks: expected",
            ),
            (
                {"router_settings": {"redis_host": "r"}},
                "router_settings.redis_host: name it in `state`",
            ),
            ({"litellm_settings": {"cache": True}}, "litellm_settings.cache: there is nothing like it"),
            ({"litellm_settings": ["x"]}, "litellm_settings: expected a mapping"),
            ({"general_settings": {"database_url": "u"}}, "general_settings.database_url: virtual keys"),
            ({"guardrails": [{"x": 1}]}, "guardrails: there is nothing like it"),
        ],
        ids=lambda it: "" if isinstance(it, dict) else it.partition(":")[0],
    )
    def test_what_does_not_map(self, sections, note):
        """Each setting that has no place here is told with its path."""
        targets, [told] = convert_models(deployment(), **sections)
        assert targets == {"gpt-4o": {"providers": [OPENAI]}}
        assert told.startswith(note)

    def test_what_is_off_anyway(self):
        """A setting that is switched off needs no words."""
        assert convert_models(litellm_settings={"cache": False, "callbacks": []}) == ({}, [])


class TestFiles:
    @pytest.mark.parametrize(
        ("raw", "problem"),
        [
            (b"a: [sk-secret", r"line 1, column 14: expected ',' or '\]'"),
            (b"!!python/object:os.system {}", "line 1, column 1: could not determine a constructor"),
            (b"\xff\xfe\x00", "expected YAML"),
            (b"[" * 100_000, "expected YAML"),
            (b"just words", "expected a mapping with model_list"),
        ],
    )
    def test_what_is_no_config(self, raw, problem):
        """It is told where reading stopped, without quoting the file, and nothing in it is executed."""
        with pytest.raises(ConfigError, match=problem) as caught:
            from_litellm(raw, {})
        assert "secret" not in str(caught.value)

    def test_a_value_that_our_config_refuses(self):
        """What would not load is not written."""
        with pytest.raises(ConfigError, match=r"providers\[0\]\.onwards_key: expected a secret"):
            convert_models(deployment(api_key=" k"))

    VALUES = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.sampled_from(["os.environ/X", "a", "*"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
        max_leaves=5,
    )
    PARAMS = ("api_base", "api_key", "rpm", "tpm", "weight", "order", "timeout", "custom_llm_provider")
    SETTINGS = ("fallbacks", "default_fallbacks", "model_group_alias", "routing_strategy", "num_retries", "timeout")

    @given(
        st.lists(
            st.fixed_dictionaries(
                {
                    "model_name": st.sampled_from(["a", "b", "*"]) | VALUES,
                    "litellm_params": st.fixed_dictionaries(
                        {"model": st.sampled_from(["gpt-4o", *_import._PROVIDERS]).map(lambda it: f"{it}/m") | VALUES},
                        optional=dict.fromkeys(PARAMS, VALUES),
                    ),
                },
                optional={"other": VALUES},
            ),
            max_size=3,
        ),
        st.fixed_dictionaries({}, optional=dict.fromkeys(SETTINGS, VALUES)),
        st.dictionaries(st.sampled_from(["litellm_settings", "general_settings", "credential_list", "x"]), VALUES),
    )
    def test_whatever_it_says(self, models, router, sections):
        """No document brings the conversion down: it gives a config that loads, or says what is wrong."""
        raw = json.dumps({"model_list": models, "router_settings": router, **sections}).encode()
        try:
            config, notes = from_litellm(raw, {"X": "https://x.example"})
        except ConfigError:
            return
        load(config)
        assert all(": " in note for note in notes)


class TestCommand:
    def test_both_outputs(self, tmp_path):
        """The config is printed, and what does not map is told beside it, with the file's name."""
        file = tmp_path / "litellm.yaml"
        file.write_text(yaml.safe_dump({"model_list": [deployment()], "general_settings": {"master_key": "k", "x": 1}}))
        done = run("import", "litellm", file)
        assert done.returncode == 0
        assert json.loads(done.stdout) == {
            "targets": {"gpt-4o": {"providers": [OPENAI]}},
            "auth": {"global_keys": ["k"]},
        }
        assert done.stderr == f"onwards: {file}: general_settings.x: there is nothing like it\n"

    def test_a_file_with_errors(self, tmp_path):
        """Nothing is printed but the errors."""
        file = tmp_path / "litellm.yaml"
        file.write_text("a: [")
        done = run("import", "litellm", file)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"onwards: {file}: line 1, column 5: ")

    def test_without_the_library(self, tmp_path):
        """It is told in one line what to install."""
        (tmp_path / "yaml.py").write_text("raise ModuleNotFoundError('no', name='yaml')")
        done = run("import", "litellm", tmp_path / "any", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        assert done.returncode == 1
        assert done.stderr == "onwards: this needs PyYAML: pip install 'onwards[import]'\n"
