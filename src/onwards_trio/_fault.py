"""What becomes of a bug: a line in the log, with a reference that whoever met it can be given."""

import logging
import secrets
import traceback

_log = logging.getLogger("onwards.fault")


def log_fault(fault: BaseException) -> str:
    """Log an exception that nobody expected; the reference under which it stands in the log.

    Its message is left out: it may quote headers or bodies, and those hold secrets.
    """
    reference = secrets.token_hex(4)
    _log.error("internal error, reference %s\n%s", reference, _where(fault))
    return reference


def _where(fault: BaseException) -> str:
    inner = fault.exceptions if isinstance(fault, BaseExceptionGroup) else ()
    own = "".join(traceback.format_tb(fault.__traceback__)) + type(fault).__qualname__
    return "\n".join([own, *map(_where, inner)])
