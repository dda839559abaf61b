"""A provider that does as little as it can: known answers, plain or streamed at a pace that the request names.

Run as a program, it listens on two ports that the system chooses, prints them, and serves until it is killed.
"""

import asyncio
import re
import time

from messages import ANSWER, HOST, STREAM_END, STREAM_FIELD, STREAM_HEAD, event_chunk

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)
_STREAM = re.compile(rb"\r\n%b: (\d+) ([\d.]+)" % STREAM_FIELD, re.IGNORECASE)


class Stub(asyncio.Protocol):
    """One connection from a client that sends a request only after the answer to the last one."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = bytearray()
        self._length = 0  # of the whole request, 0 until its head is there

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._length:
            head_end = self._received.find(b"\r\n\r\n")
            if head_end < 0:
                return
            body_length = _LENGTH.search(self._received, 0, head_end)
            assert body_length, "requests without content-length are not for this stub"
            self._length = head_end + 4 + int(body_length[1])
        if len(self._received) == self._length:
            stream = _STREAM.search(self._received)
            self._received.clear()
            self._length = 0
            if stream:
                self._transport.write(STREAM_HEAD)
                self._send_events(int(stream[1]), float(stream[2]), time.monotonic())
            else:
                self._transport.write(ANSWER)

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
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Stub, HOST, 0, backlog=1024) for _ in range(2)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
