"""Traces, as a collector gets them: a real program, and a collector that reads OTLP over HTTP."""

import gzip
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from onwards_trio import _semantic_conventions as names
from onwards_trio._traces import _parent
from onwards_trio._tracing import traces
from tests.trio.program_support import read_until, running

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRET = "PLANTED"


@contextmanager
def _serving(answer: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, bytes]]) -> Iterator[str]:
    """An HTTP server, by its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = answer(self, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.send_header("x-request-id", "its-own")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Collector:
    """What was sent to it."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def take(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        raw = gzip.decompress(body) if handler.headers["content-encoding"] == "gzip" else body
        self.raw.append(raw)
        for resource in ExportTraceServiceRequest.FromString(raw).resource_spans:
            self.services.add(_attributes(resource.resource)["service.name"])
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return 200, b""


def _attributes(thing: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in thing.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Collector]:
    collector = _Collector()
    with _serving(collector.take) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        yield collector


class _Provider:
    """Fails with `status`, or answers, and keeps the headers that it got."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: list[Any] = []

    def answer(self, handler: BaseHTTPRequestHandler, _: bytes) -> tuple[int, bytes]:
        self.headers.append(handler.headers)
        usage = {"prompt_tokens": 3, "completion_tokens": 5}
        return self.status, json.dumps({"choices": [{"message": {"content": SECRET}}], "usage": usage}).encode()


def _run(folder: Path, asks: Callable[[str], None], *arguments: str, **pool: Any) -> tuple[_Provider, _Provider]:
    """Run a gateway with a provider that fails and a trusted one that does not, until it has answered `asks`."""
    failing, working = _Provider(503), _Provider(200)
    with _serving(failing.answer) as first, _serving(working.answer) as second:
        providers = [
            {"url": first, "name": "first", "onwards_key": SECRET},
            {"url": second, "name": "second", "onwards_key": SECRET, "trusted": True, "onwards_model": "inner"},
        ]
        fallback = {"enabled": True, "on_status": [5]}
        config = {
            "targets": {"m": {"strategy": "priority", "fallback": fallback, "providers": providers, **pool}},
            "auth": {"key_definitions": {"team": {"key": f"{SECRET}-key"}}},
        }
        path = folder / "config.json"
        path.write_text(json.dumps(config))
        options = ["-f", str(path), "--host", "127.0.0.1", "-p", "0", "--no-metrics", *arguments]
        with running("serve", *options) as process:
            said = read_until(process, "listening on")
            asks(re.findall(r"listening on (\S+)", said)[0])
            process.send_signal(signal.SIGTERM)
            process.communicate()
            assert process.returncode == 0
    return failing, working


def _ask(url: str, path: str = "/v1/chat/completions?secret=PLANTED", model: str = "m", **headers: str) -> int:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": SECRET}]}).encode()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url + path, body, {"authorization": f"Bearer {SECRET}-key", **fields})
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            error.read()
            return error.code


def test_an_exchange_with_a_fallback(tmp_path: Path, collector: _Collector) -> None:
    """The client's trace goes on: a span for the exchange below the client's, one for each attempt below that, of which
    only a trusted provider is told; the access log names the trace; and nothing secret is in any of it."""
    log = tmp_path / "access.log"

    def ask(url: str) -> None:
        parent = f"00-{TRACE}-{CALLER}-01"
        assert _ask(url, traceparent=parent, tracestate="a=1", x_request_id="mine") == 200

    failing, working = _run(tmp_path, ask, "--access-log", str(log), keys=["team"])
    assert collector.services == {"onwards"}
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    spans = {span.name: span for span in collector.spans}
    server, first, second = spans["POST /v1/chat/completions"], spans["chat m"], spans["chat inner"]
    assert len(collector.spans) == 3
    assert (server.kind, first.kind, second.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT, first.kind)
    assert server.parent_span_id.hex() == CALLER
    assert first.parent_span_id == second.parent_span_id == server.span_id
    found = _attributes(server)
    assert found.pop(names.HTTP_BODY_SIZE) > 0
    assert found == {
        names.HTTP_METHOD: "POST",
        names.HTTP_ROUTE: "/v1/chat/completions",
        names.URL_SCHEME: "http",
        names.CLIENT_ADDRESS: "127.0.0.1",
        names.HTTP_STATUS: 200,
        names.GEN_AI_OPERATION: "chat",
        names.GEN_AI_MODEL: "m",
        names.GEN_AI_INPUT_TOKENS: 3,
        names.GEN_AI_OUTPUT_TOKENS: 5,
        names.REQUEST_ID: "mine",
        names.KEY: "team",
        names.OUTCOME: "ok",
    }
    assert server.status.code == second.status.code == Status.STATUS_CODE_UNSET
    assert first.status.code == Status.STATUS_CODE_ERROR
    failed, answered = _attributes(first), _attributes(second)
    assert (failed[names.ERROR_TYPE], failed[names.HTTP_STATUS]) == ("503", 503)
    assert (answered[names.GEN_AI_PROVIDER], answered[names.HTTP_RESEND_COUNT]) == ("second", 1)
    assert answered[names.RESPONSE_ID] == "its-own"
    assert server.start_time_unix_nano <= first.start_time_unix_nano <= first.end_time_unix_nano
    assert first.end_time_unix_nano <= second.start_time_unix_nano < second.end_time_unix_nano
    assert second.end_time_unix_nano <= server.end_time_unix_nano
    assert [event.name for event in server.events] == [names.FIRST_BYTE]

    assert failing.headers[0]["traceparent"] is None
    assert working.headers[0]["traceparent"] == f"00-{TRACE}-{second.span_id.hex()}-01"
    assert working.headers[0]["tracestate"] == "a=1"
    assert json.loads(log.read_text())["trace_id"] == TRACE
    assert SECRET.encode() not in b"".join(collector.raw)
    assert SECRET not in log.read_text()


def test_refusals_and_failures(tmp_path: Path, collector: _Collector) -> None:
    """Refusals have a span too, which is no error; a pool that fails is one, and providers passed over are told."""

    def ask(url: str) -> None:
        assert _ask(url, model="unknown") == 404
        assert _ask(url, path="/v1/other") == 503
        assert _ask(url, path="/v1/other") == 429

    providers = [{"url": "http://127.0.0.1:9", "rate_limit": {"requests_per_second": 0.001}}]
    fallback = {"enabled": True, "on_status": [5]}
    with _serving(_Provider(503).answer) as url:
        providers[0]["url"] = url
        _run(tmp_path, ask, providers=providers, fallback=fallback)
    refused, failed, limited = sorted(
        (span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER),
        key=lambda span: span.start_time_unix_nano,
    )
    assert (refused.status.code, _attributes(refused)[names.CODE]) == (Status.STATUS_CODE_UNSET, "model_not_found")
    assert (failed.name, failed.status.code) == ("POST", Status.STATUS_CODE_ERROR)
    assert _attributes(failed)[names.ERROR_TYPE] == "503"
    assert limited.events[0].name == names.PASSED_OVER
    assert _attributes(limited.events[0])[names.OUTCOME] == "refused_locally"


def test_not_sampled(tmp_path: Path, collector: _Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange that is not sampled leaves nothing, and the client's headers go through as without traces."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_on")
    parent = f"00-{TRACE}-{CALLER}-00"
    _, working = _run(tmp_path, lambda url: _ask(url, traceparent=parent) and None)
    assert working.headers[0]["traceparent"] == parent
    assert not collector.spans


def test_a_collector_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holds up neither requests nor the end: the program is gone before it would be killed."""
    release: Queue[None] = Queue()

    def hang(_: BaseHTTPRequestHandler, __: bytes) -> tuple[int, bytes]:
        release.get()
        return 200, b""

    with _serving(hang) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        try:
            _run(tmp_path, lambda url: _ask(url) and None)
        finally:
            for _ in range(9):
                release.put(None)


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        ({}, ""),
        ({"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "SDK_DISABLED": "true"}, ""),
        ({"EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "TRACES_EXPORTER": "none"}, ""),
        ({"EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9", "EXPORTER_OTLP_PROTOCOL": "grpc"}, "http/protobuf"),
    ],
)
def test_when_there_are_none(
    settings: dict[str, str], warning: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without an endpoint, or where a variable says so; what can't be done is said."""
    for name, value in settings.items():
        monkeypatch.setenv(f"OTEL_{name}", value)
    assert traces() is None
    assert warning in caplog.text
    assert bool(caplog.text) == bool(warning)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint without OpenTelemetry is told of, and the gateway runs."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delitem(sys.modules, "onwards_trio._traces")
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    assert traces() is None
    assert "onwards[otel]" in caplog.text


def test_off_imports_nothing() -> None:
    """Who wants no traces does not pay for them, at start either."""
    script = (
        "import sys; from onwards_trio import _serve; sys.exit(any('opentelemetry' in name for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


_PIECES = st.sampled_from([b"00", b"ff", b"0", b"-", b"-01", TRACE.encode(), CALLER.encode(), b"0" * 32, b"\xff", b" "])


@given(st.lists(st.lists(_PIECES, max_size=8).map(b"".join), max_size=2), st.lists(st.binary(max_size=20), max_size=2))
def test_what_clients_send_as_trace_headers(parents: list[bytes], states: list[bytes]) -> None:
    """Whatever it is, it is a sound parent or none; two are none."""
    headers = [(b"traceparent", value) for value in parents] + [(b"tracestate", value) for value in states]
    found = trace.get_current_span(_parent(headers)).get_span_context()
    sound = re.compile(rb"\s*(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}.*", re.DOTALL)
    assert not found.is_valid or (len(parents) == 1 and sound.fullmatch(parents[0]))
    assert _parent([(b"traceparent", f"00-{TRACE}-{CALLER}-01".encode())])
