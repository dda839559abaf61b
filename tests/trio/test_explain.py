"""What would happen: `explain`, and `--simulate` on a virtual clock."""

import json
import re
from pathlib import Path
from random import Random

import pytest

from onwards_core import Snapshot, load_config
from onwards_trio._cli import main
from onwards_trio._explain import places
from onwards_trio._simulate import Behaviour, Plan, simulate
from onwards_trio._stand_in import request, understood_outcome
from tests.core.test_strategies import weighted_order

PAGE = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
CONFIG = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def told(tmp_path, capsys):
    """What the command prints for a config, by default that of the page."""

    def run(*arguments, config=CONFIG, exit_code=0):
        (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        assert main(["explain", "-f", str(tmp_path / "config.json"), *arguments]) == exit_code
        captured = capsys.readouterr()
        return captured.out if exit_code == 0 else captured.err

    return run


def test_the_page(told):
    """Its examples are what the program says."""
    commands = re.findall(r"```sh\nonwards explain -f config.json (.*?)\n```", PAGE)
    texts = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    assert [told(*command.split()) for command in commands] == texts


def steps(*arguments, told, **options):
    return [step["what"] for step in json.loads(told(*arguments, "--json", **options))["steps"]]


def test_refusals(told):
    """A missing or wrong key and an unknown alias are told as the client would be."""
    assert steps("--model", "gpt-4", told=told) == [
        "the client gets an answer of the gateway's own: 401 unauthenticated"
    ]
    assert "403 forbidden" in steps("--model", "gpt-4", "--key", "sk-x", told=told)[0]
    assert "404 model_not_found" in steps("--model", "none", told=told)[0]


def test_rules(told):
    """A key's labels, or those that it is to stand in for, lead where the rules say."""
    text = told("--model", "gpt-4", "--key", "sk-alice", "--label", "tier=low")
    assert "rule       redirects to cheap" in text
    assert "cheap.example is tried: ok" in text
    answer = json.loads(told("--model", "gpt-4", "--label", "tier=low", "--json"))
    assert (answer["alias"], answer["status"]) == ("cheap", 200)


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        ("503", "the client gets p's answer: 503"),
        ("404", "the client gets p's answer: 404"),
        ("connect", "the client gets an answer of the gateway's own: 502 bad_gateway"),
        ("timeout", "the client gets an answer of the gateway's own: 504 gateway_timeout"),
    ],
)
def test_failures(told, outcome, end):
    """What the last failure leads to is told."""
    config = {"targets": {"m": {"url": "http://p"}}}
    assert steps("--model", "m", "--fail", f"p={outcome}", told=told, config=config)[-1] == end


