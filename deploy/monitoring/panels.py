"""What the dashboard asks: each panel answers a question, each row is about one thing that one wants to know."""

import re
from typing import Final

import attrs

from deploy.monitoring.queries import FAILED, NOT_TO_BLAME, NOT_TRIED, SERVED, Metrics
from onwards_trio._metric_definitions import DEFINITIONS, Definition

# Filled in by Grafana: what is chosen above the panels.
TARGETS: Final = 'job=~"$job",instance=~"$instance"'
ALIAS: Final = f'{TARGETS},alias=~"$alias"'


@attrs.frozen
class Query:
    """One line of a panel, or several: `legend` tells them apart by their labels, as `{{provider}}`."""

    expr: str
    legend: str = ""


@attrs.frozen
class Panel:
    """One panel."""

    title: str
    question: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    unit: str = "short"
    width: int = 8
    height: int = 8
    stacked: bool = False
    limits: tuple[float, ...] = ()
    """From where it is yellow, and red."""
    most: float | None = None
    """Of the scale."""
    words: tuple[tuple[float, str, str], ...] = ()
    """What values mean, each with its colour."""
    colours: tuple[tuple[str, str], ...] = ()
    """Of lines, by their legend."""
    columns: tuple[tuple[str, str, str], ...] = ()
    """Of a table, beside the labels: the query's letter, a heading and a unit."""


@attrs.frozen
class Row:
    title: str
    panels: tuple[Panel, ...]


def rows(metric: Metrics) -> tuple[Row, ...]:
    """All panels, the first questions first. A metric that none of them shows gets one in a last row."""
    chosen = _chosen_rows(metric)
    shown = " ".join(query.expr for row in chosen for panel in row.panels for query in panel.queries)
    others = [it for it in DEFINITIONS if not re.search(rf"{metric(it.name)}(_bucket)?[{{\[]", shown)]
    return (*chosen, Row("Everything else", tuple(_plain(metric, it) for it in others))) if others else chosen


def _plain(metric: Metrics, definition: Definition) -> Panel:
    """A panel that shows a metric by all of its labels."""
    selector = metric(definition.name + ("_bucket" if definition.kind == "histogram" else ""), TARGETS)
    match definition.kind:
        case "counter":
            expr = f"sum by ({', '.join(('instance', *definition.labels))}) ({_rate(selector)})"
        case "gauge":
            expr = selector
        case "histogram":
            by = ", ".join(("instance", *definition.labels, "le"))
            expr = f"histogram_quantile(0.95, sum by ({by}) ({_rate(selector)}))"
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *definition.labels))
    return Panel(
        definition.name.removesuffix("_total").replace("_", " ").capitalize(),
        definition.question,
        (Query(expr, legend),),
        unit="s" if definition.unit == "seconds" else "short",
    )


