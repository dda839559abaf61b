"""The simulated fleet: a small one keeps its promises, and the program says what it found."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def simulated(folder: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """What it found, by scenario."""
    command = [sys.executable, BENCHMARKS / "fleet.py", *arguments, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found = {result["scenario"]: result for result in json.loads((folder / "fleet.json").read_text())["results"]}
    for name, result in found.items():
        assert f"| {name} | {result['replicas']} | 0 |" in done.stdout
    return found


def test_a_small_fleet(tmp_path: Path) -> None:
    """Nothing is exceeded and nobody forgotten in any scenario; the same arguments give the same figures."""
    arguments = ["--replicas", "5", "--demand", "500", "--seconds", "0.5"]
    found = simulated(tmp_path, *arguments)
    assert found == simulated(tmp_path, *arguments)
    assert {result["overshoot"] for result in found.values()} == {0}
    assert {result["unanswered"] for result in found.values()} == {0}
    assert found["rate, scarce"]["refused"] > 0.3
    assert found["rate, ample"]["refused"] == 0
    assert found["rate, ample"]["store calls/request"] < 1


def test_a_slow_store(tmp_path: Path) -> None:
    """A stock that takes as long to come as it may be used is not asked for: nobody would have its tokens."""
    found = simulated(tmp_path, "--replicas", "2", "--demand", "1000", "--delay", "5", "--burst", "0.2")
    assert found["rate, scarce"]["unused"] < 0.02
    assert found["rate, scarce"]["refused"] > 0.3