@pytest.mark.parametrize("sanitized", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_endpoints(told, path, sanitized):
    """Each of OpenAI's endpoints can be asked for, also in strict mode."""
    config = {"strict_mode": sanitized, "targets": {"m": {"url": "http://p"}}}
    whole = "the client gets p's answer, rebuilt: 200" if sanitized else "the client gets p's answer: 200"
    assert steps("--model", "m", "--path", path, told=told, config=config) == ["p is tried: ok", whole]


def test_what_is_left_out(told):
    """Providers at their own limits are told of; a strategy that goes by what happened says so."""
    providers = [{"url": "http://a", "rate_limit": {"requests_per_second": 0.001}}, {"url": "http://b"}]
    fallback = {"enabled": True, "on_rate_limit": True, "on_status": [5], "max_attempts": 4}
    pool = {"providers": providers, "strategy": "round_robin", "fallback": fallback}
    text = told("--model", "m", "--fail", "a=503", "--fail", "b=503", config={"targets": {"m": pool}})
    assert "that depends" in text
    assert "a is passed over: refused_locally" in text


def test_wrong_usage(told, capsys):
    """Unknown providers, outcomes and behaviours are told."""
    key = ("--model", "gpt-4", "--key", "sk-alice")
    assert "gpt-4 has no provider z; it has a.example, b.example" in told(*key, "--fail", "z=503", exit_code=1)
    behaviour, fails = ("--provider", "a.example=fail:1"), ("--fail", "a.example=503")
    assert "--provider is for --simulate" in told(*key, *behaviour, exit_code=1)
    assert "--fail is for one request" in told(*key, *fails, "--simulate", "5", exit_code=1)
    assert "nothing to simulate" in told("--model", "gpt-4", "--simulate", "5", exit_code=1)
    for wrong in (
        ("--fail", "a.example"),
        ("--fail", "a.example=9"),
        ("--provider", "a.example=speed:1"),
        ("--provider", "a.example=latency"),
        ("--provider", "a.example=fail:2"),
        ("--simulate", "0"),
        ("--simulate", "x"),
    ):
        with pytest.raises(SystemExit):
            told(*key, *wrong)
        assert "error: argument" in capsys.readouterr().err


def test_places():
    """The probabilities of each place are those that drawing has."""
    raw = json.dumps(
        {
            "targets": {
                "m": {"providers": [{"url": f"http://{n}", "weight": w} for n, w in (("a", 1), ("b", 3), ("c", 0))]}
            }
        }
    )
    pool = Snapshot.compile(load_config(raw.encode()), hash_key=bytes(16)).pools["m"]
    random, draws = Random(1), 20_000
    orders = [list(weighted_order(pool.weights, random)) for _ in range(draws)]
    for index, shares in enumerate(places(pool)):
        for place, share in enumerate(shares):
            seen = sum(order[place] == index for order in orders) / draws
            assert abs(seen - share) < 0.015


def test_no_folder_to_record_in(tmp_path, capsys):
    """`serve --record` needs one that is there."""
    assert main(["serve", "-f", "config.json", "--record", str(tmp_path / "none")]) == 1
    assert "none: no folder to keep incidents in" in capsys.readouterr().err


# --simulate


def simulated(targets, requests=1000, rate=50.0, **behaviours):
    raw = json.dumps({"targets": targets}).encode()
    snapshot = Snapshot.compile(load_config(raw), hash_key=bytes(16))
    plan = Plan(requests, rate, 1, behaviours)
    return simulate(snapshot, "m", plan, lambda number: request("/v1/chat/completions", "m", number=number))


def pool(*names, **settings):
    return {"m": {"providers": [{"url": f"http://{name}"} for name in names], **settings}}


FALLBACK = {"fallback": {"enabled": True, "on_status": [429, 5]}}


def test_a_simulation_is_the_same_each_time():
    """Nothing but the seed decides."""
    runs = [simulated(pool("a", "b", **FALLBACK), a=Behaviour(latency=0.1, fail=0.3)).as_json() for _ in range(2)]
    assert runs[0] == runs[1]


def test_limits_hold_on_the_virtual_clock():
    """A rate lets through what it says, and a concurrency limit what fits beside what is under way."""
    limited = pool("a", rate_limit={"requests_per_second": 10, "burst_size": 5})
    outcome = simulated(limited, requests=1000, rate=100.0)
    assert abs(outcome.answered - (5 + 10 * outcome.seconds)) < 3
    assert outcome.refused[429] == 1000 - outcome.answered
    busy = pool("a", concurrency_limit={"max_concurrent_requests": 1})
    outcome = simulated(busy, rate=100.0, a=Behaviour(duration=0.1))
    assert outcome.answered <= outcome.seconds / 0.1 + 1


def test_failures_cost_attempts_and_time():
    """What fallback hides is to be seen in attempts and in time."""
    outcome = simulated(
        pool("a", "b", strategy="priority", **FALLBACK), a=Behaviour(latency=0.2, fail=0.25), b=Behaviour(latency=0.1)
    )
    told = outcome.as_json()
    assert outcome.answered == 1000
    assert abs(outcome.providers["a"].failed - 250) < 60
    assert told["attempts_per_request"] == 1 + outcome.providers["a"].failed / 1000
    assert told["added_seconds"] == {"median": 0.0, "p99": pytest.approx(0.2)}


def test_a_provider_that_dies():
    """With `health`, a dead provider costs as many attempts as its threshold and the trials, and no client an error."""
    health = {"consecutive_failures": 5, "cooldown_secs": 10}
    outcome = simulated(pool("a", "b", health=health, **FALLBACK), rate=20.0, a=Behaviour(fail=1.0, status="connect"))
    assert outcome.answered == 1000
    assert outcome.providers["a"].failed <= 5 + outcome.seconds / 10


@pytest.mark.parametrize("status", ["connect_timeout", "head_timeout", "reset", "empty", "embedded_503", "protocol"])
def test_every_way_to_fail(status):
    """Each can be simulated, streams included."""
    targets = pool("a", "b", sanitize_response=True, request_timeout_secs=5, **FALLBACK)
    outcome = simulated(
        targets, requests=50, a=Behaviour(fail=1.0, status=status), b=Behaviour(latency=0.1, concurrency=1)
    )
    assert outcome.providers["a"].failed == outcome.providers["a"].attempts > 0
    assert outcome.answered + outcome.failed.total() == 50


def test_a_slow_provider_meets_its_timeout():
    """As it would in earnest."""
    outcome = simulated(pool("a", request_timeout_secs=0.5), requests=20, a=Behaviour(latency=0.6))
    assert outcome.failed == {504: 20}


def test_waits_take_virtual_time():
    """Backoff is waited for, and longer for later retries."""
    fallback = {**FALLBACK["fallback"], "max_attempts": 3, "backoff": {"initial_ms": 100, "jitter": "none"}}
    outcome = simulated(pool("a", fallback=fallback), requests=20, rate=1.0, a=Behaviour(fail=1.0))
    assert outcome.failed == {503: 20}
    assert outcome.seconds > 0.3
    assert outcome.providers["a"].attempts == 60


def test_streams():
    """Event streams are simulated, too, up to their commit point and beyond."""
    raw = json.dumps({"targets": pool("a", "b", timeouts={"first_content": 5}, **FALLBACK)}).encode()
    snapshot = Snapshot.compile(load_config(raw), hash_key=bytes(16))
    behaviours = {"a": Behaviour(fail=0.5, status="embedded_429")}
    outcome = simulate(
        snapshot,
        "m",
        Plan(100, 10.0, 1, behaviours),
        lambda n: request("/v1/chat/completions", "m", stream=True, number=n),
    )
    assert outcome.answered == 100
    assert 0 < outcome.providers["a"].failed < 60


def test_outcomes():
    """What an attempt may come to is checked."""
    assert understood_outcome("timeout") == "head_timeout"
    for text in ("199", "600", "x", "embedded_", "too_large"):
        with pytest.raises(ValueError, match="expected ok"):
            understood_outcome(text)
