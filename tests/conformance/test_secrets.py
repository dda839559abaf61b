"""No secret shows up in anything that the gateway says, whatever happens to it.

For the Trio gateway only: the asyncio example logs nothing but the core's own errors, which are the same.
"""

import gzip
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import REFUSED, Gateway, Process
from tests.conformance.support.program import Program
from tests.conformance.support.provider import JSON, Provider
from tests.conformance.support.wire import BrokenOff, Fields, Message

# Part of every secret here, in whichever form it might be quoted: no encoding of it changes these letters.
_MARK = "PLANTED"


def _secret(place: str) -> str:
    return f"sk-{_MARK}-{place}"


def _planted(provider: Provider, unreachable: Provider, proxy: Provider, folder: Path) -> dict[str, Any]:
    """A config that holds a secret wherever it can."""
    (folder / "secret").write_text(_secret("file") + "\n")
    return {
        "auth": {
            "global_keys": [_secret("global"), "${env:SECRET_GLOBAL}"],
            "key_definitions": {
                "alice": {"key": _secret("definition"), "rate_limit": {"requests_per_second": 1e9}},
                "carol": {"key": _secret("rated"), "rate_limit": {"requests_per_second": 0.001}},
                "bob": {"key": "${env:SECRET_DEFINITION}", "concurrency_limit": {"max_concurrent_requests": 1}},
            },
        },
        "targets": {
            "single": {
                "url": provider.url,
                "onwards_key": _secret("single"),
                "onwards_model": "inner",
                "keys": [_secret("target"), "alice", "bob", "carol"],
            },
            "list": [{"url": provider.url, "onwards_key": "${env:SECRET_UPSTREAM}", "keys": [_secret("list")]}],
            "pool": {
                "strategy": "priority",
                "keys": [_secret("pool"), "${file:secret}"],
                "sanitize_response": True,
                "fallback": {"enabled": True, "on_status": [5]},
                "providers": [
                    {"url": unreachable.url, "onwards_key": _secret("first")},
                    {
                        "url": provider.url,
                        "onwards_key": "${file:secret}",
                        "upstream_auth_header_name": "x-secret",
                        "upstream_auth_header_prefix": f"{_MARK} ",
                    },
                ],
            },
            "proxied": {
                "url": provider.url,
                "onwards_key": _secret("proxied"),
                "proxy": f"http://user:{_MARK}@127.0.0.1:{proxy.port}",
            },
            "dead": {"url": unreachable.url, "onwards_key": _secret("dead")},
        },
    }


_ENVIRONMENT = {f"SECRET_{name}": _secret(f"env-{name}") for name in ("GLOBAL", "DEFINITION", "UPSTREAM")}
_ENVIRONMENT["SECRET_WITH_NEWLINE"] = _secret("newline") + "\r\nx: y"
_ENVIRONMENT["ONWARDS_METRICS_KEY"] = _secret("operators")
_ENVIRONMENT["OTEL_EXPORTER_OTLP_HEADERS"] = f"authorization={_secret('collector')}"


_STATUS = ("/", "/status.json", "/status/events")


class _Collector(ThreadingHTTPServer):
    """Takes traces, and keeps all of what it got."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.got: list[bytes] = []


class _Taking(BaseHTTPRequestHandler):
    server: _Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        assert self.headers["authorization"] == _secret("collector")
        self.server.got.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _collecting() -> Iterator[_Collector]:
    with _Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join()


class _Witness:
    """Keeps all that clients are told."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.heard: list[Message] = []

    def ask(self, alias: str, key: str | None = None, **options: Any) -> Message:
        answer = self.gateway.ask(alias, key=key, path=f"/v1/chat/completions?key={_MARK}", **options)
        self.heard.append(answer)
        return answer

    def assert_nothing_said(self) -> None:
        for answer in self.heard:
            assert _MARK not in repr(answer)
        port = int(self.gateway.process.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)")[1])
        open_metrics = [("Accept", "application/openmetrics-text")]
        for path, accepted in (("/metrics", []), ("/metrics", open_metrics), *((path, []) for path in _STATUS)):
            operator = Client(port)
            operator.request(None, method="GET", path=path, key=_secret("operators"), fields=accepted)
            assert operator.head().start.endswith("200 OK")
            told = operator.read_body() if path != "/status/events" else operator.read_some()
            assert b"onwards" in told or told.startswith((b"{", b"data: {"))
            assert _MARK.encode() not in told
            operator.close()
        assert _MARK not in self.gateway.process.output


@pytest.fixture
def unreachable() -> Iterator[Provider]:
    with Provider() as provider:
        provider.stop_listening()
        yield provider


