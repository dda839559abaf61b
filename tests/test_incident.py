"""The staged incident: each thing that operators have at hand names the provider that fails, and shows something."""

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from deploy.monitoring.queries import Metrics
from deploy.monitoring.rules import alerts, recordings
from docs.examples.incident import Incident, prometheus

ROOT = Path(__file__).parent.parent
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "onwards.json").read_text())
DEADLINE = 30.0  # seconds for what takes less than three

# Lines about what did not happen, by their legend.
EMPTY = {"{{instance}} worker {{worker}} is not ready", "{{instance}} {{reason}}"}

needs_prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="prometheus is not installed")


def fetch(url, path, **query):
    with urlopen(f"{url}{path}?{urlencode(query)}", timeout=DEADLINE) as answer:
        return json.load(answer)


class Prometheus:
    def __init__(self, url):
        self.url = url

    def ask(self, expr, **times):
        """The series that an expression gives now, or over a time. What Grafana fills in is filled in."""
        for name, value in {"$__rate_interval": "10s", "$__range": "1m"}.items():
            expr = expr.replace(name, value)
        expr = re.sub(r"\$(job|instance|alias)\b", ".*", expr)
        answer = fetch(self.url, "api/v1/query_range" if times else "api/v1/query", query=expr, **times)
        assert answer["status"] == "success"
        return answer["data"]["result"]

    def wait_for(self, expr):
        """The first answer that is not empty."""
        until = time.monotonic() + DEADLINE
        while not (found := self.ask(expr)):
            assert time.monotonic() < until, f"no data for {expr}"
            time.sleep(0.05)
        return found


@pytest.fixture(scope="module")
def incident(tmp_path_factory):
    """The gateway in the midst of it, after 40 requests before and 80 since; its config can't be reloaded. It has two
    workers, whose limits are shared."""
    with Incident(0, tmp_path_factory.mktemp("incident"), workers=2) as staged:
        yield staged


@pytest.fixture(scope="module")
def scraped(incident):
    """A Prometheus that saw all of it."""
    with prometheus(incident, interval="200ms") as url:
        server = Prometheus(url)
        server.wait_for("onwards_build_info")
        ask(incident, 40)
        server.wait_for("sum(onwards_http_requests_total) == 40")
        incident.begin()
        ask(incident, 80)
        (incident.folder / "config.json").write_text("{")
        server.wait_for("sum(onwards_http_requests_total) == 120")
        server.wait_for("onwards_config_last_reload_ok == 0")
        yield server


def ask(incident, count):
    """So many requests, of eight clients at once."""

    def of(number):
        client = incident.client(number)
        return [client.ask() for _ in range(count // 8)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(of, range(8)))


@needs_prometheus
@pytest.mark.parametrize("panel", [it for it in DASHBOARD["panels"] if it["type"] != "row"], ids=lambda it: it["title"])
def test_each_panel_has_data(scraped, panel):
    """Each of its queries means something to Prometheus, and finds series with the labels that its legend names."""
    now = time.time()
    times = {"start": now - 60, "end": now, "step": 0.5}
    for target in panel["targets"]:
        found = scraped.ask(target["expr"], **({} if target["instant"] else times))
        assert found or target["legendFormat"] in EMPTY, target["expr"]
        named = {label for series in found for label in series["metric"]}
        legend = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        assert legend - {"key", "alias"} <= named or not found, target["expr"]


@needs_prometheus
def test_variables_have_values(scraped):
    """What may be chosen above the panels are the gateways and the models."""
    values = {}
    for variable in DASHBOARD["templating"]["list"]:
        if query := re.fullmatch(r"label_values\((.*), (\w+)\)", variable.get("definition", "")):
            found = scraped.ask(query[1])
            values[variable["name"]] = {series["metric"].get(query[2], "") for series in found} - {""}
    assert values["job"] == {"onwards"}
    assert len(values["instance"]) == 1
    assert values["alias"] == {"chat", "embed"}


@needs_prometheus
def test_rules_are_evaluated(scraped):
    """Prometheus evaluates all rules without an error, and each recorded series is there."""
    for name, _ in recordings(Metrics("onwards")):
        scraped.wait_for(name)
    states = {"": "unknown"}
    while "unknown" in states.values():  # not evaluated yet
        groups = fetch(scraped.url, "api/v1/rules")["data"]["groups"]
        states = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(states.values()) == {"ok"}
    assert {alert.name for alert in alerts(Metrics("onwards"))} <= set(states)


@needs_prometheus
@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "runbooks").glob("*.md")), ids=lambda page: page.stem)
def test_queries_in_runbooks(scraped, page):
    """Each of them means something to Prometheus."""
    for query in re.findall(r"```promql\n(.*?)```", page.read_text(), re.DOTALL):
        scraped.ask(query)


