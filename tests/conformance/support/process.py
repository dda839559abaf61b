"""A gateway as a process of its own: what a conformance case talks to."""

import json
import signal
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conformance.support.client import Client
from tests.conformance.support.program import Program
from tests.conformance.support.provider import JSON, Call, Provider, next_call
from tests.conformance.support.wire import Message

ROOT = Path(__file__).resolve().parents[3]

COMMANDS = {
    "trio": "-m onwards_trio serve -f {config} --host 127.0.0.1 -p 0 --metrics-port 0 --log-level debug",
    "asyncio": "{root}/docs/examples/asyncio_gateway.py {config} --port 0",
}

# What a gateway says of a config that it was told to reload.
RELOADED = "config reloaded"
REFUSED = "config not reloaded"


class Process(Program):
    """A running gateway and its config file."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        *options: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`config`: None if the folder holds one."""
        if kind == "trio":
            self.stopped_by_signal = (0,)  # It drains; the example is killed by the signal.
        self.config = folder / "config.json"
        if config is not None:
            self.write(config)
        arguments = [part.format(root=ROOT, config=self.config) for part in COMMANDS[kind].split()]
        super().__init__([*arguments, *options], env=env)
        try:
            self.port = int(self.wait_for(r"listening on http://127\.0\.0\.1:(\d+)")[1])
        except BaseException:
            self.kill()
            raise

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Replace the config file, in one step."""
        text = config if isinstance(config, str) else json.dumps(config)
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    def reload(self, config: Mapping[str, Any] | str, *, outcome: str = RELOADED) -> None:
        """Replace the config file, and wait until the gateway says what came of it."""
        lines = self.lines
        self.write(config)
        self.signal(signal.SIGHUP)
        self.wait_for(outcome, after=lines)


class Gateway:
    """A gateway as one test sees it. The process is shared, so what counts outlives the test: use the names of aliases
    and keys with limits only once."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._opened = ExitStack()

    def configure(self, targets: Mapping[str, Any], auth: Mapping[str, Any] | None = None, **others: Any) -> None:
        self.process.reload({"targets": targets, **({"auth": auth} if auth else {}), **others})

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

    def admitted(self, provider: Provider, *arguments: Any, **options: Any) -> Client:
        """Send requests until one gets to the provider: the permit that it needs is free by then, or soon after.

        Leaves no connection to the provider that could be used again. Gives the client's, whose next request finds the
        permit free: on another connection it might come a moment too soon.
        """
        while True:
            client = self.connect()
            client.request(*arguments, **options)
            if call := next_call([provider], client):
                call.respond(fields=[JSON, ("connection", "close")])
                assert client.answer().status == 200
                return client
            assert client.answer().status == 429

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()
