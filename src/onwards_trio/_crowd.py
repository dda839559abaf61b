"""How connections are spread evenly over workers that listen on one socket.

All of them wait on the same socket, so that a connection that comes while one of them is replaced waits for the others
instead of being reset, as it would be with a socket for each (`SO_REUSEPORT`), which moreover spreads by chance. But
the system lets any of them take it, mostly the same one. So each knows how many connections each has, from memory that
they share, and who has more than others lets those go first. If they do not come, because something holds them
up, it takes the connection after all, `PATIENCE` later.
"""

import mmap
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Final

import trio

from onwards_trio._tcp import TcpListener, TcpStream

PATIENCE: Final = 0.001
"""Seconds that who has more connections than others leaves to them."""

_COUNT: Final = struct.Struct("I")
_ABSENT: Final = 0xFFFF_FFFF


def open_crowd(workers: int) -> int:
    """A file without a name, to be inherited, in which each worker finds a place. None of them is there yet."""
    if sys.platform == "linux":
        file = os.memfd_create("crowd")  # The file system may be read-only.
    else:
        file, path = tempfile.mkstemp()
        Path(path).unlink()
    os.write(file, _COUNT.pack(_ABSENT) * workers)
    return file


class Crowd:
    """All workers, seen by one of them. file: from `open_crowd`."""

    def __init__(self, file: int) -> None:
        self._counts = memoryview(mmap.mmap(file, 0)).cast("I")

    def set(self, number: int, connections: int) -> None:
        self._counts[number] = connections

    def remove(self, number: int) -> None:
        """Wait for it no more."""
        self._counts[number] = _ABSENT

    def least(self) -> int:
        """How many connections that one has that has the fewest."""
        return min(self._counts)


class Place:
    """A worker's own place in the crowd, until it leaves that to its successor."""

    def __init__(self, crowd: Crowd, number: int) -> None:
        self._crowd = crowd
        self._number = number
        self._connections = 0
        self._mine = False

    def take(self) -> None:
        """Be seen there."""
        self._mine = True
        self._count(0)

    def connected(self) -> None:
        self._count(1)

    def disconnected(self) -> None:
        self._count(-1)

    def leave(self) -> None:
        """The place is another's now."""
        self._mine = False

    def is_ahead(self) -> bool:
        """Whether others should go first. With many connections, small differences are not worth a delay."""
        least = self._crowd.least()
        return self._connections > least + least // 8

    def _count(self, change: int) -> None:
        self._connections += change
        if self._mine:
            self._crowd.set(self._number, self._connections)


class SharedListener(TcpListener):
    """A socket that other workers listen on, too."""

    def __init__(self, listening: TcpListener, place: Place) -> None:
        super().__init__(listening.socket)
        self._place = place

    async def accept(self) -> TcpStream:
        if self._place.is_ahead():
            await self.somebody_waits()
        stream = await super().accept()
        self._place.connected()
        return stream

    async def somebody_waits(self) -> None:
        await super().somebody_waits()
        if self._place.is_ahead():
            await trio.sleep(PATIENCE)
