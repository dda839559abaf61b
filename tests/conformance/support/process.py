"""A gateway as a process of its own: what a conformance case talks to."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conformance.support.client import Client
from tests.conformance.support.provider import Call, Provider, next_call
from tests.conformance.support.wire import TIMEOUT, Message

ROOT = Path(__file__).resolve().parents[3]

# What Python says about a fault that nobody handled, or about something that nobody closed.
_FAULT = re.compile(r"Traceback|Warning|internal error|never retrieved")

COMMANDS = {
    "trio": "-m onwards_trio serve -f {config} --host 127.0.0.1 -p 0 --metrics-port 0 --log-level debug",
    "asyncio": "{root}/docs/examples/asyncio_gateway.py {config} --port 0",
}


class Process:
    """A running gateway, its config file and all that it has printed so far."""

    def __init__(
        self, kind: str, folder: Path, config: Mapping[str, Any], *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.kind = kind
        self.config = folder / "config.json"
        self.write(config)
        arguments = [part.format(root=ROOT, config=self.config) for part in COMMANDS[kind].split()]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "always::ResourceWarning", *arguments, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        except BaseException:
            self.kill()
            raise

    @property
    def output(self) -> str:
        return "".join(self._lines)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_for(self, pattern: str, *, after: int = 0) -> re.Match[str]:
        """Wait for a line that matches, beginning with line number `after`."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = [match for line in self._lines[after:] if (match := re.search(pattern, line))]
            return bool(found) or self._ended

        with self._changed:
            assert self._changed.wait_for(look, TIMEOUT), f"nothing like {pattern!r} in:\n{self.output}"
        assert found, f"ended without {pattern!r}:\n{self.output}"
        return found[0]

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replace the config file, in one step."""
        text = config if isinstance(config, str) else json.dumps(config)
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    def reload(self, config: Mapping[str, Any] | str, *, outcome: str = "config reloaded") -> None:
        """Replace the config file, and wait until the gateway says what came of it."""
        lines = len(self._lines)
        self.write(config)
        self._process.send_signal(signal.SIGHUP)
        self.wait_for(outcome, after=lines)

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(TIMEOUT)
        self._reader.join()
        return code

    def stop(self) -> None:
        """End it, and see that it ended well and has met no fault in all its life."""
        self.terminate()
        code = self.wait()
        assert not _FAULT.search(self.output), self.output
        # The example does not drain: the signal kills it.
        assert code == (0 if self.kind == "trio" else -signal.SIGTERM), self.output

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def running(
    kind: str, folder: Path, config: Mapping[str, Any], *options: str, env: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """A gateway that only one test uses; it ends with the block, and well."""
    process = Process(kind, folder, config, *options, env=env)
    try:
        yield process
    except BaseException:
        process.kill()
        print(process.output)
        raise
    process.stop()


class Gateway:
    """A gateway as one test sees it. The process is shared, so what counts outlives the test: use the names of aliases
    and keys with limits only once."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._opened = ExitStack()

    def configure(self, targets: Mapping[str, Any], auth: Mapping[str, Any] | None = None) -> None:
        self.process.reload({"targets": targets, **({"auth": auth} if auth else {})})

    def connect(self, *, receive_buffer: int | None = None) -> Client:
        client = Client(self.process.port, receive_buffer=receive_buffer)
        self._opened.callback(client.close)
        return client

    def ask(self, *arguments: Any, **options: Any) -> Message:
        """Send a request (see `Client.request`) over a new connection, and read the answer."""
        client = self.connect()
        client.request(*arguments, **options)
        return client.answer()

    def through(self, provider: Provider, *arguments: Any, **options: Any) -> tuple[Call, Message]:
        """Send a request, let the provider answer it with `{}`; what the provider saw, and what the client got."""
        client = self.connect()
        client.request(*arguments, **options)
        call = provider.call()
        call.respond()
        return call, client.answer()

    def admitted(self, provider: Provider, *arguments: Any, **options: Any) -> Call:
        """Send requests until one gets to the provider: the permit that it needs is free by then, or soon after."""
        while True:
            client = self.connect()
            client.request(*arguments, **options)
            if call := next_call([provider], client):
                call.respond()
                assert client.answer().status == 200
                return call
            assert client.answer().status == 429

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()
