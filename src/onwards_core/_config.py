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
    JsonDepth,
    PositiveInteger,
    PositiveNumber,
    PrivateKey,
    ProviderKey,
    ProxyUrl,
    RequestFieldName,
    ResponseFieldName,
    StatusPattern,
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


@attrs.frozen(kw_only=True)
class TargetConfig(ProviderConfig):
    """A provider that is a pool of its own."""

    keys: list[ClientKey] | None = _field("Who may use it: keys, or names of key definitions.", None)


@attrs.frozen(kw_only=True)
class FallbackConfig:
    """When another provider is tried."""

    enabled: Boolean = _field("Whether it ever is.", False)
    on_status: list[StatusPattern] = _field("Statuses and their prefixes: 503, 50, 5.", factory=list)
    on_rate_limit: Boolean = _field("Also when a provider is at its own limit.", False)


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


@attrs.frozen(kw_only=True)
class KeyDefinition:
    """A named key of a client."""

    key: ClientKey = _field("The key itself.")
    rate_limit: RateLimit | None = _field("Of the key, over all pools.", None)
    concurrency_limit: ConcurrencyLimit | None = _field("Of the key, over all pools.", None)


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


Target: TypeAlias = PoolConfig | list[TargetConfig] | TargetConfig


@attrs.frozen(kw_only=True)
class ConfigFile:
    """A whole config file."""

    targets: dict[Text, Target] = _field("Aliases, the names that clients put in `model`.")
    auth: AuthConfig | None = _field("Clients' keys.", None)
    server: ServerConfig = _field("What clients may take up.", factory=ServerConfig)
    http_pool: HttpPoolConfig = _field("Connections to providers that are kept.", factory=HttpPoolConfig)


@attrs.frozen(kw_only=True)
class Config(ConfigFile):
    """A config file, and what is odd about it."""

    warnings: tuple[str, ...] = ()
    """What is no error: fields that nobody knows, names that stand twice in an object."""
