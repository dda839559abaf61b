"""What metrics say after a thousand exchanges, held to what was done."""

import contextlib
import json
import random
import re
import socket
import struct
import threading
from collections import Counter
from http.client import HTTPResponse, IncompleteRead
from typing import Any
from urllib.request import ProxyHandler, build_opener

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.trio.program_support import read_until, running

EXCHANGES = 1000
CHAT = "/v1/chat/completions"
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 1}}
TOKENS = {"input": 3, "output": 5, "cached": 1}
COUNTED = ("http_requests", "exchanges", "attempts", "fallbacks", "refusals", "tokens")

_HEAD = "HTTP/1.1 {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}"
_PLAIN = json.dumps({"choices": [], "usage": USAGE})
_EVENT = json.dumps({"choices": [{"delta": {"content": "x"}}]})
_EVENTS = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: str) -> str:
    return f"{len(data):x}\r\n{data}\r\n"


ANSWERS = {
    "ok": _HEAD.format("200 OK", len(_PLAIN), _PLAIN),
    "stream": _EVENTS + _chunk(f"data: {_EVENT}\n\n") + _chunk(f"data: {_PLAIN}\n\n") + _chunk(""),
    "breaks": _EVENTS + _chunk(f"data: {_EVENT}\n\n"),
    "status_503": _HEAD.format("503 Service Unavailable", 2, "{}"),
    "status_401": _HEAD.format("401 Unauthorized", 2, "{}"),
    "status_404": _HEAD.format("404 Not Found", 2, "{}"),
    "reset": "",
}


class Provider:
    """Answers as the beginning of the path says; `hold` only when it is told to, or the client has left."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listening.getsockname()[1]
        self.held = threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # Closing alone does not wake who accepts.
        self._accepting.join()
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while head := stream.readline():
                size = 0
                while (line := stream.readline()).strip():
                    name, _, value = line.decode().partition(":")
                    size = int(value) if name.lower() == "content-length" else size
                stream.read(size)
                kind = head.split()[1].decode().split("/")[1]
                if kind == "hold":
                    self.held.release()
                    assert not stream.readline()
                    self.left.release()
                    return
                connection.sendall(ANSWERS[kind].encode())
                if kind in ("reset", "breaks"):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return


@pytest.fixture
def provider() -> Any:
    made = Provider()
    with contextlib.closing(made):
        yield made


@attrs.frozen
class Kind:
    """What is asked for, and what has to be counted for it."""

    alias: str
    status: int
    verdict: str
    attempts: tuple[tuple[str, str], ...] = ()
    """Providers, and what came of them."""
    body: bytes | None = None
    key: str | None = None
    refusal: tuple[str, str, str] | None = None
    """The key's name, whose limit, and which."""
    tokens: bool = False
    known: bool = True
    """Whether the alias exists."""


OK = (("a", "ok"),)
LATER = {
    "key": Kind("free", 429, "refused", key="slow", refusal=("slow", "key", "rate_limit")),
    "pool": Kind("tight", 429, "refused", refusal=("", "pool", "rate_limit")),
    "provider": Kind("narrow", 429, "refused", (("a", "refused_locally"),), refusal=("", "provider", "rate_limit")),
    "sick": Kind("sick", 200, "ok", (("a", "circuit_open"), ("b", "ok")), tokens=True),
}
"""What happens from the second time on."""
FIRST = {
    "key": Kind("free", 200, "ok", OK, key="slow", tokens=True),
    "pool": Kind("tight", 200, "ok", OK, tokens=True),
    "provider": Kind("narrow", 200, "ok", OK, tokens=True),
    "sick": Kind("sick", 200, "ok", (("a", "status_503"), ("b", "ok")), tokens=True),
}
KINDS = {
    "plain": Kind("free", 200, "ok", OK, tokens=True),
    "stream": Kind("stream", 200, "ok", OK, tokens=True),
    "fallback": Kind("fallback", 200, "ok", (("a", "status_503"), ("b", "ok")), tokens=True),
    "fails": Kind("fails", 503, "provider_error", (("a", "status_503"),)),
    "account": Kind("account", 401, "provider_error", (("a", "status_401"),)),
    "missing": Kind("missing", 404, "client_error", (("a", "status_404"),)),
    "nobody": Kind("nobody", 502, "provider_error", (("a", "connect"),)),
    "resets": Kind("resets", 502, "provider_error", (("a", "reset"),)),
    "breaks": Kind("breaks", 200, "broken", (("a", "reset"),)),
    "locked": Kind("locked", 401, "refused"),
    "wrong key": Kind("locked", 403, "refused", key="wrong"),
    "unknown": Kind("no-such-model", 404, "client_error", known=False),
    "malformed": Kind("", 400, "client_error", body=b"{", known=False),
}


def _config(provider: int, nobody: int) -> dict[str, Any]:
    def pool(*kinds: str, **settings: Any) -> dict[str, Any]:
        named = [
            {"url": f"http://127.0.0.1:{nobody if kind == 'connect' else provider}/{kind}", "name": name}
            for kind, name in zip(kinds, "ab", strict=False)
        ]
        return {"providers": named, "strategy": "priority", **settings}

    once = {"rate_limit": {"requests_per_second": 0.0001, "burst_size": 1}}
    falls_back = {"fallback": {"enabled": True, "on_status": [503]}}
    narrow = pool("ok")
    narrow["providers"][0] |= once
    return {
        "auth": {"key_definitions": {"slow": {"key": "slow", **once}}},
        "targets": {
            "free": pool("ok"),
            "stream": pool("stream"),
            "fallback": pool("status_503", "ok", **falls_back),
            "fails": pool("status_503"),
            "account": pool("status_401"),
            "missing": pool("status_404"),
            "nobody": pool("connect"),
            "resets": pool("reset"),
            "breaks": pool("breaks"),
            "locked": pool("ok", keys=["right"]),
            "tight": pool("ok", **once),
            "narrow": narrow,
            "sick": pool("status_503", "ok", health={"consecutive_failures": 1, "cooldown_secs": 3600}, **falls_back),
            "held": pool("hold", concurrency_limit={"max_concurrent_requests": 1}),
        },
    }


