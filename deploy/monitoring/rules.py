"""Recording rules and alerts for Prometheus."""

from collections.abc import Iterator
from typing import Any, Final

import attrs
import yaml

from deploy.monitoring.queries import FAILED, NOT_TO_BLAME, NOT_TRIED, SERVED, Metrics

OBJECTIVE: Final = 0.995
"""The part of exchanges that are to be served, over 30 days."""
JOB: Final = "onwards"
"""What Prometheus' config calls the gateways (`job_name`)."""
# Below this, in exchanges or attempts a second, a share says nothing: about ten in five minutes.
_ENOUGH: Final = 0.03
_BUDGET: Final = 1 - OBJECTIVE


@attrs.frozen
class Alert:
    """One alert. Its runbook is named after it: `OnwardsPoolFailing` has `pool-failing.md`."""

    name: str
    severity: str
    """`critical` wakes someone; `warning` waits for the day."""
    expr: str
    wait: str
    """How long it has to hold."""
    summary: str
    description: str

    @property
    def runbook(self) -> str:
        words = "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in self.name)
        return words.removeprefix("-onwards-")


def recordings(metric: Metrics) -> Iterator[tuple[str, str]]:
    """Names and expressions of what several alerts and windows share."""
    for window in ("5m", "30m", "1h", "6h", "3d"):
        failed = metric("exchanges_total", f'outcome=~"{FAILED}"')
        served = metric("exchanges_total", f'outcome=~"{SERVED}"')
        yield (
            f"onwards:exchange_failures:ratio_rate{window}",
            f"sum by (job) (rate({failed}[{window}]))\n/\nsum by (job) (rate({served}[{window}]))",
        )
    yield "onwards:alias_exchanges:rate5m", f"sum by (job, alias) (rate({metric('exchanges_total')}[5m]))"
    failed = metric("exchanges_total", f'outcome=~"{FAILED}"')
    yield (
        "onwards:alias_failures:ratio_rate5m",
        f"sum by (job, alias) (rate({failed}[5m]))\n/\nonwards:alias_exchanges:rate5m",
    )
    tried = metric("attempts_total", f'outcome!~"{NOT_TRIED}"')
    yield "onwards:provider_attempts:rate5m", f"sum by (job, alias, provider) (rate({tried}[5m]))"
    failed = metric("attempts_total", f'outcome!~"{NOT_TO_BLAME}"')
    yield (
        "onwards:provider_failures:ratio_rate5m",
        f"sum by (job, alias, provider) (rate({failed}[5m]))\n/\nonwards:provider_attempts:rate5m",
    )


