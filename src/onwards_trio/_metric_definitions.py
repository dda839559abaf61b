"""All metrics: what each is called, what it tells, and how it is made up.

The registry, the table in the documentation, dashboards and alert rules are made from this table.
"""

from typing import Final, Literal, TypeAlias

import attrs

from onwards_core import Record

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Merge: TypeAlias = Literal["sum", "max", "min", "latest"]
"""How the values that several processes have of a gauge become one."""

# From a refusal to a long answer of a model that thinks.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# Models begin to answer after tens of milliseconds to minutes.
_ANSWER_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 60, 120, 300, 600)
_LAG_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From an error, 64 bytes, to an hour of audio, 64 MiB.
_BYTES: Final = tuple(float(4**power) for power in range(3, 14))


@attrs.frozen
class Definition:
    """One metric."""

    name: str
    """As it is exposed, but for the prefix."""
    kind: Kind
    help: str
    question: str
    """What an operator asks, and it answers."""
    labels: tuple[str, ...] = ()
    unit: str = ""
    """Of its value; empty for mere numbers of things."""
    buckets: tuple[float, ...] = ()
    """Of a histogram: upper bounds, which belong to their buckets. One more bucket takes the rest."""
    merge: Merge = "sum"


def _counter(name: str, help: str, question: str, *labels: str, unit: str = "") -> Definition:
    return Definition(name, "counter", help, question, labels, unit)


def _gauge(name: str, help: str, question: str, *labels: str, unit: str = "", merge: Merge = "sum") -> Definition:
    return Definition(name, "gauge", help, question, labels, unit, merge=merge)


def _histogram(
    name: str, help: str, question: str, *labels: str, unit: str = "seconds", buckets: tuple[float, ...] = _SECONDS
) -> Definition:
    bounds = tuple(map(float, buckets))  # which compare quicker with times if none is an integer
    return Definition(name, "histogram", help, question, labels, unit, bounds)


