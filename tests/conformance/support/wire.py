"""HTTP/1.1 as bytes on a socket, so that tests see exactly what was sent, and where it stopped.

Nothing here is strict or clever: it reads what the gateway writes, and both are looked at by the tests.
"""

import json
import socket
import struct
from typing import Any

import attrs

TIMEOUT = 60.0
"""Seconds after which a test has failed. Nothing waits for it to pass."""

Fields = list[tuple[str, str]]


class BrokenOff(Exception):
    """The peer closed or reset the connection before the message's end; `received` is the body so far."""

    def __init__(self, received: bytes = b"") -> None:
        super().__init__(f"after {received!r}")
        self.received = received


@attrs.frozen
class Head:
    """The first line and the fields of a message."""

    start: str
    fields: Fields
    """Names in lower case, in the order received."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str | None:
        """The value of a field that stands there once at most."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} stands there {len(values)} times"
        return values[0] if values else None

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fields}


@attrs.frozen
class Message:
    """A complete message."""

    head: Head
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.start.split(" ")[1])

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error in OpenAI's envelope."""
        code = self.json()["error"]["code"]
        assert isinstance(code, str)
        return code


class Peer:
    """One end of a connection, read piece by piece."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(TIMEOUT)
        self._buffer = b""
        self._framing: int | str = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    # Out

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def close(self) -> None:
        self.socket.close()

    def reset(self) -> None:
        """Close such that the other side gets an RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # In

    def read_head(self) -> Head | None:
        """The next head; None if the peer closed instead."""
        while b"\r\n\r\n" not in self._buffer:
            if not self._fill():
                assert not self._buffer, f"closed within a head: {self._buffer!r}"
                return None
        raw, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        start, *lines = raw.decode("latin-1").split("\r\n")
        pairs = [line.split(":", 1) for line in lines]
        head = Head(start, [(name.lower(), value.strip()) for name, value in pairs])
        length = head.get("content-length")
        if head.get("transfer-encoding") == "chunked":
            assert length is None
            self._framing = "chunked"
        elif length is not None:
            self._framing = int(length)
        else:
            self._framing = "close" if start.startswith("HTTP/") else 0
        return head

    def read_some(self) -> bytes:
        """What has arrived of the body, at least one byte, `b""` at its end. Raises `BrokenOff`."""
        if self._framing == 0:
            return b""
        if self._framing == "chunked":
            return self._read_chunk()
        if not self._buffer and not self._fill():
            if self._framing == "close":
                return b""
            raise BrokenOff
        if isinstance(self._framing, str):
            data, self._buffer = self._buffer, b""
        else:
            data, self._buffer = self._buffer[: self._framing], self._buffer[self._framing :]
            self._framing -= len(data)
        return data

    def read_body(self) -> bytes:
        """The rest of the body. Raises `BrokenOff`."""
        body = bytearray()
        try:
            while data := self.read_some():
                body += data
        except BrokenOff as broken:
            raise BrokenOff(bytes(body) + broken.received) from None
        return bytes(body)

    def expect(self, expected: bytes) -> None:
        """Wait for the body to go on with these bytes, and no others before or among them.

        To be called before the peer has a reason to send more: then it shows that these were not held back.
        """
        received = b""
        while len(received) < len(expected):
            data = self.read_some()
            assert data, f"the body ended after {received!r}"
            received += data
        assert received == expected

    def closed(self) -> bool:
        """Wait for the peer to close, or to reset, the connection; whether it did so without sending any more."""
        assert not self._buffer, self._buffer
        return not self._fill()

    def _read_chunk(self) -> bytes:
        size = int(self._read_line(), 16)
        while len(self._buffer) < size + 2:
            if not self._fill():
                raise BrokenOff(self._buffer[:size])
        data, end, self._buffer = self._buffer[:size], self._buffer[size : size + 2], self._buffer[size + 2 :]
        assert end == b"\r\n"
        if not data:
            self._framing = 0
        return data

    def _read_line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if not self._fill():
                assert not self._buffer, f"closed within a chunk's size: {self._buffer!r}"
                raise BrokenOff
        line, self._buffer = self._buffer.split(b"\r\n", 1)
        return line

    def _fill(self) -> bool:
        """Read once; False if there is nothing more to come."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            return False
        self._buffer += data
        return bool(data)


def head_bytes(start: str, fields: Fields) -> bytes:
    lines = [start, *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
