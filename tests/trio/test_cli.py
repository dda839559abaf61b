"""The command line: usage, environment, exit codes, and errors in one line each."""

import io
import json
import os
import re
import signal
import socket
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import attrs
import pytest

from onwards_core import ServerConfig
from onwards_core._keys import KeyHasher
from onwards_trio._cli import _innermost, _parser, _problems, main
from tests.trio.program_support import read_until, run, running

CONFIG = {
    "targets": {
        "plain": {"url": "http://127.0.0.1:8000/v1/"},
        "busy/pool": {
            "keys": ["sk-client"],
            "strategy": "priority",
            "rate_limit": {"requests_per_second": 0.2},
            "concurrency_limit": {"max_concurrent_requests": 8},
            "providers": [
                {
                    "url": "https://one.example/api",
                    "onwards_key": "sk-provider",
                    "onwards_model": "big",
                    "rate_limit": {"requests_per_second": 3, "burst_size": 10},
                },
                {"url": "http://[::1]:8001", "weight": 0, "name": "new"},
            ],
        },
        "empty": {"providers": []},
    }
}

TABLE = """\
ALIAS      ACCESS  STRATEGY         LIMITS                     PROVIDER                   MODEL  WEIGHT  PROVIDER LIMITS
plain      open    weighted_random  -                          http://127.0.0.1:8000/v1/  -      1       -
busy/pool  keys    priority         0.2/s, burst 1, 8 at once  https://one.example/api/   big    1       3/s, burst 10
                                                               new (http://[::1]:8001/)   -      0       -
empty      open    weighted_random  -                          (none)
"""


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No setting of whoever runs the tests gets into them."""
    for name in [name for name in os.environ if name.startswith("ONWARDS_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def config_file(tmp_path):
    """Writes a config file and gives its path."""

    def write(content):
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def settings(*arguments):
    """What `serve` would be run with."""
    return vars(_parser().parse_args(["serve", *arguments]))


class TestUsage:
    def test_workers(self):
        """A number, or one for each core that there is; nothing else."""
        assert settings("-f", "x", "--workers", "3")["workers"] == 3
        assert settings("-f", "x", "--workers", "auto")["workers"] >= 1
        for wrong in ("0", "x", "-1", "1001"):
            with pytest.raises(SystemExit):
                settings("-f", "x", "--workers", wrong)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "COMMAND"),
            (["dance"], "dance"),
            (["serve"], "-f/--targets"),
            (["check"], "-f/--targets"),
            (["serve", "-f", "x", "-p", "65536"], "a port from 0 to 65535, got '65536'"),
            (["serve", "-f", "x", "-p", "http"], "a port from 0 to 65535, got 'http'"),
            (["serve", "-f", "x", "--watch", "maybe"], "true or false, got 'maybe'"),
            (["serve", "-f", "x", "--drain-seconds", "-1"], "a number from 0 to inf, got '-1'"),
            (["serve", "-f", "x", "--drain-seconds", "nan"], "a number from 0 to inf, got 'nan'"),
            (["serve", "-f", "x", "--drain-seconds", "soon"], "a number from 0 to inf, got 'soon'"),
            (["serve", "-f", "x", "--log-level", "loud"], "debug, info, warning or error, got 'loud'"),
            (["serve", "-f", "x", "--metrics-prefix", "a-b"], "letters, digits and underscores, got 'a-b'"),
            (["mock-provider", "--fail-rate", "1.5"], "a number from 0 to 1, got '1.5'"),
            (["mock-provider", "--fail-status", "200"], "a status from 400 to 599, got '200'"),
            (["mock-provider", "--tokens-per-second", "0"], "a number from 0.001"),
        ],
    )
    def test_wrong_usage(self, arguments, message, capsys):
        """Wrong usage exits with 2 and says what was expected."""
        with pytest.raises(SystemExit) as exit:
            main(arguments)
        assert exit.value.code == 2
        assert message in capsys.readouterr().err

    def test_version(self, capsys):
        """The version is that of the distribution."""
        with pytest.raises(SystemExit) as exit:
            main(["--version"])
        assert exit.value.code == 0
        assert re.fullmatch(r"onwards \d+\.\d+\.\d+\n", capsys.readouterr().out)

    def test_server_limits(self, capsys):
        """What clients may take up can be said by flags, too, within the same bounds."""
        found = settings("-f", "config.json", "--server-body-bytes", "5", "--server-head-timeout-secs", "0.5")
        assert (found["server_body_bytes"], found["server_head_timeout_secs"]) == (5, 0.5)
        for flag, text in (("--server-json-depth", "501"), ("--server-connections", "x"), ("--server-body-bytes", "0")):
            with pytest.raises(SystemExit):
                main(["serve", "-f", "config.json", flag, text])
            assert f"argument {flag}" in capsys.readouterr().err

    def test_a_metrics_key_that_is_none(self, config_file, monkeypatch, capsys):
        """The error does not show it."""
        monkeypatch.setenv("ONWARDS_METRICS_KEY", "sk-secret\x7f")
        assert main(["serve", "-f", str(config_file(CONFIG))]) == 1
        error = capsys.readouterr().err
        assert error.startswith("onwards: --metrics-key: expected a secret that is free of control characters")
        assert "sk-secret" not in error

    def test_defaults(self):
        """Without any flag: port 3000 everywhere, watching, with metrics on 9090."""
        found = settings("-f", "config.json")
        del found["run"]
        assert found == {
            "targets": Path("config.json"),
            "host": "0.0.0.0",
            "port": 3000,
            "watch": True,
            "metrics": True,
            "metrics_host": "127.0.0.1",
            "metrics_port": 9090,
            "metrics_key": None,
            "metrics_prefix": "onwards",
            "tls_cert": None,
            "tls_key": None,
            "tls_client_ca": None,
            **dict.fromkeys(f"server_{field.name}" for field in attrs.fields(ServerConfig)),
            "access_log": None,
            "record": None,
            "http_codec": None,
            "drain_delay": 0.0,
            "drain_seconds": 30.0,
            "workers": 1,
            "log_format": "auto",
            "log_level": "INFO",
        }

    @pytest.mark.parametrize("name", ["watch", "metrics"])
    @pytest.mark.parametrize(
        ("forms", "expected"),
        [
            (["--{}"], True),
            (["--{}", "true"], True),
            (["--{}", "False"], False),
            (["--no-{}"], False),
            (["--no-{}", "--{}"], True),
            (["--{}", "--no-{}"], False),
        ],
    )
    def test_switches(self, name, forms, expected):
        """A switch takes true or false, or its negation; the last one counts."""
        assert settings("-f", "x", *(form.format(name) for form in forms))[name] is expected

    def test_mock_provider(self):
        """The mock provider's settings, as numbers."""
        arguments = ["--latency", "0.5", "--fail-rate", "0.1", "--fail-status", "429", "--tokens-per-second", "20"]
        found = vars(_parser().parse_args(["mock-provider", *arguments]))
        assert (found["latency"], found["fail_rate"], found["fail_status"]) == (0.5, 0.1, 429)
        assert (found["tokens_per_second"], found["port"], found["seed"]) == (20, 8000, 0)

    def test_short_switches(self):
        """`-w` and `-m` are the short forms."""
        found = settings("-f", "x", "-w", "false", "-m", "false")
        assert (found["watch"], found["metrics"]) == (False, False)


