"""A program of ours as a process of its own, and what it prints."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from tests.conformance.support.wire import TIMEOUT

# What Python says about a fault that nobody handled, or about something that nobody closed.
_FAULT = re.compile(r"Traceback|Warning|internal error|never retrieved")


class Program:
    """Leaving it as a context manager ends it, and sees that it ended well and has met no fault in all its life."""

    stopped_by_signal = (0, -signal.SIGTERM)
    """The exit codes that are right after SIGTERM."""

    def __init__(self, arguments: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "always::ResourceWarning", *arguments],
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

    @property
    def output(self) -> str:
        """What it has printed so far, errors included."""
        return "".join(self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

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

    @property
    def lines(self) -> int:
        """How many it has printed."""
        return len(self._lines)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait for its end; the exit code."""
        code = self._process.wait(TIMEOUT)
        self._reader.join()
        return code

    def stop(self) -> None:
        """End it unless it has ended, and see that all was well."""
        self.signal(signal.SIGTERM)
        code = self.wait()
        assert not _FAULT.search(self.output), self.output
        assert code in self.stopped_by_signal, self.output

    def kill(self) -> None:
        self._process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if type is None:
            self.stop()
        else:
            self.kill()
            print(self.output)

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
