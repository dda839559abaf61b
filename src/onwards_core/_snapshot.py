"""A config, compiled: what a request needs, looked up in constant time, with all inheritance resolved.

A `Snapshot` is immutable; a reload makes a new one. Exchanges under way keep the one they began with.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

from onwards_core._config import (
    AffinityConfig,
    AuthConfig,
    ConcurrencyLimit,
    Config,
    FallbackConfig,
    HttpPoolConfig,
    PoolConfig,
    ProbeConfig,
    ProviderConfig,
    RateLimit,
    RoutingAction,
    RoutingRule,
    ServerConfig,
    StateConfig,
    Strategy,
    Target,
    TargetConfig,
    TimeoutsConfig,
    TlsConfig,
)
from onwards_core._fallback import FallbackPolicy
from onwards_core._health import HealthPolicy
from onwards_core._keys import KeyHasher, KeyLimits, KeySet
from onwards_core._ledger import Limit, Rate
from onwards_core._url import Url
from onwards_core._values import Secret

CONNECT_TIMEOUT: Final = 10.0
IDLE_TIMEOUT: Final = 300.0


@attrs.frozen(eq=False)
class Provider:
    """One upstream service of a pool."""

    identity: str = attrs.field(repr=False)
    """The same after a reload, as long as alias, URL, credential and model are."""
    label: str
    """Names it in records and logs: its name or its host, numbered where a pool has several that are called so."""
    url: Url
    authority: bytes
    """What the `host` field says."""
    auth_header: bytes
    """The field that carries our credential; a client's field of this name never goes through."""
    credential: bytes | None = attrs.field(repr=False)
    """That field's value; None: the provider wants none."""
    model: str | None
    """What `model` becomes in the request's body; None leaves it alone."""
    limit: Limit
    sanitize: bool
    response_headers: Mapping[bytes, bytes] = attrs.field(repr=False)
    """Set in each of its answers: the pool's, overridden by the provider's own."""
    http2: bool
    proxy: str | None = attrs.field(repr=False)
    """The proxy's URL, which may hold credentials."""
    tls: TlsConfig | None
    """None: as the system has it."""
    connect_timeout: float
    """Seconds for everything that comes before the request: TCP, TLS, proxy."""
    head_timeout: float | None
    """Seconds from the request to the head of the answer; None: models may think as long as they want."""
    first_content_timeout: float | None
    """Seconds from the request to the first content of an event stream."""
    idle_timeout: float
    """Seconds between two pieces of an answer."""
    http_pool: HttpPoolConfig
    trusted: bool
    """Whether its errors may reach clients in strict mode."""
    propagate_trace_context: bool
    """Whether it gets a client's `traceparent` and `tracestate`."""


@attrs.frozen(eq=False)
class Pool:
    """An alias with its providers."""

    alias: str
    keys: KeySet | None
    """Who may use it; None: everyone."""
    limit: Limit
    fallback: FallbackPolicy
    strategy: Strategy
    providers: tuple[Provider, ...]
    weights: tuple[int, ...]
    """Of the providers, in their order."""
    affinity: AffinityConfig | None
    health: HealthPolicy | None
    """None: no provider is ever left out for its failures."""
    probe: ProbeConfig | None
    stream_keepalive: float | None
    """Seconds."""
    inject_usage: bool
    """Whether streams are asked for their tokens, whatever the client wants."""
    rules: tuple[RoutingRule, ...]

    @property
    def looks_into_bodies(self) -> bool:
        """Whether more of a body matters than its model."""
        by_body = self.affinity is not None and self.affinity.header is None
        return by_body or self.stream_keepalive is not None or self.inject_usage

    def action(self, labels: Mapping[str, str]) -> RoutingAction | None:
        """What the first rule that matches a key's labels says."""
        for rule in self.rules:
            if rule.match_labels.items() <= labels.items():
                return rule.action
        return None

    def opens(self, digest: bytes | None) -> bool:
        """Whether a caller with this key (None: without one) may use the pool."""
        return self.keys is None or digest in self.keys


@attrs.frozen(eq=False)
class Snapshot:
    """Everything that a `Gateway` needs to know."""

    pools: Mapping[str, Pool]
    key_limits: Mapping[bytes, KeyLimits] = attrs.field(repr=False)
    """What key definitions say, by the key's digest."""
    known_keys: frozenset[bytes] = attrs.field(repr=False)
    """Digests of all keys that open anything."""
    open_to_all: bool
    """Whether there are pools that need no key."""
    hasher: KeyHasher
    server: ServerConfig
    strict: bool
    """Whether only OpenAI's own endpoints, requests and answers are let through."""
    created: int
    """What the models list reports, in seconds of Unix time."""
    digest: str
    """Tells one config from another."""
    state: StateConfig | None
    """Where limits are kept that several processes share."""

    @classmethod
    def compile(cls, config: Config, *, hash_key: bytes, created: int = 0, digest: str = "") -> "Snapshot":
        """Resolve all inheritance, once.

        `hash_key`: 16 to 64 random bytes under which clients' keys are hashed; the same for the life of the process,
        so that counters survive a reload. `created`: the age to report for the models, in seconds of Unix time.
        `digest`: of the config's text.
        """
        hasher = KeyHasher(hash_key)
        auth = config.auth or AuthConfig()
        definitions = auth.key_definitions or {}
        defined = {name: hasher.configured(definition.key.reveal()) for name, definition in definitions.items()}

        def digests(keys: Iterable[Secret]) -> frozenset[bytes]:
            texts = [key.reveal() for key in keys]
            return frozenset(defined.get(text) or hasher.configured(text) for text in texts)

        shared = digests(auth.global_keys)
        http_pool = config.http_pool or HttpPoolConfig()

        def key_set(keys: Iterable[Secret] | None) -> KeySet | None:
            if keys is None and not shared:
                return None
            return KeySet(digests(keys or ()), shared)

        pools = {alias: _pool(alias, _as_pool(target), key_set, http_pool) for alias, target in config.targets.items()}
        return cls(
            pools=pools,
            key_limits={
                defined[name]: KeyLimits(
                    name,
                    _limit(_key_identity(definition.key), definition.rate_limit, definition.concurrency_limit),
                    definition.labels,
                )
                for name, definition in definitions.items()
            },
            known_keys=shared.union(*(pool.keys.own for pool in pools.values() if pool.keys)),
            open_to_all=any(pool.keys is None for pool in pools.values()),
            hasher=hasher,
            server=config.server,
            strict=config.strict_mode,
            created=created,
            digest=digest,
            state=config.state,
        )


