"""A provider that does as little as it can: known answers, plain or streamed at a pace that the request names.

Run as a program, it listens on ports that the system chooses, prints them, and serves until it is killed: two that
answer, one that always fails, and, with `--tls CERTIFICATE`, one that answers over TLS.
"""

import argparse
import asyncio
import re
import ssl
import time
from functools import partial

from messages import ANSWER, FAILURE, HOST, STREAM_END, STREAM_HEAD, event_chunk

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
# Only the beginning is searched: large bodies ask for nothing.
_WISH = re.compile(rb'"stub-(stream|size|delay) ([\d.]+)(?: ([\d.]+))?"')
_WISH_WITHIN = 4096


class Stub(asyncio.Protocol):
    """One connection from a client that sends a request only after the answer to the last one."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = b""
        self._length = 0  # of the whole request, 0 until its head is there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._length:
            head_end = self._received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            length = _LENGTH.search(self._received, 0, head_end)
            # Routers ask whether it is well, without a body.
            self._length = head_end + 4 + (int(length[1]) if length else 0)
        if len(self._received) == self._length:
            request, self._received, self._length = self._received, b"", 0
            self._respond(request)

    def _respond(self, request: bytes) -> None:
        wish = _WISH.search(request, 0, _WISH_WITHIN)
        if wish is None:
            self._transport.write(self._answer)
        elif wish[1] == b"stream":
            self._transport.write(STREAM_HEAD)
            self._send_events(int(wish[2]), float(wish[3]), time.monotonic())
        elif wish[1] == b"size":
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %b\r\n\r\n" % wish[2] + bytes(int(wish[2])))
        else:
            asyncio.get_running_loop().call_later(float(wish[2]), self._transport.write, self._answer)

    def _send_events(self, left: int, interval: float, due: float) -> None:
        """Send the event that is due now, and see to those after it."""
        if self._transport.is_closing():
            return
        if left:
            self._transport.write(event_chunk(time.monotonic_ns()))
            due += interval
            asyncio.get_running_loop().call_at(due, self._send_events, left - 1, interval, due)
        else:
            self._transport.write(STREAM_END)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", metavar="CERTIFICATE")
    certificate = parser.parse_args().tls

    loop = asyncio.get_running_loop()
    listening = [
        await loop.create_server(partial(Stub, answer), HOST, 0, backlog=2048) for answer in (ANSWER, ANSWER, FAILURE)
    ]
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        listening.append(await loop.create_server(partial(Stub, ANSWER), HOST, 0, backlog=2048, ssl=context))
    print(*(server.sockets[0].getsockname()[1] for server in listening), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
