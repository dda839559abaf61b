"""The status page, its data and its stream."""

import base64
import hashlib
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args

import msgspec
import pytest
import trio
import trio.testing

from onwards_trio import _status_routes, _status_view
from onwards_trio._access import Access
from onwards_trio._admin import admin
from onwards_trio._metric_data import Series
from onwards_trio._server import Server
from onwards_trio._status_data import (
    Bucket,
    ConfigStatus,
    KeyStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    Status,
    Trouble,
)
from onwards_trio._status_routes import StatusRoutes
from tests.trio.gateway_support import Accepting, Client, tcp_pair

ROOT = Path(__file__).parent.parent.parent
EVIL = "</noscript><script>alert(1)</script>"


def status(number: int = 0) -> Status:
    provider = ProviderStatus(EVIL, Limits(), attempts={200: Bucket(3, 3)})
    return Status(
        at=1000.0 + number,
        started=0.0,
        version="1",
        draining=False,
        in_flight=0,
        config=ConfigStatus(["d"], 0.0),
        pools=[PoolStatus(EVIL, Limits(1, 2), [provider], {200: Bucket(3)})],
        keys=[KeyStatus("team", Limits())],
        troubles=[Trouble(kind="attempt", alias=EVIL, key=None, provider=EVIL, reason="reset", by=None, then=None)],
    )


async def no_metrics() -> dict[str, list[Series]]:
    return {}


class Gateway:
    """Its status is another one each time."""

    def __init__(self) -> None:
        self.read = 0
        self.draining = False
        self.routes = StatusRoutes(self._read, lambda: self.draining)

    async def _read(self) -> Status:
        self.read += 1
        return status(self.read)

    @asynccontextmanager
    async def viewers(self, count: int = 1) -> AsyncIterator[list[Client]]:
        pairs = [tcp_pair() for _ in range(count)]
        handle = admin(no_metrics, "own", lambda: "", Access(None, "127.0.0.1"), self.routes)
        server = Server(handle)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, [Accepting(*(ours for ours, _ in pairs))])
            yield [Client(theirs) for _, theirs in pairs]
            for _, theirs in pairs:
                await theirs.aclose()
            server.drain()


def ask(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


async def page() -> tuple[dict[bytes, bytes], str]:
    async with Gateway().viewers() as [viewer]:
        got = await viewer.ask(ask("/"))
        assert got.status == 200
        return got.headers, got.body.decode()


class TestPage:
    async def test_for_who_runs_no_scripts(self) -> None:
        """It says what is wrong with whom, and is loaded again by itself."""
        _, text = await page()
        static = re.search(r"<body>.*?<noscript>(.*?)</noscript>", text, re.DOTALL)[1]
        assert "closed the connection" in static
        assert "is not well" in static
        assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in text

    async def test_names_are_no_markup(self) -> None:
        """Whatever a config calls its pools and providers."""
        _, text = await page()
        assert "alert(1)" in text
        assert [tag for tag, _ in Tags(text).tags].count("script") == 1

    async def test_its_policy(self) -> None:
        """Only its own script and style run, and it talks to nobody but the gateway."""
        headers, text = await page()
        policy = headers[b"content-security-policy"].decode()
        assert policy.startswith("default-src 'none';")
        for kind in ("script", "style"):
            [source] = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}';" in policy
        assert "unsafe" not in policy
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"cache-control"] == b"no-store"

    async def test_nothing_comes_from_elsewhere(self) -> None:
        """Not a font, not an image, not a script."""
        _, text = await page()
        for tag, attributes in Tags(text).tags:
            assert "style" not in attributes, tag  # The policy would not have it.
            for name in ("src", "href"):
                assert (attributes.get(name) or "/").startswith(("/", "#", "data:")), (tag, attributes)
        assert set(re.findall(r"https?://[\w./]+", text)) <= {"http://www.w3.org/2000/svg"}

    def test_the_wheel_has_it(self, tmp_path) -> None:
        """As it is installed by users."""
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
        subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
        [wheel] = tmp_path.glob("*.whl")
        assert "onwards_trio/status.html" in zipfile.ZipFile(wheel).namelist()


