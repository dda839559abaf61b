"""A headless Chromium, driven through chromedriver's HTTP protocol (W3C WebDriver)."""

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

DEADLINE = 30.0  # seconds for what a page does within two
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)

HAS_BROWSER = bool(shutil.which("chromium") and shutil.which("chromedriver"))
needs_browser = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")),
    reason="chromium and chromedriver are not installed",
)


class Browser:
    """One window."""

    def __init__(self, port: int, profile: Path) -> None:
        self._port = port
        options = {"args": [*_FLAGS, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
        capabilities = {"alwaysMatch": {"goog:chromeOptions": options}}
        self._session = self._call("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def open(self, url: str) -> None:
        self._command("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a JavaScript function returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": arguments})

    def wait_for(self, condition: str, *arguments: object) -> Any:
        """The value of a JavaScript expression as soon as it is true."""
        until = time.monotonic() + DEADLINE
        while not (value := self.run(f"return {condition}", *arguments)):
            text = self.text() if time.monotonic() > until else ""
            assert time.monotonic() < until, f"not {condition} in:\n{text}"
            time.sleep(0.05)
        return value

    def text(self) -> str:
        """What is visible."""
        return self.run("return document.body.innerText")

    def press(self, key: str) -> None:
        """As on a keyboard."""
        actions = [{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]
        self._command("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def look(self, *, width: int, height: int = 900, dark: bool = False) -> None:
        """A window of this size, in light or dark."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._devtools("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", {"features": [scheme]})

    def send_headers(self, **headers: str) -> None:
        """These, with each request from now on."""
        self._devtools("Network.enable", {})
        self._devtools("Network.setExtraHTTPHeaders", {"headers": headers})

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        taken = self._devtools("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        return base64.b64decode(taken["data"])

    def close(self) -> None:
        self._command("DELETE", "", None)

    def _devtools(self, command: str, parameters: dict[str, Any]) -> Any:
        return self._command("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _command(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        return self._call(method, f"/session/{self._session}{path}", body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=DEADLINE)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.load(connection.getresponse())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{path}: {value['error']}: {value['message']}")
        return value


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """profile: an empty folder."""
    driver = subprocess.Popen(
        [shutil.which("chromedriver"), "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    with driver:
        try:
            for line in driver.stdout:
                if started := re.search(r"started successfully on port (\d+)", line):
                    break
            window = Browser(int(started[1]), profile)
            try:
                yield window
            finally:
                window.close()
        finally:
            driver.terminate()
