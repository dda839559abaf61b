"""Who left? Noticing that a peer closed its side of a connection, without reading from it and without a task for each.

Most exchanges are over in the time that it takes to start a task, so none is started: a socket is registered once, and
its callback is called when, or if, the peer hangs up.
"""

import select
import socket
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import trio

Callback: TypeAlias = Callable[[], None]

INTERVAL: Final = 1.0
"""Seconds between two looks where the system has no epoll."""


class Hangups(Protocol):
    """Runs in one task for all sockets."""

    def watch(self, connected: socket.socket, callback: Callback) -> None:
        """Call `callback` once when the peer closes its side or resets the connection, whatever is still unread."""
        ...

    def forget(self, connected: socket.socket) -> None:
        """Has to be called before the socket is closed."""
        ...

    async def run(self) -> None: ...


class EpollHangups:
    """Implements `Hangups` on Linux: edge-triggered, so that after its registration a socket costs nothing."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}

    def watch(self, connected: socket.socket, callback: Callback) -> None:
        self._epoll.register(connected, select.EPOLLRDHUP | select.EPOLLET)
        self._callbacks[connected.fileno()] = callback

    def forget(self, connected: socket.socket) -> None:
        if self._callbacks.pop(connected.fileno(), None):
            self._epoll.unregister(connected)

    async def run(self) -> None:
        with self._epoll:
            while True:
                await trio.lowlevel.wait_readable(self._epoll)
                for descriptor, _ in self._epoll.poll(0):
                    self._callbacks[descriptor]()


class PollingHangups:
    """Implements `Hangups` anywhere. Does not see that a peer left while something that it sent is unread."""

    def __init__(self) -> None:
        self._callbacks: dict[socket.socket, Callback] = {}

    def watch(self, connected: socket.socket, callback: Callback) -> None:
        self._callbacks[connected] = callback

    def forget(self, connected: socket.socket) -> None:
        self._callbacks.pop(connected, None)

    async def run(self) -> None:
        while True:
            await trio.sleep(INTERVAL)
            for connected in [each for each in self._callbacks if hung_up(each)]:
                self._callbacks.pop(connected)()


def hung_up(connected: socket.socket) -> bool:
    """Whether the next read would give the end of the stream, or an error."""
    try:
        return connected.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


_running = trio.lowlevel.RunVar[Hangups]("hangups")


def hangups() -> Hangups:
    """Those of this run of Trio."""
    try:
        return _running.get()
    except LookupError:
        started: Hangups = EpollHangups() if hasattr(select, "epoll") else PollingHangups()
        _running.set(started)
        trio.lowlevel.spawn_system_task(started.run)
        return started
