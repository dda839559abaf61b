"""The config file's shape, as attrs classes: what it says, with nothing inherited or compiled yet.

`load_config` reads by them, and the JSON Schema is made of them.
"""

import enum
from collections.abc import Callable
from typing import Annotated, Any, TypeAlias

import attrs

from onwards_core._values import (
    Boolean,
    Certificate,
    ClientKey,
    FieldValue,
    FieldValueStart,
    GrowthFactor,
    JsonDepth,
    KeyPrefix,
    LeaseSeconds,
    Milliseconds,
    Password,
    Path,
    PositiveInteger,
    PositiveNumber,
    PrivateKey,
    ProviderKey,
    ProxyUrl,
    RequestFieldName,
    ResponseFieldName,
    Share,
    StatusPattern,
    StoreUrlField,
    Text,
    UrlField,
    Weight,
    choice,
)


class ConfigError(Exception):
    """The config can't be used. `problems` has a line for each reason."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _field(description: str, default: Any = attrs.NOTHING, factory: Callable[[], Any] | None = None) -> Any:
    """The description is what the JSON Schema tells an editor."""
    return attrs.field(default=default, factory=factory, metadata={"description": description})


class Strategy(enum.Enum):
    """In which order a pool's providers are tried."""

    WEIGHTED_RANDOM = "weighted_random"
    PRIORITY = "priority"
    LEAST_CONNECTIONS = "least_connections"
    ROUND_ROBIN = "round_robin"
    LOWEST_LATENCY = "lowest_latency"
    AFFINITY = "affinity"


class Jitter(enum.Enum):
    """How a delay is spread, so that clients that failed together do not come back together."""

    FULL = "full"
    NONE = "none"


class RoutingActionType(enum.Enum):
    """What a routing rule does."""

    DENY = "deny"
    REDIRECT = "redirect"


class OnLoss(enum.Enum):
    """What becomes of limits that are shared while their store can't be reached."""

    LOCAL = "local"
    REFUSE = "refuse"


class BodyField(enum.Enum):
    """A field of a request's body that tells who asks."""

    USER = "user"


@attrs.frozen(kw_only=True)
class RateLimit:
    """How many requests in a time."""

    requests_per_second: PositiveNumber = _field("Fractions too: 0.2 is one request in five seconds.")
    burst_size: PositiveInteger | None = _field("How many may come at once; the rate, rounded up, if left out.", None)


@attrs.frozen(kw_only=True)
class ConcurrencyLimit:
    """How many exchanges at a time."""

    max_concurrent_requests: PositiveInteger = _field("How many exchanges may be under way.")


@attrs.frozen(kw_only=True)
class TimeoutsConfig:
    """How long a provider may take: seconds. What is left out is the pool's, or else the default."""

    connect: PositiveNumber | None = _field("Until a connection stands, TLS and proxy included; 10 by default.", None)
    first_content: PositiveNumber | None = _field("Until the first content of an event stream; no limit.", None)
    idle: PositiveNumber | None = _field("Between two pieces of an answer; 300 by default.", None)


@attrs.frozen(kw_only=True)
class TlsConfig:
    """How connections to a provider are secured. Certificates and keys are PEM texts."""

    ca: Certificate | None = _field("The only authorities to trust; the system's if left out.", None)
    certificate: Certificate | None = _field("Shown to the provider, with what signed it.", None)
    key: PrivateKey | None = _field("That certificate's private key.", None)
    insecure_skip_verification: Boolean = _field("Trust anyone who answers. The credential may go anywhere.", False)


@attrs.frozen(kw_only=True)
class ProviderConfig:
    """One upstream service."""

    url: UrlField = _field("Where it is; a path of a request that begins with this URL's path does not repeat it.")
    name: Text | None = _field("What operators see it called: in metrics, logs, status; its host if left out.", None)
    onwards_key: ProviderKey | None = _field("The credential that we send to it; none if empty or left out.", None)
    onwards_model: Text | None = _field("What `model` becomes in the request.", None)
    rate_limit: RateLimit | None = _field("Of this provider in this pool.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of this provider in this pool.", None)
    upstream_auth_header_name: RequestFieldName | None = _field(
        "Where the credential goes; Authorization if left out.", None
    )
    upstream_auth_header_prefix: FieldValueStart | None = _field("What stands before it; 'Bearer ' if left out.", None)
    response_headers: dict[ResponseFieldName, FieldValue] | None = _field("Replaced or added in its answers.", None)
    weight: Weight = _field("Its share of the requests; 0 is a standby.", 1)
    sanitize_response: Boolean = _field("Strip its answers to OpenAI's schema.", False)
    http2: Boolean = _field("Speak HTTP/2 to it where it can.", False)
    proxy: ProxyUrl | None = _field("Reach it through this http or socks5 proxy.", None)
    request_timeout_secs: PositiveNumber | None = _field("How long the head of its answer may take; no limit.", None)
    timeouts: TimeoutsConfig | None = _field("How long other things may take.", None)
    tls: TlsConfig | None = _field("How connections to it are secured, other than by the system's defaults.", None)
    trusted: Boolean | None = _field("Let its errors through strict mode; the pool's if left out.", None)
    propagate_trace_context: Boolean | None = _field(
        "Send a client's trace headers on; only to trusted ones if left out.", None
    )


