"""A client without any manners of its own."""

import json
import socket
from typing import Any

from tests.conformance.support.wire import TIMEOUT, Fields, Head, Message, Peer, head_bytes


class Client(Peer):
    """One connection to the gateway."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(TIMEOUT)
        sock.connect(("127.0.0.1", port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock)

    def request(
        self,
        model: str | None = "model",
        *,
        method: str = "POST",
        path: str = "/v1/chat/completions",
        fields: Fields | None = None,
        body: bytes | None = None,
        key: str | None = None,
        **members: Any,
    ) -> None:
        """Send a request: by default a chat completion with `members` besides the model."""
        if body is None:
            body = b"" if model is None else json.dumps({"model": model, **members}).encode()
        head = [("Host", "127.0.0.1"), ("Content-Length", str(len(body)))]
        if key is not None:
            head.append(("Authorization", f"Bearer {key}"))
        self.send(head_bytes(f"{method} {path} HTTP/1.1", [*head, *(fields or [])]) + body)

    def head(self, *, bodiless: bool = False) -> Head:
        """The answer's head. `bodiless`: that no body follows, whatever it says."""
        head = self.read_head()
        assert head is not None, "the gateway closed the connection without an answer"
        if bodiless or head.start.split(" ")[1] in ("204", "304"):
            self._framing = 0
        return head

    def answer(self) -> Message:
        """The whole answer. Raises `BrokenOff` if it is none."""
        head = self.head()
        return Message(head, self.read_body())
