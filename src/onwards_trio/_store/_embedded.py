"""The store of limits that the parent of several workers keeps for them, with nothing to configure.

Calls go over the channel between the two. The parent's clock decides, which is the same one here, and knows at once
when a worker has ended: what that one held is free then.
"""

import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from onwards_core._lease_calls import (
    Beat,
    Beaten,
    Call,
    HoldPermits,
    PermitsHeld,
    Reply,
    TakeTokens,
    TokensTaken,
)
from onwards_core._lease_store import LeaseStore
from onwards_trio._channel import Answer, Channel, ChannelError
from onwards_trio._store._protocol import StoreError, Talk

NAME: Final = "limits"
"""Of these calls on the channel."""
PATIENCE: Final = 1.0
"""Seconds for the parent to answer: it is there as long as this process is, but may get its turn late."""

# A call goes as the place of its kind here, and its fields; a reply as its fields.
_KINDS: Final[tuple[tuple[type[Call], type[Reply]], ...]] = (
    (TakeTokens, TokensTaken),
    (HoldPermits, PermitsHeld),
    (Beat, Beaten),
)
_PLACES: Final = {kind: place for place, (kind, _) in enumerate(_KINDS)}
_encode = msgspec.msgpack.Encoder().encode


class ParentStore:
    """Implements `Store`, in a worker."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Talk]:
        async def talk(calls: Sequence[Call]) -> list[Reply]:
            asked = [(_PLACES[type(call)], call) for call in calls]
            try:
                # Who asks has a deadline.
                replies = await self._channel.call(NAME, asked, list[msgspec.Raw], math.inf)
            except ChannelError as error:
                raise StoreError(str(error)) from None
            return [
                msgspec.msgpack.decode(reply, type=_KINDS[place][1])
                for reply, (place, _) in zip(replies, asked, strict=True)
            ]

        yield talk


class EmbeddedStore:
    """In the parent. Each worker's channel gets an answer of its own; call `forget` with it when that has ended."""

    def __init__(self) -> None:
        self._store = LeaseStore("workers")
        self._processes: dict[Answer, set[str]] = {}
        """The names under which a worker has held something."""

    def answer(self) -> Answer:
        """For one worker's channel, under `NAME`."""

        async def answer(body: msgspec.Raw) -> list[Reply]:
            asked = msgspec.msgpack.decode(body, type=list[tuple[int, msgspec.Raw]])
            calls = [msgspec.msgpack.decode(raw, type=_KINDS[place][0]) for place, raw in asked]
            names.update(call.process for call in calls if not isinstance(call, TakeTokens))
            now = _microseconds()
            return [self._store.apply(call, now) for call in calls]

        names = self._processes[answer] = set[str]()
        return answer

    def forget(self, answer: Answer) -> None:
        """Its worker has ended: nobody else has what it held."""
        for process in self._processes.pop(answer):
            self._store.forget(process)

    async def prune(self) -> None:
        """Never returns."""
        while True:
            await trio.sleep(60)
            self._store.prune(_microseconds())


def _microseconds() -> int:
    return round(trio.current_time() * 1e6)
