"""The config of a LiteLLM proxy as one of ours, and a line for each thing in it that has no place here.

What LiteLLM means by a setting is taken from its documentation (docs.litellm.ai: proxy/configs, routing,
proxy/reliability, proxy/config_settings).
"""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

import attrs
import yaml

from onwards_core import ConfigError, load_config
from onwards_core._url import parse_url

# By the `provider` of `provider/model`: its OpenAI-compatible API, and the variable that LiteLLM takes a key from.
_PROVIDERS: Final[dict[str, tuple[str | None, str | None]]] = {
    "anthropic": ("https://api.anthropic.com", "ANTHROPIC_API_KEY"),
    "azure": (None, "AZURE_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "custom_openai": (None, None),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": ("https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "hosted_vllm": (None, None),
    "litellm_proxy": (None, None),
    "llamafile": (None, None),
    "lm_studio": (None, None),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "ollama": ("http://localhost:11434", None),
    "ollama_chat": ("http://localhost:11434", None),
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "openai_like": (None, None),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "sambanova": ("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY"),
    "text-completion-openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "together_ai": ("https://api.together.xyz/v1", "TOGETHERAI_API_KEY"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
    "xinference": (None, None),
}
# LiteLLM reaches these by APIs of their own, and without the `/v1` of their OpenAI-compatible ones.
_OWN_API = frozenset(("anthropic", "azure", "ollama", "ollama_chat"))
# LiteLLM has a list of the models that need no `provider/`.
_OF_OPENAI = re.compile(r"(gpt-|chatgpt-|o[1-9]|text-|dall-e|whisper|tts-|omni-|codex|ft:)")

# What another provider may do better. A 400 is the client's own doing.
_ON_STATUS = [401, 403, 404, 408, 409, 429, 5]

_SENT_AS_IT_IS = "requests are sent on as clients wrote them, nothing is added or dropped"
_NOTHING = "there is nothing like it"
_REASONS: Final = {
    "allowed_fails": "each request tries providers anew",
    "api_version": "not needed: Azure's v1 API is used, which has no versions",
    "content_policy_fallbacks": "what an answer says is not looked at",
    "context_window_fallbacks": "what an answer says is not looked at",
    "cooldown_time": "each request tries providers anew",
    "database_url": "virtual keys stay in LiteLLM's database: write them into auth.key_definitions",
    "drop_params": _SENT_AS_IT_IS,
    "environment_variables": "set them in the gateway's environment",
    "extra_headers": "no headers are added to requests",
    "include": "only this one file was read",
    "max_retries": "`fallback.max_attempts` is for a whole pool",
    "num_retries": "`fallback.max_attempts` is for a whole pool",
    "organization": "no headers are added to requests",
    "redis_host": "name it in `state`, and limits are shared by all gateways",
    "ssl_verify": "name the authorities in `tls`",
    "stream_timeout": "`timeouts.idle` is between two pieces of an answer",
}


_STRATEGIES: Final = {"least-busy": "least_connections", "latency-based-routing": "lowest_latency"}


def from_litellm(raw: bytes, environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """A config that loads, and what of the LiteLLM config `raw` is not in it: a path and a reason in each line.

    `environment`: for `os.environ/NAME` where our config takes no references. Raises `ConfigError` if the file can't
    be read, or if a part that maps has a value that our config does not take.
    """
    root = _Section("", _document(raw), environment, [])
    config = _convert(root)
    load_config(json.dumps(config).encode(), lambda kind, name: "a-secret")
    return config, root.notes


def _document(raw: bytes) -> dict[Any, Any]:
    try:
        document = yaml.safe_load(raw)
    except yaml.MarkedYAMLError as error:
        # The error's own text quotes the file, which may hold keys.
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = f"{place}{error.problem}"
    except (yaml.YAMLError, RecursionError):
        problem = "expected YAML"
    else:
        if isinstance(document, dict):
            return document
        problem = "expected a mapping with model_list"
    raise ConfigError((problem,))


class _Section:
    """A mapping in the file. In the end `rest` notes what nobody took."""

    def __init__(self, path: str, values: dict[Any, Any], environment: Mapping[str, str], notes: list[str]) -> None:
        self.path = path
        self.values = dict(values)
        self.environment = environment
        self.notes = notes

    def note(self, name: object, reason: str) -> None:
        self.notes.append(f"{self.path}{name}: {reason}")

    def secret(self, name: str) -> str | None:
        """A string, as a reference to the environment if it is one in the file."""
        value = self.values.pop(name, None)
        if value is None or isinstance(value, str):
            return re.sub(r"^os\.environ/(.*)", r"${env:\1}", value) if value else None
        self.note(name, "expected a string")
        return None

    def take(self, name: str) -> Any:
        """A value; one that is to come from the environment is taken from there now."""
        value = self.values.pop(name, None)
        if not isinstance(value, str) or not value.startswith("os.environ/"):
            return value
        variable = value.removeprefix("os.environ/")
        if variable in self.environment:
            self.note(name, f"is now what the environment variable {variable} was at the conversion")
        else:
            self.note(name, f"the environment variable {variable} is not set")
        return self.environment.get(variable)

    def text(self, name: str) -> str | None:
        value = self.take(name)
        if value is None or isinstance(value, str):
            return value or None
        self.note(name, "expected a string")
        return None

    def number(self, name: str, least: float = 0.001) -> Fraction | None:
        value = self.take(name)
        if value is None:
            return None
        try:
            if isinstance(value, bool) or not least <= float(value) <= 1e12:
                raise ValueError
            return Fraction(str(value)).limit_denominator(1000)
        except (OverflowError, TypeError, ValueError):
            self.note(name, f"expected a number from {least:g} to 1e12")
            return None

    def texts(self, name: str) -> list[str]:
        value = self.take(name)
        if isinstance(value, list | None) and all(isinstance(item, str) for item in value or ()):
            return value or []
        self.note(name, "expected a list of strings")
        return []

    def section(self, name: str) -> "_Section":
        value = self.values.pop(name, None)
        if not isinstance(value, dict | None):
            self.note(name, "expected a mapping")
        return self._part(name, value if isinstance(value, dict) else {})

    def sections(self, name: str) -> "Iterator[_Section]":
        value = self.values.pop(name, None)
        if not isinstance(value, list | None):
            self.note(name, "expected a list")
            return
        for index, item in enumerate(value or ()):
            if isinstance(item, dict):
                yield self._part(f"{name}[{index}]", item)
            else:
                self.note(f"{name}[{index}]", "expected a mapping")

    def _part(self, name: str, values: dict[Any, Any]) -> "_Section":
        return _Section(f"{self.path}{name}.", values, self.environment, self.notes)

    def rest(self, reason: str = _NOTHING) -> None:
        for name, value in self.values.items():
            if value not in (None, False, [], {}):  # switched off there as here
                self.note(name, _REASONS.get(name, reason))


@attrs.frozen
class _Deployment:
    provider: dict[str, Any]
    shares: dict[str, Fraction | None]
    order: Fraction | None


def _convert(root: _Section) -> dict[str, Any]:
    router, settings, general = (root.section(f"{it}_settings") for it in ("router", "litellm", "general"))
    strategy = router.text("routing_strategy") or "simple-shuffle"
    checks = router.texts("optional_pre_call_checks")
    enforced = strategy.startswith("usage-based-routing") or "enforce_model_rate_limits" in checks
    if strategy not in ("simple-shuffle", *_STRATEGIES):
        router.note("routing_strategy", "weighted_random instead, which does not look at how providers are doing")
    for check in checks:
        if check != "enforce_model_rate_limits":
            router.note(f"optional_pre_call_checks.{check}", _NOTHING)

    credentials = {item.text("credential_name"): item for item in root.sections("credential_list")}
    groups: dict[str, list[_Deployment]] = {}
    for item in root.sections("model_list"):
        alias = item.text("model_name")
        deployment = _deployment(item, alias, credentials, enforced=enforced)
        if alias is not None and deployment is not None:
            groups.setdefault(alias, []).append(deployment)

    targets = {alias: _pool(deployments, _STRATEGIES.get(strategy)) for alias, deployments in groups.items()}
    _add_fallbacks(targets, router, settings)
    timeouts = (router.number("timeout"), settings.number("request_timeout"))
    timeout = timeouts[0] or timeouts[1]
    retries = [section.number("num_retries", 0) for section in (router, settings)]
    again = int(next((each for each in retries if each is not None), 0))
    for pool in targets.values():
        if timeout:
            pool["request_timeout_secs"] = float(timeout)
        standbys = sum(provider.get("weight") == 0 for provider in pool["providers"])
        if again or (len(pool["providers"]) > 1 and (standbys or 0 not in retries)):
            pool["fallback"] = {"enabled": True, "on_status": _ON_STATUS, "on_rate_limit": True}
        if again:
            pool["fallback"]["max_attempts"] = 1 + again + standbys
    _add_aliases(targets, router.section("model_group_alias"))

    config: dict[str, Any] = {"targets": targets}
    if keys := _global_keys(general):
        config["auth"] = {"global_keys": keys}
    for section in (router, settings, general, root):
        section.rest()
    return config


def _global_keys(general: _Section) -> list[str]:
    """Raises `ConfigError` rather than leave aliases open that were closed."""
    guards = [name for name in ("master_key", "custom_auth", "enable_jwt_auth") if general.values.get(name)]
    if (master_key := general.secret("master_key")) is not None:
        return [master_key]
    if guards:
        raise ConfigError(
            tuple(f"general_settings.{it}: has no place here, and without it all aliases were open" for it in guards)
        )
    if general.environment.get("LITELLM_MASTER_KEY"):
        return ["${env:LITELLM_MASTER_KEY}"]  # as LiteLLM does
    general.note("master_key", "there is none, so everyone may use all aliases")
    return []


def _deployment(
    item: _Section, alias: str | None, credentials: Mapping[Any, _Section], *, enforced: bool
) -> _Deployment | None:
    params = item.section("litellm_params")
    if (name := params.text("litellm_credential_name")) is not None:
        if name in credentials:
            named = credentials[name].values.get("credential_values")
            params.values = {**(named if isinstance(named, dict) else {}), **params.values}
        else:
            params.note("litellm_credential_name", "no such credential in credential_list")
    item.take("model_info")  # what others may want to know of a model: nothing here asks
    provider = _provider(params, alias)
    shares = {share: params.number(share, 0 if share == "weight" else 0.001) for share in ("weight", "rpm", "tpm")}
    order = params.number("order", 0)
    if provider is None:
        return None  # the reason is noted; what else it says does not matter
    if (rpm := shares["rpm"]) and enforced:
        # LiteLLM counts in whole minutes, in which all may come at once.
        provider["rate_limit"] = {"requests_per_second": float(rpm / 60), "burst_size": math.ceil(rpm)}
    elif rpm:
        params.note("rpm", "a share, no limit, as in LiteLLM without enforce_model_rate_limits; `rate_limit` is one")
    if shares["tpm"]:
        params.note("tpm", "tokens are not limited")
    if parallel := params.number("max_parallel_requests", 1):
        provider["concurrency_limit"] = {"max_concurrent_requests": int(parallel)}
    if timeout := params.number("timeout"):
        provider["request_timeout_secs"] = float(timeout)
    params.rest(_SENT_AS_IT_IS)
    item.rest()
    return _Deployment(provider, shares, order)


def _provider(params: _Section, alias: str | None) -> dict[str, Any] | None:
    """Where it is, its credential and its model; None, with a note, if it can't be reached from here."""
    model = params.text("model") or ""
    kind = params.text("custom_llm_provider")
    if kind is None and "/" in model:
        kind, _, model = model.partition("/")
    elif kind is None:
        kind = "openai" if _OF_OPENAI.match(model) else "anthropic" if model.startswith("claude") else ""
    if alias is None or not model or "*" in alias + model:
        params.note("model", "left out: an alias has a name and a model, neither with wildcards")
        return None
    if kind not in _PROVIDERS:
        of = f" of {kind}" if kind else ""
        params.note(
            "model", f"left out: no OpenAI-compatible API{of} is known; if it has one: openai/… with an api_base"
        )
        return None

    default_url, variable = _PROVIDERS[kind]
    base = params.text("api_base") or params.text("base_url")
    url = _url(params, kind, base or default_url)
    if url is None:
        return None
    key = params.secret("api_key")
    if key is None and variable and (base is None or default_url is None):
        key = f"${{env:{variable}}}"
    elif key is None and variable:
        params.note("api_key", f"there is none, so none is sent, where LiteLLM may send {variable} to this api_base")
    provider: dict[str, Any] = {"url": url, "onwards_model": model}
    if key is not None:
        provider["onwards_key"] = key
    if kind == "azure":
        provider |= {"upstream_auth_header_name": "api-key", "upstream_auth_header_prefix": ""}
    if kind == "anthropic":
        params.note("model", "goes to Anthropic's OpenAI-compatible API, where LiteLLM translates to the other one")
    return provider


def _url(params: _Section, kind: str, base: str | None) -> str | None:
    """Such that a client's `/v1/chat/completions` below it is where LiteLLM's requests went."""
    try:
        if base is None:
            raise ValueError("an api_base")
        path = parse_url(base).path.decode()
    except ValueError as error:
        params.note("api_base", f"left out: expected {error}")
        return None
    base = base.rstrip("/")
    if kind == "azure" and not path:
        return base + "/openai"
    if path.endswith("/v1"):
        return base if path == "/v1" else base.removesuffix("/v1")
    if kind not in _OWN_API:
        params.note("api_base", "requests go to the /v1 below it, which LiteLLM would leave out")
    return base


def _pool(deployments: list[_Deployment], strategy: str | None) -> dict[str, Any]:
    """strategy: one for which LiteLLM does not look at weights; None: they are shuffled by them."""
    if any(deployment.order is not None for deployment in deployments):
        last = Fraction(10**12)
        ranked = sorted(deployments, key=lambda it: last if it.order is None else it.order)
        return {"strategy": "priority", "providers": [it.provider for it in ranked]}
    if strategy is not None and len(deployments) > 1:
        return {"strategy": strategy, "providers": [it.provider for it in deployments]}
    for deployment, weight in zip(deployments, _weights(deployments), strict=True):
        if weight != 1:
            deployment.provider["weight"] = weight
    return {"providers": [it.provider for it in deployments]}


def _weights(deployments: list[_Deployment]) -> list[int]:
    """As LiteLLM shuffles: by the first of the three that the first deployment has, if it has any."""
    for name in ("weight", "rpm", "tpm"):
        if deployments[0].shares[name] is not None:
            shares = [it.shares[name] or Fraction(0) for it in deployments]
            scale = math.lcm(*(share.denominator for share in shares))
            whole = [int(share * scale) for share in shares]
            if any(whole):
                return [weight // math.gcd(*whole) for weight in whole]
    return [1] * len(deployments)


def _add_fallbacks(targets: dict[str, dict[str, Any]], router: _Section, settings: _Section) -> None:
    """Other aliases' providers become standbys."""
    own = {alias: pool["providers"] for alias, pool in targets.items()}
    found: dict[str, tuple[_Section, list[Any]]] = {}
    for section in (settings, router):
        default = section.texts("default_fallbacks")
        for entry in section.sections("fallbacks"):
            for alias, others in entry.values.items():
                found[alias] = (entry, others if isinstance(others, list) else [others])
                if alias != "*" and alias not in own:
                    entry.note(alias, "no such alias")
        if default:
            found["*"] = (section, default)
    for alias, pool in targets.items():
        section, others = found.get(alias, found.get("*", (router, [])))
        for other in others:
            if not isinstance(other, str) or other not in own:
                section.note(alias, "fallbacks are names of aliases that are here; another one is left out")
            elif other != alias:
                pool["providers"] = pool["providers"] + [{**it, "weight": 0} for it in own[other]]
                _note_shared(section, alias, own[other])


def _add_aliases(targets: dict[str, dict[str, Any]], aliases: _Section) -> None:
    for name, value in aliases.values.items():
        other = value.get("model") if isinstance(value, dict) else value
        if not isinstance(other, str) or other not in targets:
            aliases.note(name, "no such alias")
            continue
        targets[str(name)] = copy.deepcopy(targets[other])
        _note_shared(aliases, name, targets[other]["providers"])
        if isinstance(value, dict) and value.get("hidden"):
            aliases.note(name, "no alias is hidden from the models list")


def _note_shared(section: _Section, alias: object, providers: list[dict[str, Any]]) -> None:
    if any("rate_limit" in it or "concurrency_limit" in it for it in providers):
        section.note(alias, "limits of a provider count in each alias by themselves")
