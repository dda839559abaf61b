"""What several gateways, or several workers, know of each other beside limits: circuits, pauses, load, configs. As
programs of their own, with a real store."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.trio.program_support import read_until, running
from tests.trio.store_support import StoreServer, needs_server, store_server

CHAT = b'{"model": "m"}'


class Provider(ThreadingHTTPServer):
    """Answers with its status, once it may go on."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answering)
        self.status, self.fields = 200, dict[str, str]()
        self.count = 0
        self.go_on = threading.Event()
        self.go_on.set()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Provider)
        self.rfile.read(int(self.headers["Content-Length"]))
        server.count += 1
        status, fields = server.status, server.fields
        server.go_on.wait(30)
        self.send_response(status)
        for name, value in {**fields, "Content-Length": "2"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


class Gateway:
    """A program that has just started."""

    def __init__(self, process, config: Path) -> None:
        self.process, self.config = process, config
        log = read_until(process, "listening on http")
        self.workers = [int(pid) for pid in re.findall(r"is ready, process (\d+)", log)]
        self.port, self.metrics_port = (
            int(re.search(rf"{what} on http://127\.0\.0\.1:(\d+)", log)[1]) for what in ("listening", "metrics")
        )

    def ask(self) -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=40)) as connection:
            connection.request("POST", "/v1/chat/completions", CHAT, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status

    def tells(self, path: str) -> tuple[int, str]:
        """What operators hear."""
        with closing(HTTPConnection("127.0.0.1", self.metrics_port, timeout=40)) as connection:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()

    def provider(self, number: int) -> dict:
        return json.loads(self.tells("/status.json")[1])["pools"][0]["providers"][number]


@pytest.fixture
def providers() -> Iterator[list[Provider]]:
    with Provider() as first, Provider() as second:
        yield [first, second]
        for each in (first, second):
            each.go_on.set()
            each.shutdown()


def config_of(providers: list[Provider], store: StoreServer | None, **pool: object) -> dict:
    state = {"url": store.url, "lease_seconds": 2, **pool.pop("state", {})} if store else None
    fallback = {"enabled": True, "on_status": [429, 5]}
    target = {"strategy": "priority", "fallback": fallback, "providers": [{"url": each.url} for each in providers]}
    return {"targets": {"m": {**target, **pool}}, **({"state": state} if state else {})}


@contextmanager
def gateways(folder: Path, config: dict, number: int, *more: str) -> Iterator[list[Gateway]]:
    """Each with a config file of its own."""
    with ExitStack() as stack:
        started = []
        for each in range(number):
            file = folder / f"config-{each}.json"
            file.write_text(json.dumps(config))
            words = ["serve", "-f", file, "--host", "127.0.0.1", "-p", "0", "--metrics-port", "0", "--no-watch", *more]
            started.append((stack.enter_context(running(*words, seconds=120)), file))
        yield [Gateway(process, file) for process, file in started]


def until(holds: Callable[[], bool]) -> None:
    """It has to, within some seconds."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


HEALTH = {"consecutive_failures": 1, "cooldown_secs": 60}


@needs_server
def test_a_circuit_that_opened_in_another_gateway(tmp_path: Path, providers: list[Provider]) -> None:
    """One gateway finds a provider unwell: the other one leaves it alone before it has tried it even once. When the
    second one fails, too, nobody takes it out: it is the last one."""
    bad, good = providers
    bad.status = 503
    with (
        store_server(tmp_path) as store,
        gateways(tmp_path, config_of(providers, store, health=HEALTH), 2) as (first, second),
    ):
        assert first.ask() == 200
        until(lambda: second.provider(0)["state"] == "open")
        assert [second.ask() for _ in range(3)] == [200] * 3
        assert (bad.count, good.count) == (1, 4)
        good.status = 503
        assert (first.ask(), second.ask()) == (503, 503)
        assert bad.count == 1
        assert [each.provider(1)["state"] != "open" for each in (first, second)] == [True, True]


@needs_server
def test_a_pause_that_another_gateway_was_asked_for(tmp_path: Path, providers: list[Provider]) -> None:
    """`Retry-After` counts for all."""
    busy, other = providers
    busy.status, busy.fields = 429, {"Retry-After": "60"}
    with store_server(tmp_path) as store, gateways(tmp_path, config_of(providers, store), 2) as (first, second):
        assert first.ask() == 200
        until(lambda: second.provider(0)["state"] == "paused")
        assert second.ask() == 200
        assert (busy.count, other.count) == (1, 2)


def test_a_circuit_that_opened_in_another_worker(tmp_path: Path, providers: list[Provider]) -> None:
    """The same between workers: one request finds out for all, whoever gets the next ones."""
    bad, good = providers
    bad.status = 503
    config = config_of(providers, None, health=HEALTH)
    with gateways(tmp_path, config, 1, "--workers", "2") as (gateway,):
        assert gateway.ask() == 200
        metric = 'onwards_circuit_state{alias="m",provider="[^"]*",state="open"} 2.0'
        until(lambda: re.search(metric, gateway.tells("/metrics")[1]) is not None)
        before = bad.count
        assert [gateway.ask() for _ in range(12)] == [200] * 12
        assert (bad.count, good.count) == (before, 13)


@needs_server
def test_load_of_another_gateway(tmp_path: Path, providers: list[Provider]) -> None:
    """One gateway is busy with a provider; with `share_load` the other one, which has nothing under way, sends its
    requests elsewhere."""
    busy, idle = providers
    with ExitStack() as stack:
        store = stack.enter_context(store_server(tmp_path))
        config = config_of(providers, store, strategy="least_connections", state={"share_load": True})
        first, second = stack.enter_context(gateways(tmp_path, config, 2))
        for each in providers:
            each.go_on.clear()
        clients = [threading.Thread(target=first.ask) for _ in range(24)]
        for client in clients:
            client.start()
        until(lambda: busy.count + idle.count == 24)
        assert (busy.count, idle.count) == (12, 12)
        idle.go_on.set()
        until(lambda: load_told(store) == 12)
        calls = calls_of(store)
        until(lambda: calls_of(store) >= calls + 6)  # Both have given signs of life since.
        assert [second.ask() for _ in range(6)] == [200] * 6
        assert (busy.count, idle.count) == (12, 18)
        busy.go_on.set()
        for client in clients:
            client.join()


def test_load_of_another_worker(tmp_path: Path, providers: list[Provider]) -> None:
    """The same between workers, by way of their parent: one of them gets all requests while the other one is stopped,
    and then the other one, which has nothing under way, sends its own elsewhere as well."""
    busy, idle = providers
    config = config_of(providers, None, strategy="least_connections") | {"state": {"share_load": True}}
    with gateways(tmp_path, config, 1, "--workers", "2") as (gateway,):
        for each in providers:
            each.go_on.clear()
        os.kill(gateway.workers[0], signal.SIGSTOP)
        clients = [threading.Thread(target=gateway.ask) for _ in range(24)]
        for client in clients:
            client.start()
        until(lambda: busy.count + idle.count == 24)
        assert (busy.count, idle.count) == (12, 12)
        os.kill(gateway.workers[0], signal.SIGCONT)
        idle.go_on.set()
        calls = trips_of(gateway)
        until(lambda: trips_of(gateway) >= calls + 8)  # Both have given signs of life since.
        assert [gateway.ask() for _ in range(12)] == [200] * 12
        assert (busy.count, idle.count) == (12, 24)
        busy.go_on.set()
        for client in clients:
            client.join()


def trips_of(gateway: Gateway) -> float:
    """How often its workers have asked their store: without limits only for signs of life."""
    return float(re.search(r"^onwards_store_calls_total (.*)$", gateway.tells("/metrics")[1], re.MULTILINE)[1])


def load_told(store: StoreServer) -> int:
    """What the store knows of all load."""
    return sum(int(word) for word in store.ask("HVALS", "{onwards}load").split() if word.isdecimal())


def calls_of(store: StoreServer) -> int:
    """How often the store was asked. Without limits those are signs of life, one at a time."""
    return int(re.search(r"cmdstat_evalsha:calls=(\d+)", store.ask("INFO", "commandstats"))[1])


@needs_server
def test_a_rollout_over_gateways(tmp_path: Path, providers: list[Provider]) -> None:
    """While one gateway has another config than the other two, all say so and stay ready; once all have it nobody says
    anything; who was killed is forgotten when its lease is over."""
    with store_server(tmp_path) as store, gateways(tmp_path, config_of(providers, store), 3) as all_three:
        first = all_three[0]
        until(lambda: all("processes 3" in each.tells("/metrics")[1].replace(".0", "") for each in all_three))
        assert first.tells("/readyz") == (200, "ready\n")
        for number, each in enumerate(all_three):
            each.config.write_text(json.dumps(config_of(providers, store, sanitize_response=True)))
            each.process.send_signal(signal.SIGHUP)
            if number == 2:
                break
            left = 2 - number
            until(
                lambda: all("2 different configs are in force in 3" in each.tells("/readyz")[1] for each in all_three)
            )
            until(lambda left=left: {count for count, _ in told(first)} == {left, 3 - left})
            status, text = first.tells("/readyz")
            assert (status, len(re.findall(r"^[12] with [0-9a-f]{16}: ", text, re.MULTILINE))) == (200, 2)
            assert sum(len(names) for _, names in told(first)) == 3
            assert "Not all processes" in first.tells("/status.json")[1]
            assert "onwards_store_configs 2.0" in first.tells("/metrics")[1]
        until(lambda: all(each.tells("/readyz") == (200, "ready\n") for each in all_three))
        assert told(first) == [(3, [])]
        all_three[2].process.kill()
        until(lambda: told(first) == [(2, [])])


def told(gateway: Gateway) -> list[tuple[int, list[str]]]:
    config = json.loads(gateway.tells("/status.json")[1])["config"]
    return [(each["processes"], each["names"]) for each in config["in_force"]]


def test_a_rollout_over_workers(tmp_path: Path, providers: list[Provider]) -> None:
    """The parent tells for its workers that one of them still has the config from before: it is stopped."""
    with gateways(tmp_path, config_of(providers, None), 1, "--workers", "2") as (gateway,):
        until(lambda: told(gateway) == [(2, [])])
        assert gateway.tells("/readyz") == (200, "ready\n")
        os.kill(gateway.workers[0], signal.SIGSTOP)
        gateway.config.write_text(json.dumps(config_of(providers, None, sanitize_response=True)))
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: "2 different configs are in force in 2" in gateway.tells("/readyz")[1])
        assert gateway.tells("/readyz")[0] == 200
        os.kill(gateway.workers[0], signal.SIGCONT)
        until(lambda: gateway.tells("/readyz") == (200, "ready\n"))
