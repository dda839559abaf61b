"""The process of a worker, from its start to its exit code.

`onwards _worker N` is how the parent starts it; N is the descriptor of its end of their channel. When that is cut, the
parent is gone, and the worker ends at once: it would hold the port, and nobody would count what it lets through.
"""

import logging
import pickle
import signal
import socket
import sys
from contextlib import suppress

import trio

from onwards_core import ConfigError
from onwards_trio._channel import Answer, Channel, ChannelError
from onwards_trio._log import logging_to
from onwards_trio._serve import serve
from onwards_trio._tcp import TcpStream
from onwards_trio._worker import PATIENCE, Start, Worker

_log = logging.getLogger("onwards.worker")


async def _work(descriptor: int) -> int:
    """The exit code."""
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
    pickled = await channel.call("start", None, bytes, PATIENCE)
    start = pickle.loads(pickled)  # noqa: S301  # It is from who started this process.
    assert isinstance(start, Start)
    return start


def work(descriptor: int) -> int:
    """Run until the parent wants the end, and return the exit code. descriptor: this end of the channel to it."""
    # A terminal or a service manager sends these to all processes; the parent says what is to be done.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    return trio.run(_work, descriptor)
