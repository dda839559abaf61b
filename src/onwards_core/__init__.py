"""The decisions of an LLM gateway, without any I/O.

Give a `Gateway` a compiled config and each client request; carry out the actions that its `Exchange` asks for. It
reads no clock, opens no socket and needs no particular event loop.
"""

from onwards_core._actions import Action, CollectBody, Respond, SendUpstream, StreamThrough, Transform
from onwards_core._config import (
    AuthConfig,
    ConcurrencyLimit,
    Config,
    ConfigError,
    FallbackConfig,
    HttpPoolConfig,
    KeyDefinition,
    PoolConfig,
    ProviderConfig,
    RateLimit,
    ServerConfig,
    Strategy,
    TargetConfig,
    TimeoutsConfig,
    TlsConfig,
)
from onwards_core._errors import error, overloaded
from onwards_core._events import (
    BodyCollected,
    Event,
    FailureReason,
    Headers,
    Request,
    UpstreamFailed,
    UpstreamResponded,
)
from onwards_core._exchange import Exchange, Gateway
from onwards_core._load_config import load_config
from onwards_core._record import Attempt, Outcome, Record
from onwards_core._schema import json_schema
from onwards_core._snapshot import Pool, Provider, Snapshot
from onwards_core._url import Url
from onwards_core._values import Secret

__all__ = [
    "Action",
    "Attempt",
    "AuthConfig",
    "BodyCollected",
    "CollectBody",
    "ConcurrencyLimit",
    "Config",
    "ConfigError",
    "Event",
    "Exchange",
    "FailureReason",
    "FallbackConfig",
    "Gateway",
    "Headers",
    "HttpPoolConfig",
    "KeyDefinition",
    "Outcome",
    "Pool",
    "PoolConfig",
    "Provider",
    "ProviderConfig",
    "RateLimit",
    "Record",
    "Request",
    "Respond",
    "Secret",
    "SendUpstream",
    "ServerConfig",
    "Snapshot",
    "Strategy",
    "StreamThrough",
    "TargetConfig",
    "TimeoutsConfig",
    "TlsConfig",
    "Transform",
    "UpstreamFailed",
    "UpstreamResponded",
    "Url",
    "error",
    "json_schema",
    "load_config",
    "overloaded",
]
