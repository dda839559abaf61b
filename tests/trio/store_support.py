"""Real servers for limits that are shared: Redis or Valkey, one of them or a cluster of three."""

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SERVER = shutil.which("valkey-server") or shutil.which("redis-server")
needs_server = pytest.mark.skipif(SERVER is None, reason="neither valkey-server nor redis-server is installed")


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

    def __init__(self, folder: Path, *options: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._options = options
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        fixed = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self.process = subprocess.Popen(
            [SERVER, "--port", str(self.port), *fixed, *self._options], stdout=subprocess.DEVNULL
        )
        self.ask("PING")

    def ask(self, *words: str) -> str:
        """What the server answers, first line only; waits until it is there."""
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    client.sendall(b"".join(f"{word}\r\n".encode() for word in [" ".join(words)]))
                    return client.recv(65536).decode().partition("\r\n")[0]
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError("the server does not come up")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def store_server(folder: Path, *options: str) -> Iterator[StoreServer]:
    server = StoreServer(folder, *options)
    try:
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def store_cluster(folder: Path) -> Iterator[list[StoreServer]]:
    """Three servers that have a third of all slots each."""
    with contextlib.ExitStack() as stack:
        servers = []
        for number in range(3):
            own = folder / str(number)
            own.mkdir()
            servers.append(stack.enter_context(store_server(own, "--cluster-enabled", "yes")))
        bounds = [0, 5461, 10922, 16384]
        for server, first, end in zip(servers, bounds, bounds[1:], strict=False):
            assert server.ask("CLUSTER", "ADDSLOTSRANGE", str(first), str(end - 1)) == "+OK"
        for number, server in enumerate(servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in servers[1:]:
            servers[0].ask("CLUSTER", "MEET", "127.0.0.1", str(server.port))
        for server in servers:
            for _ in range(500):
                with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                    client.sendall(b"CLUSTER INFO\r\n")
                    text = client.recv(65536)
                if b"cluster_state:ok" in text and b"cluster_known_nodes:3" in text:
                    break
                time.sleep(0.02)
            else:
                raise AssertionError(f"the cluster does not come up: {text!r}")
        yield servers
