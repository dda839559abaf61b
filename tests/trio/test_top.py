"""The status in a terminal."""

import io
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from onwards_core._values import Secret
from onwards_trio._cli import main
from onwards_trio._status_data import (
    Bucket,
    ConfigInForce,
    ConfigStatus,
    KeyStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    ReloadStatus,
    Status,
    Trouble,
    latency_step,
)
from onwards_trio._status_view import view
from onwards_trio._top import NoStatus, fetch, rendered
from tests.trio.program_support import DEADLINE, read_until, run, running

AT = 1_000_003.0
SLOT = 200_000
FULL = Limits(held=2, permits=2, tokens=0.5, burst=9, per_second=1.0)
WELL = {latency_step(0.2): 7, latency_step(3.0): 2}


def status(**values: object) -> Status:
    """One provider fails, another one does not, and limits are full."""
    bad = ProviderStatus("bad.example", Limits(), "open", AT + 90, None, {SLOT: Bucket(9, 9)})
    good = ProviderStatus("good.example", FULL, attempts={SLOT: Bucket(9, 0, 0, WELL)})
    trouble = {"kind": "attempt", "alias": "chat", "key": None, "by": None, "count": 3, "first": AT, "last": AT - 7200}
    defaults = {
        "at": AT,
        "started": AT - 200_000,
        "version": "1",
        "draining": False,
        "in_flight": 4,
        "config": ConfigStatus(["d" * 64], AT - 120),
        "pools": [PoolStatus("chat", FULL, [bad, good], {SLOT: Bucket(9, 0, 0, WELL)})],
        "keys": [KeyStatus("team", FULL)],
        "troubles": [Trouble(provider="bad.example", reason="reset", then="good.example", **trouble)],
    }
    return Status(**{**defaults, **values})


