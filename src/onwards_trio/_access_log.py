"""The access log: a line of JSON for each exchange.

Lines are written by a thread, some at a time, because a slow disk would hold up all requests, and to wake a thread for
each line would cost more than the line. What does not fit into memory meanwhile is dropped, and counted.
"""

import logging
import os
import sys
import threading
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from onwards_core import Attempt, Record
from onwards_trio._metrics import http_labels

LINES: Final = 10_000
"""That may wait to be written."""
INTERVAL: Final = 0.1
"""Seconds for which lines are gathered."""
FAREWELL: Final = 1.0
"""Seconds at the end for the lines that still wait."""

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("onwards.access")


class AccessLog:
    """A context manager, within which it takes records. path: of the file to append to; `-`: standard output.

    Raises `OSError` where the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self.dropped = 0
        """Lines that were lost."""
        self._path = path
        self._file = sys.stdout.fileno() if path == Path("-") else _open(path)
        self._lines: deque[bytes] = deque()
        self._reopens = False
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._write, name="access-log", daemon=True)

    def __enter__(self) -> Self:
        self._writer.start()
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._writer.join(FAREWELL)

    def observe(self, record: Record) -> None:
        """Log a record that is final."""
        if len(self._lines) >= LINES:
            self.dropped += 1
        else:
            self._lines.append(_encode(entry(record, time.time())) + b"\n")

    def reopen(self) -> None:
        """Go on in a new file of the same name, because the one from before was moved away."""
        self._reopens = self._path != Path("-")

    # In the thread

    def _write(self) -> None:
        closing = False
        while not closing:
            closing = self._closing.wait(INTERVAL)
            if self._reopens:
                self._reopens = False
                self._open_anew()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            try:
                _write_all(self._file, b"".join(lines))
            except OSError:  # A full disk loses lines, and nothing else.
                self.dropped += len(lines)

    def _open_anew(self) -> None:
        try:
            file = _open(self._path)
        except OSError as error:
            _log.error("%s: %s; the access log goes on in the old file", self._path, error.strerror)
            return
        os.close(self._file)
        self._file = file


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def entry(record: Record, now: float) -> dict[str, Any]:
    """What the log says of a record that is final; docs/access-log.md has each field. now: seconds of Unix time."""
    started = record.started
    method, endpoint = http_labels(record)
    usage = record.usage
    return {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "request_id": record.request_id,
        "trace_id": record.trace_id,
        "method": method,
        "endpoint": endpoint,
        "alias": record.alias,
        "key": record.key,
        "status": record.status,
        "outcome": record.verdict,
        "code": record.code,
        "refused_by": record.refused_by,
        "attempts": [_attempt(attempt, record) for attempt in record.attempts],
        "input_tokens": usage and usage.input_tokens,
        "output_tokens": usage and usage.output_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "bytes": record.bytes_sent,
        "seconds": _since(started, record.ended),
        "first_byte_seconds": _since(started, record.first_byte),
        "first_event_seconds": _since(started, record.first_event),
    }


def _attempt(attempt: Attempt, record: Record) -> dict[str, Any]:
    return {
        "provider": attempt.provider,
        "outcome": attempt.outcome,
        "started_seconds": _since(record.started, attempt.started),
        "seconds": _since(attempt.started, attempt.ended),
        "response_id": attempt.response_id,
    }


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else round(end - start, 6)
