"""What `explain --simulate` foretells, the running program does: against mock providers that fail by chance."""

import json
import re
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path

import pytest

from onwards_core import Snapshot, load_config
from onwards_trio._simulate import Behaviour, Plan, simulate
from onwards_trio._stand_in import request
from tests.trio.program_support import read_until, running

REQUESTS = 400
FAIL = 0.3


@pytest.fixture
def mocks():
    """The ports of two mock providers, the first of which fails in three of ten requests."""
    with (
        running("mock-provider", "-p", "0", "--fail-rate", str(FAIL), "--seed", "7") as failing,
        running("mock-provider", "-p", "0") as good,
    ):
        yield [int(re.search(r"127\.0\.0\.1:(\d+)", read_until(each, "http://"))[1]) for each in (failing, good)]


def test_a_real_run(mocks, tmp_path: Path) -> None:
    """Shares, attempts and failures of both are alike, within what chance allows (3.3 standard deviations)."""
    targets = {
        "m": {
            "providers": [
                {"url": f"http://127.0.0.1:{mocks[0]}", "weight": 3},
                {"url": f"http://localhost:{mocks[1]}"},
            ],
            "fallback": {"enabled": True, "on_status": [5]},
        }
    }
    raw = json.dumps({"targets": targets})
    snapshot = Snapshot.compile(load_config(raw.encode()), hash_key=bytes(16))
    plan = Plan(REQUESTS, 100.0, 1, {"127.0.0.1": Behaviour(fail=FAIL)})
    told = simulate(snapshot, "m", plan, lambda number: request("/v1/chat/completions", "m", number=number))

    (tmp_path / "config.json").write_text(raw)
    flags = [
        "-f",
        str(tmp_path / "config.json"),
        "--host",
        "127.0.0.1",
        "-p",
        "0",
        "--no-metrics",
        "--log-level",
        "debug",
    ]
    with running("serve", *flags) as program:
        port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", read_until(program, "listening on"))[1])
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'
        attempts: Counter[tuple[str, str]] = Counter()
        for _ in range(REQUESTS):
            connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            line = read_until(program, "alias=m").splitlines()[-1]
            attempts.update(re.findall(r"(127\.0\.0\.1|localhost):(ok|status_503)", line))
        connection.close()

    assert told.answered == REQUESTS
    for label in ("127.0.0.1", "localhost"):
        tally = told.providers[label]
        for foretold, seen in (
            (tally.attempts, attempts[label, "ok"] + attempts[label, "status_503"]),
            (tally.failed, attempts[label, "status_503"]),
        ):
            share = max(foretold, 1) / REQUESTS
            spread = (2 * REQUESTS * share * abs(1 - share) + 1) ** 0.5
            assert abs(foretold - seen) <= 3.3 * spread, (label, foretold, seen)
