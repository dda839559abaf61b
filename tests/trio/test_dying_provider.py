"""A provider that dies under load, and comes back: what that costs."""

import json
import re
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.trio.program_support import read_until, running

CLIENTS = 10
EXCHANGES = 200
THRESHOLD = 5
COOLDOWN = 0.5
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}]}'


class Provider:
    """Answers at a port of its own, between `start` and `die`."""

    def __init__(self) -> None:
        self.port = 0
        self.answered = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                provider.answered.set()
                self.send_response(200)
                self.send_header("content-length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def die(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


def test_a_dying_provider(tmp_path: Path) -> None:
    """No client has an error. It is tried as often as its threshold says, by those who were on their way to it, and
    by one trial for each cool-down; and it is back with the first trial after it recovered."""
    dying, good = Provider(), Provider()
    dying.start()
    good.start()
    pool = {
        "strategy": "priority",
        "providers": [{"url": f"http://127.0.0.1:{dying.port}"}, {"url": f"http://localhost:{good.port}"}],
        "fallback": {"enabled": True, "on_status": [5]},
        "health": {"consecutive_failures": THRESHOLD, "cooldown_secs": COOLDOWN, "max_cooldown_secs": COOLDOWN},
    }
    (tmp_path / "config.json").write_text(json.dumps({"targets": {"m": pool}}))
    flags = [
        "-f",
        str(tmp_path / "config.json"),
        "--host",
        "127.0.0.1",
        "-p",
        "0",
        "--no-metrics",
        "--log-level",
        "debug",
    ]
    lines: list[str] = []
    left = iter(range(EXCHANGES))
    lock = threading.Lock()
    with running("serve", *flags) as program:
        port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", read_until(program, "listening on"))[1])
        listener = threading.Thread(target=lambda: lines.extend(program.stdout))
        listener.start()

        def ask(connection: HTTPConnection) -> int:
            connection.request("POST", "/v1/chat/completions", BODY, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            return answer.status

        def client() -> Counter[int]:
            connection, statuses = HTTPConnection("127.0.0.1", port, timeout=20), Counter()
            while True:
                with lock:
                    number = next(left, None)
                    if number == EXCHANGES // 4:
                        dying.die()
                if number is None:
                    connection.close()
                    return statuses
                statuses[ask(connection)] += 1

        began = time.monotonic()
        with ThreadPoolExecutor(CLIENTS) as clients:
            statuses = sum((each.result() for each in [clients.submit(client) for _ in range(CLIENTS)]), Counter())
        trials = int((time.monotonic() - began) / COOLDOWN) + 1
        assert statuses == {200: EXCHANGES}

        dying.answered.clear()
        dying.start()
        recovered = time.monotonic()
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        while not dying.answered.is_set():
            assert ask(connection) == 200
        back = time.monotonic() - recovered
        connection.close()
        program.terminate()
        listener.join(20)
    failed = len(re.findall(r"127\.0\.0\.1:(?:connect|reset),localhost:ok", "".join(lines)))
    assert THRESHOLD <= failed <= THRESHOLD + CLIENTS + trials + int(back / COOLDOWN) + 1
    dying.die()
    good.die()
    print(f"{failed} failed attempts; back after {back:.2f} s")
