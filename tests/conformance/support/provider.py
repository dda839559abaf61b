"""A provider that does what the test says, step by step: it never answers on its own."""

import selectors
import socket
import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.conformance.support.wire import TIMEOUT, Fields, Head, Peer, head_bytes

JSON = ("content-type", "application/json")
EVENTS = ("content-type", "text/event-stream")


class Call(Peer):
    """One request that reached the provider, to be answered by the test."""

    def __init__(self, peer: Peer, head: Head, body: bytes) -> None:
        super().__init__(peer.socket)
        self.port: int = peer.socket.getsockname()[1]
        """Of the provider."""
        self.head = head
        self.body = body
        self.method, self.target, _ = head.start.split(" ")

    def respond(self, status: int = 200, body: bytes = b"{}", fields: Fields | None = None) -> None:
        """A whole answer, JSON unless `fields` says something else."""
        fields = [JSON] if fields is None else fields
        self.send(head_bytes(f"HTTP/1.1 {status} X", [*fields, ("content-length", str(len(body)))]) + body)

    def start(self, status: int = 200, fields: Fields | None = None) -> None:
        """The head of a chunked answer, an event stream unless `fields` says something else."""
        fields = [EVENTS] if fields is None else fields
        self.send(head_bytes(f"HTTP/1.1 {status} X", [*fields, ("transfer-encoding", "chunked")]))

    def finish(self) -> None:
        self.send(b"0\r\n\r\n")


class Provider:
    """Listens on a port of its own. Call `call` for the next request, on whichever connection that comes.

    tls: makes it an `https` provider, under the name `localhost`.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(TIMEOUT)
        self._peers: list[Peer] = []
        self.port: int = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}/" if tls else f"http://127.0.0.1:{self.port}/"

    def call(self) -> Call:
        """Wait for the next request and read it."""
        call = next_call([self])
        assert call is not None
        return call

    def accept(self) -> Peer:
        """Wait for a new connection, from which nothing has been read yet."""
        accepted, _ = self._listener.accept()
        accepted.settimeout(TIMEOUT)
        peer = Peer(self._tls.wrap_socket(accepted, server_side=True) if self._tls else accepted)
        self._peers.append(peer)
        return peer

    @property
    def connections(self) -> int:
        """How many were accepted."""
        return len(self._peers)

    @property
    def untouched(self) -> bool:
        """Whether no request is waiting. To be asked when whatever could have caused one is over."""
        ready = _readable([self._listener, *self._peers], 0)
        return not any(it is self._listener or it.socket.recv(1, socket.MSG_PEEK) for it in ready)

    def stop_listening(self) -> None:
        """From now on connections are refused."""
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for peer in self._peers:
            peer.close()
        self._listener.close()


def next_call(providers: Sequence[Provider], *others: Peer) -> Call | None:
    """The next request at any of the providers; None if one of the other connections can be read before it comes."""
    while True:
        listeners = {provider._listener: provider for provider in providers}
        peers = [peer for provider in providers for peer in provider._peers]
        ready = _readable([*listeners, *peers, *others], TIMEOUT)
        assert ready, "no request came"
        for it in ready:
            if it in listeners:
                listeners[it].accept()
            elif it in peers:
                head = it.read_head()
                if head is not None:
                    return Call(it, head, it.read_body())
                it.close()
        if any(it in others for it in ready):
            return None


def _readable(connections: Sequence[Any], timeout: float) -> list[Any]:
    with selectors.DefaultSelector() as selector:  # `select` can't take more than 1,024 files.
        for it in connections:
            if it.fileno() >= 0:
                selector.register(it, selectors.EVENT_READ)
        return [key.fileobj for key, _ in selector.select(timeout)]
