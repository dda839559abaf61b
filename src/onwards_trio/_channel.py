"""Messages between two processes over a socket pair: calls with an answer, and news without one, in both directions.

A frame is its length in four bytes, then MessagePack. Whoever writes never waits: what the system does not take at
once is kept, up to a limit, for a task that writes it when it does. So a frame is never cut by a cancellation.
"""

import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, Literal, TypeAlias, TypeVar

import msgspec
import trio

from onwards_trio._fault import log_fault
from onwards_trio._tcp import TcpStream

MOST: Final = 64 * 1024 * 1024
"""Bytes of a frame, and of all that wait to be written."""

_LENGTH: Final = struct.Struct(">I")

_T = TypeVar("_T")

Answer: TypeAlias = Callable[[msgspec.Raw], Awaitable[Any]]
"""What a call's body becomes. It is MessagePack in either case. Raises `ChannelError` to tell the caller why not."""


class ChannelError(Exception):
    """A call was not answered, or the other side talks nonsense. Its text is for the log."""


class Frame(msgspec.Struct, array_like=True, frozen=True):
    """One message. A call's number is that of its answer; what is only told has none."""

    kind: Literal["call", "tell", "answer", "error"]
    number: int
    name: str
    """What is called or told."""
    body: msgspec.Raw


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class FrameReader:
    """Give `feed` all that comes, cut anywhere: it gives the frames that are complete. Raises `ChannelError`."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        start = 0
        try:
            while len(self._buffer) - start >= _LENGTH.size:
                [length] = _LENGTH.unpack_from(self._buffer, start)
                if length > MOST:
                    raise ChannelError(f"a frame of {length} bytes")
                end = start + _LENGTH.size + length
                if len(self._buffer) < end:
                    break
                body = bytes(self._buffer[start + _LENGTH.size : end])
                start = end
                try:
                    yield _decode(body)
                except msgspec.MsgspecError as error:
                    raise ChannelError(f"no frame: {error}") from None
        finally:
            del self._buffer[:start]


def framed(frame: Frame) -> bytes:
    """What `FrameReader` reads. Raises `ChannelError`."""
    body = _encode(frame)
    if len(body) > MOST:
        raise ChannelError(f"{frame.name}: a frame of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


class Channel:
    """Run `run` in a task; it returns when the other side is gone, which it notices at once.

    answers: what to do when the other side calls, or tells, something of that name. Each call has a task of its own.
    """

    def __init__(self, stream: TcpStream, answers: Mapping[str, Answer]) -> None:
        self._stream = stream
        self._answers = answers
        self._waiting: dict[int, _Waiting] = {}
        self._last_number = 0
        self._unsent = bytearray()
        self._something_unsent = trio.Event()
        self._over = False

    # --- asking

    async def call(self, name: str, body: object, answer: type[_T], seconds: float) -> _T:
        """What the other side answers, within so many seconds. Raises `ChannelError`."""
        self._last_number += 1
        number = self._last_number
        waiting = self._waiting[number] = _Waiting()
        try:
            self._send("call", number, name, msgspec.Raw(_encode(body)))
            with trio.move_on_after(seconds):
                await waiting.answered.wait()
        finally:
            del self._waiting[number]
        if waiting.frame is None:
            raise ChannelError(f"{name}: the other side has gone" if self._over else f"{name}: no answer in time")
        if waiting.frame.kind == "error":
            raise ChannelError(f"{name}: {msgspec.msgpack.decode(waiting.frame.body, type=str)}")
        try:
            return msgspec.msgpack.decode(waiting.frame.body, type=answer)
        except msgspec.MsgspecError as error:
            raise ChannelError(f"{name}: {error}") from None

    def tell(self, name: str, body: object = None) -> None:
        """Let the other side know. Raises `ChannelError`."""
        self._send("tell", 0, name, msgspec.Raw(_encode(body)))

    # --- answering

    async def run(self) -> None:
        """Raises `ChannelError` if the other side talks nonsense. Closes the stream."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read(nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._over = True
            self._stream.close()
            for waiting in self._waiting.values():
                waiting.answered.set()

    async def _read(self, nursery: trio.Nursery) -> None:
        reader = FrameReader()
        while data := await self._receive():
            for frame in reader.feed(data):
                if frame.kind in ("call", "tell"):
                    nursery.start_soon(self._answer, frame)
                elif waiting := self._waiting.get(frame.number):  # else its caller has given up
                    waiting.frame = frame
                    waiting.answered.set()

    async def _receive(self) -> bytes:
        try:
            return await self._stream.receive_some()
        except trio.BrokenResourceError:
            return b""

    async def _answer(self, call: Frame) -> None:
        kind: Literal["answer", "error"] = "answer"
        body: object
        try:
            if call.name not in self._answers:
                raise ChannelError("unknown")
            body = await self._answers[call.name](call.body)
        except (ChannelError, msgspec.MsgspecError) as error:
            kind, body = "error", str(error)
        except Exception as fault:  # noqa: BLE001  # A bug ends the call that met it, and no other.
            kind, body = "error", f"a fault, see the log: {log_fault(fault)}"
        if call.kind == "call":
            self._reply(kind, call, body)

    def _reply(self, kind: Literal["answer", "error"], call: Frame, body: object) -> None:
        try:
            self._send(kind, call.number, call.name, msgspec.Raw(_encode(body)))
        except ChannelError as error:  # It is too large, or the caller has gone.
            with suppress(ChannelError):
                self._send("error", call.number, call.name, msgspec.Raw(_encode(str(error))))

    # --- writing

    def _send(
        self, kind: Literal["call", "tell", "answer", "error"], number: int, name: str, body: msgspec.Raw
    ) -> None:
        if self._over:
            raise ChannelError(f"{name}: the other side has gone")
        data = framed(Frame(kind, number, name, body))
        if not self._unsent:
            try:
                sent = self._stream.send_nowait(data)
            except trio.BrokenResourceError:
                raise ChannelError(f"{name}: the other side has gone") from None
            data = data[sent:]
        if len(self._unsent) + len(data) > MOST:
            raise ChannelError(f"{name}: the other side takes nothing")
        if data:
            self._unsent += data
            self._something_unsent.set()

    async def _write(self) -> None:
        while True:
            await self._something_unsent.wait()
            self._something_unsent = trio.Event()
            try:
                while self._unsent:
                    await self._stream.wait_send_all_might_not_block()
                    sent = self._stream.send_nowait(self._unsent)
                    del self._unsent[:sent]
            except trio.BrokenResourceError:
                return  # Reading ends, too.


class _Waiting:
    """One who waits for an answer."""

    __slots__ = ("answered", "frame")

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.frame: Frame | None = None