class TestEnvironment:
    @pytest.mark.parametrize(
        ("name", "text", "expected"),
        [
            ("targets", "other.json", Path("other.json")),
            ("host", "127.0.0.1", "127.0.0.1"),
            ("port", "8080", 8080),
            ("watch", "false", False),
            ("metrics", "false", False),
            ("metrics_port", "0", 0),
            ("metrics_prefix", "gateway", "gateway"),
            ("drain_delay", "2.5", 2.5),
            ("drain_seconds", "1.5", 1.5),
            ("log_level", "Debug", "DEBUG"),
        ],
    )
    def test_each_flag_has_a_variable(self, name, text, expected, monkeypatch):
        """Each setting may come from the environment."""
        monkeypatch.setenv("ONWARDS_TARGETS", "config.json")
        monkeypatch.setenv(f"ONWARDS_{name.upper()}", text)
        assert settings()[name] == expected

    def test_command_line_goes_first(self, monkeypatch):
        """A flag counts for more than its variable."""
        monkeypatch.setenv("ONWARDS_PORT", "1")
        monkeypatch.setenv("ONWARDS_WATCH", "false")
        found = settings("-f", "x", "-p", "2", "--watch")
        assert (found["port"], found["watch"]) == (2, True)
        monkeypatch.setenv("ONWARDS_WATCH", "true")
        assert settings("-f", "x", "--no-watch")["watch"] is False

    def test_empty_variable_counts_as_unset(self, monkeypatch):
        """As container tools write variables that nobody set."""
        monkeypatch.setenv("ONWARDS_PORT", "")
        assert settings("-f", "x")["port"] == 3000

    def test_wrong_variable_is_named(self, monkeypatch, capsys):
        """A wrong value says from which variable it came."""
        monkeypatch.setenv("ONWARDS_PORT", "http")
        with pytest.raises(SystemExit) as exit:
            settings("-f", "x")
        assert exit.value.code == 2
        assert "ONWARDS_PORT: expected a port" in capsys.readouterr().err

    def test_variables_of_serve_do_not_disturb_others(self, monkeypatch, capsys):
        """A wrong variable that a subcommand does not read does not matter to it."""
        monkeypatch.setenv("ONWARDS_PORT", "http")
        assert main(["schema"]) == 0
        assert capsys.readouterr().out


