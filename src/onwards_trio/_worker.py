"""A worker: a process that serves clients, and obeys the parent that started it (`_workers`).

`onwards _worker N` is how the parent starts it; N is the descriptor of its end of their channel. When that is cut, the
parent is gone, and the worker ends at once: it would hold the port, and nobody would count what it lets through.
"""

import logging
import pickle
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
import msgspec
import trio

from onwards_core import ConfigError
from onwards_trio._channel import Answer, Channel, ChannelError
from onwards_trio._crowd import Crowd, Place, SharedListener
from onwards_trio._log import logging_to
from onwards_trio._metric_data import Families
from onwards_trio._status_data import Status
from onwards_trio._tcp import TcpListener, TcpStream

if TYPE_CHECKING:
    from onwards_trio._serve import Options

LINGER: Final = 5.0
"""Seconds after which a worker that was replaced closes connections on which nothing comes."""
_PATIENCE: Final = 30.0
"""Seconds for the parent to answer."""

_log = logging.getLogger("onwards.worker")


@attrs.frozen
class Start:
    """What a worker has to know."""

    number: int
    options: "Options"
    log_level: str
    hash_key: bytes
    listening: list[int]
    """Descriptors of sockets."""
    crowd: int
    """The descriptor of memory that all workers share."""


class Worker:
    """What is particular about serving as one of several."""

    def __init__(self, channel: Channel, answers: dict[str, Answer], start: Start) -> None:
        self.number = start.number
        self.hash_key = start.hash_key
        self.place = Place(Crowd(start.crowd), start.number)
        self.listeners: list[TcpListener] = [
            SharedListener(TcpListener(socket.socket(fileno=descriptor)), self.place) for descriptor in start.listening
        ]
        self.channel = channel
        self._answers = answers

    def obey(
        self,
        collect: Callable[[], Awaitable[Families]],
        status: Callable[[], Awaitable[Status]],
        reload: Callable[[], None],
        reopen_log: Callable[[], None],
        reload_tls: Callable[[], None] | None,
        drain: Callable[[float], None],
        retire: Callable[[float], None],
    ) -> None:
        """From now on do what the parent wants, and tell it that this worker is ready."""

        async def answer_collect(_: msgspec.Raw) -> Families:
            return await collect()

        async def answer_status(_: msgspec.Raw) -> Status:
            return await status()

        async def answer_reload(_: msgspec.Raw) -> None:
            reload()

        async def answer_reopen_log(_: msgspec.Raw) -> None:
            reopen_log()

        async def answer_reload_tls(_: msgspec.Raw) -> None:
            if reload_tls is not None:
                reload_tls()

        async def answer_drain(delay: msgspec.Raw) -> None:
            drain(msgspec.msgpack.decode(delay, type=float))

        async def answer_retire(_: msgspec.Raw) -> None:
            self.place.leave()
            retire(LINGER)

        self._answers |= {
            "collect": answer_collect,
            "status": answer_status,
            "reload": answer_reload,
            "reopen_log": answer_reopen_log,
            "reload_tls": answer_reload_tls,
            "drain": answer_drain,
            "retire": answer_retire,
        }
        self.place.take()
        self.channel.tell("ready")

    async def finish(self, counted: Families) -> None:
        """Hand over what was counted, at the end."""
        with suppress(ChannelError):
            await self.channel.call("final", counted, object, _PATIENCE)


async def _work(descriptor: int) -> int:
    """The exit code."""
    from onwards_trio._serve import serve  # noqa: PLC0415  # It imports this module.

    answers: dict[str, Answer] = {}
    channel = Channel(TcpStream(socket.socket(fileno=descriptor)), answers)
    code = 1  # the parent has gone
    async with trio.open_nursery() as nursery:

        async def follow_parent() -> None:
            with suppress(ChannelError):
                await channel.run()
            nursery.cancel_scope.cancel()

        nursery.start_soon(follow_parent)
        start = await _told_to_start(channel)
        with logging_to(sys.stderr.fileno(), start.log_level, start.options.log_format, f"worker {start.number}: "):
            try:
                await serve(start.options, Worker(channel, answers, start))
                code = 0
            except (ConfigError, OSError) as error:
                for problem in error.problems if isinstance(error, ConfigError) else [error]:
                    _log.error("%s: %s", start.options.config, problem)
        nursery.cancel_scope.cancel()
    return code


async def _told_to_start(channel: Channel) -> Start:
    pickled = await channel.call("start", None, bytes, _PATIENCE)
    start = pickle.loads(pickled)  # noqa: S301  # It is from who started this process.
    assert isinstance(start, Start)
    return start


def work(descriptor: int) -> int:
    """Run until the parent wants the end, and return the exit code. descriptor: this end of the channel to it."""
    # A terminal or a service manager sends these to all processes; the parent says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    return trio.run(_work, descriptor)