def _as_pool(target: Target) -> PoolConfig:
    """The two older formats are pools without settings of their own; the first target's keys guard the pool."""
    if isinstance(target, PoolConfig):
        return target
    targets = [target] if isinstance(target, TargetConfig) else target
    return PoolConfig(providers=list(targets), keys=targets[0].keys if targets else None)


def _pool(
    alias: str,
    config: PoolConfig,
    key_set: Callable[[Iterable[Secret] | None], KeySet | None],
    http_pool: HttpPoolConfig,
) -> Pool:
    names = [provider.name or provider.url.host for provider in config.providers]
    uses = Counter(names)
    numbers: Counter[str] = Counter()
    copies: Counter[str] = Counter()
    providers = []
    for name, provider in zip(names, config.providers, strict=True):
        numbers[name] += 1
        label = f"{name}#{numbers[name]}" if uses[name] > 1 else name
        identity = _provider_identity(alias, provider)
        copies[identity] += 1
        providers.append(_provider(label, f"{identity} {copies[identity]}", provider, config, http_pool))
    return Pool(
        alias=alias,
        keys=key_set(config.keys),
        limit=_limit(f"pool {alias}", config.rate_limit, config.concurrency_limit),
        fallback=FallbackPolicy.of(config.fallback or FallbackConfig()),
        strategy=config.strategy,
        providers=tuple(providers),
        weights=tuple(provider.weight for provider in config.providers),
        affinity=config.affinity,
        health=HealthPolicy.of(config.health) if config.health else None,
        probe=config.health.probe if config.health else None,
        stream_keepalive=config.stream_keepalive_secs,
        inject_usage=config.inject_usage,
        rules=tuple(config.routing_rules),
    )


def _key_identity(key: Secret) -> str:
    """The same in all processes that share limits."""
    text = key.reveal()
    return f"key {text[7:].lower() if text.startswith('sha256:') else hashlib.sha256(text.encode()).hexdigest()}"


def _provider_identity(alias: str, config: ProviderConfig) -> str:
    """What makes it the same provider after a reload: neither its place in the list nor its weight."""
    key = config.onwards_key.reveal() if config.onwards_key else None
    digest = hashlib.sha256(repr((alias, config.url, key, config.onwards_model)).encode())
    return f"provider {digest.hexdigest()}"


def _provider(
    label: str, identity: str, config: ProviderConfig, pool: PoolConfig, http_pool: HttpPoolConfig
) -> Provider:
    url = config.url
    prefix = "Bearer " if config.upstream_auth_header_prefix is None else config.upstream_auth_header_prefix
    headers = {**(pool.response_headers or {}), **(config.response_headers or {})}
    trusted = pool.trusted if config.trusted is None else config.trusted
    own, shared = config.timeouts or TimeoutsConfig(), pool.timeouts or TimeoutsConfig()
    return Provider(
        identity=identity,
        label=label,
        url=url,
        authority=_authority(url),
        auth_header=(config.upstream_auth_header_name or "authorization").lower().encode("ascii"),
        credential=(prefix + config.onwards_key.reveal()).encode("latin-1") if config.onwards_key else None,
        model=config.onwards_model,
        limit=_limit(identity, config.rate_limit, config.concurrency_limit),
        sanitize=pool.sanitize_response or config.sanitize_response,
        response_headers={
            name.lower().encode("ascii"): value.encode("latin-1")
            for name, value in headers.items()
            if name.lower() != "x-request-id"  # Each answer has one of its own.
        },
        http2=config.http2,
        proxy=config.proxy.reveal() if config.proxy else None,
        tls=config.tls or pool.tls,
        connect_timeout=own.connect or shared.connect or CONNECT_TIMEOUT,
        head_timeout=config.request_timeout_secs or pool.request_timeout_secs,
        first_content_timeout=own.first_content or shared.first_content,
        idle_timeout=own.idle or shared.idle or IDLE_TIMEOUT,
        http_pool=http_pool,
        trusted=trusted,
        propagate_trace_context=trusted if config.propagate_trace_context is None else config.propagate_trace_context,
    )


def _authority(url: Url) -> bytes:
    host = f"[{url.host}]" if ":" in url.host else url.host
    default_port = {"http": 80, "https": 443}[url.scheme]
    return (host if url.port == default_port else f"{host}:{url.port}").encode("ascii")


def _limit(identity: str, rate: RateLimit | None, concurrency: ConcurrencyLimit | None) -> Limit:
    return Limit(
        identity,
        Rate.per_second(rate.requests_per_second, rate.burst_size) if rate else None,
        concurrency.max_concurrent_requests if concurrency else None,
    )
