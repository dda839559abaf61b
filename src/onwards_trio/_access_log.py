"""The access log: a line of JSON for each exchange.

Lines are written by a thread, some at a time, because a slow disk would hold up all requests, and to wake a thread for
each line would cost more than the line. What does not fit into memory meanwhile is dropped, and counted.
"""

import logging
import math
import os
import select
import stat
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from onwards_core import Record
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
        self._is_cut = False  # Whether the file ends within a line.
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
            self.write_waiting()

    def write_waiting(self) -> None:
        """Write the lines that wait now."""
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        for piece in _pieces(lines, self._most_at_once()):
            self._append(piece)

    def _most_at_once(self) -> float:
        """Bytes that do not get mixed with those of another process: a file takes any number, a pipe few."""
        return select.PIPE_BUF if stat.S_ISFIFO(os.fstat(self._file).st_mode) else math.inf

    def _append(self, lines: bytes) -> None:
        """Write some lines. A full disk loses them, and nothing else: the next one does not go on where one was cut."""
        rest = b"\n" + lines if self._is_cut else lines
        try:
            while rest:
                written = os.write(self._file, rest)
                self._is_cut = not rest.endswith(b"\n", 0, written)
                rest = rest[written:]
        except OSError:
            # What begins with the end of a line has that line whole, whenever there is room for it.
            self.dropped += rest.count(b"\n") - rest.startswith(b"\n")

    def _open_anew(self) -> None:
        try:
            file = _open(self._path)
        except OSError as error:
            _log.error("%s: %s; the access log goes on in the old file", self._path, error.strerror)
            return
        os.close(self._file)
        self._file = file
        self._is_cut = self._is_cut and os.fstat(file).st_size > 0


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)


def _pieces(lines: list[bytes], most: float) -> Iterator[bytes]:
    """The lines, as many at once as `most` bytes hold, but at least one."""
    together: list[bytes] = []
    size = 0
    for line in lines:
        if together and size + len(line) > most:
            yield b"".join(together)
            together, size = [], 0
        together.append(line)
        size += len(line)
    if together:
        yield b"".join(together)


class AttemptEntry(msgspec.Struct):
    """What a line says of an attempt."""

    provider: str
    outcome: str | None
    started_seconds: float
    seconds: float | None
    response_id: str | None


class Entry(msgspec.Struct):
    """What a line says; docs/access-log.md has each field."""

    time: datetime
    request_id: str
    trace_id: str | None
    client: str | None
    method: str
    endpoint: str
    alias: str | None
    key: str | None
    status: int | None
    outcome: str
    code: str | None
    refused_by: str | None
    attempts: list[AttemptEntry]
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    bytes: int
    seconds: float | None
    first_byte_seconds: float | None
    first_event_seconds: float | None
    first_content_seconds: float | None


def entry(record: Record, now: float) -> Entry:
    """The line for a record that is final. now: seconds of Unix time."""
    started = record.started
    usage = record.usage
    return Entry(
        datetime.fromtimestamp(now, UTC),
        record.request_id,
        record.trace_id,
        record.client,
        *http_labels(record),
        record.alias,
        record.key,
        record.status,
        record.verdict,
        record.code,
        record.refused_by,
        [
            AttemptEntry(
                attempt.provider,
                attempt.outcome,
                attempt.started - started,
                _since(attempt.started, attempt.ended),
                attempt.response_id,
            )
            for attempt in record.attempts
        ],
        usage.input_tokens if usage else None,
        usage.output_tokens if usage else None,
        usage.cached_tokens if usage else None,
        record.bytes_sent,
        _since(started, record.ended),
        _since(started, record.first_byte),
        _since(started, record.first_event),
        _since(started, record.first_content),
    )


def _since(start: float, end: float | None) -> float | None:
    return None if end is None else end - start
