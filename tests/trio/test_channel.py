"""Messages between two processes: whole whatever the cuts, answered or failed, with nothing left over."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from onwards_trio import _channel
from onwards_trio._channel import Answer, Channel, ChannelError, Frame, FrameReader, framed
from onwards_trio._tcp import TcpStream

LONG = 60.0  # seconds that no test waits for


def frame(text: str) -> Frame:
    return Frame("call", 1, "name", msgspec.Raw(msgspec.msgpack.encode(text)))


def text_of(got: Frame) -> str:
    return msgspec.msgpack.decode(got.body, type=str)


@asynccontextmanager
async def channels(answers: Mapping[str, Answer]) -> AsyncIterator[tuple[Channel, Channel, TcpStream]]:
    """One that calls, the one that answers, and the first one's stream."""
    left, right = (TcpStream(end) for end in socket.socketpair())
    caller, callee = Channel(left, {}), Channel(right, answers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        nursery.start_soon(callee.run)
        yield caller, callee, left
        nursery.cancel_scope.cancel()


async def echo(body: msgspec.Raw) -> object:
    return msgspec.msgpack.decode(body)


@given(st.lists(st.text()), st.lists(st.integers(1, 50)))
def test_any_cut(texts: list[str], cuts: list[int]) -> None:
    """Frames come out as they went in, wherever the stream is cut."""
    data = b"".join(framed(frame(text)) for text in texts)
    reader, got = FrameReader(), []
    for cut in cuts:
        got += [text_of(each) for each in reader.feed(data[:cut])]
        data = data[cut:]
    got += [text_of(each) for each in reader.feed(data)]
    assert got == texts


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1x"])
def test_nonsense(data: bytes) -> None:
    """What is too long is refused before it is kept, and what is no frame is refused."""
    with pytest.raises(ChannelError):
        list(FrameReader().feed(data))


async def test_many_at_once() -> None:
    """Calls that are under way at once each get their own answer, large ones too, in both directions."""

    async def ask(channel: Channel, number: int) -> None:
        text = f"{number}" * (1 + 20_000 * (number % 7))
        assert await channel.call("echo", text, str, LONG) == text

    left, right = (TcpStream(end) for end in socket.socketpair())
    one, other = Channel(left, {"echo": echo}), Channel(right, {"echo": echo})
    async with trio.open_nursery() as running:
        running.start_soon(one.run)
        running.start_soon(other.run)
        async with trio.open_nursery() as asking:
            for number in range(100):
                asking.start_soon(ask, one if number % 2 else other, number)
        running.cancel_scope.cancel()


async def test_tell() -> None:
    """What is told arrives, in its order, and is not answered, also if nobody knows what it means."""
    send, receive = trio.open_memory_channel[object](10)

    async def note(body: msgspec.Raw) -> None:
        await send.send(msgspec.msgpack.decode(body))

    async with channels({"note": note}) as (caller, _, _):
        caller.tell("what?")
        caller.tell("note", 1)
        assert await receive.receive() == 1
        caller.tell("note", {"a": 2})
        assert await receive.receive() == {"a": 2}


async def test_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """Who gets no answer in time is told so; the answer that comes later disturbs nobody."""
    go_on = trio.Event()

    async def late(body: msgspec.Raw) -> str:
        await go_on.wait()
        return "late"

    async with channels({"late": late, "echo": echo}) as (caller, _, _):
        with pytest.raises(ChannelError, match="late: no answer in time"):
            await caller.call("late", None, str, 0.05)
        go_on.set()
        assert await caller.call("echo", "x", str, LONG) == "x"
        assert not caller._waiting


async def test_cancelled_call() -> None:
    """A call that is cancelled leaves nothing behind, and the channel goes on."""
    called = trio.Event()

    async def never(body: msgspec.Raw) -> None:
        called.set()
        await trio.sleep_forever()

    async with channels({"never": never, "echo": echo}) as (caller, _, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.call, "never", None, str, LONG)
            await called.wait()
            nursery.cancel_scope.cancel()
        assert not caller._waiting
        assert await caller.call("echo", "x", str, LONG) == "x"


async def test_errors() -> None:
    """The caller learns why there is no answer, and nothing of a fault but where the log tells of it."""

    async def refuse(body: msgspec.Raw) -> None:
        raise ChannelError("not today")

    async def fail(body: msgspec.Raw) -> None:
        raise RuntimeError("secret")

    async with channels({"refuse": refuse, "fail": fail, "echo": echo}) as (caller, _, _):
        for name, reason in [("refuse", "not today"), ("fail", "a fault"), ("other", "unknown")]:
            with pytest.raises(ChannelError, match=f"{name}: {reason}") as caught:
                await caller.call(name, None, str, LONG)
            assert "secret" not in str(caught.value)
        with pytest.raises(ChannelError, match="echo: Expected `int`"):
            await caller.call("echo", "x", int, LONG)


async def test_end() -> None:
    """Who waits when the other side goes is told at once, and so is who asks afterwards."""

    async def leave(body: msgspec.Raw) -> None:
        right.close()

    left, right = (TcpStream(end) for end in socket.socketpair())
    caller = Channel(left, {})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)

        async def answer() -> None:
            await right.receive_some()
            right.close()

        nursery.start_soon(answer)
        with pytest.raises(ChannelError, match="x: the other side has gone"):
            await caller.call("x", None, str, LONG)
    with pytest.raises(ChannelError, match="the other side has gone"):
        caller.tell("x")


async def test_reset() -> None:
    """To write to who has left without reading is an end like any other."""
    left, right = (TcpStream(end) for end in socket.socketpair())
    caller = Channel(left, {})
    right.close()
    with pytest.raises(ChannelError, match="the other side has gone"):
        caller.tell("x")
    await caller.run()


async def test_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a frame nor what waits to be written grows without a limit; the channel goes on."""
    monkeypatch.setattr(_channel, "MOST", 1_000_000)

    async def flood(body: msgspec.Raw) -> str:
        return "x" * 1_000_001

    async with channels({"flood": flood, "echo": echo}) as (caller, _, _):
        with pytest.raises(ChannelError, match="a frame of"):
            caller.tell("echo", "x" * 1_000_001)
        with pytest.raises(ChannelError, match="flood: flood: a frame of"):
            await caller.call("flood", None, str, LONG)
        with pytest.raises(ChannelError, match="takes nothing"):
            for _ in range(100):  # without a pause in which the other side could read
                caller.tell("echo", "x" * 900_000)
        assert await caller.call("echo", "x", str, LONG) == "x"


async def test_nobody_reads() -> None:
    """A side that is gone while a part of a frame is left to be written ends the channel."""
    left, right = (TcpStream(end) for end in socket.socketpair())
    caller = Channel(left, {})
    caller.tell("x", "x" * 5_000_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.run)
        await trio.testing.wait_all_tasks_blocked()
        right.close()
