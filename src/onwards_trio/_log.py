"""One log line for each request. Whatever in it came from outside is the name of something in the config."""

import logging

from onwards_core import Record

_log = logging.getLogger("onwards.exchange")


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
