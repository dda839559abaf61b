"""What every transport does."""

import errno
from collections import Counter
from collections.abc import Awaitable
from types import TracebackType
from typing import Protocol, Self

from onwards_core import FailureReason, Headers, SendUpstream


class UpstreamError(Exception):
    """There is no answer, or no more of it. The reason is all that may be told to anyone."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(reason)
        self.reason = reason


# The system has no more files, or no more memory for them.
_OUR_LACK = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def no_connection(error: BaseException) -> UpstreamError:
    """What it means that no connection could be made: what this process lacks does not speak against its provider."""
    causes = (error, error.__cause__, error.__context__)
    ours = any(isinstance(cause, OSError) and cause.errno in _OUR_LACK for cause in causes)
    return UpstreamError("no_resources" if ours else "connect")


class Answer(Protocol):
    """A provider's response whose head has arrived. Call `aclose` in any case."""

    status: int
    headers: Headers
    ended: bool
    """Whether the body has come to its proper end with the last piece."""

    def receive_nowait(self) -> bytes:
        """The next piece of the body if it is here already, else `b""`. Raises `UpstreamError`."""
        ...

    async def receive(self) -> bytes:
        """The next piece of the body as it arrives, `b""` only if it has ended. Raises `UpstreamError`."""
        ...

    async def receive_until(self, until: float) -> bytes | None:
        """As `receive`; None if nothing has come by then (in Trio's time), and nothing is lost."""
        ...

    async def aclose(self) -> None:
        """With the body read to its end, make the connection available again; else close it at once, without
        waiting for the peer; of an HTTP/2 connection that others use, only its stream. May be called again."""
        ...


class Sender(Protocol):
    """What an exchange needs of a transport."""

    def send(self, request: SendUpstream) -> Awaitable[Answer]:
        """Send the request and wait for the response head. Raises `UpstreamError`."""
        ...


class Transport(Sender, Protocol):
    """An async context manager around its idle connections: leaving it closes them all."""

    @property
    def opened(self) -> Counter[str]:
        """How many connections to providers were opened, by host."""
        ...

    @property
    def reused(self) -> Counter[str]:
        """How many requests went out on one that was used before, by host."""
        ...

    def connections(self) -> tuple[Counter[str], Counter[str]]:
        """How many there are now by host: with requests under way, and waiting for the next one."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
