"""What is particular about serving clients as one of several processes, which obey a parent (`_workers`)."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
import msgspec

from onwards_core._lease_calls import InForce
from onwards_trio._channel import Answer, Channel, ChannelError
from onwards_trio._crowd import Crowd, Place, SharedListener
from onwards_trio._metric_data import Families
from onwards_trio._options import Options
from onwards_trio._status_data import Status
from onwards_trio._tcp import TcpListener

LINGER: Final = 5.0
"""Seconds after which a worker that was replaced closes connections on which nothing comes."""
PATIENCE: Final = 30.0
"""Seconds for the parent to answer."""


@attrs.frozen
class Start:
    """What a worker has to know."""

    number: int
    options: Options
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

    def tell_rollout(self, in_force: tuple[InForce, ...]) -> None:
        """Which configs are in force among all who share limits."""
        with suppress(ChannelError):
            self.channel.tell("rollout", in_force)

    async def finish(self, counted: Families) -> None:
        """Hand over what was counted, at the end."""
        with suppress(ChannelError):
            await self.channel.call("final", counted, object, PATIENCE)