DEFINITIONS: Final = (
    # HTTP, under the names that dashboards for onwards know
    _counter(
        "http_requests_total",
        "Requests that are over; status 'none': there was no answer.",
        "How many requests come in, and with which statuses are they answered?",
        *("method", "endpoint", "status"),
    ),
    _histogram(
        "http_requests_duration_seconds",
        "From the end of a request to the end of its answer.",
        "How long do requests take, whatever they are?",
        *("method", "endpoint", "status"),
    ),
    _histogram(
        "http_response_body_size",
        "Bytes of an answer's body that were sent.",
        "How large are the answers?",
        *("method", "endpoint", "status"),
        unit="bytes",
        buckets=_BYTES,
    ),
    _gauge(
        "http_requests_pending",
        "Requests that are being answered.",
        "How much is under way at each endpoint?",
        *("method", "endpoint"),
    ),
    # Exchanges: a client's request and its answer
    _counter(
        "exchanges_total",
        "Requests that are over, by what became of them: ok, client_error, refused, provider_error, client_gone or"
        " broken.",
        "Is the gateway healthy: what share of requests fails, for which model, and by whose fault?",
        *("alias", "outcome", "status"),
    ),
    _gauge(
        "model_inflight",
        "Requests for a model that are being answered.",
        "How busy is each model now?",
        "alias",
    ),
    _histogram(
        "exchange_duration_seconds",
        "From the end of a request that reached a provider to the end of its answer.",
        "How long does a whole answer take?",
        "alias",
        buckets=_ANSWER_SECONDS,
    ),
    _histogram(
        "time_to_first_byte_seconds",
        "From the end of a request that reached a provider to the first byte of its answer.",
        "How long do clients wait until anything comes?",
        "alias",
        buckets=_ANSWER_SECONDS,
    ),
    _histogram(
        "time_to_first_event_seconds",
        "From the end of a request that reached a provider to the first piece of a streamed answer's body.",
        "How long do clients wait for the first token?",
        "alias",
        buckets=_ANSWER_SECONDS,
    ),
    _histogram(
        "time_between_events_seconds",
        "Between two pieces of a streamed answer's body on their way to the client.",
        "How smoothly do streams run; which model stalls?",
        "alias",
        buckets=Record.GAP_SECONDS,
    ),
    _counter(
        "tokens_total",
        "Tokens as providers counted them: input, output, and cached, which are part of the input.",
        "What does it cost, and who uses it?",
        *("alias", "key", "kind"),
        unit="tokens",
    ),
    _counter(
        "refusals_total",
        "Requests that a limit refused: whose limit it was (key, pool, provider, server), and the error's code.",
        "Who is refused, by whose limit, and why?",
        *("alias", "key", "by", "code"),
    ),
    # Attempts at providers
    _counter(
        "attempts_total",
        "Tries at a provider, by what came of them: ok, status_503, connect, reset, head_timeout; refused_locally,"
        " circuit_open and paused where it was left out.",
        "Which provider is to blame, and what is wrong with it?",
        *("alias", "provider", "outcome"),
    ),
    _histogram(
        "attempt_duration_seconds",
        "From sending a request to a provider to the head of its answer, or to its failure.",
        "Which provider is slow?",
        *("alias", "provider"),
        buckets=_ANSWER_SECONDS,
    ),
    _counter(
        "fallbacks_total",
        "Tries at a provider after the first one of their request.",
        "How often does another attempt have to help out?",
        "alias",
    ),
    _gauge(
        "circuit_state",
        "1 for the state that a provider's circuit is in: closed, open or trial. Only where the pool has 'health'.",
        "Which providers are left out now because they kept failing?",
        *("alias", "provider", "state"),
    ),
    # Limits: `limiter` is key, pool or provider, and `name` that of the key, the pool's alias or the provider's name
    _gauge(
        "permits_in_use",
        "Requests under way that count towards a concurrency limit, whether or not there is one.",
        "Who uses the concurrency that there is?",
        *("limiter", "alias", "name"),
    ),
    _gauge(
        "permits_limit",
        "How many requests may be under way at once.",
        "How full is each concurrency limit?",
        *("limiter", "alias", "name"),
        merge="max",
    ),
    _gauge(
        "rate_tokens_left",
        "Requests that a rate limit would let through at once now.",
        "Who is about to be refused for too many requests?",
        *("limiter", "alias", "name"),
    ),
    _gauge(
        "rate_tokens_limit",
        "Requests that a rate limit lets through at once when it is rested: its burst.",
        "How full is each rate limit?",
        *("limiter", "alias", "name"),
        merge="max",
    ),
    # Limits that are shared with other processes; only where the config has 'state'
    _gauge(
        "store_up",
        "1 while the store of shared limits answers.",
        "Are limits shared now, or does each process go on by itself?",
        merge="min",
    ),
    _counter(
        "store_losses_total",
        "How often the store of shared limits could not be reached any more.",
        "Is the store reliable?",
    ),
    _counter("store_calls_total", "Trips to the store of shared limits.", "How much does sharing cost?"),
    _gauge(
        "store_processes",
        "Processes that share limits, by the store's account.",
        "Do all replicas take part?",
        merge="max",
    ),
    _gauge(
        "store_configs",
        "Different configs that these processes have in force.",
        "Has a new config reached all replicas?",
        merge="max",
    ),
    # Connections to providers
    _gauge(
        "upstream_connections",
        "Open connections to providers: active or idle.",
        "Are connections to providers kept, or do they pile up?",
        *("host", "state"),
    ),
    _counter(
        "upstream_connections_opened_total",
        "Connections to providers that were opened.",
        "How often does a request wait for a new connection?",
        "host",
    ),
    _counter(
        "upstream_requests_total",
        "Requests that went to providers on connections that were new, or reused.",
        "Are connections to providers reused?",
        *("host", "connection"),
    ),
    # The program itself
    _counter(
        "config_reloads_total",
        "Attempts to load a changed config: ok or failed.",
        "Did the last change of the config take effect?",
        "outcome",
    ),
    _gauge(
        "config_last_reload_ok",
        "1 if the last attempt to load the config worked, 0 if the config from before is in force.",
        "Does the file hold something else than what is in force?",
        merge="min",
    ),
    _gauge(
        "config_age_seconds",
        "Since the config in force was loaded.",
        "Since when does this config hold?",
        unit="seconds",
        merge="max",
    ),
    _histogram(
        "event_loop_lag_seconds",
        "How much later than it should a task got its turn.",
        "Is the process overloaded, or did something block it?",
        buckets=_LAG_SECONDS,
    ),
    _gauge(
        "event_loop_tasks",
        "Tasks that have not ended: some for the program, one for each client, a few more for some requests.",
        "Does something pile up that should have ended?",
    ),
    _counter(
        "log_lines_dropped_total",
        "Log lines that were dropped because they could not be written fast enough.",
        "Are the logs complete?",
        "log",
    ),
    # Workers; only where there are several
    _gauge(
        "workers",
        "Worker processes: wanted, ready, or leaving because they were replaced.",
        "Does the gateway run with as many workers as it should?",
        "state",
    ),
    _gauge("worker_ready", "1 if the worker takes requests.", "Which worker does not come back?", "worker"),
    _counter(
        "worker_exits_total",
        "Workers that have ended: crashed, or replaced because that was wanted.",
        "Do workers crash?",
        "reason",
    ),
    _gauge(
        "build_info",
        "1, with the versions of onwards and Python.",
        "Which version runs where?",
        *("version", "python"),
        merge="max",
    ),
)

BY_NAME: Final = {definition.name: definition for definition in DEFINITIONS}
