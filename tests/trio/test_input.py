"""What is known of sockets' input, by each way of knowing it, on real connections."""

import select
import socket
from collections.abc import Callable

import pytest
import trio
import trio.testing

from onwards_trio._input import Epoll, Input, Polling

Inputs = Epoll | Polling

needs_epoll = pytest.mark.skipif(not hasattr(select, "epoll"), reason="Linux alone has epoll")


@pytest.fixture(params=[pytest.param(Epoll, marks=needs_epoll), Polling])
async def inputs(request: pytest.FixtureRequest, nursery: trio.Nursery) -> Inputs:
    made: Inputs = request.param()
    nursery.start_soon(made.run)
    return made


class Pair:
    """A connection: our end with its input, and the peer's."""

    def __init__(self, inputs: Inputs) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.peer = socket.create_connection(listening.getsockname())
            self.ours, _ = listening.accept()
        self.ours.setblocking(False)
        self.input: Input = inputs.input_of(self.ours)

    def close(self) -> None:
        self.input.close()
        self.ours.close()
        self.peer.close()


def _close(peer: socket.socket) -> None:
    peer.close()


def _half_close(peer: socket.socket) -> None:
    peer.shutdown(socket.SHUT_WR)


def _reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.close()


@pytest.mark.parametrize("leave", [_close, _half_close, _reset])
async def test_a_peer_that_leaves_is_noticed_once(
    autojump_clock: trio.testing.MockClock, inputs: Inputs, leave: Callable[[socket.socket], None]
) -> None:
    """However it leaves, and none but that one."""
    left: list[int] = []
    pairs = [Pair(inputs) for _ in range(3)]
    for number, pair in enumerate(pairs):
        pair.input.on_hangup(lambda number=number: left.append(number))
    leave(pairs[1].peer)
    await trio.sleep(5)
    assert left == [1]
    for pair in pairs:
        pair.close()


async def test_what_a_peer_sends_is_not_its_leaving(autojump_clock: trio.testing.MockClock, inputs: Inputs) -> None:
    """Nothing is read, and no hangup is reported."""
    left: list[bool] = []
    pair = Pair(inputs)
    pair.input.on_hangup(lambda: left.append(True))
    pair.peer.sendall(b"data")
    await trio.sleep(5)
    assert left == []
    assert pair.ours.recv(9) == b"data"
    pair.close()


async def test_a_closed_input_reports_nothing(autojump_clock: trio.testing.MockClock, inputs: Inputs) -> None:
    """Also when the number of its socket is given to another one."""
    left: list[bool] = []
    pair = Pair(inputs)
    pair.input.on_hangup(lambda: left.append(True))
    pair.input.close()
    pair.close()
    again = Pair(inputs)
    again.peer.close()
    await trio.sleep(5)
    assert left == []
    again.close()


async def test_waiting_ends_when_something_comes(inputs: Inputs) -> None:
    """Data, and the end after it; each time, and not before."""
    pair = Pair(inputs)
    received: list[bytes] = []

    async def read() -> None:
        while not received or received[-1]:
            await pair.input.wait()
            try:
                received.append(pair.ours.recv(9))
            except BlockingIOError:
                pass
            else:
                pair.input.drained()

    async with trio.open_nursery() as reading:
        reading.start_soon(read)
        for data in (b"1", b"2", b"3"):
            await trio.testing.wait_all_tasks_blocked()
            assert len(received) == int(data) - 1
            pair.peer.sendall(data)
            while len(received) < int(data):
                await trio.lowlevel.checkpoint()
        pair.peer.sendall(b"4")
        pair.peer.close()
    assert received == [b"1", b"2", b"3", b"4", b""]
    pair.close()


async def test_what_came_before_anyone_waited_is_not_missed(inputs: Inputs) -> None:
    """Before the first wait, and between two; a wait that ends at once lets others run all the same."""
    pair = Pair(inputs)
    for _ in range(2):
        pair.peer.sendall(b"1")
        await trio.testing.wait_all_tasks_blocked()
        assert pair.input.ready
        with trio.testing.assert_checkpoints():
            await pair.input.wait()
        assert pair.ours.recv(9) == b"1"
        pair.input.drained()
    pair.close()


async def test_a_cancelled_wait_can_be_repeated(inputs: Inputs) -> None:
    """Nothing is lost by it."""
    pair = Pair(inputs)
    with trio.CancelScope() as scope:
        scope.cancel()
        await pair.input.wait()
    assert scope.cancelled_caught
    pair.peer.sendall(b"1")
    await pair.input.wait()
    pair.close()


async def test_closing_ends_a_wait(inputs: Inputs) -> None:
    """With the error that says so; and so for whoever waits later."""
    pair = Pair(inputs)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await pair.input.wait()

    async with trio.open_nursery() as waiting:
        waiting.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        pair.close()
    await wait()
    pair.input.close()


async def test_one_task_at_a_time(inputs: Inputs) -> None:
    """A second one is told so, instead of one of them never waking up."""
    pair = Pair(inputs)
    async with trio.open_nursery() as waiting:
        waiting.start_soon(pair.input.wait)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await pair.input.wait()
        waiting.cancel_scope.cancel()
    pair.close()


@needs_epoll
async def test_epoll_sees_a_peer_leave_behind_unread_data(nursery: trio.Nursery) -> None:
    """A client that sent a second request ahead and left is gone all the same, also for a callback set later."""
    inputs = Epoll()
    nursery.start_soon(inputs.run)
    pair = Pair(inputs)
    pair.peer.sendall(b"data")
    pair.peer.close()
    await trio.testing.wait_all_tasks_blocked()
    left: list[bool] = []
    pair.input.on_hangup(lambda: left.append(True))
    assert left == [True]
    assert pair.ours.recv(9) == b"data"
    pair.input.drained()
    await pair.input.wait()
    assert pair.ours.recv(9) == b""
    pair.close()


@needs_epoll
async def test_a_callback_may_close_others(nursery: trio.Nursery) -> None:
    """Those whose events came in the same moment are passed over."""
    inputs = Epoll()
    nursery.start_soon(inputs.run)
    pairs = [Pair(inputs) for _ in range(2)]
    left: list[bool] = []

    def close_all() -> None:
        left.append(True)
        for pair in pairs:
            pair.close()

    for pair in pairs:
        pair.input.on_hangup(close_all)
    for pair in pairs:
        pair.peer.close()
    await trio.testing.wait_all_tasks_blocked()
    assert left == [True]