class TestData:
    async def test_json(self) -> None:
        """The whole view, as it is at the moment."""
        async with Gateway().viewers() as [viewer]:
            for number in (1, 2):
                got = await viewer.ask(ask("/status.json"))
                assert got.headers[b"content-type"] == b"application/json"
                assert json.loads(got.body)["at"] == 1000.0 + number

    @pytest.mark.parametrize("path", ["/", "/status.json", "/status/events"])
    async def test_head(self, path) -> None:
        """It ends, and has no body; the connection goes on."""
        async with Gateway().viewers() as [viewer]:
            got = await viewer.ask(ask(path, "HEAD"))
            assert (got.status, got.body) == (200, b"")
            assert (await viewer.ask(ask("/status/nothing"))).status == 404
            assert (await viewer.ask(ask(path, "POST"))).status == 405


async def events(viewer: Client, count: int) -> list[dict]:
    """The first ones of a stream."""
    await viewer.stream.send_all(ask("/status/events"))
    data = b""
    while data.count(b"\n\n") < count:
        data += await viewer.stream.receive_some(65536)
    return [json.loads(line) for line in re.findall(rb"^data: (.*)$", data, re.MULTILINE)]


class TestStream:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch) -> None:
        monkeypatch.setattr(_status_routes, "INTERVAL", 0.01)

    async def test_events(self) -> None:
        """The first one at once, then one each second, each what JSON would have been."""
        async with Gateway().viewers() as [viewer]:
            found = await events(viewer, 3)
            assert [event["at"] for event in found] == sorted({event["at"] for event in found})
            assert list(found[0]) == [field.name for field in msgspec.structs.fields(_status_view.View)]

    async def test_many_viewers(self, monkeypatch) -> None:
        """An event is made once, for all of them."""
        monkeypatch.setattr(_status_routes, "INTERVAL", 1000.0)
        gateway = Gateway()
        async with gateway.viewers(20) as viewers:
            found = [(await events(viewer, 1))[0]["at"] for viewer in viewers]
            assert found == [1001.0] * 20
            assert gateway.read == 1

    async def test_a_viewer_that_leaves(self) -> None:
        """Nobody is read for any more."""
        gateway = Gateway()
        async with gateway.viewers() as [viewer]:
            await events(viewer, 1)
            await viewer.stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.05)
            read = gateway.read
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert gateway.read == read

    async def test_drain(self) -> None:
        """The stream ends as it should, with what is known last; the same for who comes again."""
        gateway = Gateway()
        async with gateway.viewers() as [viewer]:
            gateway.draining = True
            for _ in range(2):
                got = await viewer.ask(ask("/status/events"))
                assert got.whole
                assert got.body.count(b"data: ") == 1


SECTIONS = {
    "The whole": "View",
    "Config": "ConfigView",
    "Figures": "Figures",
    "Pools": "PoolView",
    "Providers": "ProviderView",
    "Limits": "Limits",
    "Troubles": "TroubleView",
}


def test_the_page_has_every_field() -> None:
    """The documentation lists what the JSON has, and nothing else; and each state."""
    text = (ROOT / "docs" / "status.md").read_text()
    for heading, name in SECTIONS.items():
        section = text.partition(f"### {heading}\n")[2].partition("\n#")[0]
        fields = [field.name for field in msgspec.structs.fields(getattr(_status_view, name))]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == fields, heading
    for field in (*msgspec.structs.fields(_status_view.History), *msgspec.structs.fields(_status_view.KeyView)):
        assert f"`{field.name}`" in text
    states = text.partition("| state of a provider |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", states, re.MULTILINE)) == set(get_args(_status_view.ProviderState))


def test_the_json_has_every_field() -> None:
    """What goes out is what the documentation was held to."""
    found = json.loads(msgspec.json.encode(_status_view.view(status())))
    parts = {
        "View": found,
        "ConfigView": found["config"],
        "Figures": found["exchanges"],
        "PoolView": found["pools"][0],
        "ProviderView": found["pools"][0]["providers"][0],
        "Limits": found["keys"][0]["limits"],
        "TroubleView": found["troubles"][0],
    }
    for name, part in parts.items():
        assert list(part) == [field.name for field in msgspec.structs.fields(getattr(_status_view, name))]
