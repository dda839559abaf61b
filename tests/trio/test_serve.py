"""The program as its operator sees it: where it listens, what a signal does, what it logs."""

import json
import logging
import math
import re
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
import trio

from onwards_core import Attempt, ConfigError, Record
from onwards_trio import Options, serve
from onwards_trio._log import log_record
from onwards_trio._serve import _room_for_connections
from tests.trio.program_support import read_until, running

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nContent-Length: 13\r\n\r\n" + b'{"model":"m"}'


class StalledProvider:
    """Takes one connection and answers when it's told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(20)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def accept(self) -> None:
        """Returns when a request has arrived."""
        self._connection, _ = self._listener.accept()
        self._connection.settimeout(20)
        assert self._connection.recv(65536)

    def answer(self) -> None:
        self._connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def left(self) -> bool:
        """Waits until the gateway has closed the connection."""
        return self._connection.recv(1) == b""

    def close(self) -> None:
        self._connection.close()
        self._listener.close()


@pytest.fixture
def provider() -> Iterator[StalledProvider]:
    stalled = StalledProvider()
    yield stalled
    stalled.close()


class Program:
    """A running gateway."""

    def __init__(self, process, config: Path) -> None:
        self.process = process
        self.config = config
        started = read_until(process, "listening on http")
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", started)[1])
        metrics = re.search(r"metrics on http://127\.0\.0\.1:(\d+)", started)
        self.metrics_port = int(metrics[1]) if metrics else None

    def get(self, path: str, *, port: int | None = None) -> tuple[int, bytes]:
        """Status and body."""
        with closing(HTTPConnection("127.0.0.1", port or self.port, timeout=20)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def ask_operator(self, path: str) -> tuple[int, bytes]:
        return self.get(path, port=self.metrics_port)

    def models(self) -> list[str]:
        return [model["id"] for model in json.loads(self.get("/v1/models")[1])["data"]]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Its exit code, and what it still said."""
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


@contextmanager
def program(tmp_path: Path, *arguments: str, url: str = "http://127.0.0.1:9/") -> Iterator[Program]:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"targets": {"m": {"url": url}}}))
    flags = ["--host", "127.0.0.1", "-p", "0", "--metrics-port", "0", *arguments]
    with running("serve", "-f", config, *flags) as process:
        yield Program(process, config)


def test_serves_and_counts(tmp_path: Path) -> None:
    """The gateway, its metrics and its health, each on the port that the log names."""
    with program(tmp_path, "--metrics-prefix", "own") as run:
        assert run.models() == ["m"]
        assert run.ask_operator("/healthz")[0] == 200
        assert run.ask_operator("/readyz")[0] == 200
        metrics = run.ask_operator("/metrics")[1]
        assert b'own_http_requests_total{endpoint="/v1/models",method="GET",status="200"} 1.0\n' in metrics


def test_leaves_out_what_is_not_wanted(tmp_path: Path) -> None:
    """Without metrics there is no second port, and without watching only the signal reloads."""
    with program(tmp_path, "--no-metrics", "--no-watch") as run:
        assert run.metrics_port is None
        run.config.write_text('{"targets": {"new": {"url": "http://127.0.0.1:9/"}}}')
        assert run.models() == ["m"]
        run.stop(signal.SIGHUP)
        read_until(run.process, "reloaded")
        assert run.models() == ["new"]


def test_watches_its_config(tmp_path: Path) -> None:
    """A change takes effect by itself."""
    with program(tmp_path) as run:
        run.config.write_text('{"targets": {"new": {"url": "http://127.0.0.1:9/"}}}')
        read_until(run.process, "reloaded")
        assert run.models() == ["new"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nothing_is_under_way(number: signal.Signals, tmp_path: Path) -> None:
    """Exit code 0, and no traceback, also with an idle client."""
    with program(tmp_path) as run, run.connect() as idle:
        run.stop(number)
        assert idle.recv(1) == b""
        code, output = run.ended()
        assert code == 0
        assert "Traceback" not in output


def test_drains(tmp_path: Path, provider: StalledProvider) -> None:
    """A request under way gets its answer; meanwhile nobody can connect, and the readiness check says so."""
    with program(tmp_path, url=provider.url) as run, run.connect() as client:
        client.sendall(POST)
        provider.accept()
        run.stop(signal.SIGTERM)
        read_until(run.process, "draining")
        assert run.ask_operator("/readyz")[0] == 503
        assert run.ask_operator("/healthz")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            run.connect()
        provider.answer()
        answer = client.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer.lower()
        assert answer.endswith(b"\r\n\r\nok")
        assert run.ended()[0] == 0


def test_a_second_signal_ends_it(tmp_path: Path, provider: StalledProvider) -> None:
    """It waits no longer; client and provider see their connections closed."""
    with program(tmp_path, url=provider.url) as run, run.connect() as client:
        client.sendall(POST)
        provider.accept()
        run.stop(signal.SIGTERM)
        read_until(run.process, "draining")
        run.stop(signal.SIGTERM)
        assert client.recv(1) == b""
        assert provider.left()
        assert run.ended()[0] == 0


def test_goes_on_while_load_balancers_take_notice(tmp_path: Path) -> None:
    """`--drain-delay`: it is not ready any more, but serves who comes nevertheless."""
    with program(tmp_path, "--drain-delay", "60") as run:
        run.stop(signal.SIGTERM)
        read_until(run.process, "draining")
        assert run.ask_operator("/readyz")[0] == 503
        assert run.models() == ["m"]
        run.stop(signal.SIGTERM)
        assert run.ended()[0] == 0


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_out_of_files(tmp_path: Path, provider: StalledProvider) -> None:
    """Who has a connection is told that it is the gateway's fault; when there are files again, all is well."""
    with program(tmp_path, url=provider.url) as run, run.connect() as client:
        assert run.ask_operator("/healthz")[0] == 200
        _, most = resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (1, most))
        client.sendall(POST)
        assert client.recv(65536).startswith(b"HTTP/1.1 503 ")
        with run.connect() as waiting:
            assert "EMFILE" in read_until(run.process, "trio.serve_listeners")
            resource.prlimit(run.process.pid, resource.RLIMIT_NOFILE, (most, most))
            waiting.sendall(POST)
            provider.accept()
            provider.answer()
            assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(("most", "room"), [(1024, 480), (70, 3), (10, 1), (resource.RLIM_INFINITY, math.inf)])
