"""Providers that do to each request what it asks for, in every way in which providers fail."""

import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

Stream = trio.SocketStream
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Over(Exception):
    """The connection is to be closed."""


class Received:
    """One request, read up to where the fault wants it."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.nonce = self.field(b"x-nonce")

    def field(self, name: bytes) -> bytes:
        found = re.search(rb"\r\n%b: ([^\r]*)" % name, self.head, re.IGNORECASE)
        return found[1] if found else b""


def events(nonce: bytes) -> list[bytes]:
    return [b'data: {"n":"%b","i":%d}\n\n' % (nonce, number) for number in range(3)] + [b"data: [DONE]\n\n"]


def body(nonce: bytes) -> bytes:
    return b'{"n":"%b","text":"%b"}' % (nonce, nonce * 20)


def whole(status: bytes, content: bytes, *fields: bytes) -> bytes:
    head = b"".join(b"%b\r\n" % field for field in (*fields, b"Content-Length: %d" % len(content)))
    return b"HTTP/1.1 %b\r\n%b\r\n%b" % (status, head, content)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
_EVENTS = _CHUNKED % b"text/event-stream"


async def ok(stream: Stream, request: Received) -> None:
    await stream.send_all(whole(b"200 OK", body(request.nonce)))


async def bytewise(stream: Stream, request: Received) -> None:
    for byte in whole(b"200 OK", request.nonce):
        await stream.send_all(bytes([byte]))


async def chunked(stream: Stream, request: Received) -> None:
    await stream.send_all(_CHUNKED % b"text/plain")
    content = body(request.nonce)
    for start in range(0, len(content), 50):
        await stream.send_all(_chunk(content[start : start + 50]))
    await stream.send_all(b"0\r\n\r\n")


async def streamed(stream: Stream, request: Received) -> None:
    await stream.send_all(_EVENTS)
    for event in events(request.nonce):
        await stream.send_all(_chunk(event))
    await stream.send_all(b"0\r\n\r\n")


async def until_close(stream: Stream, request: Received) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n" + body(request.nonce))
    raise Over


async def closing(stream: Stream, request: Received) -> None:
    await stream.send_all(whole(b"200 OK", body(request.nonce), b"Connection: close"))
    raise Over


async def with_more(stream: Stream, request: Received) -> None:
    """What comes after the answer must not become anyone's."""
    await stream.send_all(whole(b"200 OK", body(request.nonce)) + whole(b"200 OK", b"poison"))


async def interim(stream: Stream, request: Received) -> None:
    await stream.send_all(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + whole(b"200 OK", body(request.nonce)))


async def busy(stream: Stream, request: Received) -> None:
    await stream.send_all(whole(b"429 Too Many Requests", body(request.nonce)))


async def down(stream: Stream, request: Received) -> None:
    await stream.send_all(whole(b"503 Service Unavailable", body(request.nonce)))


async def refusing(stream: Stream, request: Received) -> None:
    """Not a status to fall back on."""
    await stream.send_all(whole(b"400 Bad Request", body(request.nonce)))


async def close(stream: Stream, request: Received) -> None:
    raise Over


async def reset(stream: Stream, request: Received) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Over


async def nonsense(stream: Stream, request: Received) -> None:
    await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")


async def two_lengths(stream: Stream, request: Received) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc")


async def smuggling(stream: Stream, request: Received) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


async def half_a_head(stream: Stream, request: Received) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Le")
    raise Over


async def silent(stream: Stream, request: Received) -> None:
    """Until the gateway has enough."""
    await stream.receive_some()
    raise Over


async def cut(stream: Stream, request: Received) -> None:
    await stream.send_all(whole(b"200 OK", body(request.nonce))[:-5])
    raise Over


async def cut_chunk(stream: Stream, request: Received) -> None:
    await stream.send_all(_CHUNKED % b"text/plain" + _chunk(request.nonce) + b"ff\r\nno")
    raise Over


async def bad_chunk(stream: Stream, request: Received) -> None:
    await stream.send_all(_CHUNKED % b"text/plain" + _chunk(request.nonce) + b"xyz\r\nno\r\n")


async def cut_stream(stream: Stream, request: Received) -> None:
    await stream.send_all(_EVENTS + _chunk(events(request.nonce)[0]))
    raise Over


async def reset_stream(stream: Stream, request: Received) -> None:
    await stream.send_all(_EVENTS + _chunk(events(request.nonce)[0]))
    await reset(stream, request)


Behaviour = Callable[[Stream, Received], Awaitable[None]]
GOOD = (ok, bytewise, chunked, streamed, until_close, closing, with_more, interim, refusing)
RETRIED = (busy, down)
FAILED = (close, reset, nonsense, two_lengths, smuggling, half_a_head, silent)
BROKEN = (cut, cut_chunk, bad_chunk)
BROKEN_STREAMS = (cut_stream, reset_stream)
BEHAVIOURS = {each.__name__: each for each in (*GOOD, *RETRIED, *FAILED, *BROKEN, *BROKEN_STREAMS)}


class Provider:
    """Serves each connection; `number` says which of a request's behaviours is its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen = 0

    async def serve(self, stream: Stream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, Over):
                buffer = b""
                while True:
                    while b"\r\n\r\n" not in buffer:
                        piece = await stream.receive_some()
                        if not piece:
                            return
                        buffer += piece
                    head, _, buffer = buffer.partition(b"\r\n\r\n")
                    request = Received(head + b"\r\n")
                    length = _LENGTH.search(head)
                    while length and len(buffer) < int(length[1]):
                        buffer += await stream.receive_some()
                    if length:
                        buffer = buffer[int(length[1]) :]
                    self.seen += 1
                    plan = request.field(b"x-plan").decode().split()
                    await BEHAVIOURS[plan[self.number]](stream, request)
