"""How the program logs, and its line for each request.

Lines are written by a thread, because a pipe that nobody empties, or a slow disk, would hold up all requests. What
does not fit into the queue is dropped, and counted.
"""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from queue import Full, Queue
from typing import Final

import msgspec

from onwards_core import Record

QUEUE_LIMIT: Final = 10_000
"""Lines that may wait to be written."""
FAREWELL: Final = 1.0
"""Seconds at the end for the lines that still wait."""

_log = logging.getLogger("onwards.exchange")


@contextmanager
def logging_to(descriptor: int, level: str, style: str = "text", who: str = "") -> Iterator[None]:
    """Write log lines to a file descriptor, in the background.

    style: `text`; `json`; or `auto`: text on a terminal, else JSON. who: tells the process from others that do.
    """
    handler = _Queued(Queue(QUEUE_LIMIT))
    as_json = style == "json" or (style == "auto" and not os.isatty(descriptor))
    text = logging.Formatter(f"%(asctime)s %(levelname)s {who}%(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter(who.rstrip(": ")) if as_json else text)
    writer = threading.Thread(target=handler.write, args=(descriptor,), name="log", daemon=True)
    # It has a warning for each malformed form, so clients could fill the log.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(handler)
    writer.start()
    try:
        yield
    finally:
        root.removeHandler(handler)
        with suppress(Full):
            handler.queue.put(None, timeout=FAREWELL)
        writer.join(FAREWELL)


class _JsonFormatter(logging.Formatter):
    """A line of JSON, for programs that read logs."""

    def __init__(self, who: str) -> None:
        super().__init__()
        self._who = {"process": who} if who else {}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._who,
            "logger": record.name,
            "message": record.getMessage().encode(errors="backslashreplace").decode(),
        }
        return msgspec.json.encode(line).decode()


class _Queued(logging.Handler):
    def __init__(self, queue: "Queue[str | None]") -> None:
        super().__init__()
        self.queue = queue
        self.dropped = 0
        """Lines in all that were lost."""
        self._told = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self.dropped > self._told:
                self.queue.put_nowait(f"{self.dropped - self._told} log lines were dropped")
                self._told = self.dropped
            self.queue.put_nowait(self.format(record))
        except Full:
            self.dropped += 1

    def write(self, descriptor: int) -> None:
        """Write all lines until the end is announced. Past Python's own files, which a stuck thread would lock."""
        while (line := self.queue.get()) is not None:
            data = f"{line}\n".encode(errors="backslashreplace")
            with suppress(OSError):  # A full disk loses lines, and nothing else.
                while data:
                    data = data[os.write(descriptor, data) :]


def lines_dropped() -> int:
    """How many lines of the log were lost."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, _Queued))


def log_record(record: Record) -> None:
    """Log a record that is final: at debug level, or as a warning when no provider had a usable answer."""
    level = logging.WARNING if record.attempts and (record.status or 0) >= 500 else logging.DEBUG
    if not _log.isEnabledFor(level):
        return
    _log.log(
        level,
        "alias=%s key=%s status=%s outcome=%s attempts=%s ms=%.1f",
        record.alias,
        record.key,
        record.status,
        record.outcome,
        ",".join(f"{attempt.provider}:{attempt.outcome}" for attempt in record.attempts) or None,
        ((record.ended or record.started) - record.started) * 1000,
    )