def _go_wrong(process: Process) -> None:
    """So that there is something to tell of, whichever cases follow."""
    with Provider() as provider, Gateway(process) as gateway:
        provider.stop_listening()
        gateway.configure({"single": {"url": provider.url, "onwards_key": _secret("single"), "keys": [_secret("own")]}})
        assert gateway.ask("single", key=_secret("own"), text=_MARK).status == 502


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One for all cases, with all on that it can tell things by: what it says in one of them is looked at in all that
    follow."""
    folder = tmp_path_factory.mktemp("secrets")
    log, kept = folder / "access.log", folder / "kept"
    kept.mkdir()
    options = "--no-watch", f"--access-log={log}", f"--record={kept}"
    with _collecting() as collector:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
        with Process("trio", folder, {"targets": {}}, *options, env=_ENVIRONMENT | where) as process:
            _go_wrong(process)
            yield process
    assert "alias=single" in process.output
    assert '"alias":"single"' in log.read_text()
    assert b"single" in b"".join(collector.got)
    incidents = list(kept.iterdir())
    assert incidents
    for said in (process.output.encode(), log.read_bytes(), *collector.got, *(each.read_bytes() for each in incidents)):
        assert _MARK.encode() not in said


@pytest.fixture
def witness(process: Process, provider: Provider, second: Provider, unreachable: Provider) -> Iterator[_Witness]:
    process.reload(_planted(provider, unreachable, second, process.config.parent))
    with Gateway(process) as gateway:
        witness = _Witness(gateway)
        yield witness
        witness.assert_nothing_said()


_CLIENTS_OWN: Fields = [("Cookie", f"session={_MARK}"), ("X-Other", _MARK), ("User-Agent", _MARK)]


def test_requests(witness: _Witness, provider: Provider) -> None:
    """Not when requests succeed: with each kind of key, to each kind of target."""
    ways = [
        ("single", "target", "single"),
        ("single", "definition", "single"),
        ("single", "env-DEFINITION", "single"),
        ("single", "global", "single"),
        ("single", "env-GLOBAL", "single"),
        ("list", "list", "env-UPSTREAM"),
        ("pool", "pool", "file"),
        ("pool", "file", "file"),
    ]
    for alias, key, upstream in ways:
        client = witness.gateway.connect()
        client.request(alias, key=_secret(key), fields=_CLIENTS_OWN, text=_MARK)
        call = provider.call()
        assert any(_secret(upstream) in value for _, value in call.head.fields)
        call.respond(200, b'{"choices": []}')
        answer = client.answer()
        assert answer.status == 200
        witness.heard.append(answer)


def test_prompts_and_answers(witness: _Witness, provider: Provider) -> None:
    """Not what clients ask and models answer, plain and streamed, whether the answer is whole, broken or an error."""
    question = [{"role": "user", "content": f"{_MARK}?"}]
    spoken = {"choices": [{"index": 0, "delta": {"content": _MARK}, "message": {"content": _MARK}}], "id": _MARK}
    event = f"data: {json.dumps(spoken)}\n\n".encode()
    for alias, key in (("single", "target"), ("pool", "pool")):
        for stream in (False, True):
            client = witness.gateway.connect()
            client.request(alias, key=_secret(key), messages=question, stream=stream, user=_MARK)
            call = provider.call()
            if stream:
                call.start()
                call.send_chunk(event)
                call.finish()
            else:
                call.respond(200, json.dumps(spoken).encode(), [JSON, ("x-other", _MARK)])
            answer = client.answer()
            assert answer.status == 200
            assert _MARK.encode() in answer.body
        client.request(alias, key=_secret(key), messages=question, stream=True)
        call = provider.call()
        call.start()
        call.send_chunk(event)
        client.head()
        call.close()
        with pytest.raises(BrokenOff):
            client.read_body()
        client = witness.gateway.connect()
        client.request(alias, key=_secret(key), messages=question)
        provider.call().respond(500, f'{{"error": {{"message": "{_MARK}", "code": "{_MARK}"}}}}'.encode(), [JSON])
        assert client.answer().status == 500


def test_refusals(witness: _Witness) -> None:
    """Not when requests are refused, for whatever reason."""
    key = _secret("definition")
    assert witness.ask("single").status == 401
    assert witness.ask("single", key=_secret("wrong"), fields=_CLIENTS_OWN).status == 403
    assert witness.ask(f"{_MARK}-unknown", key=key).status == 404
    assert witness.ask("x", body=f'{{"model": "{_MARK}"'.encode()).status == 400
    assert witness.ask("x", body=b'{"model": 1}', fields=_CLIENTS_OWN).status == 400
    for request in (f"GET /{_MARK} HTTP/9\r\n\r\n", f"{_MARK}\r\n\r\n", f"GET / HTTP/1.1\r\nX: {_MARK}\x00\r\n\r\n"):
        client = witness.gateway.connect()
        client.send(request.encode())
        answer = client.answer()
        assert answer.status == 400
        witness.heard.append(answer)


def test_limits(witness: _Witness, provider: Provider) -> None:
    """Not when a key is at its limits."""
    witness.gateway.through(provider, "single", key=_secret("rated"))
    assert witness.ask("single", key=_secret("rated")).status == 429


@pytest.mark.parametrize(
    "raw",
    [
        f"{_MARK} is no HTTP\r\n\r\n",
        f"HTTP/1.1 200 OK\r\nX-{_MARK}: a\x00b\r\n\r\n",
        f"HTTP/1.1 200 {_MARK}\nX: {_MARK}\n\n",
        f"HTTP/1.1 200 OK\r\nContent-Length: {_MARK}\r\n\r\n",
        "",
    ],
)
def test_failures_of_providers(witness: _Witness, provider: Provider, raw: str) -> None:
    """Not when a provider answers with nonsense, though that holds the credential which it was sent."""
    client = witness.gateway.connect()
    client.request("single", key=_secret("target"), fields=_CLIENTS_OWN)
    call = provider.call()
    call.send(raw.encode())
    call.close()
    answer = client.answer()
    assert answer.status == 502
    witness.heard.append(answer)


def test_unreachable_providers(witness: _Witness, second: Provider) -> None:
    """Not when there is no way to a provider, or none through its proxy."""
    assert witness.ask("dead", key=_secret("global")).status == 502
    client = witness.gateway.connect()
    client.request("proxied", key=_secret("global"))
    proxy = second.call()
    assert proxy.head.get("proxy-authorization")
    proxy.send(f"HTTP/1.1 407 {_MARK}\r\ncontent-length: 0\r\n\r\n".encode())
    proxy.close()
    answer = client.answer()
    assert answer.status in (407, 502)
    if answer.status == 502:
        witness.heard.append(answer)


def test_sanitized_errors(witness: _Witness, provider: Provider) -> None:
    """Not when a provider quotes the credential in an error or a stream that are to be sanitized."""
    client = witness.gateway.connect()
    client.request("pool", key=_secret("pool"))
    provider.call().respond(401, f'{{"error": {{"message": "{_MARK} is wrong"}}}}'.encode(), [JSON])
    answer = client.answer()
    assert answer.status == 401
    witness.heard.append(answer)
    client.request("pool", key=_secret("pool"), stream=True)
    call = provider.call()
    call.start()
    call.send_chunk(f"data: {_MARK}\n\n".encode())
    answer = client.answer()
    assert answer.status == 502
    witness.heard.append(answer)
    client.request("pool", key=_secret("pool"), stream=True)
    call = provider.call()
    call.start()
    call.send_chunk(b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n')
    client.head()
    call.send_chunk(f"data: {_MARK}\n\n".encode())
    with pytest.raises(BrokenOff) as broken:
        client.read_body()
    assert _MARK.encode() not in broken.value.received


def test_reloads(witness: _Witness, provider: Provider) -> None:
    """Not when a config is loaded again."""
    config = json.loads(witness.gateway.process.config.read_text())
    config["auth"]["global_keys"].append(_secret("new"))
    witness.gateway.process.reload(config)
    witness.gateway.through(provider, "single", key=_secret("new"))


# Configs with mistakes in or beside their secrets.
_MISTAKES: list[Any] = [
    f'{{"targets": {{"a": {{"url": "http://x", "onwards_key": "{_MARK}" ',
    f'{{"targets": {{"a": "{_MARK}',
    f'"{_MARK}"',
    {"targets": {"a": _MARK}},
    {"targets": {"a": [_MARK]}},
    {"targets": {"a": {"url": "http://x", "keys": _MARK}}},
    {"targets": {"a": {"url": "http://x", "keys": [[_MARK]]}}},
    {"targets": {"a": {"url": "http://x", "keys": {_MARK: _MARK}}}},
    {"targets": {"a": {"url": "http://x", "keys": [f"sha256:{_MARK}"]}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": [_MARK]}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": {"key": _MARK}}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": f"{_MARK}\r\nx: y"}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": f"{_MARK}☃"}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": "${env:SECRET_WITH_NEWLINE}"}}},
    {"targets": {"a": {"url": "http://x", "onwards_key": "${file:newline}"}}},
    {"targets": {"a": {"url": "http://x", "proxy": f"ftp://u:{_MARK}@h"}}},
    {"targets": {"a": {"url": "http://x", "proxy": f"http://u:{_MARK}@h:port"}}},
    {"targets": {"a": {"url": "http://x", "proxy": f"http://u:{_MARK}@[h"}}},
    {"targets": {"a": {"url": "http://x", "proxy": f"{_MARK}"}}},
    {"targets": {"a": {"url": f"http://u:{_MARK}@h/v1"}}},
    {"targets": {"a": {"url": f"http://h/v1?key={_MARK}"}}},
    {"targets": {"a": {"url": f"http://u:{_MARK}@[h"}}},
    {"targets": {"a": {"url": f"http://u:{_MARK}@h:port"}}},
    {"targets": {"a": {"url": "http://x", "upstream_auth_header_prefix": f"{_MARK}\n"}}},
    {"targets": {"a": {"url": "http://x", "upstream_auth_header_prefix": [_MARK]}}},
    {"targets": {"a": {"url": "http://x", "response_headers": {"x": f"{_MARK}\n"}}}},
    {"targets": {"a": {"url": "http://x", "response_headers": _MARK}}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"global_keys": _MARK}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"global_keys": [{"key": _MARK}]}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"key_definitions": {"a": _MARK}}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"key_definitions": {"a": {"key": [_MARK]}}}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"key_definitions": {"a": {"key": "", "rate_limit": _MARK}}}},
    {"targets": {"a": {"url": "http://x"}}, "auth": {"key_definitions": [{"key": _MARK}]}},
    {"targets": {"a": {"url": "http://x"}}, "auth": _MARK},
]


def test_mistakes_in_a_reload(witness: _Witness, provider: Provider) -> None:
    """Not when a config is refused, whatever is wrong with it."""
    process = witness.gateway.process
    (process.config.parent / "newline").write_text(f"{_MARK}\r\nx: y\n")
    for mistake in _MISTAKES:
        process.reload(mistake, outcome=REFUSED)
    witness.gateway.through(provider, "single", key=_secret("target"))


@pytest.mark.parametrize("command", ["check", "serve"])
def test_mistakes_at_the_start(tmp_path: Path, command: str) -> None:
    """Nor when the program does not even start."""
    (tmp_path / "config.json").write_text(json.dumps({"targets": {"a": _MISTAKES[8]["targets"]["a"], "b": _MARK}}))
    run = subprocess.run(
        [sys.executable, "-m", "onwards_trio", command, "-f", str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "targets.a.keys[0]" in run.stderr
    assert "targets.b" in run.stderr
    assert _MARK not in run.stdout + run.stderr


def test_table(tmp_path: Path, provider: Provider, unreachable: Provider) -> None:
    """Nor in what `check` prints of a good config."""
    # What it takes from the environment is part of it here, so that `check` needs none.
    text = json.dumps(_planted(provider, unreachable, provider, tmp_path)).replace("${env:", f"{_MARK}-")
    (tmp_path / "config.json").write_text(text)
    run = subprocess.run(
        [sys.executable, "-m", "onwards_trio", "check", "-f", str(tmp_path / "config.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "proxied" in run.stdout
    assert _MARK not in run.stdout


# The program, with a bug planted where a request's headers with all credentials are at hand.
_WITH_A_BUG = """
import sys
from onwards_core import _exchange
from onwards_trio._cli import main

def broken(request, provider, body, **options):
    raise RuntimeError(f"{request.headers} {body} {provider.credential}")

_exchange.upstream_headers = broken
sys.exit(main())
"""


def test_crash(tmp_path: Path, provider: Provider) -> None:
    """Not when a bug raises an exception that quotes everything: the client gets a 500 with a reference, and the log
    has where it happened."""
    config = {"targets": {"model": {"url": provider.url, "onwards_key": _secret("up"), "keys": [_secret("own")]}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    command = f"serve -f {tmp_path / 'config.json'} --host 127.0.0.1 -p 0 --metrics-port 0 --log-level debug"
    program = Program(["-c", _WITH_A_BUG, *command.split()])
    try:
        port = int(program.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        client = Client(port)
        client.request(key=_secret("own"), text=_MARK)
        answer = client.answer()
        client.close()
        assert (answer.status, answer.code) == (500, "internal_error")
        reference = program.wait_for(r"reference (\w+)")[1]
        assert reference in answer.json()["error"]["message"]
        program.wait_for("RuntimeError")
        program.wait_for("status=500")
    finally:
        program.kill()
    assert _MARK not in program.output + repr(answer)