def _chosen_rows(metric: Metrics) -> tuple[Row, ...]:
    exchanges = metric("exchanges_total", ALIAS)
    failed = metric("exchanges_total", f'{ALIAS},outcome=~"{FAILED}"')
    served = metric("exchanges_total", f'{ALIAS},outcome=~"{SERVED}"')
    tried = metric("attempts_total", f'{ALIAS},outcome!~"{NOT_TRIED}"')
    blamed = metric("attempts_total", f'{ALIAS},outcome!~"{NOT_TO_BLAME}"')
    left_out = metric("attempts_total", f'{ALIAS},outcome=~"{NOT_TRIED}"')
    circuits = metric("circuit_state", f'{ALIAS},state!="closed"')
    tokens = metric("tokens_total", ALIAS)
    own = metric("tokens_total", f'{ALIAS},kind!="cached"')
    first_bytes = metric("time_to_first_byte_seconds_bucket", ALIAS)
    host = metric("upstream_requests_total", TARGETS)
    losses = metric("store_losses_total", TARGETS)
    calls = metric("store_calls_total", TARGETS)
    reused = metric("upstream_requests_total", f'{TARGETS},connection="reused"')
    failing_share = (
        f"(sum by (alias, provider) ({_rate(blamed)}) or 0 * sum by (alias, provider) ({_rate(tried)}))"
        f" / (sum by (alias, provider) ({_rate(tried)}) > 0)"
    )

    def quantiles(name: str, by: str = "alias") -> tuple[Query, ...]:
        buckets = metric(f"{name}_bucket", ALIAS)
        return tuple(
            Query(f"histogram_quantile({quantile}, sum by ({by}, le) ({_rate(buckets)}))", f"{{{{{by}}}}} {words}")
            for quantile, words in ((0.5, "median"), (0.95, "p95"))
        )

    return (
        Row(
            "Is it healthy?",
            (
                Panel(
                    "Served as it should be",
                    "Of the requests that neither their clients nor a limit ended, how many were answered well?",
                    (Query(f"1 - (sum({_rate(failed)}) or vector(0)) / (sum({_rate(served)}) > 0)"),),
                    kind="stat",
                    unit="percentunit",
                    width=4,
                    height=4,
                    limits=(0.95, 0.995),
                ),
                Panel(
                    "Providers failing now",
                    "How many providers fail more than a quarter of what they are sent?",
                    (Query(f"count(max by (provider) ({failing_share}) > 0.25) or vector(0)"),),
                    kind="stat",
                    width=4,
                    height=4,
                    limits=(1, 2),
                ),
                Panel(
                    "Circuits open",
                    "How many providers are left out because they kept failing?",
                    (Query(f"count(sum by (alias, provider) ({circuits}) > 0) or vector(0)"),),
                    kind="stat",
                    width=4,
                    height=4,
                    limits=(1, 2),
                ),
                Panel(
                    "Under way",
                    "How many requests are being answered?",
                    (Query(f"sum({metric('model_inflight', ALIAS)}) or vector(0)"),),
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Last reload",
                    "Is what the config file holds in force?",
                    (Query(f"min({metric('config_last_reload_ok', TARGETS)})"),),
                    kind="stat",
                    width=4,
                    height=4,
                    words=((1, "in force", "green"), (0, "failed", "red")),
                ),
                Panel(
                    "Gateways",
                    "Which versions run, and how many of each?",
                    (Query(f"count by (version, python) ({metric('build_info', TARGETS)})", "{{version}}"),),
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "What becomes of requests",
                    "How many requests are there, and how do they end?",
                    (Query(f"sum by (outcome) ({_rate(exchanges)})", "{{outcome}}"),),
                    unit="reqps",
                    stacked=True,
                    colours=(
                        ("ok", "green"),
                        ("client_error", "blue"),
                        ("client_gone", "purple"),
                        ("refused", "yellow"),
                        ("broken", "orange"),
                        ("provider_error", "red"),
                    ),
                ),
                Panel(
                    "Share that fails, by model",
                    "Which model's clients see failures, after all fallbacks?",
                    (
                        Query(
                            f"(sum by (alias) ({_rate(failed)}) or 0 * sum by (alias) ({_rate(served)}))"
                            f" / (sum by (alias) ({_rate(served)}) > 0)",
                            "{{alias}}",
                        ),
                    ),
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Under way, by model",
                    "How busy is each model?",
                    (Query(f"sum by (alias) ({metric('model_inflight', ALIAS)})", "{{alias}}"),),
                ),
            ),
        ),
        Row(
            "Which provider is to blame?",
            (
                Panel(
                    "Share of attempts that fail, by provider",
                    "Which provider is to blame? Requests that were wrong, and attempts that were none, do not count.",
                    (Query(failing_share, "{{provider}} ({{alias}})"),),
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "What is wrong with it",
                    "How do attempts fail?",
                    (Query(f"sum by (provider, outcome) ({_rate(blamed)}) > 0", "{{provider}}: {{outcome}}"),),
                    unit="reqps",
                ),
                Panel(
                    "Time until a provider answers",
                    "Which provider is slow? To the head of its answer, or to its failure.",
                    quantiles("attempt_duration_seconds", "provider"),
                    unit="s",
                ),
                Panel(
                    "Providers",
                    "How is each provider, in figures?",
                    (
                        Query(f"sum by (alias, provider) ({_rate(tried)})"),
                        Query(failing_share),
                        Query(
                            "histogram_quantile(0.95, sum by (alias, provider, le)"
                            f" ({_rate(metric('attempt_duration_seconds_bucket', ALIAS))}))"
                        ),
                        Query(f"sum by (alias, provider) ({circuits})"),
                    ),
                    kind="table",
                    width=12,
                    limits=(0.05, 0.25),
                    columns=(
                        ("A", "Attempts", "reqps"),
                        ("B", "Fail", "percentunit"),
                        ("C", "p95", "s"),
                        ("D", "Circuits open", "short"),
                    ),
                ),
                Panel(
                    "Left out",
                    "Which providers get no requests, and why? Their circuits, their limits, pauses they asked for.",
                    (Query(f"sum by (provider, outcome) ({_rate(left_out)}) > 0", "{{provider}}: {{outcome}}"),),
                    unit="reqps",
                    width=6,
                ),
                Panel(
                    "Fallbacks",
                    "How often does another attempt have to help out?",
                    (
                        Query(f"sum by (alias) ({_rate(metric('fallbacks_total', ALIAS))})", "{{alias}}"),
                        Query(f"sum({_rate(tried)})", "all attempts"),
                    ),
                    unit="reqps",
                    width=6,
                ),
            ),
        ),
        Row(
            "Who is refused, and how full are the limits?",
            (
                Panel(
                    "Refusals",
                    "Who is refused, by whose limit, and why?",
                    (
                        Query(
                            f"sum by (alias, key, by, code) ({_rate(metric('refusals_total', ALIAS))})",
                            "{{alias}} {{key}}: {{code}} of the {{by}}",
                        ),
                    ),
                    unit="reqps",
                ),
                Panel(
                    "Concurrency limits",
                    "How full is each concurrency limit?",
                    (
                        Query(
                            f"{metric('permits_in_use', ALIAS)} / {metric('permits_limit', ALIAS)}",
                            "{{limiter}} {{alias}} {{name}}",
                        ),
                    ),
                    unit="percentunit",
                    most=1,
                ),
                Panel(
                    "Rate limits",
                    "How much of each rate limit's burst is used up?",
                    (
                        Query(
                            f"1 - {metric('rate_tokens_left', ALIAS)} / {metric('rate_tokens_limit', ALIAS)}",
                            "{{limiter}} {{alias}} {{name}}",
                        ),
                    ),
                    unit="percentunit",
                    most=1,
                ),
            ),
        ),
        Row(
            "How fast is it?",
            (
                Panel(
                    "First byte",
                    "How long do clients wait until anything comes?",
                    quantiles("time_to_first_byte_seconds"),
                    unit="s",
                ),
                Panel(
                    "First event",
                    "How long do clients of streamed answers wait for the first token?",
                    quantiles("time_to_first_event_seconds"),
                    unit="s",
                ),
                Panel(
                    "Between events",
                    "How smoothly do streams run; which model stalls?",
                    quantiles("time_between_events_seconds"),
                    unit="s",
                ),
                Panel(
                    "Whole answers",
                    "How long does a whole answer take?",
                    quantiles("exchange_duration_seconds"),
                    unit="s",
                ),
                Panel(
                    "How first bytes are spread",
                    "Is everyone slow, or are there two groups?",
                    (
                        Query(
                            f"sum by (le) (increase({first_bytes}[$__rate_interval]))",
                            "{{le}}",
                        ),
                    ),
                    kind="heatmap",
                    unit="s",
                    width=16,
                ),
            ),
        ),
        Row(
            "What does it cost?",
            (
                Panel(
                    "Tokens, by model",
                    "What does each model cost? Cached tokens are part of the input.",
                    (Query(f"sum by (alias, kind) ({_rate(tokens)})", "{{alias}} {{kind}}"),),
                    unit="short",
                ),
                Panel(
                    "Tokens, by key",
                    "Who uses them?",
                    (
                        Query(
                            f"topk(10, sum by (key) ({_rate(own)}))",
                            "{{key}}",
                        ),
                    ),
                    unit="short",
                ),
                Panel(
                    "Tokens in the time shown",
                    "What came together, by model and key?",
                    (Query(f"sum by (alias, key, kind) (increase({tokens}[$__range]))"),),
                    kind="table",
                    columns=(("A", "Tokens", "short"),),
                ),
            ),
        ),
        Row(
            "Shared limits",
            (
                Panel(
                    "Store of shared limits",
                    "Are limits shared now, or does a gateway go on by itself?",
                    (Query(f"min by (instance) ({metric('store_up', TARGETS)})", "{{instance}}"),),
                    most=1,
                ),
                Panel(
                    "Losses of the store",
                    "Is the store reliable; which gateway does not reach it?",
                    (Query(f"sum by (instance) (increase({losses}[$__rate_interval]))", "{{instance}}"),),
                ),
                Panel(
                    "Who shares",
                    "Do all replicas take part, and has a new config reached all of them?",
                    (
                        Query(f"max by (instance) ({metric('store_processes', TARGETS)})", "{{instance}} processes"),
                        Query(f"max by (instance) ({metric('store_configs', TARGETS)})", "{{instance}} configs"),
                    ),
                ),
                Panel(
                    "Trips to the store",
                    "How much does sharing cost?",
                    (Query(f"sum by (instance) ({_rate(calls)})", "{{instance}} a second"),),
                ),
                Panel(
                    "Trips to the store, by request",
                    "Do the loans last, or does nearly each request wait for the store?",
                    (
                        Query(
                            f"sum by (instance) ({_rate(calls)})"
                            f" / (sum by (instance) ({_rate(metric('exchanges_total', TARGETS))}) > 0)",
                            "{{instance}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "What goes on below?",
            (
                Panel(
                    "HTTP requests",
                    "How many requests come in, at which endpoints, and with which statuses are they answered?",
                    (
                        Query(
                            f"sum by (method, endpoint, status) ({_rate(metric('http_requests_total', TARGETS))})",
                            "{{method}} {{endpoint}} {{status}}",
                        ),
                    ),
                    unit="reqps",
                ),
                Panel(
                    "Being answered, by endpoint",
                    "How much is under way at each endpoint?",
                    (
                        Query(
                            f"sum by (method, endpoint) ({metric('http_requests_pending', TARGETS)})",
                            "{{method}} {{endpoint}}",
                        ),
                    ),
                ),
                Panel(
                    "Time and size of answers, by endpoint",
                    "How long do requests take, whatever they are, and how large are the answers?",
                    (
                        Query(
                            "histogram_quantile(0.95, sum by (endpoint, le)"
                            f" ({_rate(metric('http_requests_duration_seconds_bucket', TARGETS))}))",
                            "{{endpoint}}: p95 of the time, s",
                        ),
                        Query(
                            "histogram_quantile(0.95, sum by (endpoint, le)"
                            f" ({_rate(metric('http_response_body_size_bucket', TARGETS))})) / 1024",
                            "{{endpoint}}: p95 of the size, KiB",
                        ),
                    ),
                ),
                Panel(
                    "Connections to providers",
                    "Are connections kept, or do they pile up?",
                    (Query(f"sum by (host, state) ({metric('upstream_connections', TARGETS)})", "{{host}} {{state}}"),),
                ),
                Panel(
                    "New connections",
                    "How often does a request wait for a new connection; are they reused?",
                    (
                        Query(
                            f"sum by (host) ({_rate(metric('upstream_connections_opened_total', TARGETS))})",
                            "{{host}} opened a second",
                        ),
                        Query(
                            f"(sum by (host) ({_rate(reused)}) or 0 * sum by (host) ({_rate(host)}))"
                            f" / (sum by (host) ({_rate(host)}) > 0)",
                            "{{host}} share of requests on a reused one",
                        ),
                    ),
                ),
                Panel(
                    "Event loop lag",
                    "Is a process overloaded, or did something block it?",
                    (
                        Query(
                            "histogram_quantile(0.99, sum by (instance, le)"
                            f" ({_rate(metric('event_loop_lag_seconds_bucket', TARGETS))}))",
                            "{{instance}} p99",
                        ),
                    ),
                    unit="s",
                ),
                Panel(
                    "Tasks",
                    "Does something pile up that should have ended?",
                    (Query(f"sum by (instance) ({metric('event_loop_tasks', TARGETS)})", "{{instance}}"),),
                ),
                Panel(
                    "Workers",
                    "Does each instance run with as many workers as it should, and which one does not come back?",
                    (
                        Query(f"sum by (instance, state) ({metric('workers', TARGETS)})", "{{instance}} {{state}}"),
                        Query(
                            f"{metric('worker_ready', TARGETS)} == 0",
                            "{{instance}} worker {{worker}} is not ready",
                        ),
                    ),
                ),
                Panel(
                    "Ends of workers",
                    "Do workers crash?",
                    (
                        Query(
                            "sum by (instance, reason)"
                            f" (increase({metric('worker_exits_total', TARGETS)}[$__rate_interval]))",
                            "{{instance}} {{reason}}",
                        ),
                    ),
                ),
                Panel(
                    "Age of the config",
                    "Since when does this config hold?",
                    (Query(f"max by (instance) ({metric('config_age_seconds', TARGETS)})", "{{instance}}"),),
                    unit="s",
                ),
                Panel(
                    "Reloads",
                    "Did changes of the config take effect?",
                    (
                        Query(
                            f"sum by (outcome) (increase({metric('config_reloads_total', TARGETS)}[$__rate_interval]))",
                            "{{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Log lines dropped",
                    "Are the logs complete?",
                    (Query(f"sum by (log) ({_rate(metric('log_lines_dropped_total', TARGETS))})", "{{log}}"),),
                    unit="short",
                ),
            ),
        ),
    )


def _rate(counter: str) -> str:
    return f"rate({counter}[$__rate_interval])"
