"""Connections spread over processes that listen on one socket."""

import socket

import trio

from onwards_trio._crowd import PATIENCE, Crowd, Place, SharedListener, open_crowd
from onwards_trio._tcp import TcpListener


def places(count: int) -> tuple[Crowd, list[Place]]:
    crowd = Crowd(open_crowd(count))
    return crowd, [Place(crowd, number) for number in range(count)]


def test_ahead() -> None:
    """Who has more than others is ahead; an eighth more is not worth a delay."""
    _, (one, other) = places(2)
    one.take()
    one.connected()
    assert not one.is_ahead()  # The other is not there.
    other.take()
    assert one.is_ahead()
    assert not other.is_ahead()
    for _ in range(8):
        other.connected()
    for _ in range(8):
        one.connected()
    assert not one.is_ahead()
    one.connected()
    assert one.is_ahead()
    one.disconnected()
    assert not one.is_ahead()


def test_successor() -> None:
    """Who left its place to another does not count there any more; who was removed is not waited for."""
    crowd, (one, other) = places(2)
    one.take()
    one.connected()
    successor = Place(crowd, 0)
    successor.take()
    one.leave()
    one.connected()
    assert crowd.least() == 0
    other.take()
    other.connected()
    assert other.is_ahead()
    crowd.remove(0)
    assert not other.is_ahead()


async def test_who_is_ahead_waits(autojump_clock: trio.testing.MockClock) -> None:
    """A connection goes to the one that has fewer, or, if that does not come, to the other a little later."""
    _, [one, other] = places(2)
    one.take()
    other.take()
    listening = socket.create_server(("127.0.0.1", 0))
    shared = [SharedListener(TcpListener(listening.dup()), place) for place in (one, other)]
    one.connected()
    began = trio.current_time()
    with socket.create_connection(listening.getsockname()):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shared[0].accept)
            async with await shared[1].accept():
                nursery.cancel_scope.cancel()
        assert trio.current_time() - began < PATIENCE
    other.disconnected()
    with socket.create_connection(listening.getsockname()):
        async with await shared[0].accept():
            assert trio.current_time() - began >= PATIENCE
    listening.close()
    for each in shared:
        await each.aclose()
