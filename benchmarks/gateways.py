"""What is measured: processes that forward requests to the stub, each alone on one core."""

import asyncio
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.request import urlopen

import attrs
from messages import ALIAS, CLEAN_ALIAS, CLIENT_KEY, HOST, OK, request

HERE = Path(__file__).parent


@attrs.frozen
class Stub:
    """The provider stub's ports."""

    working: tuple[int, int]
    failing: int
    tls: int | None
    authority: Path | None
    """The certificate that its TLS port can be verified by."""


@attrs.frozen
class Running:
    """A process under measurement; None for a direct call."""

    name: str
    port: int
    pid: int | None = None
    log: Path | None = None
    fields: bytes = b""
    """Lines that its requests need to have in their heads."""
    metrics_port: int = 0

    def addressed(self, message: bytes) -> bytes:
        return message.replace(b"\r\n", b"\r\n" + self.fields, 1)

    def cpu_seconds(self) -> float:
        """What its threads and children have used, to the nanosecond. Linux only."""
        return sum(_cpu_nanoseconds(pid) for pid in _family(self.pid)) / 1e9 if self.pid else 0.0

    def metric(self, sample: str) -> float:
        """What its own metrics say: 0 if nothing. sample: a name with its labels."""
        with urlopen(f"http://{HOST}:{self.metrics_port}/metrics", timeout=10) as answer:
            samples = (line.rpartition(" ") for line in answer.read().decode().splitlines())
            return next((float(value) for name, _, value in samples if name == sample), 0.0)

    def memory(self) -> int:
        """Resident bytes."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in _family(self.pid or os.getpid()))
        return pages * os.sysconf("SC_PAGE_SIZE")


def _family(pid: int | None) -> list[int]:
    # A child belongs to the thread that started it.
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(pid or 0), *(int(child) for thread in threads for child in (thread / "children").read_text().split())]


def _cpu_nanoseconds(pid: int) -> int:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Start processes, or stay, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def process(
    command: Sequence[str], *, environment: dict[str, str] | None = None, **settings: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Runs as long as the block does."""
    with subprocess.Popen(command, env={**os.environ, **(environment or {})}, **settings) as started:
        try:
            yield started
        finally:
            started.kill()


@contextmanager
def gateway(
    name: str, port: int, command: Sequence[str], folder: Path, *, environment: dict[str, str] | None = None
) -> Iterator[Running]:
    """A process that will listen on this port; what it prints goes to a file, since some print a lot."""
    log = folder / f"{name}-{port}.log"
    with (
        log.open("w") as output,
        process(command, environment=environment, stdout=output, stderr=subprocess.STDOUT) as started,
    ):
        yield Running(name, port, started.pid, log)