@attrs.frozen(kw_only=True)
class TargetConfig(ProviderConfig):
    """A provider that is a pool of its own."""

    keys: list[ClientKey] | None = _field("Who may use it: keys, or names of key definitions.", None)


@attrs.frozen(kw_only=True)
class BackoffConfig:
    """How long to wait before the next attempt: `min(initial_ms * factor ** (n - 1), max_ms)` before retry n."""

    initial_ms: Milliseconds = _field("Before the first retry.")
    max_ms: Milliseconds = _field("The longest delay.", 5000)
    factor: GrowthFactor = _field("By how much each delay is longer than the one before.", 2.0)
    jitter: Annotated[Jitter, choice(Jitter)] = _field(
        "full: a random part of the delay; none: all of it.", Jitter.FULL
    )


@attrs.frozen(kw_only=True)
class FallbackConfig:
    """When another provider is tried."""

    enabled: Boolean = _field("Whether it ever is.", False)
    on_status: list[StatusPattern] = _field("Statuses and their prefixes: 503, 50, 5.", factory=list)
    on_rate_limit: Boolean = _field("Also when a provider is at its own limit.", False)
    on_embedded_error: Boolean | None = _field(
        "Also when a 2xx answer turns out to be an error before its first content; if left out, as `enabled`.", None
    )
    max_attempts: PositiveInteger | None = _field("As many as there are providers; more start another pass.", None)
    with_replacement: Boolean = _field("weighted_random may draw the same provider again.", False)
    backoff: BackoffConfig | None = _field("How long to wait before the next attempt; not at all if left out.", None)
    max_total_backoff_ms: Milliseconds | None = _field("How long to wait in all; no limit.", None)
    honor_retry_after: Boolean = _field("Leave a provider alone for as long as it asks for.", True)
    retry_non_idempotent_on_timeout: Boolean | None = _field(
        "Send a request again whose outcome is unknown; if left out, only for inference.", None
    )


@attrs.frozen(kw_only=True)
class ProbeConfig:
    """Requests of the gateway's own that tell whether a provider is well: a GET with its credential."""

    path: Path = _field("Below the provider's URL, as a client would ask for it: /v1/models.")
    interval_secs: PositiveNumber = _field("Between two probes.", 10)
    timeout_secs: PositiveNumber = _field("After which one has failed.", 5)


@attrs.frozen(kw_only=True)
class HealthConfig:
    """When a provider is left out for a while. The last healthy one of a pool never is."""

    consecutive_failures: PositiveInteger | None = _field("After so many failures in a row; null: never.", 5)
    failure_rate: Share | None = _field("After this share of failures within the window; never if left out.", None)
    window_secs: PositiveNumber = _field("What `failure_rate` looks at.", 30)
    min_requests: PositiveInteger = _field("Within the window, before its rate means anything.", 10)
    cooldown_secs: PositiveNumber = _field("For how long; doubles each time.", 10)
    max_cooldown_secs: PositiveNumber = _field("The longest it may become.", 300)
    probe: ProbeConfig | None = _field("Ask the providers themselves, too.", None)


@attrs.frozen(kw_only=True)
class AffinityConfig:
    """What the strategy `affinity` keeps together. One of the three."""

    header: RequestFieldName | None = _field("Requests with the same value of this header.", None)
    body: Annotated[BodyField, choice(BodyField)] | None = _field("Requests with the same value of this field.", None)
    prompt_bytes: PositiveInteger | None = _field("Requests whose prompts begin with the same bytes.", None)


@attrs.frozen(kw_only=True)
class RoutingAction:
    """What a rule does with a request: `deny` answers 403, `redirect` takes another alias's pool."""

    type: Annotated[RoutingActionType, choice(RoutingActionType)] = _field("deny or redirect.")
    target: Text | None = _field("The alias to redirect to.", None)


@attrs.frozen(kw_only=True)
class RoutingRule:
    """What happens to requests with certain keys."""

    match_labels: dict[Text, Text] = _field("Labels of a key that all have to have these values.")
    action: RoutingAction = _field("What happens to them.")