def shown(status: Status, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(rendered(view(status), width))
    return console.file.getvalue()


class TestRendered:
    def test_all_of_it(self) -> None:
        """Who fails and why comes first; then figures, charts, limits, trouble, the config."""
        text = shown(status(draining=True, processes=2), 140)
        first, second = text.splitlines()[1:3]
        assert "! bad.example is not well; clients get answers from others" in first
        assert "draining" in second
        for part in (
            "bad.example (chat) is out of service: it closed the connection",
            "✕ out of service",
            "closed the connection, for 1 min",
            "100 %",
            "█",
            "up 2 d, 2 processes",
            "key team",
            "2 of 2",
            "0 of 9",
            "bad.example closed the connection; then good.example was tried",
            "2 h ago",
            "Config dddddddddddddddd, loaded 2 min ago",
        ):
            assert part in text, part

    def test_nothing(self) -> None:
        """A gateway that has just begun, with an empty config."""
        text = shown(status(pools=[], keys=[], troubles=[]), 80)
        assert "✓ All is well" in text
        assert "Limits" not in text
        assert "Recent trouble" not in text

    def test_a_failed_reload(self) -> None:
        """What is wrong in the file."""
        config = ConfigStatus(["d"], AT, ReloadStatus(AT, ["targets.chat: expected an object"]))
        assert "targets.chat: expected an object" in shown(status(config=config), 80)

    def test_a_rollout(self) -> None:
        """Who has which config, as long as not all have the same."""
        in_force = [ConfigInForce("d" * 64, 2, ["one", "two"]), ConfigInForce("e" * 64, 1, ["three"])]
        text = shown(status(config=ConfigStatus(["d" * 64], AT, None, in_force)), 100)
        assert "dddddddddddddddd in 2: one, two" in text
        assert "eeeeeeeeeeeeeeee in 1: three" in text
        assert "Not all processes have the same config in force" in text
        assert "one, two" not in shown(status(config=ConfigStatus(["d" * 64], AT, None, in_force[:1])), 100)

    @given(st.integers(30, 200))
    def test_any_width(self, width: int) -> None:
        """No line is longer than the terminal is wide, and the one that fails is named."""
        text = shown(status(), width)
        assert max(map(cell_len, text.splitlines())) <= width
        assert "✕ out of service" in text
        assert ("good.example" in text) or width < 48

    def test_no_name_moves_the_cursor(self) -> None:
        """What a config, or who poses as a gateway, may call things."""
        evil = "\x1b[2J\x9b\x07[red]"
        found = status(pools=[PoolStatus(evil, FULL, [ProviderStatus(evil, FULL)])], keys=[KeyStatus(evil, FULL)])
        text = shown(found, 140)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
        assert "?[2J??[red]" in text


@contextmanager
def answering(status: int = 200, body: bytes | None = None, **headers: str) -> Iterator[tuple[str, list[str | None]]]:
    """The URL of what answers like this, and the credentials that it was shown."""
    credentials = []
    text = msgspec.json.encode(view(_status())) if body is None else body

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            credentials.append(self.headers["authorization"])
            found = self.path == "/status.json"
            self.send_response(status if found else 404)
            for name, value in {"content-length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", credentials
        finally:
            server.shutdown()
            thread.join()


_status = status


class TestFetch:
    def test_it_shows_its_key(self, monkeypatch) -> None:
        """As a bearer token, to nobody else: neither proxies nor where a redirect leads."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        with answering() as (url, credentials):
            assert fetch(f"{url}/", Secret("sk-metrics")) == view(status())
            assert fetch(url, None) == view(status())
            assert credentials == ["Bearer sk-metrics", None]
            with answering(302, location=f"{url}/status.json") as (other, _), pytest.raises(NoStatus, match=r" 302$"):
                fetch(other, Secret("sk-metrics"))
            assert len(credentials) == 2

    @pytest.mark.parametrize(
        ("code", "body", "message"),
        [
            (401, b"", r"wants its metrics key: --key$"),
            (404, b"", r"answered 404$"),
            (200, b"<html>", r"is not a gateway's metrics port"),
            (200, b'{"at": 1}', r"is not a gateway's metrics port"),
            (200, b"\xff", r"is not a gateway's metrics port"),
        ],
    )
    def test_wrong_answers(self, code, body, message) -> None:
        """It says what to do about them."""
        with answering(code, body) as (url, _), pytest.raises(NoStatus, match=message):
            fetch(url, None)

    def test_newer_fields(self) -> None:
        """A gateway may be newer than what shows its status."""
        newer = {**msgspec.to_builtins(view(status())), "newer": 1}
        with answering(body=msgspec.json.encode(newer)) as (url, _):
            assert fetch(url, None) == view(status())

    def test_nobody_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            port = listening.getsockname()[1]
        with pytest.raises(NoStatus, match=r"can't be reached: Connection refused$"):
            fetch(f"http://127.0.0.1:{port}", None)

    def test_an_answer_that_ends_early(self) -> None:
        with answering(**{"content-length": "999999"}) as (url, _), pytest.raises(NoStatus, match="does not answer"):
            fetch(url, None)

    @pytest.mark.parametrize("url", ["127.0.0.1:9090", "file:///etc/passwd", "http://", ""])
    def test_no_url(self, url) -> None:
        with pytest.raises(NoStatus, match="is no URL of a metrics port, such as http://127"):
            fetch(url, None)


class TestCommand:
    def test_once(self, tmp_path, monkeypatch) -> None:
        """For pipes: no control sequences, and an end. The key may be in a file."""
        (tmp_path / "key").write_text("sk-metrics\n")
        with answering() as (url, credentials):
            environment = {"ONWARDS_METRICS_KEY": f"${{file:{tmp_path}/key}}", "COLUMNS": "100"}
            for options in (["--once"], []):
                done = run("top", "--url", url, *options, **environment)
                assert (done.returncode, done.stderr) == (0, "")
                assert "bad.example is not well" in done.stdout
                assert "\x1b" not in done.stdout
            assert credentials == ["Bearer sk-metrics"] * 2

    def test_what_goes_wrong(self, capsys) -> None:
        """One line, exit code 1."""
        assert main(["top", "--url", "nowhere", "--once"]) == 1
        assert capsys.readouterr().err.startswith("onwards: nowhere is no URL of a metrics port")
        assert main(["top", "--key", "${env:MISSING_KEY}"]) == 1
        assert "--key: expected a secret in ${env:MISSING_KEY}" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("missing", "expected"),
        [("rich", "onwards: this needs rich: pip install 'onwards[top]'\n"), ("msgspec", "Traceback")],
    )
    def test_without_rich(self, tmp_path, missing, expected) -> None:
        """It says what is missing, and nothing else is taken for it."""
        (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError('no', name='{missing}')")
        done = run("top", PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
        assert done.returncode == 1
        assert done.stderr.startswith(expected)


class Terminal:
    """The program in a terminal."""

    def __init__(self, *arguments: object) -> None:
        self._screen, side = pty.openpty()
        command = [sys.executable, "-m", "onwards_trio", *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
        self.process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=environment)
        os.close(side)
        self._alarm = threading.Timer(DEADLINE, self.process.kill)
        self._alarm.start()
        self._text = ""

    def wait_for(self, text: str) -> None:
        """Until it is shown once more."""
        while text not in self._text:
            piece = os.read(self._screen, 65536).decode(errors="replace")
            self._text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece)
        self._text = self._text.partition(text)[2]

    def close(self) -> int:
        """What it exits with after Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait()
        self._alarm.cancel()
        os.close(self._screen)
        return code


def test_live(tmp_path) -> None:
    """It follows a running gateway, says when that is gone, and ends well by Ctrl-C."""
    (tmp_path / "config.json").write_text('{"targets": {"chat": {"url": "http://provider.example"}}}')
    arguments = ("-f", tmp_path / "config.json", "--host", "127.0.0.1", "-p", 0, "--metrics-port", 0)
    with running("serve", *arguments) as gateway:
        url = re.search(r"metrics on (http://\S+)", read_until(gateway, "listening on"))[1]
        terminal = Terminal("top", "--url", url)
        terminal.wait_for("All is well")
        terminal.wait_for("provider.example")
        (tmp_path / "config.json").write_text('{"targets": {"chat": {"url": 1}}}')
        terminal.wait_for("The last reload failed")
        terminal.wait_for("targets.chat.url: expected")
    terminal.wait_for("What is below is how it was last")
    terminal.wait_for("provider.example")
    assert terminal.close() == 0
