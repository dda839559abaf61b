"""HTTP/1.1 codecs: bytes to events and back, no I/O.

`ServerCodec` speaks to one client connection, `ClientCodec` to one provider connection. `_h11` implements
both. A codec is strict: what RFC 9112 calls malformed is `Malformed`, and after that (or after `Signal.CLOSED`)
the connection is not to be used any more.
"""

import enum
from typing import Protocol, TypeAlias

import attrs

from onwards_core import HeaderFields, Headers
from onwards_core._immutable import immutable


class Signal(enum.Enum):
    """What a codec has to say beside heads and data."""

    NEED_DATA = enum.auto()
    """Nothing more in what was received: read from the peer, then `receive` it."""
    END = enum.auto()
    """The message's body is complete."""
    CLOSED = enum.auto()
    """The peer closed the connection between two messages."""


@immutable
class RequestHead:
    method: str
    target: bytes
    headers: HeaderFields = attrs.field(repr=False)
    """Less `Content-Length`. The same object as before, if the last request on this connection had the same."""
    http_1_0: bool
    content_length: int | None
    """None without a body and for a chunked one."""
    expects_continue: bool


@immutable
class ResponseHead:
    """A final response head: the codec swallows 1xx ones."""

    status: int
    headers: Headers = attrs.field(repr=False)


@immutable
class Malformed:
    """The peer broke the protocol, or closed in the middle of a message."""

    status: int
    """What a server answers to it, 400 or 431; of no meaning on the client side."""
    message: str
    """For the peer: says what is wrong, quotes nothing that was sent."""
    truncated: bool = False
    """The peer closed in the middle of a message; what came before was well-formed."""


ServerEvent: TypeAlias = RequestHead | bytes | Signal | Malformed
ClientEvent: TypeAlias = ResponseHead | bytes | Signal | Malformed


class ServerCodec(Protocol):
    """One client connection. In order, for each exchange: `receive`/`next_event` until `Signal.END`, then
    either `respond`, or `start`, any number of `data`, and `finish`; then, if `keep_alive`, `next_cycle`.
    """

    @property
    def buffered(self) -> int:
        """Bytes received that no event has covered yet (a pipelined request)."""
        ...

    def receive(self, data: bytes | bytearray) -> None:
        """Take in what was read; `b""` says that the client closed its sending side."""
        ...

    def next_event(self) -> ServerEvent:
        """Stays at `Signal.END` until `next_cycle`, and at `Malformed` for good."""
        ...

    def continue_100(self) -> bytes:
        """The interim answer to `Expect: 100-continue`."""
        ...

    def respond(self, status: int, headers: Headers, body: bytes, *, close: bool = False) -> bytes:
        """A whole answer, its `content-length` set. Allowed from the moment the head was read, or after
        `Malformed`; then, and with `close`, it says `connection: close`. No body goes out for HEAD, 204 and 304."""
        ...

    def start(self, status: int, headers: Headers, *, close: bool = False) -> bytes:
        """An answer's head. Framed by `content-length` if `headers` has one, else chunked (HTTP/1.0: by close)."""
        ...

    def data(self, data: bytes) -> bytes: ...

    def finish(self) -> bytes: ...

    @property
    def keep_alive(self) -> bool:
        """Whether the answer was completed such that another request may follow."""
        ...

    def next_cycle(self) -> None: ...


class ClientCodec(Protocol):
    """One provider connection: `request`, then `receive`/`next_event` until `Signal.END`; if then `reusable`,
    the next `request`."""

    def request(self, method: str, target: bytes, headers: Headers, body: bytes) -> bytes:
        """A whole request in one piece. `headers` are complete (`host`, `content-length`)."""
        ...

    def receive(self, data: bytes | bytearray) -> None:
        """Take in what was read; `b""` says that the provider closed."""
        ...

    def next_event(self) -> ClientEvent:
        """Stays at `Signal.END` until the next `request`, and at `Malformed` for good."""
        ...

    @property
    def reusable(self) -> bool:
        """Whether the response ended properly, keep-alive holds and not one byte is left over."""
        ...
