"""A staged incident: one of three providers begins to fail, and is well again some time later. Which one?

    python docs/examples/incident.py --seconds 120

It starts mock providers, the gateway before them, Prometheus if that is installed, and clients. For a third of the time
all is well, for a third one provider fails, then it is mended. Where to look is printed, and at the end who it was.
`--seed` decides about that, and about what the clients do.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self
from urllib.parse import urlsplit

ONWARDS: Final = (sys.executable, "-m", "onwards_trio")
RULES: Final = Path(__file__).parents[2] / "deploy" / "prometheus" / "onwards.rules.yml"

# What each provider is like when all is well. One that is slow is not one that fails.
PROVIDERS: Final = {
    "north": ("--latency", "0.05", "--tokens-per-second", "600"),
    "east": ("--latency", "0.08", "--tokens-per-second", "500"),
    "west": ("--latency", "0.2", "--tokens-per-second", "300"),
}
FAILING: Final = ("--fail-rate", "0.8", "--fail-status", "503")
KEYS: Final = {"app": "sk-app-000000", "batch": "sk-batch-00000"}


class Incident:
    """Everything that runs. Use it as a context manager, then `begin` and `end` the provider's failure.

    folder: an empty one, for the config and the logs. workers: of the gateway.
    """

    def __init__(self, seed: int, folder: Path, workers: int = 1) -> None:
        self.culprit = Random(seed).choice(sorted(PROVIDERS))  # noqa: S311 - repeatable, nothing secret
        self.folder = folder
        self._seed = seed
        self._workers = workers
        self._running = ExitStack()
        self._mocks: dict[str, ExitStack] = {}
        self._urls: dict[str, str] = {}
        self.access_log = folder / "access.log"
        self.gateway = ""
        """URL for clients."""
        self.operators = ""
        """URL of the status page; `metrics` is below it."""

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.enter_context(self._running)
            for name in PROVIDERS:
                self._start(name)
            config = self.folder / "config.json"
            config.write_text(json.dumps(self._config(), indent=2))
            command = [*ONWARDS, "serve", "-f", str(config), "-p", "0", "--host", "127.0.0.1", "--metrics-port", "0"]
            command += ["--access-log", str(self.access_log), "--workers", str(self._workers)]
            patterns = r"listening on (http://[\d.:]+)", r"metrics on (http://[\d.:]+)"
            urls = self._running.enter_context(started(command, self.folder / "gateway.log", *patterns))
            self.gateway, self.operators = (f"{url}/" for url in urls)
            starting.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.close()

    def begin(self) -> None:
        """From now on the culprit fails most of the requests."""
        self._start(self.culprit, *FAILING)

    def end(self) -> None:
        """It is mended."""
        self._start(self.culprit)

    def client(self, number: int) -> "Client":
        """One that behaves like no other: its requests depend on the seed and its number."""
        return Client(self.gateway, Random(f"{self._seed} {number}"))  # noqa: S311 - repeatable, nothing secret

    def _start(self, name: str, *faults: str) -> None:
        """Start a mock provider, or start it anew at the address where it was."""
        stack = self._mocks.setdefault(name, self._running.enter_context(ExitStack()))
        stack.close()
        port = str(urlsplit(self._urls[name]).port) if name in self._urls else "0"
        command = [*ONWARDS, "mock-provider", "-p", port, *PROVIDERS[name], *faults]
        [self._urls[name]] = stack.enter_context(started(command, self.folder / f"{name}.log", r"(http://\S+)"))

    def _config(self) -> dict[str, object]:
        providers = [{"name": name, "url": url} for name, url in self._urls.items()]
        fallback = {"enabled": True, "on_status": [429, 5]}
        health = {"consecutive_failures": 3, "cooldown_secs": 2, "max_cooldown_secs": 4}
        return {
            "auth": {
                "key_definitions": {
                    "app": {"key": KEYS["app"], "concurrency_limit": {"max_concurrent_requests": 64}},
                    "batch": {"key": KEYS["batch"], "rate_limit": {"requests_per_second": 2}},
                }
            },
            "targets": {
                "chat": {
                    "keys": ["app", "batch"],
                    "providers": providers,
                    "fallback": fallback,
                    "health": health,
                    "concurrency_limit": {"max_concurrent_requests": 64},
                },
                "embed": {"keys": ["app", "batch"], "providers": providers[:1]},
            },
        }


class Client:
    """Sends requests, one after the other."""

    def __init__(self, gateway: str, random: Random) -> None:
        self._address = urlsplit(gateway).netloc
        self._random = random

    def ask(self) -> int:
        """One request and its whole answer. Returns the status. Raises `OSError`, `HTTPException` without an answer."""
        chosen = self._random.random()
        key = "batch" if self._random.random() < 0.2 else "app"
        question = [{"role": "user", "content": "Is anybody there?"}]
        chat = {"model": "chat", "messages": question, "stream": chosen < 0.6}
        path, body = (
            ("/v1/chat/completions", chat) if chosen < 0.85 else ("/v1/embeddings", {"model": "embed", "input": "a"})
        )
        connection = HTTPConnection(self._address, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body), {"authorization": f"Bearer {KEYS[key]}"})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()

    def ask_until(self, stop: threading.Event, pause: float) -> None:
        """Request after request, with pauses of that many seconds in the mean."""
        while not stop.wait(self._random.expovariate(1 / pause)):
            try:
                self.ask()
            except (OSError, HTTPException):
                if not stop.is_set():
                    raise


@contextmanager
def clients(incident: Incident, count: int, pause: float) -> Iterator[None]:
    """So many clients, all the time."""
    stop = threading.Event()
    threads = [threading.Thread(target=incident.client(n).ask_until, args=(stop, pause)) for n in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def prometheus(incident: Incident, interval: str = "1s") -> Iterator[str]:
    """The URL of a Prometheus that reads the gateway's metrics and knows the alerts."""
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": "onwards", "static_configs": [{"targets": [urlsplit(incident.operators).netloc]}]}
        ],
    }
    file = incident.folder / "prometheus.json"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [
        *("prometheus", f"--config.file={file}", f"--storage.tsdb.path={incident.folder / 'prometheus'}"),
        "--web.listen-address=127.0.0.1:0",
    ]
    log = incident.folder / "prometheus.log"
    with started(command, log, r'msg="Listening on" address=(\S+)', "(Server is ready)") as [address, _]:
        yield f"http://{address}/"


