"""Holds `deploy/` to what can be checked without a cluster: schemas, rules of thumb, and the program itself."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from dockerfile_parse import DockerfileParser

from onwards_core import load_config
from onwards_trio._cli import _parser
from tests.trio.program_support import read_until, running
from tests.trio.store_support import SERVER, free_port

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "onwards"
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(text):
    """The objects of a manifest by kind, those of Valkey by `Valkey` and kind; the config in its map as what it is."""
    found = {}
    for document in filter(None, yaml.safe_load_all(text)):
        of_valkey = document["metadata"]["name"].endswith("-valkey")
        found[f"Valkey {document['kind']}" if of_valkey else document["kind"]] = document
    if config_map := found.get("ConfigMap"):
        config_map["data"]["config.json"] = json.loads(config_map["data"]["config.json"])
    return found


# The part of Helm's template language that the chart uses


def render(values, release="onwards"):
    """What `helm template RELEASE` gives. Raises for anything but fields, five functions, `if` and `if not`."""
    texts = (file.read_text() for file in sorted((CHART / "templates").glob("*.yaml")))
    return "---\n".join(_render(text, {"Values": values, "Release": {"Name": release}}) for text in texts)


def _render(text, fields):
    blocks = r"(?:^|\n)\{\{- if ([^}]*) \}\}(.*?)\n\{\{- end \}\}"
    text = re.sub(blocks, lambda it: it[2] if _value(it[1], fields) else "", text, flags=re.DOTALL)
    return re.sub(r"\{\{ (.*?) \}\}", lambda it: str(_value(it[1], fields)), text)


def _value(pipeline, fields):
    first, *functions = pipeline.split(" | ")
    if first.startswith("not "):
        return not _value(first[4:], fields)
    if merged := re.fullmatch(r'merge \(dict "state" \(dict "url" "(.+)"\)\) (\S+)', first):
        value = _value(merged[2], fields)
        value = {**value, "state": {**value.get("state", {}), "url": merged[1]}}
    elif added := re.fullmatch(r"add (\S+) (\d+)", first):
        value = _value(added[1], fields) + int(added[2])
    else:
        value = fields
        for name in first.removeprefix(".").split("."):
            value = value[name]
    for function in functions:
        value = {"toJson": json.dumps, "toString": str}[function](value)
    return value


def default_values(**changed):
    return {**yaml.safe_load((CHART / "values.yaml").read_text()), **changed}


IN_FLIGHT = default_values(autoscaling={"cpu": 70, "inFlight": 100})
WITH_VALKEY = default_values(valkey={**default_values()["valkey"], "enabled": True})


class TestChart:
    def test_the_manifests_are_what_it_renders(self):
        """Who has no Helm gets what those with it do."""
        assert documents((DEPLOY / "kubernetes" / "onwards.yaml").read_text()) == documents(render(default_values()))
        with_valkey = (DEPLOY / "kubernetes" / "onwards-valkey.yaml").read_text()
        assert documents(with_valkey) == documents(render(WITH_VALKEY))
        [autoscaler] = documents((DEPLOY / "kubernetes" / "autoscaler-in-flight.yaml").read_text()).values()
        assert autoscaler == documents(render(IN_FLIGHT))["HorizontalPodAutoscaler"]

    def test_each_value_has_an_effect(self):
        """No value in values.yaml goes unread."""
        text = "".join(file.read_text() for file in (CHART / "templates").glob("*.yaml"))
        values = default_values()
        assert set(re.findall(r"\.Values\.(\w+)", text)) == set(values)
        for group in ("autoscaling", "valkey"):
            assert set(re.findall(rf"\.Values\.{group}\.(\w+)", text)) == set(values[group])

    def test_names(self):
        """Two releases of it share no object and no label."""
        one, other = (documents(render(WITH_VALKEY, release)) for release in ("one", "other"))
        for kind, document in one.items():
            assert document["metadata"]["name"] != other[kind]["metadata"]["name"]
            assert document["metadata"]["labels"] != other[kind]["metadata"]["labels"]

    @pytest.mark.skipif(not shutil.which("helm"), reason="helm is not installed")
    @pytest.mark.parametrize(
        ("changed", "values"),
        [
            ("image=registry.example/onwards:0.1.0", default_values()),
            ("autoscaling.inFlight=100", IN_FLIGHT),
            ("valkey.enabled=true", WITH_VALKEY),
        ],
    )
    def test_helm_renders_the_same(self, changed, values):
        """Helm itself agrees with what these tests read templates by, and its linter has nothing against them."""
        subprocess.run(["helm", "lint", "--strict", CHART], check=True, capture_output=True)
        done = subprocess.run(
            ["helm", "template", "onwards", CHART, "--kube-version", "1.30", "--set", changed],
            check=True,
            capture_output=True,
            text=True,
        )
        assert documents(done.stdout) == documents(render(values))


OBJECTS = documents(render(IN_FLIGHT, "some-name"))


class TestKubernetes:
    @pytest.fixture
    def pod(self):
        return OBJECTS["Deployment"]["spec"]["template"]["spec"]

    @pytest.fixture
    def container(self, pod):
        [container] = pod["containers"]
        return container

    @pytest.mark.parametrize("version", ["1.30", "1.37"])
    def test_schemas(self, version):
        """Each object is valid, without unknown fields, in the oldest version for the chart and in a new one."""
        texts = [render(IN_FLIGHT), render(WITH_VALKEY), *(file.read_text() for file in MANIFESTS)]
        for document in filter(None, (document for text in texts for document in yaml.safe_load_all(text))):
            kubernetes_validate.validate(document, version, strict=True)

    def test_labels_lead_to_the_pods(self):
        """Service, disruption budget, network policy and deployment select the pods, the autoscaler the deployment."""
        spec = {kind: document["spec"] for kind, document in OBJECTS.items() if "spec" in document}
        labels = spec["Deployment"]["template"]["metadata"]["labels"]
        assert spec["Service"]["selector"] == labels
        assert spec["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
        assert spec["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
        assert spec["Deployment"]["selector"]["matchLabels"] == labels
        target = spec["HorizontalPodAutoscaler"]["scaleTargetRef"]
        assert target["name"] == OBJECTS["Deployment"]["metadata"]["name"]

    def test_the_restricted_standard(self, pod, container):
        """What the Pod Security Standard `restricted` asks for; and a root file system that can't be written."""
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
        assert not pod["automountServiceAccountToken"]
        assert {kind for volume in pod["volumes"] for kind in volume} == {"name", "configMap", "secret"}

    def test_ports_and_probes(self, container, monkeypatch):
        """The program listens where probes, service and policies expect it, at an address outside of its own host."""
        for entry in container.get("env", ()):
            monkeypatch.setenv(entry["name"], entry["value"])
        options = _parser().parse_args(container["args"])
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"http": options.port, "metrics": options.metrics_port}
        assert options.metrics
        assert getattr(options, "metrics_host", options.host) == "0.0.0.0"
        probes = [container[name]["httpGet"] for name in ("livenessProbe", "readinessProbe")]
        assert probes == [{"path": "/healthz", "port": "metrics"}, {"path": "/readyz", "port": "metrics"}]
        assert {port["targetPort"] for port in OBJECTS["Service"]["spec"]["ports"]} == set(ports)
        rules = OBJECTS["NetworkPolicy"]["spec"]["ingress"]
        assert {port["port"] for rule in rules for port in rule["ports"]} == set(ports)

    def test_no_setting_comes_from_elsewhere(self, pod):
        """Kubernetes does not set variables like ONWARDS_PORT, which the program would take for its own."""
        assert pod["enableServiceLinks"] is False

    def test_the_drain_fits(self, pod, container):
        """The pod is not killed before preStop and the drain are over."""
        options = _parser().parse_args(container["args"])
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod["terminationGracePeriodSeconds"] >= pause + options.drain_seconds + 5

    def test_the_config(self, pod, container):
        """It loads without a warning, and its secrets are where the pod has them mounted."""
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert not any("subPath" in mount for mount in mounts.values())
        options = _parser().parse_args(container["args"])
        assert options.targets.parent == Path(mounts["config"]["mountPath"])
        data = OBJECTS["ConfigMap"]["data"]
        assert options.targets.name in data
        paths = []
        config = load_config(
            json.dumps(data["config.json"]).encode(), lambda kind, name: paths.append((kind, name)) or "secret"
        )
        assert config.warnings == ()
        assert {(kind, str(Path(name).parent)) for kind, name in paths} == {("file", mounts["secrets"]["mountPath"])}
        memory = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 1024**3
        assert config.server.body_memory_bytes * 2 < memory