@needs_prometheus
def test_metrics_name_the_culprit(scraped, incident):
    """It is first in what the panel about it shows, and nobody else is in it."""
    [panel] = [it for it in DASHBOARD["panels"] if it["title"] == "Share of attempts that fail, by provider"]
    blamed = {series["metric"]["provider"] for series in scraped.ask(f"{panel['targets'][0]['expr']} > 0")}
    assert blamed == {incident.culprit}


def test_the_status_page_names_the_culprit(incident):
    """Its data call it failing, or left out for failing, in each pool, and nobody else."""
    incident.begin()
    ask(incident, 80)
    pools = fetch(incident.operators, "status.json")["pools"]
    blamed = {it["provider"] for pool in pools for it in pool["providers"] if it["state"] not in {"ok", "idle"}}
    assert blamed == {incident.culprit}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """One whose access log has 80 requests of before, and 80 from the midst of it."""
    with Incident(0, tmp_path_factory.mktemp("logged")) as staged:
        ask(staged, 80)
        staged.begin()
        ask(staged, 80)
        until = time.monotonic() + DEADLINE
        while staged.access_log.read_text().count("\n") < 160:  # written aside
            assert time.monotonic() < until
            time.sleep(0.05)
        yield staged


COMMANDS = [
    pytest.param(command, id=f"{page.stem} {number}")
    for page in sorted((ROOT / "docs").rglob("*.md"))
    for number, command in enumerate(re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE))
    if "access.log" in command
]


def shown(command, folder):
    """What a shell prints for it; no part of it may fail."""
    if "jq" in command and not shutil.which("jq"):
        pytest.skip("jq is not installed")
    bash = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(bash, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), command
    return done.stdout.splitlines()


def test_there_are_commands_for_most_alerts():
    """Each page that has one has a question which the access log answers."""
    assert len({command.id.split()[0] for command in COMMANDS}) >= 10


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_for_the_access_log(logged, command):
    """Each of them, in whatever page, prints something for the log of the incident."""
    *_, last = logged.access_log.read_text().splitlines()
    assert shown(command.replace("8a7d4c…", json.loads(last)["request_id"]), logged.folder)


@pytest.mark.parametrize("way", ["jq", "python3"])
def test_the_access_log_names_the_culprit(logged, way):
    """The commands of the page about it list attempts that failed by provider, all of them the culprit's."""
    page = (ROOT / "docs" / "access-log.md").read_text()
    command = re.search(rf"```sh\n({way} .*?)\n```", page, re.DOTALL)[1]
    lines = shown(command, logged.folder)
    assert {line.split()[1] for line in lines} == {logged.culprit}
    assert "status_503" in {line.split()[2] for line in lines}
    assert way != "jq" or command in (ROOT / "docs" / "incident.md").read_text()


def test_the_script_ends_by_itself():
    """It tells where to look, and in the end who it was."""
    script = ROOT / "docs" / "examples" / "incident.py"
    done = subprocess.run([sys.executable, script, "--seconds", "1"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Status page  http://127.0.0.1:")
    assert re.fullmatch(r"It was (north|east|west)\.", lines[-1])
