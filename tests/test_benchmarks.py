"""The benchmark program does what its page says: in tiny sizes, without anything to compare with."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="needs Linux and two cores"
)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, BENCHMARKS / "run.py", "--with", "", "--runs", "1", "--seconds", "0.05"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


def test_measures_all_scenarios_and_says_what_it_found(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"ratios": {"tls, TLS to the provider, onwards / plain": 100.0}}))
    done = run("--scale", "0.01", "--out", tmp_path, "--check", earlier)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "results.json").read_text())
    measured = {case["scenario"]: case for case in report["cases"] if case["gateway"] == "onwards"}
    assert {"request", "latency", "overhead", "stream", "sanitized-stream", "first-byte", "large-body"} <= set(measured)
    assert {"connections", "tls", "fallback", "codec", "config-size", "operators", "memory", "startup"} <= set(measured)
    assert {"shared-limits", "shifting-demand", "workers"} <= set(measured)
    assert measured["request"]["runs"][0].keys() == {"CPU µs", "requests/s", "p50 ms", "p99 ms"}
    assert min(measured["request"]["runs"][0].values()) > 0
    asked = {case["case"]: case["runs"][0] for case in report["cases"] if case["scenario"] == "shared-limits"}
    assert asked["in the process"]["trips/request"] == 0
    assert asked["two workers, in their parent"]["trips/request"] > 0
    if "in the store" in asked:
        assert asked["in the store"]["calls/request"] >= asked["in the store"]["trips/request"] > 0
        signs = [case["runs"] for case in report["cases"] if case["scenario"] == "signs-of-life"]
        assert len(signs) == 9
        assert min(run["µs/sign"] for runs in signs for run in runs) > 0
    granted = [case["runs"][0] for case in report["cases"] if case["scenario"] == "shifting-demand"]
    assert len(granted) == (4 if "in the store" in asked else 2)
    assert min(run["% of the rate granted"] for run in granted) > 0
    assert "tls, TLS to the provider, onwards / plain" in report["ratios"]
    assert "| request | 1 connection | onwards | " in done.stdout


def test_fails_where_a_ratio_is_worse_than_before(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps({"ratios": {"codec, h11, onwards / httptools": 0.01}}))
    done = run("--only", "codec", "--scale", "0.03", "--out", tmp_path, "--check", earlier)
    assert done.returncode == 1
    assert "worse: codec, h11, onwards / httptools: 0.01 " in done.stderr


def test_draws_a_chart(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("--only", "tls,config-size", "--scale", "0.001", "--out", tmp_path).returncode == 0
    chart = (tmp_path / "results.svg").read_text()
    assert "TLS to the provider" in chart
    assert "100 keys" in chart


def _features(*how: str) -> str:
    command = [sys.executable, BENCHMARKS / "features.py", "--only", "first_content", *how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_measures_features() -> None:
    """A line for each feature: what a request takes without it, and how much more with it."""
    assert re.search(
        r"^\| a stream of 11 events \| `first_content` \| \d+ µs \| [+-]", _features("--rounds", "2"), re.MULTILINE
    )


def test_counts_in_children() -> None:
    """What Valgrind looks at: a child for each feature, off and on, once and twice as often."""
    assert (
        re.findall(r"^count \d+ (\d+) (\d) \d+$", _features("--count"), re.MULTILINE)
        == [("0", "0")] * 2 + [("0", "1")] * 2
    )


def test_knows_what_there_is_to_measure() -> None:
    done = run("--only", "everything")
    assert done.returncode == 2
    assert "'everything' is none of request, " in done.stderr


def test_ratios_are_to_nginx_or_to_the_first_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from run import ratios
    from scenarios import CPU, Case

    cases = [
        Case("request", "few", "onwards", [{CPU: 60.0}, {CPU: 200.0}, {CPU: 90.0}]),
        Case("request", "few", "nginx", [{CPU: 10.0}, {CPU: 20.0}, {CPU: 30.0}]),
        Case("request", "few", "direct call", [{"p50 ms": 1.0}]),
        Case("request", "many", "onwards", [{CPU: 80.0}]),
        Case("tls", "plain", "onwards", [{CPU: 60.0}]),
        Case("tls", "encrypted", "onwards", [{CPU: 72.0}]),
        Case("startup", "first answer", "onwards", [{"seconds": 0.3}]),
    ]
    assert ratios(cases) == {
        ("request", "few", "onwards"): (6.0, "nginx"),
        ("tls", "encrypted", "onwards"): (1.2, "plain"),
    }