def test_takes_no_more_connections_than_there_are_files(
    monkeypatch: pytest.MonkeyPatch, most: int, room: float
) -> None:
    """Half of the files that the system allows at most, less some: each client may need a connection to a provider."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, most))
    taken: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: taken.append(limits))
    assert _room_for_connections() == room
    assert taken == ([(most, most)] if room < math.inf else [])


def test_waits_no_longer_than_it_is_told(tmp_path: Path, provider: StalledProvider) -> None:
    """`--drain-seconds 0`: what is under way is cut."""
    with program(tmp_path, "--drain-seconds", "0", url=provider.url) as run, run.connect() as client:
        client.sendall(POST)
        provider.accept()
        run.stop(signal.SIGTERM)
        assert client.recv(1) == b""
        assert provider.left()
        assert run.ended()[0] == 0


def test_a_client_that_leaves_frees_the_provider(tmp_path: Path, provider: StalledProvider) -> None:
    """Its request is cancelled over real sockets, too."""
    with program(tmp_path, url=provider.url) as run:
        with run.connect() as client:
            client.sendall(POST)
            provider.accept()
        assert provider.left()


async def test_a_taken_metrics_port_is_an_error(tmp_path: Path) -> None:
    """It says which, and leaves no other listener behind."""
    config = tmp_path / "config.json"
    config.write_text('{"targets": {}}')
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        options = Options(config, host="127.0.0.1", port=0, metrics_host="127.0.0.1", metrics_port=port)
        with pytest.raises(OSError, match=f":{port}: "):
            await serve(options)


async def test_a_wrong_config_is_an_error(tmp_path: Path) -> None:
    """It comes out as what it is, before anything listens."""
    config = tmp_path / "config.json"
    config.write_text('{"targets": 1}')
    with pytest.raises(ConfigError):
        await serve(Options(config))
    with pytest.raises(FileNotFoundError):
        await serve(Options(tmp_path / "missing"))


async def test_runs_inside_another_program(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`serve` needs no process of its own: it returns when it's drained."""
    config = tmp_path / "config.json"
    config.write_text('{"targets": {}}')
    caplog.set_level(logging.INFO, "onwards")
    options = Options(config, host="127.0.0.1", port=0, metrics_host="127.0.0.1", metrics_port=0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, options)
        while "listening on http://127.0.0.1:" not in caplog.text:
            await trio.lowlevel.checkpoint()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)


def a_record(status: int | None, *outcomes: str) -> Record:
    attempts = [Attempt(f"p#{number}", 1.0, 1.5, outcome) for number, outcome in enumerate(outcomes, start=1)]
    return Record("POST", b"/x", 1.0, alias="m", key="team", attempts=attempts, status=status, ended=2.25, outcome="ok")


@pytest.mark.parametrize(
    ("record", "level", "attempts"),
    [
        (a_record(200, "connect", "ok"), logging.DEBUG, "p#1:connect,p#2:ok"),
        (a_record(502, "connect", "reset"), logging.WARNING, "p#1:connect,p#2:reset"),
        (a_record(503, "status_503"), logging.WARNING, "p#1:status_503"),
        (a_record(429, "refused_locally"), logging.DEBUG, "p#1:refused_locally"),
        (a_record(503), logging.DEBUG, "None"),
        (a_record(None, "connect"), logging.DEBUG, "p#1:connect"),
    ],
)
def test_one_line_for_each_request(record: Record, level: int, attempts: str, caplog: pytest.LogCaptureFixture) -> None:
    """At debug level, and as a warning when all providers failed."""
    caplog.set_level(logging.DEBUG, "onwards")
    log_record(record)
    (line,) = caplog.records
    assert line.levelno == level
    assert line.getMessage() == (f"alias=m key=team status={record.status} outcome=ok attempts={attempts} ms=1250.0")


def test_a_quiet_log_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """At another level, the line is not even put together."""
    caplog.set_level(logging.INFO, "onwards")
    log_record(a_record(200, "ok"))
    assert caplog.records == []


def test_limits_by_flags(tmp_path: Path) -> None:
    """A flag is stronger than the config, also after a reload."""
    with program(tmp_path, "--server-body-bytes", "5", "--no-watch") as running_program:
        for _ in range(2):
            with closing(HTTPConnection("127.0.0.1", running_program.port, timeout=20)) as connection:
                connection.request("POST", "/v1/chat/completions", b"123456")
                assert connection.getresponse().status == 413
            running_program.stop(signal.SIGHUP)
            read_until(running_program.process, "config reloaded")