class TestCheck:
    def test_table(self, config_file, capsys):
        """A good config is shown, one line for each provider, without any secret."""
        assert main(["check", "-f", str(config_file(CONFIG))]) == 0
        assert capsys.readouterr().out == TABLE

    def test_unknown_field_is_an_error(self, config_file, capsys):
        """What `serve` only warns of fails here."""
        path = config_file({"targets": {"a": {"url": "http://127.0.0.1/", "weigth": 3}}})
        assert main(["check", "-f", str(path)]) == 1
        out, err = capsys.readouterr()
        assert not out
        [line] = err.splitlines()
        assert line.startswith(f"onwards: {path}: ")
        assert "weigth" in line

    def test_every_problem_has_a_line(self, config_file, capsys):
        """All mistakes at once, each with its path."""
        path = config_file({"targets": {"a": {"url": "ftp://x/"}, "b": {"url": "http://x/", "weight": "many"}}})
        assert main(["check", "-f", str(path)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(": ")[:3] for line in lines] == [
            ["onwards", str(path), "targets.a.url"],
            ["onwards", str(path), "targets.b.weight"],
        ]

    @pytest.mark.parametrize("content", ["{", "[]", ""])
    def test_not_a_config(self, content, config_file, capsys):
        """What is no JSON, or no object, is one line."""
        assert main(["check", "-f", str(config_file(content))]) == 1
        assert len(capsys.readouterr().err.splitlines()) == 1

    def test_missing_file(self, tmp_path, capsys):
        """A file that is not there is one line with its name."""
        assert main(["check", "-f", str(tmp_path / "none.json")]) == 1
        assert capsys.readouterr().err == f"onwards: {tmp_path / 'none.json'}: No such file or directory\n"

    def test_missing_secret(self, config_file, monkeypatch, capsys):
        """A variable that is not set is one line with its name."""
        monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
        path = config_file({"targets": {"a": {"url": "http://x/", "onwards_key": "${env:NOT_SET_ANYWHERE}"}}})
        assert main(["check", "-f", str(path)]) == 1
        [line] = capsys.readouterr().err.splitlines()
        assert "NOT_SET_ANYWHERE" in line


def test_schema(capsys):
    """The schema is JSON, and says which dialect it is."""
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")


def test_bugs_are_not_dressed_up():
    """Only what a user can put right is told in a line; anything else keeps its traceback."""
    args = _parser().parse_args(["schema"])
    assert _problems(ValueError("a bug"), args) == []
    busy = OSError(98, "cannot listen")
    assert _innermost(ExceptionGroup("", [ExceptionGroup("", [busy])])) is busy
    several = ExceptionGroup("", [busy, ValueError()])
    assert _innermost(several) is several
    with pytest.raises(ValueError, match="null"):
        main(["check", "-f", "a name that no system allows\0"])


class TestProgram:
    @pytest.fixture
    def busy_port(self):
        """A port that somebody listens on."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            yield server.getsockname()[1]

    def test_serve_on_a_busy_port(self, config_file, busy_port):
        """A taken port is one line and exit code 1."""
        path = config_file(CONFIG)
        ended = run("serve", "-f", path, "--host", "127.0.0.1", "-p", busy_port, "--no-metrics")
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith(f"onwards: cannot listen on 127.0.0.1:{busy_port}: ")
        assert "Traceback" not in ended.stderr

    def test_mock_provider_on_a_busy_port(self, busy_port):
        """The same for the mock provider."""
        ended = run("mock-provider", "-p", busy_port)
        assert ended.returncode == 1
        [line] = ended.stderr.splitlines()
        assert line.startswith(f"onwards: cannot listen on 127.0.0.1:{busy_port}: ")

    def test_serve_with_a_bad_config(self, config_file):
        """Each mistake is a line; exit code 1."""
        path = config_file({"targets": {"a": {"url": "ftp://x/"}, "b": {"url": "http://x/", "weight": -1}}})
        ended = run("serve", "-f", path)
        assert ended.returncode == 1
        assert [line.startswith(f"onwards: {path}: targets.") for line in ended.stderr.splitlines()] == [True, True]

    def test_serve_with_an_unreadable_file(self, tmp_path):
        """A directory is no config file; that is one line."""
        ended = run("serve", ONWARDS_TARGETS=str(tmp_path))
        assert ended.returncode == 1
        assert ended.stderr == f"onwards: {tmp_path}: Is a directory\n"

    def test_interrupted_check(self, tmp_path):
        """Ctrl-C in a check does not look like success, and shows no traceback."""
        pipe = tmp_path / "config.json"
        os.mkfifo(pipe)
        with running("check", "-f", pipe) as process, pipe.open("w"):  # Opens once the program reads it.
            process.send_signal(signal.SIGINT)
            assert process.wait() == 130
            assert not process.stdout.read()

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    def test_serve(self, stop, config_file):
        """The gateway answers, and ends well with a signal."""
        path = config_file(CONFIG)
        with running("serve", "-f", path, "--host", "127.0.0.1", "-p", 0, "--metrics-port", 0) as process:
            url = re.findall(r"http://127\.0\.0\.1:\d+", read_until(process, r"listening on http://"))[-1]
            with urllib.request.urlopen(f"{url}/v1/models", timeout=10) as answer:
                assert [model["id"] for model in json.load(answer)["data"]] == ["plain", "empty"]
            process.send_signal(stop)
            assert "Traceback" not in process.stdout.read()
            assert process.wait() == 0

    @pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
    def test_mock_provider(self, stop):
        """The mock provider prints where it serves, and ends well with a signal."""
        with running("mock-provider", "-p", 0) as process:
            url = read_until(process, "http://").split()[-1]
            with urllib.request.urlopen(f"{url}models", timeout=10) as answer:
                assert json.load(answer)["object"] == "list"
            process.send_signal(stop)
            assert not process.stdout.read()
            assert process.wait() == 0


class TestHashKey:
    @pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
    def test_what_it_prints_stands_for_the_key(self, ending, monkeypatch, capsys):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"sk-alice" + ending)))
        assert main(["hash-key"]) == 0
        hashed = capsys.readouterr().out.strip()
        assert KeyHasher(bytes(16)).configured(hashed) == KeyHasher(bytes(16)).token(b"sk-alice")

    def test_no_key(self, monkeypatch, capsys):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\n")))
        assert main(["hash-key"]) == 1
        assert "no key" in capsys.readouterr().err
