"""The decisions of an LLM gateway, without any I/O.

Give a `Gateway` a compiled config and each client request; carry out the actions that its `Exchange` asks for. It
reads no clock, opens no socket and needs no particular event loop.
"""

from onwards_core._actions import (
    Acquire,
    Action,
    BreakOff,
    CollectBody,
    KeepAlive,
    PassOn,
    ReadBody,
    Respond,
    SendUpstream,
    StreamThrough,
    Transform,
    Wait,
)
from onwards_core._attempts import Upkeep
from onwards_core._beats import LeaseTerms
from onwards_core._config import (
    AffinityConfig,
    AuthConfig,
    BackoffConfig,
    ConcurrencyLimit,
    Config,
    ConfigError,
    FallbackConfig,
    HealthConfig,
    HttpPoolConfig,
    KeyDefinition,
    OnLoss,
    PoolConfig,
    ProbeConfig,
    ProviderConfig,
    RateLimit,
    RoutingAction,
    RoutingRule,
    ServerConfig,
    StateConfig,
    Strategy,
    TargetConfig,
    TimeoutsConfig,
    TlsConfig,
)
from onwards_core._errors import error, overloaded
from onwards_core._events import (
    Acquired,
    BodyCollected,
    BodyRead,
    Event,
    FailureReason,
    Headers,
    PassedOn,
    Request,
    UpstreamFailed,
    UpstreamResponded,
    WaitOver,
)
from onwards_core._exchange import Exchange
from onwards_core._gateway import Gateway
from onwards_core._leases import LeasedLedger
from onwards_core._load_config import load_config
from onwards_core._record import Attempt, Outcome, Record, Usage, Verdict
from onwards_core._schema import json_schema
from onwards_core._snapshot import Pool, Provider, Snapshot
from onwards_core._url import Url
from onwards_core._values import Secret

__all__ = [
    "Acquire",
    "Acquired",
    "Action",
    "AffinityConfig",
    "Attempt",
    "AuthConfig",
    "BackoffConfig",
    "BodyCollected",
    "BodyRead",
    "BreakOff",
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
    "HealthConfig",
    "HttpPoolConfig",
    "KeepAlive",
    "KeyDefinition",
    "LeaseTerms",
    "LeasedLedger",
    "OnLoss",
    "Outcome",
    "PassOn",
    "PassedOn",
    "Pool",
    "PoolConfig",
    "ProbeConfig",
    "Provider",
    "ProviderConfig",
    "RateLimit",
    "ReadBody",
    "Record",
    "Request",
    "Respond",
    "RoutingAction",
    "RoutingRule",
    "Secret",
    "SendUpstream",
    "ServerConfig",
    "Snapshot",
    "StateConfig",
    "Strategy",
    "StreamThrough",
    "TargetConfig",
    "TimeoutsConfig",
    "TlsConfig",
    "Transform",
    "Upkeep",
    "UpstreamFailed",
    "UpstreamResponded",
    "Url",
    "Usage",
    "Verdict",
    "Wait",
    "WaitOver",
    "error",
    "json_schema",
    "load_config",
    "overloaded",
]