SHARED = documents(render(WITH_VALKEY, "some-name"))


class TestValkey:
    @pytest.fixture
    def container(self):
        [container] = SHARED["Valkey Deployment"]["spec"]["template"]["spec"]["containers"]
        return container

    def test_the_restricted_standard(self, container):
        """It is held to what the gateway is."""
        pod, own = (SHARED[kind]["spec"]["template"]["spec"] for kind in ("Valkey Deployment", "Deployment"))
        for name in ("securityContext", "automountServiceAccountToken", "enableServiceLinks"):
            assert pod[name] == own[name]
        assert container["securityContext"] == own["containers"][0]["securityContext"]
        assert {kind for volume in pod["volumes"] for kind in volume} == {"name", "secret"}

    def test_only_gateways_reach_it(self, container):
        """Service and policies name its pods and its port; it calls nobody."""
        labels = SHARED["Valkey Deployment"]["spec"]["template"]["metadata"]["labels"]
        gateways = SHARED["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert labels != gateways
        assert SHARED["Valkey Deployment"]["spec"]["selector"]["matchLabels"] == labels
        assert SHARED["Valkey Service"]["spec"]["selector"] == labels
        policy = SHARED["Valkey NetworkPolicy"]["spec"]
        assert policy["podSelector"]["matchLabels"] == labels
        assert policy["ingress"] == [
            {"ports": [{"port": "valkey"}], "from": [{"podSelector": {"matchLabels": gateways}}]}
        ]
        assert "egress" not in policy
        assert "Egress" in policy["policyTypes"]
        [port] = container["ports"]
        assert {"ports": [{"port": port["containerPort"]}], "to": [{"podSelector": {"matchLabels": labels}}]} in SHARED[
            "NetworkPolicy"
        ]["spec"]["egress"]

    def test_the_config(self):
        """It loads without a warning, and the store's URL is where the gateway has it mounted."""
        [container] = SHARED["Deployment"]["spec"]["template"]["spec"]["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        raw = SHARED["ConfigMap"]["data"]["config.json"]
        secrets = {f"{mounts['valkey']}/url": "redis://:secret@some-name-valkey:6379"}
        config = load_config(json.dumps(raw).encode(), lambda _, name: secrets.get(name, "secret"))
        assert config.warnings == ()
        assert config.state.url.reveal() == next(iter(secrets.values()))

    @pytest.mark.skipif(SERVER is None, reason="neither valkey-server nor redis-server is installed")
    def test_its_command(self, container, tmp_path):
        """The very command starts a server that asks for the secret's password, which is not on its command line."""
        (tmp_path / "password").write_text("a $ecret\n")
        port = free_port()
        shell, option, script = container["command"]
        script = script.replace("/run/secrets/valkey", str(tmp_path)).replace("valkey-server", str(SERVER))
        command = [shell, option, script.replace("6379", str(port))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
            try:
                next(line for line in server.stdout if "Ready to accept connections" in line)
                assert "ecret" not in Path(f"/proc/{server.pid}/cmdline").read_text()
                with socket.create_connection(("127.0.0.1", port)) as client, client.makefile("rb") as answers:
                    client.sendall(b'PING\r\nAUTH "a $ecret"\r\nPING\r\n')
                    assert answers.readline().startswith(b"-NOAUTH")
                    assert [answers.readline(), answers.readline()] == [b"+OK\r\n", b"+PONG\r\n"]
            finally:
                server.kill()


CONTAINERFILE = DockerfileParser(fileobj=BytesIO((DEPLOY / "Containerfile").read_bytes())).structure
STEPS = [(step["instruction"], step["value"]) for step in CONTAINERFILE if step["instruction"] != "COMMENT"]


def last(instruction):
    return [value for name, value in STEPS if name == instruction][-1]


class TestContainer:
    def test_it_copies_what_there_is(self):
        """Each file that it takes from the project exists, and the package can be built from them."""
        copied = [value.split() for name, value in STEPS if name == "COPY" and not value.startswith("--from")]
        sources = {source for *sources, _ in copied for source in sources}
        assert all((ROOT / source).exists() for source in sources)
        assert {"pyproject.toml", "README.md", "LICENSE", "src", "requirements/redis.txt"} == sources

    def test_it_installs_with_hashes(self):
        """Nothing is installed but what the lock file names, and the project itself."""
        installs = [part for name, value in STEPS if name == "RUN" for part in value.split("&&") if "install " in part]
        locked, own, removed = (" ".join(part.split()) for part in installs)
        assert "--require-hashes --only-binary :all: -r requirements/redis.txt" in locked
        assert "--no-deps --no-build-isolation ." in own
        assert " uninstall " in removed

    def test_what_it_runs_as(self):
        """Not as root, from a tag that names its version, and both stages from the same image."""
        assert last("USER") == "65532:65532"
        images = {value.partition(" ")[0] for name, value in STEPS if name == "FROM"}
        assert images == {"${PYTHON}"}
        assert re.fullmatch(r"PYTHON=python:3\.\d+-slim-[a-z]+", last("ARG"))

    def test_its_command(self):
        """It is a command line of the program, and the ports are those on which it listens."""
        assert json.loads(last("ENTRYPOINT")) == ["onwards"]
        options = _parser().parse_args(json.loads(last("CMD")))
        assert last("EXPOSE") == f"{options.port} {options.metrics_port}"

    def test_its_health_check(self, tmp_path):
        """The very command succeeds while the program lives, and fails when nothing listens."""
        command = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
        (tmp_path / "config.json").write_text('{"targets": {}}')
        with running("serve", "-f", tmp_path / "config.json", "-p", "0", "--metrics-port", "0") as program:
            url = re.search(r"metrics.*?:(\d+)", read_until(program, "metrics"))
            check = [sys.executable, *command[1:]]
            check[-1] = check[-1].replace(":9090/", f":{url[1]}/")
            assert check[-1] != command[-1]
            assert subprocess.run(check, check=False, capture_output=True).returncode == 0
        assert subprocess.run(check, check=False, capture_output=True).returncode != 0


UNIT = (DEPLOY / "systemd" / "onwards.service").read_text()
SETTINGS = dict(re.findall(r"^(\w+)=(.*)$", UNIT, re.MULTILINE))


class TestSystemd:
    def test_its_command_and_the_drain(self):
        """It is a command line of the program, and systemd waits until the drain is over."""
        program, *words = SETTINGS["ExecStart"].split()
        assert program == "/opt/onwards/bin/onwards"
        assert int(SETTINGS["TimeoutStopSec"]) >= _parser().parse_args(words).drain_seconds + 5

    @pytest.fixture
    def unit(self, tmp_path):
        """The unit, with a program that exists here."""
        path = tmp_path / "onwards.service"
        path.write_text(UNIT.replace("/opt/onwards/bin/onwards", sys.executable))
        return path

    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
    def test_systemd_reads_it(self, unit):
        """systemd knows each setting."""
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
    def test_its_sandbox(self, unit):
        """systemd's own rating of the exposure, from 0 to 10, is at most 1.5."""
        command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", unit]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "SYSTEMD_COLORS": "0"}
        )
        assert done.returncode == 0, done.stdout[-500:] + done.stderr