@contextmanager
def started(command: list[str], log: Path, *patterns: str) -> Iterator[list[str]]:
    """A program in the background, as soon as it has written all of the patterns; what their groups matched."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            found: list[re.Match[str] | None] = [None]
            while None in found:
                if process.poll() is not None:
                    raise RuntimeError(f"{command} ended:\n{log.read_text()}")
                time.sleep(0.02)
                written = log.read_text()
                found = [re.search(pattern, written) for pattern in patterns]
            yield [match[1] for match in found if match]
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with (
        TemporaryDirectory() as folder,
        Incident(options.seed, Path(folder), options.workers) as incident,
        ExitStack() as more,
    ):
        print(f"Status page  {incident.operators}")
        print(f"Metrics      {incident.operators}metrics")
        print(f"Access log   {incident.access_log}")
        if shutil.which("prometheus"):
            print(f"Prometheus   {more.enter_context(prometheus(incident))}")
        more.enter_context(clients(incident, 12, 0.5))
        print("\nAll is well.", flush=True)
        time.sleep(options.seconds / 3)
        incident.begin()
        print("Now a provider fails. Which one?", flush=True)
        time.sleep(options.seconds / 3)
        incident.end()
        print("It is mended.", flush=True)
        time.sleep(options.seconds / 3)
        print(f"It was {incident.culprit}.")


if __name__ == "__main__":
    main()