@contextmanager
def stub(certificate: Path | None, authority: Path | None) -> Iterator[Stub]:
    arguments = ["--tls", str(certificate)] if certificate else []
    with process(
        [sys.executable, str(HERE / "stub_provider.py"), *arguments], stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdout
        first, second, failing, *tls = map(int, started.stdout.readline().split())
        yield Stub((first, second), failing, tls[0] if tls else None, authority)


def free_port() -> int:
    """Below those that the system gives to outgoing connections, of which there are thousands: one of them could take
    the port before the gateway does."""
    while True:
        port = random.randrange(10_000, 30_000)
        with suppress(OSError), socket.create_server((HOST, port)):
            return port


async def ready(gateway: Running) -> None:
    """Wait until it forwards requests: some take a while to find out that their providers are there."""
    assert gateway.pid
    assert gateway.log
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_connection(HOST, gateway.port)
                writer.write(gateway.addressed(request(ALIAS)))
                answer = await reader.read(len(OK))
                writer.close()
                if answer == OK:
                    return
            if b") Z " in (Path("/proc") / str(gateway.pid) / "stat").read_bytes():  # ended, and not yet waited for
                raise RuntimeError(f"{gateway.name} ended at its start: {gateway.log.read_text()}")
            await asyncio.sleep(0.005)


async def listening(process: Running) -> None:
    """Wait until it takes connections."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(HOST, process.port)
                writer.close()
                return
            await asyncio.sleep(0.005)


_LIMITS: Mapping[str, Any] = MappingProxyType(
    {
        "rate_limit": {"requests_per_second": 1_000_000, "burst_size": 1_000_000},
        "concurrency_limit": {"max_concurrent_requests": 100_000},
    }
)


def config(
    stub: Stub,
    *,
    tls: bool = False,
    failing_first: bool = False,
    aliases: int = 0,
    keys: int = 0,
    elsewhere: int = 0,
    limits: Mapping[str, Any] = _LIMITS,
    store: Running | None = None,
) -> str:
    """A real one: a key with limits, a pool with limits, weighted providers with credentials and models, fallback.

    aliases, keys, elsewhere: how many aliases, keys, and providers of another pool there are beside those in use.
    limits: of the pool; the key has ample ones if it has any. store: where these are; None: in the process, or the
    parent of several.
    """
    urls = [f"http://{HOST}:{port}/v1/" for port in stub.working]
    if tls:
        urls = [f"https://{HOST}:{stub.tls}/v1/"]
    if failing_first:
        urls = [f"http://{HOST}:{stub.failing}/v1/", *urls]
    providers = [
        {
            "url": url,
            "onwards_key": f"sk-provider-{number}",
            "onwards_model": "stub-model",
            "weight": len(urls) - number,
        }
        for number, url in enumerate(urls)
    ]
    pool = {
        "keys": ["alice"],
        "providers": providers,
        "strategy": "priority" if failing_first else "weighted_random",
        "fallback": {"enabled": True, "on_status": [429, 5], "on_rate_limit": True},
        **limits,
    }
    others = {f"alias-{number}": pool for number in range(aliases)}
    if elsewhere:
        others["elsewhere"] = {**pool, "providers": [{"url": f"http://{HOST}:1/{n}"} for n in range(elsewhere)]}
    return json.dumps(
        {
            **({"state": {"url": f"redis://{HOST}:{store.port}"}} if store else {}),
            "http_pool": {"max_idle_per_host": 1000},  # as nginx here; with 100, 1,000 clients have it reconnect
            "auth": {
                "global_keys": [f"sk-{number}" for number in range(keys)],
                "key_definitions": {"alice": {"key": CLIENT_KEY, **(_LIMITS if limits else {})}},
            },
            "targets": {ALIAS: pool, CLEAN_ALIAS: {**pool, "sanitize_response": True}, **others},
        }
    )


@contextmanager
def onwards(
    stub: Stub,
    folder: Path,
    *,
    options: Sequence[str] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
    **settings: Any,
) -> Iterator[Running]:
    """The gateway itself; `options` are for its command line, `settings` for `config`."""
    port = free_port()
    file = folder / f"onwards-{port}.json"
    file.write_text(config(stub, **settings))
    command = [sys.executable, "-m", "onwards_trio", "serve", "-f", str(file), "--host", HOST, "--port", str(port)]
    metrics_port = free_port()
    command += ["--metrics-port", str(metrics_port), "--log-level", "warning", *options]
    trusted = {"SSL_CERT_FILE": str(stub.authority)} if stub.authority else {}
    with gateway("onwards", port, command, folder, environment={**trusted, **environment}) as running:
        yield attrs.evolve(running, metrics_port=metrics_port)


@contextmanager
def limits_store(folder: Path) -> Iterator[Running]:
    """Redis, or Valkey where that is installed, which keeps nothing on the disk."""
    port = free_port()
    program = str(find("valkey-server") or find("redis-server"))
    command = [program, "--bind", HOST, "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with gateway("limits-store", port, command, folder) as running:
        yield running


def scripts_run(store: Running) -> tuple[int, int]:
    """How many calls it has carried out, and the microseconds that these took. Each is a script."""
    with socket.create_connection((HOST, store.port), timeout=10) as client, client.makefile("rb") as lines:
        client.sendall(b"INFO commandstats\r\n")
        size = int(lines.readline()[1:])
        found = re.search(rb"cmdstat_evalsha:calls=(\d+),usec=(\d+)", lines.read(size))
    return (int(found[1]), int(found[2])) if found else (0, 0)


@contextmanager
def collector() -> Iterator[str]:
    """Where traces may be sent: takes all, and looks at nothing. Its URL."""

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the name is http.server's
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Taking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{HOST}:{server.server_address[1]}"
        server.shutdown()


_NGINX = """
daemon off; master_process off; error_log stderr error; pid {folder}/nginx.pid; worker_rlimit_nofile 30000;
events {{ worker_connections 15000; }}
http {{
    access_log off; client_body_buffer_size 1m; client_max_body_size 0; keepalive_requests 1000000000;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    upstream stub {{
        server {host}:{first} weight=2; server {host}:{second};
        keepalive 1000; keepalive_requests 1000000000;
    }}
    server {{
        listen {host}:{port} backlog=2048;
        location / {{
            proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering {buffering};
        }}
    }}
}}
"""


@contextmanager
def nginx(stub: Stub, folder: Path, *, buffering: bool = True) -> Iterator[Running]:
    """A reverse proxy that looks into nothing: the least that forwarding can cost."""
    port = free_port()
    own = folder / f"nginx-{port}"
    own.mkdir()
    file = own / "nginx.conf"
    first, second = stub.working
    buffers = "on" if buffering else "off"
    file.write_text(_NGINX.format(folder=own, host=HOST, first=first, second=second, port=port, buffering=buffers))
    with gateway("nginx", port, [str(find("nginx")), "-c", str(file), "-p", str(own)], own) as running:
        yield running


_HAPROXY = """
global
    nbthread 1
    maxconn {most}
defaults
    mode http
    timeout connect 10s
    timeout client 300s
    timeout server 300s
    http-reuse always
frontend in
    bind {host}:{port}
    default_backend stub
backend stub
    balance roundrobin
    server first {host}:{first} weight 2
    server second {host}:{second} weight 1
"""


@contextmanager
def haproxy(stub: Stub, folder: Path) -> Iterator[Running]:
    """Another reverse proxy that looks into nothing."""
    port = free_port()
    file = folder / "haproxy.cfg"
    # It wants two files for each connection, and some for itself, before it starts.
    most = min(20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2 - 100)
    first, second = stub.working
    file.write_text(_HAPROXY.format(host=HOST, port=port, first=first, second=second, most=most))
    with gateway("haproxy", port, [str(find("haproxy")), "-f", str(file)], folder) as running:
        yield running


@contextmanager
def vllm_router(stub: Stub, folder: Path) -> Iterator[Running]:
    """A router in Rust, in front of the same two providers, with neither keys nor limits."""
    port = free_port()
    workers = [f"http://{HOST}:{worker}" for worker in stub.working]
    command = [str(find("vllm-router")), "--host", HOST, "--port", str(port), "--worker-urls", *workers]
    command += ["--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(free_port())]
    with gateway("vllm-router", port, command, folder) as running:
        yield running


@contextmanager
def sglang_router(stub: Stub, folder: Path) -> Iterator[Running]:
    """Another router in Rust, in the same place."""
    port = free_port()
    workers = [f"http://{HOST}:{worker}" for worker in stub.working]
    command = [str(find("sglang-router")), "launch", "--host", HOST, "--port", str(port), "--worker-urls", *workers]
    command += ["--policy", "round_robin", "--log-level", "error"]
    command += ["--prometheus-host", HOST, "--prometheus-port", str(free_port())]
    with gateway("sglang-router", port, command, folder) as running:
        yield running


@contextmanager
def litellm(stub: Stub, folder: Path) -> Iterator[Running]:
    """A proxy in Python, with one key, one model of two deployments, and no limits."""
    port = free_port()
    file = folder / "litellm.json"  # JSON is YAML
    deployments = [
        {
            "model_name": ALIAS,
            "litellm_params": {"model": "openai/stub-model", "api_base": f"http://{HOST}:{worker}/v1", "api_key": "x"},
        }
        for worker in stub.working
    ]
    general = {"master_key": CLIENT_KEY, "dangerously_permit_weak_or_unset_master_key": True}
    file.write_text(json.dumps({"model_list": deployments, "general_settings": general}))
    command = [str(find("litellm")), "--config", str(file), "--host", HOST, "--port", str(port), "--num_workers", "1"]
    offline = {"LITELLM_TELEMETRY": "False", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with gateway("litellm", port, command, folder, environment=offline) as running:
        yield running


@contextmanager
def portkey(stub: Stub, folder: Path) -> Iterator[Running]:
    """A gateway on Node, which each request tells by its head where to go: here to one of the providers."""
    port = free_port()
    with gateway("portkey", port, [str(find("portkey")), "--headless", f"--port={port}"], folder) as running:
        target = f"x-portkey-provider: openai\r\nx-portkey-custom-host: http://{HOST}:{stub.working[0]}/v1\r\n"
        yield attrs.evolve(running, fields=target.encode())


PEERS: dict[str, Callable[..., AbstractContextManager[Running]]] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "vllm-router": vllm_router,
    "sglang-router": sglang_router,
    "litellm": litellm,
    "portkey": portkey,
}
SLOW: Final = frozenset(("litellm", "portkey"))
"""Peers that take milliseconds for a request. They are measured as they publish it themselves: see `overhead`."""


def find(program: str) -> Path | None:
    """Where a peer is installed: on the path, or in its environment below `peers/`."""
    own = HERE / "peers" / program / "bin" / program
    places = [str(own) if own.exists() else None, shutil.which(program), shutil.which(program, path="/usr/sbin")]
    return next((Path(place) for place in places if place), None)
