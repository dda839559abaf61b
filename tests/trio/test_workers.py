"""Several workers behind one port, as operators and clients see them: over real sockets, with real signals."""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from onwards_core import ConfigError
from onwards_trio import Options, serve
from onwards_trio._workers import Parent, backoff
from tests.trio.program_support import read_until, running

REQUESTS = int(os.environ.get("REPLACED_REQUESTS", "0"))
BODY = json.dumps({"model": "m", "messages": []})
CHAT = "/v1/chat/completions"


class Provider(ThreadingHTTPServer):
    """Answers at once, or half, and the rest when it may."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.go_on = threading.Event()
        self.go_on.set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"on")
        self.server.go_on.wait(20)
        self.wfile.write(b"ly")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider
        provider.go_on.set()
        provider.shutdown()


class Program:
    """A running gateway with two workers."""

    def __init__(self, process, config: Path) -> None:
        self.process = process
        self.config = config
        started = read_until(process, "listening on http")
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", started)[1])
        self.metrics_port = int(re.search(r"metrics on http://127\.0\.0\.1:(\d+)", started)[1])
        self.workers = [int(re.search(rf"worker {n} is ready, process (\d+)", started)[1]) for n in (0, 1)]

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self) -> int:
        """The status of one request, on a connection of its own."""
        with closing(self.connect()) as connection:
            return ask_on(connection)

    def scrape(self) -> dict[str, float]:
        text = self.ask_operator("/metrics")[1].decode()
        return {name: float(value) for name, value in re.findall(r"^(\S+) (\S+)$", text, re.MULTILINE)}

    def counted(self) -> float:
        """All requests so far."""
        return sum(value for name, value in self.scrape().items() if name.startswith("onwards_http_requests_total{"))

    def ask_operator(self, path: str) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def reads(self, pattern: str) -> str:
        """What it logs up to there."""
        return read_until(self.process, pattern)

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.stdout.read()
        return self.process.wait()


def ask_on(connection: HTTPConnection) -> int:
    connection.request("POST", CHAT, BODY, {"Content-Type": "application/json"})
    response = connection.getresponse()
    assert response.read() == b"only"
    return response.status


@contextmanager
def gateway(provider: Provider, folder: Path, *arguments: str) -> Iterator[Program]:
    config = folder / "config.json"
    config.write_text(json.dumps({"targets": {"m": {"url": provider.url}}}))
    ports = ("--host", "127.0.0.1", "--port", "0", "--metrics-port", "0")
    seconds = 120 + REQUESTS / 50
    with running("serve", "-f", config, *ports, "--workers", "2", *arguments, seconds=seconds) as process:
        yield Program(process, config)


def test_crashes(provider: Provider, tmp_path: Path) -> None:
    """A worker that is killed is replaced, again and again; the other goes on, and no count that was seen is lost."""
    with gateway(provider, tmp_path) as program:
        assert program.ask_operator("/readyz") == (200, b"ready\n")
        assert [program.ask() for _ in range(10)] == [200] * 10
        assert program.counted() == 10
        os.kill(program.workers[0], signal.SIGKILL)
        assert "SIGKILL; the next one starts in" in program.reads("worker 0 has crashed")
        assert [program.ask() for _ in range(5)] == [200] * 5
        started = program.reads("worker 0 is ready")
        assert program.counted() == 15
        os.kill(int(re.search(r"process (\d+)", started)[1]), signal.SIGKILL)
        program.reads("worker 0 has crashed")
        scraped = program.scrape()
        assert scraped['onwards_worker_exits_total{reason="crashed"}'] == 2
        assert scraped['onwards_workers{state="wanted"}'] == 2
        program.reads("worker 0 is ready")
        assert json.loads(program.ask_operator("/status.json")[1])["processes"] == 2
        assert program.end() == 0


def test_replaced_one_by_one(provider: Provider, tmp_path: Path) -> None:
    """SIGUSR2 replaces all workers while clients use their connections: no request fails, and all are counted. With
    `REPLACED_REQUESTS=100000`, that is wanted each second until there were so many requests."""
    with gateway(provider, tmp_path) as program:
        statuses: list[int] = []
        enough = threading.Event()

        def client() -> None:
            with closing(program.connect()) as connection:
                while not enough.is_set():
                    statuses.append(ask_on(connection))  # It connects again when it was told to.

        def replace_each_second() -> None:
            while not enough.wait(1.0):
                program.process.send_signal(signal.SIGUSR2)

        start = time.monotonic()
        clients = [threading.Thread(target=client) for _ in range(4)]
        for thread in clients:
            thread.start()
        program.process.send_signal(signal.SIGUSR2)
        log = program.reads("worker 1 is ready")
        while log.count("has ended") < 2:
            log += program.reads("has ended")
        if REQUESTS:
            clients.append(threading.Thread(target=replace_each_second))
            clients[-1].start()
        while len(statuses) < REQUESTS:
            log += program.reads("has ended")
        enough.set()
        for thread in clients:
            thread.join()
        assert set(statuses) == {200}
        assert program.counted() == len(statuses)
        replaced = program.scrape()['onwards_worker_exits_total{reason="replaced"}']
        assert replaced == 2 or REQUESTS
        print(f"{len(statuses)} requests in {time.monotonic() - start:.0f} s; {replaced:.0f} workers were replaced")
        assert program.end() == 0


def test_drain(provider: Provider, tmp_path: Path) -> None:
    """SIGTERM lets an answer that is under way come to its end, then all end; operators see it, and that it drains."""
    provider.go_on.clear()
    with gateway(provider, tmp_path) as program, closing(program.connect()) as connection:
        connection.request("POST", CHAT, BODY, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.read(2) == b"on"
        program.process.send_signal(signal.SIGTERM)
        program.reads("draining for at most")
        program.reads("has ended")  # the one that has nothing to do
        assert program.ask_operator("/readyz") == (503, b"draining\n")
        provider.go_on.set()
        assert response.read() == b"ly"
        program.process.stdout.read()
        assert program.process.wait() == 0


def test_second_signal(provider: Provider, tmp_path: Path) -> None:
    """It ends all at once, whatever is under way."""
    provider.go_on.clear()
    with gateway(provider, tmp_path) as program, closing(program.connect()) as connection:
        connection.request("POST", CHAT, BODY, {"Content-Type": "application/json"})
        connection.getresponse()
        program.process.send_signal(signal.SIGTERM)
        program.reads("draining for at most")
        program.process.send_signal(signal.SIGINT)
        program.process.stdout.read()  # until nobody holds it open
        assert program.process.wait() == 0


def test_orphans(provider: Provider, tmp_path: Path) -> None:
    """Workers end when their parent is killed, though an answer is under way."""
    provider.go_on.clear()
    with gateway(provider, tmp_path) as program, closing(program.connect()) as connection:
        connection.request("POST", CHAT, BODY, {"Content-Type": "application/json"})
        connection.getresponse()
        program.process.kill()
        program.process.stdout.read()  # until nobody holds it open


def test_reload(provider: Provider, tmp_path: Path) -> None:
    """SIGHUP puts the file in force in each worker; one with a mistake stays with the parent. In any case it makes
    them open the access log anew."""
    log_file = tmp_path / "access.log"
    with gateway(provider, tmp_path, "--watch", "false", "--access-log", str(log_file)) as program:
        config = json.loads(program.config.read_text())
        program.config.write_text("{")
        log_file.rename(tmp_path / "old.log")
        program.process.send_signal(signal.SIGHUP)
        assert "worker" not in program.reads("config not reloaded")
        while not log_file.exists():
            assert program.process.poll() is None
        config["targets"]["other"] = config["targets"]["m"]
        program.config.write_text(json.dumps(config))
        program.process.send_signal(signal.SIGHUP)
        log = program.reads("worker .: onwards.config: config reloaded, targets: 2")
        log += program.reads("worker .: onwards.config: config reloaded, targets: 2")
        assert "ERROR" not in log
        assert json.loads(program.ask_operator("/status.json")[1])["processes"] == 2
        assert program.end() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="counts the open files of another process")
def test_spread(provider: Provider, tmp_path: Path) -> None:
    """No worker takes nearly all connections."""

    def files() -> list[int]:
        return [len(list(Path(f"/proc/{worker}/fd").iterdir())) for worker in program.workers]

    with gateway(provider, tmp_path) as program:
        before = files()
        connections = [program.connect() for _ in range(40)]
        for connection in connections:
            connection.request("GET", "/v1/models")
            connection.getresponse().read()
        taken = [now - then for now, then in zip(files(), before, strict=True)]
        for connection in connections:
            connection.close()
    assert sum(taken) == 40
    assert min(taken) >= 10


async def test_config_has_to_be_a_file(tmp_path: Path) -> None:
    """Each worker reads it, which a pipe does not allow."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="read again"):
        await serve(Options(tmp_path / "pipe", workers=2))


async def test_readiness(tmp_path: Path) -> None:
    """The gateway is ready when at least half of the workers are."""
    config = tmp_path / "config.json"
    config.write_text('{"targets": {}}')
    parent = Parent(Options(config, workers=3))
    assert parent.unready() == "0 of 3 workers are ready"
    parent.draining = True
    assert parent.unready() == "draining"


def test_backoff() -> None:
    """The first one that crashes is replaced at once; if the next ones do, too, that takes longer and longer."""
    assert [backoff(failures) for failures in (0, 1, 2, 3, 20)] == [0.0, 0.2, 0.4, 0.8, 30.0]