def _ask(port: int, kind: Kind) -> None:
    body = kind.body or json.dumps({"model": kind.alias}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        # In one piece: a head that comes alone may be refused before it is known which alias the body names.
        client.sendall(_request(body, kind.key))
        with HTTPResponse(client, method="POST") as answer:
            answer.begin()
            with pytest.raises(IncompleteRead) if kind.verdict == "broken" else contextlib.nullcontext():
                answer.read()
            assert answer.status == kind.status, kind


def _request(body: bytes, key: str | None = None) -> bytes:
    fields = f"Authorization: Bearer {key}\r\n" if key else ""
    return f"POST {CHAT} HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Expected:
    """What has to be counted."""

    def __init__(self) -> None:
        self.counters: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()

    def add(self, name: str, value: int = 1, **labels: str) -> None:
        self.counters[name, frozenset(labels.items())] += value

    def exchange(self, kind: Kind, status: str = "") -> None:
        status = status or str(kind.status)
        alias = kind.alias if kind.known else ""
        self.add("http_requests", method="POST", endpoint=CHAT, status=status)
        self.add("exchanges", alias=alias, outcome=kind.verdict, status=status)
        for provider, outcome in kind.attempts:
            self.add("attempts", alias=alias, provider=provider, outcome=outcome)
        tried = [outcome for _, outcome in kind.attempts if outcome not in ("refused_locally", "circuit_open")]
        if len(tried) > 1:
            self.add("fallbacks", len(tried) - 1, alias=alias)
        if kind.refusal:
            key, by, code = kind.refusal
            self.add("refusals", alias=alias, key=key, by=by, code=code)
        if kind.tokens:
            for token, count in TOKENS.items():
                self.add("tokens", count, alias=alias, key="slow" if kind.key == "slow" else "", kind=token)


def _counted(url: str) -> tuple[dict[Any, float], dict[str, float], dict[Any, float]]:
    """Counters; how many each histogram has observed in all; and permits in use."""
    with build_opener(ProxyHandler({})).open(url, timeout=20) as answer:
        families = {each.name: each for each in text_string_to_metric_families(answer.read().decode())}
    counters = {
        (name, frozenset(sample.labels.items())): sample.value
        for name in COUNTED
        for sample in families[f"onwards_{name}"].samples
    }
    observed = Counter[str]()
    for name, family in families.items():
        for sample in family.samples:
            if sample.name.endswith("_count"):
                observed[name.removeprefix("onwards_")] += int(sample.value)
    held = {frozenset(s.labels.items()): s.value for s in families["onwards_permits_in_use"].samples if s.value}
    return counters, observed, held


def test_a_thousand_exchanges(provider: Provider, tmp_path: Any) -> None:
    """Of every outcome, in an order by chance: each counter is right to the last one, and no permit is left out."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()[1]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(_config(provider.port, nobody)))
    chance = random.Random(6)
    expected = Expected()
    kinds, first_times = dict(KINDS), dict(FIRST)
    words = ["serve", "-f", config, "--host", "127.0.0.1", "-p", "0", "--metrics-port", "0"]
    with running(*words, seconds=120) as process:
        printed = read_until(process, "listening on")
        threading.Thread(target=process.stdout.read, daemon=True).start()
        port = int(re.search(r"listening on http://[\d.]+:(\d+)", printed)[1])
        metrics = re.search(r"metrics on (http://[\d.:]+)", printed)[1] + "/metrics"

        hold = Kind("held", 0, "client_gone", (("a", "abandoned"),))
        full = Kind("held", 429, "refused", refusal=("", "pool", "concurrency_limit_exceeded"))
        done = 0
        while done < EXCHANGES:
            match chance.choice([*kinds, *first_times, "held"]):
                case "held":
                    # One is under way, others are refused, then its client leaves.
                    with socket.create_connection(("127.0.0.1", port)) as client:
                        client.sendall(_request(b'{"model": "held"}'))
                        assert provider.held.acquire(timeout=20)
                        for _ in range(3):
                            _ask(port, full)
                            expected.exchange(full)
                    assert provider.left.acquire(timeout=20)
                    expected.exchange(hold, "none")
                    done += 4
                case name if name in first_times:
                    first = first_times.pop(name)
                    kinds[name] = LATER[name]
                    _ask(port, first)
                    expected.exchange(first)
                    done += 1
                case name:
                    _ask(port, kinds[name])
                    expected.exchange(kinds[name])
                    done += 1
        for _ in range(400):  # The last ones may be counted a moment after their clients have left.
            counters, observed, held = _counted(metrics)
            if counters == expected.counters:
                break
        assert counters == expected.counters
        assert held == {}
        assert not first_times
        totals = Counter[str]()
        for (name, _), count in expected.counters.items():
            totals[name] += count
        tried = sum(
            count
            for (name, labels), count in expected.counters.items()
            if name == "attempts" and dict(labels)["outcome"] not in ("refused_locally", "circuit_open")
        )
        assert observed["http_requests_duration_seconds"] == totals["http_requests"] == done
        assert observed["http_response_body_size"] == done
        assert observed["attempt_duration_seconds"] == tried
        assert observed["exchange_duration_seconds"] == tried - totals["fallbacks"]
