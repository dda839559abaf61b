"""The rules for Prometheus: made from the program's metrics, and each alert rings when it should, and only then."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from deploy.monitoring.queries import NOT_TO_BLAME, Metrics
from deploy.monitoring.rules import JOB, alerts, rules
from onwards_trio._status_data import CLIENTS_FAULT

ROOT = Path(__file__).parent.parent
RULES = ROOT / "deploy" / "prometheus" / "onwards.rules.yml"
RUNBOOKS = ROOT / "docs" / "runbooks"
ALERTS = {alert.name: alert for alert in alerts(Metrics("onwards"))}

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")


def counted(metric, per_minute, **labels):
    """A counter that grows for ten hours."""
    return _series(metric, labels, f"0+{per_minute}x600")


def constant(metric, value, **labels):
    """A gauge for ten hours."""
    return _series(metric, labels, f"{value}+0x600")


def _series(metric, labels, values):
    labels = {"job": JOB, "instance": "a", **labels}
    written = ",".join(f'{name}="{value}"' for name, value in labels.items())
    name = metric if metric == "up" else f"onwards_{metric}"
    return {"series": f"{name}{{{written}}}", "values": values}


def exchanges(alias="chat", **per_minute):
    return [
        counted("exchanges_total", number, alias=alias, outcome=outcome, status="any")
        for outcome, number in per_minute.items()
    ]


def attempts(provider, **per_minute):
    return [
        counted("attempts_total", number, alias="chat", provider=provider, outcome=outcome)
        for outcome, number in per_minute.items()
    ]


def observed(metric, buckets, **labels):
    """A histogram that gets so many observations a minute up to each bound."""
    return [counted(f"{metric}_bucket", number, le=bound, **labels) for bound, number in buckets.items()]


UP = constant("up", 1)
BURN = {"job": JOB}
CHAT = {"job": JOB, "alias": "chat"}
A = {"job": JOB, "instance": "a"}

# Per alert: series that it rings for, the minute by which it does, what it rings for; and series it is quiet about.
CASES = {
    "OnwardsDown": [
        ([constant("up", 0)], 2, A),
        ([], 2, {"job": JOB}),
        ([UP], 20, None),
        ([UP, constant("up", 0, job="another")], 20, None),
    ],
    "OnwardsPoolFailing": [
        (exchanges(ok=4, provider_error=6), 5, CHAT),
        (exchanges(ok=4, broken=6) + exchanges(alias="other", ok=100), 5, CHAT),
        (exchanges(ok=6, provider_error=4), 20, None),
        (exchanges(ok=4, client_gone=30, client_error=30, refused=30), 20, None),
        (exchanges(ok=0.1, provider_error=1), 20, None),  # hardly any
    ],
    "OnwardsErrorBudgetBurnFast": [
        (exchanges(ok=90, provider_error=10), 70, BURN),
        (exchanges(ok=96, broken=4), 370, BURN),
        (exchanges(ok=99, provider_error=1), 400, None),
        (exchanges(ok=90, client_error=50, refused=50, client_gone=50), 75, None),
        (exchanges(ok=0.9, provider_error=0.1), 75, None),  # one failure in ten minutes, of ten
        # Over by now: the hour was bad, the last five minutes were not.
        (
            [
                _series("exchanges_total", {"alias": "chat", "outcome": "ok"}, "0+90x600"),
                _series("exchanges_total", {"alias": "chat", "outcome": "broken"}, "0+40x60 2400x600"),
            ],
            95,
            None,
        ),
    ],
    "OnwardsErrorBudgetBurnSlow": [
        (exchanges(ok=99, provider_error=1), 450, BURN),
        (exchanges(ok=996, provider_error=4), 450, None),
    ],
    "OnwardsProviderFailing": [
        (attempts("east", ok=7, status_503=2, connect=1) + attempts("west", ok=10), 5, CHAT | {"provider": "east"}),
        (attempts("east", ok=7, status_401=3), 5, CHAT | {"provider": "east"}),
        (attempts("east", ok=8, status_503=2), 20, None),
        # Requests that were wrong, and attempts that were none, are not its fault.
        (attempts("east", ok=7, status_400=9, refused_locally=9, circuit_open=9, paused=9), 20, None),
        (attempts("east", status_503=1), 20, None),  # hardly any
    ],
    "OnwardsCircuitOpen": [
        (
            [
                constant("circuit_state", 1, alias="chat", provider="east", state="open"),
                constant("circuit_state", 0, alias="chat", provider="east", state="closed"),
            ],
            11,
            A | CHAT | {"provider": "east"},
        ),
        # It is tried from time to time, and that changes nothing.
        (
            [
                _series(
                    "circuit_state", {"alias": "chat", "provider": "east", "state": "open"}, "1 0 1 0 1 0 1 0 1x10"
                ),
                _series(
                    "circuit_state", {"alias": "chat", "provider": "east", "state": "trial"}, "0 1 0 1 0 1 0 1 0x10"
                ),
            ],
            11,
            A | CHAT | {"provider": "east"},
        ),
        ([constant("circuit_state", 1, alias="chat", provider="east", state="closed")], 20, None),
        ([_series("circuit_state", {"alias": "chat", "provider": "east", "state": "open"}, "1x8 0x60")], 11, None),
    ],
    "OnwardsSlowFirstToken": [
        (
            [
                *exchanges(ok=100),
                *observed("time_to_first_event_seconds", {"10": 90, "15": 99, "+Inf": 100}, alias="chat"),
            ],
            20,
            CHAT,
        ),
        (
            [
                *exchanges(ok=100),
                *observed("time_to_first_event_seconds", {"10": 99, "15": 99, "+Inf": 100}, alias="chat"),
            ],
            60,
            None,
        ),
    ],
    "OnwardsRefusals": [
        (
            [
                *exchanges(ok=70, refused=30),
                counted("refusals_total", 30, alias="chat", key="batch", by="key", code="rate_limit"),
            ],
            20,
            CHAT | {"key": "batch", "by": "key", "code": "rate_limit"},
        ),
        (
            [
                *exchanges(ok=90, refused=10),
                counted("refusals_total", 10, alias="chat", key="batch", by="key", code="rate_limit"),
            ],
            60,
            None,
        ),
    ],
    "OnwardsConfigReloadFailed": [
        ([constant("config_last_reload_ok", 0)], 2, A),
        ([constant("config_last_reload_ok", 1)], 20, None),
    ],
    "OnwardsConfigsDiffer": [
        ([constant("store_configs", 2)], 20, BURN),
        ([constant("store_configs", 2)], 10, None),
        ([constant("store_configs", 1)], 60, None),
    ],
    "OnwardsEventLoopLag": [
        (observed("event_loop_lag_seconds", {"0.25": 95, "0.5": 99, "+Inf": 100}), 20, A),
        (observed("event_loop_lag_seconds", {"0.25": 100, "0.5": 100, "+Inf": 100}), 20, None),
    ],
    "OnwardsLogLinesDropped": [
        ([counted("log_lines_dropped_total", 1, log="access")], 20, A | {"log": "access"}),
        ([counted("log_lines_dropped_total", 0, log="access")], 20, None),
    ],
}


def test_the_file_is_made_from_the_metrics():
    """What is in the repository is what the script makes; the default of `--runbooks` is a place to be filled in."""
    assert RULES.read_text() == rules("onwards", "https://docs.example/runbooks")


def test_who_is_to_blame_is_what_the_status_page_says():
    """A status speaks against a provider in the one just as in the other."""
    statuses = {f"status_{status}" for status in range(400, 600)}
    assert {status for status in statuses if re.fullmatch(NOT_TO_BLAME, status)} == CLIENTS_FAULT


def test_another_prefix_and_site():
    """Both go into all expressions and links. Names of recorded series stay: the rules are read together."""
    text = rules("gate", "https://wiki.example/gateway/")
    assert not re.search(r"\bonwards_", text)
    assert "gate_exchanges_total" in text
    assert "runbook_url: https://wiki.example/gateway/down.html\n" in text


def test_each_alert_has_its_runbook_and_each_runbook_its_alert():
    """They are held to each other by name, and a runbook has all of its parts."""
    pages = {page.stem: page.read_text() for page in RUNBOOKS.glob("*.md") if page.stem != "index"}
    assert set(pages) == {alert.runbook for alert in ALERTS.values()}
    index = (RUNBOOKS / "index.md").read_text()
    for alert in ALERTS.values():
        page = pages[alert.runbook]
        assert page.startswith(f"# {alert.name}\n\nSeverity: {alert.severity}.")
        assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["Meaning", "Impact", "First look", "Causes", "Remedies"]
        assert f"| [{alert.name}]({alert.runbook}.md) | {alert.severity} |" in index


def test_each_alert_has_a_case_of_each_kind():
    """One that rings and one that does not."""
    assert set(CASES) == set(ALERTS)
    for cases in CASES.values():
        assert {labels is None for _, _, labels in cases} == {True, False}


@needs_promtool
def test_promtool_takes_the_rules():
    """Expressions and templates parse."""
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"SUCCESS: {RULES.read_text().count('expr:')} rules found" in done.stdout


@needs_promtool
def test_promtool_takes_the_config_in_the_documentation(tmp_path):
    """The page's example, with the rules beside it; its job is the one that the alerts are about."""
    page = (ROOT / "docs" / "monitoring.md").read_text()
    [config] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(config)
    (tmp_path / "metrics-key").touch()
    shutil.copy(RULES, tmp_path)
    command = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [job["job_name"] for job in yaml.safe_load(config)["scrape_configs"]] == [JOB]


