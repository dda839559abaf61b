"""Several gateways, as processes of their own, with their limits in one Redis or Valkey: never more than the limit."""

import itertools
import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

import pytest

from tests.trio.program_support import end
from tests.trio.store_support import StoreServer, needs_server, store_server

pytestmark = needs_server

RATE, BURST, AT_ONCE = 40, 10, 6
LEASE = 2.0
JITTER = 0.06
"""Seconds between the store's word and the provider's counting it: what a call may take, and a loaded machine."""


class CountingProvider(ThreadingHTTPServer):
    """Notes when requests come and how many are under way, by their alias."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.came: list[float] = []
        self.under_way = self.most = 0

    def handle_error(self, request, client_address) -> None:
        """A gateway that is killed resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, CountingProvider)
        self.rfile.read(int(self.headers["content-length"]))
        held = self.path.startswith("/held")
        with server.lock:
            if held:
                server.under_way += 1
                server.most = max(server.most, server.under_way)
            else:
                server.came.append(time.monotonic())
        if held:
            time.sleep(0.05)
            with server.lock:
                server.under_way -= 1
        with suppress(OSError):
            self.send_response(200)
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


class GatewayProcess:
    """One gateway; it can be killed, stopped and continued."""

    def __init__(self, config) -> None:
        words = [sys.executable, "-m", "onwards_trio", "serve", "-f", str(config), "-p", "0", "--host", "127.0.0.1"]
        self.process = subprocess.Popen([*words, "--no-metrics"], stderr=subprocess.PIPE, text=True)
        self.log = ""
        self.port = 0
        for line in self.process.stderr:
            self.log += line
            if "listening on" in line:
                self.port = int(line.rsplit(":", 1)[1])
                break
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log += line

    def end(self) -> None:
        end(self.process)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()


class Load:
    """Clients that ask for more than is allowed, of whichever gateway there is."""

    def __init__(self, gateways: list[GatewayProcess]) -> None:
        self.gateways = gateways
        self.statuses: dict[int, int] = {}
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number, alias))
            for number in range(5)
            for alias in ("rate", "held")
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int, alias: str) -> None:
        body = json.dumps({"model": alias})
        for turn in itertools.count(number):
            if self._over.is_set():
                return
            gateway = self.gateways[turn % len(self.gateways)]
            client = HTTPConnection("127.0.0.1", gateway.port, timeout=0.5)
            with suppress(OSError, HTTPException):
                client.request("POST", f"/{alias}", body, {"content-type": "application/json"})
                status = client.getresponse().status
                self.statuses[status] = self.statuses.get(status, 0) + 1
            client.close()
            self._over.wait(0.005)


@contextmanager
def fleet(folder, store: StoreServer):
    with ExitStack() as stack:
        provider = stack.enter_context(CountingProvider())
        thread = threading.Thread(target=provider.serve_forever, args=(0.05,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(provider.shutdown)
        url = f"http://127.0.0.1:{provider.server_address[1]}"
        config = folder / "config.json"
        targets = {
            "rate": {"rate_limit": {"requests_per_second": RATE, "burst_size": BURST}},
            "held": {"concurrency_limit": {"max_concurrent_requests": AT_ONCE}},
        }
        for target in targets.values():
            target["providers"] = [{"url": url}]
        config.write_text(json.dumps({"targets": targets, "state": {"url": store.url, "lease_seconds": LEASE}}))
        gateways: list[GatewayProcess] = []
        stack.callback(lambda: [gateway.end() for gateway in gateways])
        gateways += [GatewayProcess(config) for _ in range(3)]
        yield provider, gateways, config


def most_beyond(came: list[float]) -> float:
    """By how many requests the rate was exceeded in the worst stretch of time."""
    worst = level = 0.0
    last = None
    for at in sorted(came):
        level = max(0.0, level - RATE * (at - last)) if last is not None else 0.0
        level += 1
        last = at
        worst = max(worst, level)
    return worst - BURST


def store_is_stopped(store, gateways, config):
    store.process.send_signal(signal.SIGSTOP)
    time.sleep(1.0)
    store.process.send_signal(signal.SIGCONT)


def store_is_paused(store, gateways, config):
    store.ask("CLIENT", "PAUSE", "700", "ALL")
    time.sleep(0.7)


def connections_are_reset(store, gateways, config):
    store.ask("CLIENT", "KILL", "TYPE", "normal")


def gateway_is_killed(store, gateways, config):
    gateways[0].kill()
    gateways[0] = GatewayProcess(config)


def gateway_is_stopped(store, gateways, config):
    gateways[1].process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE + 0.5)
    gateways[1].process.send_signal(signal.SIGCONT)


FAULTS = [store_is_stopped, store_is_paused, connections_are_reset, gateway_is_killed, gateway_is_stopped]


@pytest.mark.parametrize("seed", [1])
def test_never_more_than_the_limit_whatever_fails(tmp_path, seed):
    """Counted at the provider, over three gateways and while each of the faults comes: neither rate nor concurrency
    is ever exceeded, and requests are let through again afterwards."""
    order = random.Random(seed).sample(FAULTS, len(FAULTS))
    with store_server(tmp_path) as store, fleet(tmp_path, store) as (provider, gateways, config):
        with Load(gateways) as load:
            time.sleep(0.5)
            for fault in order:
                fault(store, gateways, config)
                time.sleep(0.4)
            time.sleep(1.0)
            before = len(provider.came)
            deadline = time.monotonic() + 20
            while len(provider.came) < before + RATE and time.monotonic() < deadline:
                time.sleep(0.05)
        print(order, load.statuses, most_beyond(provider.came), provider.most)
        assert most_beyond(provider.came) <= RATE * JITTER + 1
        assert provider.most <= AT_ONCE
        assert len(provider.came) >= before + RATE
        assert load.statuses[429]  # or the load would not have shown anything


def test_a_store_that_comes_back_empty(tmp_path):
    """Permits that are out stay counted though the store has forgotten them; each gateway says so once in its log."""
    with store_server(tmp_path) as store, fleet(tmp_path, store) as (provider, gateways, _):
        with Load(gateways):
            time.sleep(0.5)
            store.kill()
            time.sleep(0.3)
            store.start()
            time.sleep(3.0)
        assert provider.most <= AT_ONCE
        for gateway in gateways:
            assert gateway.log.count("can't be reached") == gateway.log.count("is back") > 0
