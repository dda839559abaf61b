"""Who left: each way of noticing it, on real connections."""

import select
from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from onwards_trio._hangup import EpollHangups, Hangups, PollingHangups
from onwards_trio._tcp import TcpStream
from tests.trio.gateway_support import tcp_pair

KINDS = [
    pytest.param(EpollHangups, marks=pytest.mark.skipif(not hasattr(select, "epoll"), reason="Linux alone has epoll")),
    PollingHangups,
]


@pytest.fixture(params=KINDS)
async def noticing(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[Hangups]:
    made: Hangups = request.param()
    nursery.start_soon(made.run)
    return made


async def _close(stream: TcpStream) -> None:
    stream.close()


async def _reset(stream: TcpStream) -> None:
    stream.reset_on_close()
    stream.close()


@pytest.mark.parametrize("leave", [_close, TcpStream.send_eof, _reset])
async def test_a_peer_that_leaves_is_noticed_once(autojump_clock, noticing, leave) -> None:
    """However it leaves, and none but that one."""
    left = []
    pairs = [tcp_pair() for _ in range(3)]
    for number, (ours, _) in enumerate(pairs):
        noticing.watch(ours.socket, lambda number=number: left.append(number))
    await leave(pairs[1][1])
    await trio.sleep(5)
    assert left == [1]
    for ours, theirs in pairs:
        noticing.forget(ours.socket)
        ours.close()
        theirs.close()


async def test_what_a_peer_sends_is_not_its_leaving(autojump_clock, noticing) -> None:
    """Nothing is read, and nothing is reported."""
    left = []
    ours, theirs = tcp_pair()
    async with ours, theirs:
        noticing.watch(ours.socket, lambda: left.append(True))
        await theirs.send_all(b"data")
        await trio.sleep(5)
        assert left == []
        assert await ours.receive_some() == b"data"
        noticing.forget(ours.socket)


async def test_a_forgotten_connection_is_not_reported(autojump_clock, noticing) -> None:
    """Also when its number is given to another one."""
    left = []
    ours, theirs = tcp_pair()
    noticing.watch(ours.socket, lambda: left.append(True))
    noticing.forget(ours.socket)
    noticing.forget(ours.socket)
    theirs.close()
    await trio.sleep(5)
    assert left == []
    ours.close()
    async with trio.open_nursery():
        again, peer = tcp_pair()
        async with again:
            peer.close()
            await trio.sleep(5)
    assert left == []


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="Linux alone has epoll")
async def test_epoll_sees_a_peer_leave_behind_unread_data(nursery: trio.Nursery) -> None:
    """A client that sent a second request ahead and left is gone all the same."""
    left = trio.Event()
    noticing = EpollHangups()
    nursery.start_soon(noticing.run)
    ours, theirs = tcp_pair()
    async with ours:
        noticing.watch(ours.socket, left.set)
        await theirs.send_all(b"data")
        theirs.close()
        await left.wait()
        assert await ours.receive_some() == b"data"
        noticing.forget(ours.socket)
