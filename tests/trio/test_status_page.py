"""The status page as people see it, in a browser, of the real program while a provider fails and recovers."""

import hashlib
import json
import re
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.browser_support import Browser, browser, needs_browser
from tests.trio.program_support import read_until, running
from tests.trio.store_support import needs_server, store_server

pytestmark = [pytest.mark.browser, needs_browser]

SECRETS = {
    "a provider's key": "sk-provider-5ecret",
    "a client's key": "sk-client-5ecret",
    "the metrics key": "sk-metrics-5ecret",
    "a model's name that a client made up": "made-up-5ecret",
    "a path that a client made up": "path-5ecret",
    "a prompt": "prompt-5ecret",
    "an answer": "answer-5ecret",
    "the provider's path": "base-5ecret",
}
CONTRAST = 4.5
TAB = "\ue004"
ENTER = "\ue007"


class Provider:
    """Answers with `status`, whatever it is asked."""

    def __init__(self) -> None:
        self.status = 200
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["content-length"]))
                body = json.dumps({"answer": SECRETS["an answer"]}).encode()
                self.send_response(provider.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def providers(count: int):
    every = [Provider() for _ in range(count)]
    try:
        yield every
    finally:
        for each in every:
            each.close()


class Gateway:
    """The program, before two providers of one pool; the first one is asked first."""

    def __init__(self, process) -> None:
        started = read_until(process, "listening on")
        self.port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", started)[1])
        self.metrics_port = int(re.search(r"metrics on http://127\.0\.0\.1:(\d+)", started)[1])
        self.url = f"http://127.0.0.1:{self.metrics_port}/"

    def ask(self, model: str = "chat", path: str = "/v1/chat/completions", key: str = "a client's key") -> int:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            body = json.dumps({"model": model, "messages": [{"role": "user", "content": SECRETS["a prompt"]}]})
            connection.request("POST", path, body, {"authorization": f"Bearer {SECRETS[key]}"})
            response = connection.getresponse()
            response.read()
            return response.status

    def read(self, path: str, size: int | None = None) -> str:
        """What an operator with the key gets."""
        with closing(HTTPConnection("127.0.0.1", self.metrics_port, timeout=20)) as connection:
            connection.request("GET", path, headers={"authorization": f"Bearer {SECRETS['the metrics key']}"})
            response = connection.getresponse()
            return (response.read1(size) if size else response.read()).decode()


@contextmanager
def gateway(tmp_path, first: Provider, second: Provider, **more: object):
    """more: of its config."""
    base, credential = SECRETS["the provider's path"], SECRETS["a provider's key"]
    pool = {
        "strategy": "priority",
        "fallback": {"enabled": True, "on_status": [5]},
        "keys": ["team"],
        "providers": [
            {"url": f"http://{host}:{each.port}/{base}", "onwards_key": credential}
            for host, each in (("127.0.0.1", first), ("localhost", second))
        ],
    }
    definition = {"key": SECRETS["a client's key"], "rate_limit": {"requests_per_second": 100, "burst_size": 500}}
    (tmp_path / "config.json").write_text(
        json.dumps({"targets": {"chat": pool}, "auth": {"key_definitions": {"team": definition}}, **more})
    )
    (tmp_path / "key").write_text(SECRETS["the metrics key"])
    arguments = ("-f", tmp_path / "config.json", "--host", "127.0.0.1", "-p", 0, "--metrics-port", 0)
    with running("serve", *arguments, "--metrics-key", f"${{file:{tmp_path}/key}}", seconds=120) as process:
        yield Gateway(process), process


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as window:
        window.send_headers(Authorization=f"Bearer {SECRETS['the metrics key']}")
        yield window


TEXT = "document.body.innerText"
HEADLINE = "document.querySelector('.headline').textContent"
STATES = "[...document.querySelectorAll('.providers .badge')].map((badge) => badge.textContent)"
FOCUS = "[document.activeElement.textContent, getComputedStyle(document.activeElement).outlineStyle]"
IN_FORCE = """[...document.querySelectorAll('.facts > div')]
.filter((fact) => fact.querySelector('dt').textContent === 'Among all who share limits')
.flatMap((fact) => [...fact.querySelectorAll('dd > div')].map((line) => line.textContent))"""
CHARTS = "[...document.querySelectorAll('svg:not([aria-hidden])')].map((chart) => chart.getAttribute('aria-label'))"
CONTRASTS = """
const channel = (value) => value <= 0.03928 * 255 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4;
const light = (color) => 0.2126 * channel(color[0]) + 0.7152 * channel(color[1]) + 0.0722 * channel(color[2]);
const read = (text) => text.match(/[\\d.]+/g).map(Number);
const behind = (element) => {
  for (let each = element; each; each = each.parentElement) {
    const color = read(getComputedStyle(each).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
const found = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!own || !element.getClientRects().length || element.closest("script, noscript, style")) continue;
  const pair = [light(read(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
  found.push([(pair[0] + 0.05) / (pair[1] + 0.05), element.textContent.slice(0, 40)]);
}
return found;
"""


def check_how_it_looks(window: Browser) -> None:
    """It fits the window, and every text on it can be read."""
    width, inner = window.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    contrasts = window.run(CONTRASTS)
    assert len(contrasts) > 20
    assert [each for each in contrasts if each[0] < CONTRAST] == []


def test_a_provider_fails_and_recovers(window, tmp_path) -> None:
    """The page says so while it happens, without being loaded again, in light and dark and on a phone; nothing secret
    is in it, in its data or in its stream."""
    with providers(2) as (first, second), gateway(tmp_path, first, second) as (program, process):
        window.look(width=1280)
        window.open(program.url)
        for _ in range(20):
            assert program.ask() == 200
        window.wait_for(f"{STATES}[0] === '✓ well'")
        assert window.run(f"return {HEADLINE}") == "All is well"
        window.run("window.loaded = true")

        first.status = 503
        for _ in range(20):
            assert program.ask() == 200
        window.wait_for(f"{STATES}[0] === '✕ failing' && {STATES}[1] === '✓ well'")
        assert window.run(f"return {HEADLINE}") == "127.0.0.1 is not well; clients get answers from others"
        window.wait_for(f"{TEXT}.includes('127.0.0.1 (chat) is failing, 50 % of its attempts: it answered 503')")
        assert "127.0.0.1 answered 503; then localhost was tried" in window.text()
        assert window.run("return document.title").startswith("!")
        for width, dark in ((1280, False), (1280, True), (320, False), (320, True)):
            window.look(width=width, dark=dark)
            check_how_it_looks(window)

        second.status = 503
        for _ in range(40):
            assert program.ask() == 503
        window.wait_for(f"{HEADLINE} === 'Clients of chat get errors'")
        check_how_it_looks(window)

        assert program.ask(SECRETS["a model's name that a client made up"]) == 404
        assert program.ask(path=f"/{SECRETS['a path that a client made up']}") == 503
        assert program.ask(key="a provider's key") == 403
        window.wait_for(f"{TEXT}.includes('Unknown model')")
        shown = window.run("return document.documentElement.outerHTML")
        for told in (shown, program.read("/"), program.read("/status.json"), program.read("/status/events", 65536)):
            assert "chat" in told
            assert [name for name, secret in SECRETS.items() if secret in told] == []

        first.status = second.status = 200
        until = time.monotonic() + 40
        while window.run(f"return {HEADLINE}") != "All is well":
            assert program.ask() == 200
            assert time.monotonic() < until
        assert window.run(f"return {STATES}") == ["✓ well", "✓ well"]
        assert window.run("return window.loaded"), "the page was loaded again"

        process.terminate()
        process.wait()
        window.wait_for(f"{HEADLINE} === 'The gateway does not answer'")


def test_a_failed_reload(window, tmp_path) -> None:
    """The page says that the config in force is not the one in the file, and why."""
    with providers(2) as (first, second), gateway(tmp_path, first, second) as (program, _):
        window.look(width=320)
        window.open(program.url)
        window.wait_for(f"{HEADLINE} === 'All is well'")
        (tmp_path / "config.json").write_text(json.dumps({"targets": {"chat": {"url": SECRETS["a client's key"]}}}))
        window.wait_for(f"{HEADLINE}.startsWith('The last reload failed')")
        assert "targets.chat.url: expected" in window.text()
        assert SECRETS["a client's key"] not in window.run("return document.documentElement.outerHTML")
        check_how_it_looks(window)


@needs_server
def test_a_rollout(window, tmp_path) -> None:
    """While two gateways with one store have different configs, the page says so and which of them has which; once
    they have the same, it is gone, without the page being loaded again."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with store_server(tmp_path / "store") as store, providers(2) as (first, second), ExitStack() as stack:
        state = {"url": store.url, "lease_seconds": 2}
        (one, process), (_, other) = (
            stack.enter_context(gateway(folder, first, second, state=state, strict_mode=strict))
            for folder, strict in zip(folders, (False, True), strict=True)
        )
        window.look(width=320)
        window.open(one.url)
        window.wait_for(f"{HEADLINE} === 'Not all processes have the same config in force'")
        shown = window.wait_for(f"{IN_FORCE}.length === 2 && {IN_FORCE}")
        files = [(folder / "config.json").read_bytes() for folder in folders]
        assert sorted(re.fullmatch(r"(\w{16}) in 1: .+-(\d+)-\w+", line).groups() for line in shown) == sorted(
            (hashlib.sha256(file).hexdigest()[:16], str(each.pid))
            for file, each in zip(files, (process, other), strict=True)
        )
        check_how_it_looks(window)
        window.run("window.loaded = true")

        (folders[1] / "config.json").write_bytes(files[0])
        window.wait_for(f"{HEADLINE} === 'All is well' && {IN_FORCE}.length === 0")
        assert window.run("return window.loaded"), "the page was loaded again"


def test_by_keyboard_and_by_ear(window, tmp_path) -> None:
    """All that can be operated is reached by Tab and seen to be; updates can be stopped; each table and chart has a
    name; only what changes rarely is read out by itself."""
    with providers(2) as (first, second), gateway(tmp_path, first, second) as (program, _):
        window.look(width=1280)
        window.open(program.url)
        assert (program.ask(), program.ask("none")) == (200, 404)
        window.wait_for("document.querySelectorAll('table').length === 3")
        reached = []
        for _ in range(4):
            window.press(TAB)
            reached.append(window.run(f"return {FOCUS}"))
        assert reached == [[name, "solid"] for name in ("Skip to the status", "Pause", "The same as JSON", "metrics")]
        assert window.run("return [...document.querySelectorAll('table')].every((each) => each.caption.textContent)")
        charts = window.run(f"return {CHARTS}")
        assert len(charts) == 1 + 2 * 3
        assert all(charts)
        levels = window.run("return [...document.querySelectorAll('h1, h2, h3')].map((each) => each.tagName).join(' ')")
        assert levels == "H1 H2 H3 H2 H2 H2"
        assert window.run("return document.querySelectorAll('[aria-live], [role=status], [role=alert]').length") == 1
        assert window.run("return document.documentElement.lang") == "en"

        window.run("document.getElementById('pause').focus()")
        window.press(ENTER)
        window.wait_for("document.getElementById('updated').textContent.startsWith('Paused')")
        before = window.text()
        for _ in range(5):
            program.ask()
        assert window.text() == before
        window.press(ENTER)
        window.wait_for("document.getElementById('updated').textContent.startsWith('Live')")
        assert window.run("return document.activeElement.id") == "pause"


def test_without_scripts(window, tmp_path) -> None:
    """Providers and what is wrong with them can be read all the same."""
    with providers(2) as (first, second), gateway(tmp_path, first, second) as (program, _):
        first.status = 503
        for _ in range(3):
            program.ask()
        page = program.read("/")
        window.look(width=320)
        window.open("about:blank")
        document = re.sub(r"<script>.*?</script>|</?noscript>", "", page, flags=re.DOTALL)
        window.run("document.open(); document.write(arguments[0]); document.close()", document)
        text = window.text()
        assert "127.0.0.1 is not well; clients get answers from others" in text
        assert "failing" in text
        check_how_it_looks(window)


def test_by_password(window, tmp_path) -> None:
    """Who has no other way to show the key gives it as a password, and sees the same, live."""
    window.send_headers()
    with providers(2) as (first, second), gateway(tmp_path, first, second) as (program, _):
        window.open(program.url)
        assert "All is well" not in window.text()
        window.open(program.url.replace("//", f"//operator:{SECRETS['the metrics key']}@"))
        window.wait_for(f"{HEADLINE} === 'All is well'")
        seen = window.run("return document.getElementById('updated').textContent")
        window.wait_for("document.getElementById('updated').textContent !== arguments[0]", seen)