@attrs.frozen(kw_only=True)
class PoolConfig:
    """An alias with several providers."""

    providers: list[ProviderConfig] = _field("May be empty: the alias then answers 503.")
    keys: list[ClientKey] | None = _field("Who may use it: keys, or names of key definitions.", None)
    rate_limit: RateLimit | None = _field("Of the alias.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of the alias.", None)
    response_headers: dict[ResponseFieldName, FieldValue] | None = _field(
        "Replaced or added in each provider's answers.", None
    )
    fallback: FallbackConfig | None = _field("When another provider is tried.", None)
    strategy: Annotated[Strategy, choice(Strategy)] = _field(
        "In which order the providers are tried.", Strategy.WEIGHTED_RANDOM
    )
    sanitize_response: Boolean = _field("Strip all its providers' answers to OpenAI's schema.", False)
    request_timeout_secs: PositiveNumber | None = _field("For providers that do not say otherwise.", None)
    timeouts: TimeoutsConfig | None = _field("For providers that do not say otherwise.", None)
    tls: TlsConfig | None = _field("For providers that do not say otherwise.", None)
    affinity: AffinityConfig | None = _field("What the strategy `affinity` goes by.", None)
    health: HealthConfig | None = _field("When a provider is left out for a while; never if left out.", None)
    stream_keepalive_secs: PositiveNumber | None = _field(
        "Send a comment so often to who waits for a stream's first content; never if left out.", None
    )
    inject_usage: Boolean = _field("Have streams tell their tokens, also where the client does not ask.", False)
    routing_rules: list[RoutingRule] = _field("What happens to certain keys; the first that matches.", factory=list)
    trusted: Boolean = _field("Let its providers' errors through strict mode.", False)


@attrs.frozen(kw_only=True)
class KeyDefinition:
    """A named key of a client."""

    key: ClientKey = _field("The key itself.")
    rate_limit: RateLimit | None = _field("Of the key, over all pools.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of the key, over all pools.", None)
    labels: dict[Text, Text] = _field("What routing rules go by.", factory=dict)


@attrs.frozen(kw_only=True)
class AuthConfig:
    """Clients' keys."""

    global_keys: list[ClientKey] = _field("Open every pool, and close it to everyone without a key.", factory=list)
    key_definitions: dict[Text, KeyDefinition] | None = _field("Names for keys that have limits.", None)


@attrs.frozen(kw_only=True)
class HttpPoolConfig:
    """Connections that are kept for the next request."""

    max_idle_per_host: PositiveInteger = _field("How many, for each origin.", 100)
    idle_timeout_secs: PositiveNumber = _field("How long one may wait.", 90)


@attrs.frozen(kw_only=True)
class ServerConfig:
    """What clients may take up. Beyond it they are refused."""

    head_bytes: PositiveInteger = _field("Of a request's head.", 65_536)
    head_fields: PositiveInteger = _field("Header fields of a request.", 200)
    body_bytes: PositiveInteger = _field("Of a request's body.", 67_108_864)
    body_memory_bytes: PositiveInteger = _field("Of all bodies that are held at a time.", 1_073_741_824)
    json_depth: JsonDepth = _field("How deep lists and objects in a JSON body may be nested.", 128)
    head_timeout_secs: PositiveNumber = _field("For a request's head, from its first byte.", 15)
    body_timeout_secs: PositiveNumber = _field("Without a byte in the middle of a body.", 30)
    idle_timeout_secs: PositiveNumber = _field("Until a connection's first or next request begins.", 75)
    requests_per_connection: PositiveInteger | None = _field("Until a connection is closed; no limit.", None)
    connections: PositiveInteger = _field("In all.", 10_000)
    connections_per_address: PositiveInteger | None = _field("From one address; no limit.", None)


@attrs.frozen(kw_only=True)
class StateConfig:
    """Where limits are kept that several gateways share: Redis or Valkey."""

    url: StoreUrlField | None = _field(
        "redis://user:password@host:port/database; rediss for TLS; several hosts with commas. Only share_load alone"
        " does without: it is for the workers of one gateway then.",
        None,
    )
    prefix: KeyPrefix = _field("What all keys begin with; gateways with the same one share their limits.", "onwards")
    lease_seconds: LeaseSeconds = _field("After which permits of a gateway that died are free again.", 10)
    on_loss: Annotated[OnLoss, choice(OnLoss)] = _field(
        "While it can't be reached: local, a share of each limit; refuse, nothing.", OnLoss.LOCAL
    )
    share_load: Boolean = _field(
        "Whether load is counted over all gateways and workers, as some strategies go by it.", False
    )
    cluster: Boolean = _field("Whether it is a cluster, of which the URL names some nodes.", False)
    sentinel_master: Text | None = _field("Ask the sentinels that the URL names for the primary of this name.", None)
    sentinel_password: Password | None = _field("Of the sentinels; none if left out.", None)
    tls: TlsConfig | None = _field("How rediss connections are secured, other than by the system's defaults.", None)


Target: TypeAlias = PoolConfig | list[TargetConfig] | TargetConfig


@attrs.frozen(kw_only=True)
class ConfigFile:
    """A whole config file."""

    targets: dict[Text, Target] = _field("Aliases, the names that clients put in `model`.")
    auth: AuthConfig | None = _field("Clients' keys.", None)
    server: ServerConfig = _field("What clients may take up.", factory=ServerConfig)
    http_pool: HttpPoolConfig | None = _field("Connections to providers that are kept.", None)
    strict_mode: Boolean = _field("Only OpenAI's endpoints, requests and answers.", False)
    state: StateConfig | None = _field("Where limits are kept that several gateways share; in each if left out.", None)


@attrs.frozen(kw_only=True)
class Config(ConfigFile):
    """A config file, and what is odd about it."""

    warnings: tuple[str, ...] = ()
    """What is no error: fields that nobody knows, names that stand twice in an object."""