@needs_promtool
def test_alerts_ring_when_they_should_and_only_then(tmp_path):
    """Prometheus' own evaluation of each case, before the alert's time is over too."""
    groups = []
    for name, cases in CASES.items():
        for number, (series, minute, labels) in enumerate(cases):
            firing = {
                "__name__": "ALERTS",
                "alertname": name,
                "alertstate": "firing",
                "severity": ALERTS[name].severity,
            }
            written = ",".join(f'{label}="{value}"' for label, value in (firing | (labels or {})).items())
            expr = f'ALERTS{{alertname="{name}",alertstate="firing"}}'
            rings = [] if labels is None else [{"labels": f"{{{written}}}", "value": 1}]
            tests = [{"expr": expr, "eval_time": f"{minute}m", "exp_samples": rings}]
            if labels is not None:
                tests.append({"expr": expr, "eval_time": "0m", "exp_samples": []})
            groups.append(
                {"name": f"{name} {number}", "interval": "1m", "input_series": series, "promql_expr_test": tests}
            )
    _promtool(tmp_path, groups)


@needs_promtool
def test_what_an_alert_says(tmp_path):
    """Names and numbers are filled in, also where the key has no name."""

    def refusals(**key):
        series = [counted("refusals_total", 30, alias="chat", by="pool", code="rate_limit", **key)]
        says = {
            "summary": "chat: many requests are refused (rate_limit)",
            "description": "The limit of the pool refuses 30% of the requests for chat"
            + (f", those with the key of {key['key']}." if key else "."),
            "runbook_url": "https://docs.example/runbooks/refusals.html",
        }
        labels = CHAT | {"by": "pool", "code": "rate_limit", "severity": "warning", **key}
        return series + exchanges(ok=70, refused=30), [
            {
                "eval_time": "20m",
                "alertname": "OnwardsRefusals",
                "exp_alerts": [{"exp_labels": labels, "exp_annotations": says}],
            }
        ]

    cases = [refusals(), refusals(key="batch")]
    _promtool(
        tmp_path, [{"interval": "1m", "input_series": series, "alert_rule_test": tests} for series, tests in cases]
    )


def _promtool(folder, groups):
    file = folder / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": groups}))
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
