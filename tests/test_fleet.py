"""The simulated fleet: a small one keeps its promises, and the program says what it found."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_a_small_fleet(tmp_path: Path) -> None:
    """Nothing is exceeded and nobody forgotten in any scenario; the same arguments give the same figures."""
    arguments = ["--replicas", "5", "--demand", "500", "--seconds", "0.5", "--out", str(tmp_path)]
    reports = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, BENCHMARKS / "fleet.py", *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "| permits, faults | 5 | 0 |" in done.stdout
        reports.append(json.loads((tmp_path / "fleet.json").read_text()))
    assert reports[0] == reports[1]
    found = {result["scenario"]: result for result in reports[0]["results"]}
    assert {result["overshoot"] for result in found.values()} == {0}
    assert {result["unanswered"] for result in found.values()} == {0}
    assert found["rate, scarce"]["refused"] > 0.3
    assert found["rate, ample"]["refused"] == 0
    assert found["rate, ample"]["store calls/request"] < 1