def alerts(metric: Metrics) -> tuple[Alert, ...]:
    """All of them, the most urgent first."""
    up = f'up{{job="{JOB}"}}'
    first_event = metric("time_to_first_event_seconds_bucket")
    lag = metric("event_loop_lag_seconds_bucket")
    circuit = metric("circuit_state", 'state!="closed"')
    return (
        Alert(
            "OnwardsDown",
            "critical",
            f"{up} == 0\nor\nabsent({up})",
            "1m",
            "A gateway can't be reached",
            "Prometheus could not read the metrics of {{ or $labels.instance `any gateway` }} for a minute.",
        ),
        Alert(
            "OnwardsPoolFailing",
            "critical",
            f"onwards:alias_failures:ratio_rate5m > 0.5\nand\nonwards:alias_exchanges:rate5m > {_ENOUGH}",
            "2m",
            "{{ $labels.alias }}: no provider helps",
            "{{ $value | humanizePercentage }} of the requests for {{ $labels.alias }} fail, fallbacks included.",
        ),
        Alert(
            "OnwardsErrorBudgetBurnFast",
            "critical",
            "(\n"
            f"  onwards:exchange_failures:ratio_rate1h > {14.4 * _BUDGET:.3f}\n"
            f"  and\n  onwards:exchange_failures:ratio_rate5m > {14.4 * _BUDGET:.3f}\n"
            "  or\n"
            f"  onwards:exchange_failures:ratio_rate6h > {6 * _BUDGET:.3f}\n"
            f"  and\n  onwards:exchange_failures:ratio_rate30m > {6 * _BUDGET:.3f}\n"
            ")\n"
            f"and\nsum by (job) (onwards:alias_exchanges:rate5m) > {_ENOUGH}",
            "2m",
            "Requests fail so often that the month's error budget is gone within days",
            "{{ $value | humanizePercentage }} of requests failed, for an hour or for six.",
        ),
        Alert(
            "OnwardsErrorBudgetBurnSlow",
            "warning",
            f"onwards:exchange_failures:ratio_rate3d > {_BUDGET:.3f}\n"
            f"and\nonwards:exchange_failures:ratio_rate6h > {_BUDGET:.3f}",
            "1h",
            "Requests fail somewhat too often, since days",
            "{{ $value | humanizePercentage }} of requests failed in three days: more than the budget.",
        ),
        Alert(
            "OnwardsProviderFailing",
            "warning",
            f"onwards:provider_failures:ratio_rate5m > 0.25\nand\nonwards:provider_attempts:rate5m > {_ENOUGH}",
            "2m",
            "{{ $labels.provider }} fails for {{ $labels.alias }}",
            "{{ $value | humanizePercentage }} of what {{ $labels.provider }} gets for {{ $labels.alias }} fails.",
        ),
        Alert(
            "OnwardsCircuitOpen",
            "warning",
            f"sum by (job, instance, alias, provider) ({circuit}) > 0",
            "10m",
            "{{ $labels.provider }} has been left out of {{ $labels.alias }} for ten minutes",
            "It kept failing, and each trial since failed too, as {{ $labels.instance }} sees it.",
        ),
        Alert(
            "OnwardsSlowFirstToken",
            "warning",
            f"histogram_quantile(0.95, sum by (job, alias, le) (rate({first_event}[5m]))) > 10\n"
            f"and\nonwards:alias_exchanges:rate5m > {_ENOUGH}",
            "10m",
            "{{ $labels.alias }}: clients wait long for the first token",
            "One in twenty streamed answers begins after {{ $value | humanizeDuration }} or later.",
        ),
        Alert(
            "OnwardsRefusals",
            "warning",
            f"sum by (job, alias, key, by, code) (rate({metric('refusals_total')}[5m]))\n"
            "/ on (job, alias) group_left ()\n"
            f"(onwards:alias_exchanges:rate5m > {_ENOUGH})\n"
            "> 0.2",
            "10m",
            "{{ $labels.alias }}: many requests are refused ({{ $labels.code }})",
            "The limit of the {{ $labels.by }} refuses {{ $value | humanizePercentage }} of the requests for"
            " {{ $labels.alias }}{{ with $labels.key }}, those with the key of {{ . }}{{ end }}.",
        ),
        Alert(
            "OnwardsConfigReloadFailed",
            "warning",
            f"{metric('config_last_reload_ok')} == 0",
            "1m",
            "The changed config is not in force",
            "{{ $labels.instance }} could not load its config file, and goes on with the one from before.",
        ),
        Alert(
            "OnwardsConfigsDiffer",
            "warning",
            f"max by (job) ({metric('store_configs')}) > 1",
            "15m",
            "Gateways that share limits have different configs in force",
            "There are {{ $value }} since a quarter of an hour: a rollout has not reached all of them.",
        ),
        Alert(
            "OnwardsEventLoopLag",
            "warning",
            f"histogram_quantile(0.99, sum by (job, instance, le) (rate({lag}[5m]))) > 0.25",
            "10m",
            "{{ $labels.instance }} is overloaded",
            "Its tasks get their turn up to {{ $value | humanizeDuration }} late; all requests there wait as long.",
        ),
        Alert(
            "OnwardsLogLinesDropped",
            "warning",
            f"sum by (job, instance, log) (increase({metric('log_lines_dropped_total')}[10m])) > 0",
            "5m",
            "{{ $labels.instance }}: lines are missing in the {{ $labels.log }} log",
            "About {{ $value | humanize }} lines in ten minutes could not be written fast enough.",
        ),
    )


def rules(prefix: str, runbooks: str) -> str:
    """The file.

    prefix: of the metrics' names.
    runbooks: the URL of the runbooks' folder, as the site of the documentation has it.
    """
    metric = Metrics(prefix)
    recorded = [{"record": name, "expr": _Block(expr)} for name, expr in recordings(metric)]
    alerting = [
        {
            "alert": alert.name,
            "expr": _Block(alert.expr),
            "for": alert.wait,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{runbooks.rstrip('/')}/{alert.runbook}.html",
            },
        }
        for alert in alerts(metric)
    ]
    groups = [
        {"name": "onwards-recordings", "rules": recorded},
        {"name": "onwards-alerts", "rules": alerting},
    ]
    head = "# Made by `python -m deploy.monitoring`, which is the place for changes.\n"
    return head + yaml.dump({"groups": groups}, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)


class _Block(str):
    """Written as a block, in lines."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """YAML as one would write it."""


def _block(dumper: yaml.SafeDumper, text: str) -> Any:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(_Block, _block)
