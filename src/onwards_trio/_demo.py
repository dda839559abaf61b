"""The demo: a request that survives a failing provider, all in one process and over real sockets."""

import json
import os
import time
from pathlib import Path
from random import Random
from typing import assert_never

import trio

from onwards_core import Gateway, Record, Snapshot, load_config
from onwards_core._sse import Framer
from onwards_trio._drive import forward
from onwards_trio._metric_data import Families
from onwards_trio._metric_sources import connections, requests, tasks
from onwards_trio._metrics import Metrics
from onwards_trio._mock import MockOptions, serve_mock
from onwards_trio._operators import operators_server
from onwards_trio._options import Options
from onwards_trio._reload import Reloader
from onwards_trio._server import Server, open_listeners
from onwards_trio._status import Board
from onwards_trio._status_data import Status
from onwards_trio._upstream._direct import DirectTransport
from onwards_trio._wire import Malformed, ResponseHead, Signal
from onwards_trio._wire._h11 import H11ClientCodec

_HOST = "127.0.0.1"
_QUESTION = "Is anybody there?"


async def demo() -> None:
    """Show one request, then serve until cancelled."""
    async with trio.open_nursery() as nursery, DirectTransport() as transport:
        failing = await nursery.start(serve_mock, MockOptions(fail_rate=1.0, fail_status=503))
        working = await nursery.start(serve_mock, MockOptions(tokens_per_second=25.0))
        config = load_config(json.dumps(_config(failing, working)).encode())
        snapshot = Snapshot.compile(config, hash_key=os.urandom(32), created=int(time.time()))
        gateway = Gateway(snapshot, random=Random())  # noqa: S311 - spreads load, no more
        answered = trio.Event()

        def observe(record: Record) -> None:
            metrics.observe(record)
            board.observe(record)
            print("\n".join(["", "", *_attempts(record)]), flush=True)
            answered.set()

        server = Server(forward(gateway, transport), observe=observe)
        listeners = await open_listeners(_HOST, 0)
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(server.serve, listeners)

        metrics = Metrics(requests(server.under_way), connections(transport), tasks)
        board = Board(gateway, Reloader(Path("demo"), b""), server.under_way, lambda: server.draining)

        async def collect() -> Families:
            return metrics.collect()

        async def read_status() -> Status:
            return board.read()

        admin_listeners = await open_listeners(_HOST, 0)
        operators = operators_server(Options(Path("demo")), collect, read_status, lambda: "")
        nursery.start_soon(operators.serve, admin_listeners)
        admin_port = admin_listeners[0].socket.getsockname()[1]

        first, second = (provider.label for provider in snapshot.pools["demo"].providers)
        print(f"Provider {first}, which fails: {failing}")
        print(f"Provider {second}, which works: {working}")
        print(f"The gateway, which tries them in this order: http://{_HOST}:{port}/v1/")
        print(f'\nYou ask "{_QUESTION}", and the answer streams in:\n', flush=True)
        await _ask(port)
        await answered.wait()
        print(f"\nIts status page, on which you see the same live: http://{_HOST}:{admin_port}/")
        print("\nTry it yourself, as often as you like; Ctrl-C ends the demo:\n")
        print(f"  curl -N http://{_HOST}:{port}/v1/chat/completions -d '{json.dumps(_chat('Hello'))}'", flush=True)


def _config(failing: str, working: str) -> dict[str, object]:
    """One alias: the failing provider goes first, and any 5xx means the next one."""
    return {
        "targets": {
            "demo": {
                "strategy": "priority",
                "fallback": {"enabled": True, "on_status": [5]},
                "providers": [{"url": failing}, {"url": working}],
            }
        }
    }


def _chat(question: str) -> dict[str, object]:
    return {"model": "demo", "stream": True, "messages": [{"role": "user", "content": question}]}


async def _ask(port: int) -> None:
    """Be the client: send a chat completion and print its text as it arrives."""
    codec = H11ClientCodec()
    body = json.dumps(_chat(_QUESTION)).encode()
    headers = [
        (b"host", f"{_HOST}:{port}".encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
    ]
    framer = Framer()
    async with await trio.open_tcp_stream(_HOST, port) as stream:
        await stream.send_all(codec.request("POST", b"/v1/chat/completions", headers, body))
        while True:
            event = codec.next_event()
            match event:
                case Signal.NEED_DATA:
                    codec.receive(bytes(await stream.receive_some()))
                case bytes():
                    for message in framer.feed(event):
                        print(_text(message), end="", flush=True)
                case ResponseHead():
                    pass
                case Signal.END | Signal.CLOSED | Malformed():
                    return  # the gateway's own record says how it went
                case _:
                    assert_never(event)


def _text(event: bytes | None) -> str:
    """What one event of a streamed chat completion adds to the text."""
    if event is None or event == b"[DONE]":
        return ""
    delta = json.loads(event)["choices"][0]["delta"]
    return str(delta.get("content", ""))


def _attempts(record: Record) -> list[str]:
    """What the gateway did for one request."""
    lines = [f"The client got status {record.status}. The gateway's attempts:"]
    for number, attempt in enumerate(record.attempts, start=1):
        took = 1000 * ((attempt.ended or attempt.started) - attempt.started)
        lines.append(f"  {number}. {attempt.provider}: {attempt.outcome} after {took:.1f} ms")
    return lines
