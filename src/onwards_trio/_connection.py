"""One client connection: requests in, answers out, one after the other.

Who left? When the client closes, its request is cancelled, and with it the request to the provider. A client that
closes only its sending side counts as gone too: nothing can tell the two apart, and clients of HTTP APIs don't do that.

Time limits: `deadline` says until when what is being waited for has to come. The server ends connections that are late.

A request that was answered has a record, and so has one whose client left while it was handled. One that never came
to its end has none.
"""

import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias, assert_never

import attrs
import trio

from onwards_core import Record, Request, Respond, ServerConfig, error, overloaded
from onwards_core._request import request_id
from onwards_trio._fault import log_fault
from onwards_trio._reply import ClientGone, Reply
from onwards_trio._tcp import TcpStream
from onwards_trio._wire import Malformed, RequestHead, ServerCodec, ServerEvent, Signal

REFUSAL_TIME: Final = 5.0
"""Seconds that a client gets to take an answer that came before the end of its request."""

Screen: TypeAlias = Callable[[Request, Record], Respond | None]
"""The answer to a request whose body need not be read; it gets all of it but the body, and fills the record."""
Handler: TypeAlias = Callable[[Request, Reply], Awaitable[None]]
"""Answers one request. It is cancelled when the client leaves, and lets `ClientGone` pass."""


def new_request_id() -> str:
    """One that nobody has had. It need not be hard to guess, so this can be quick."""
    return f"{random.getrandbits(128):032x}"


class Memory:
    """How many bytes of bodies all connections hold together."""

    def __init__(self) -> None:
        self.used = 0


@attrs.frozen
class Service:
    """What a connection serves."""

    handle: Handler
    screen: Screen = lambda *_: None
    begin: Callable[[Request, Record], None] | None = None
    """Gets each request whose head was sound, with its new record."""
    observe: Callable[[Record], None] = lambda _: None
    """Gets the record of each request once that is answered, or its client gone."""
    limits: ServerConfig = attrs.field(factory=ServerConfig)
    memory: Memory = attrs.field(factory=Memory)
    scheme: str = "http"


class Connection:
    """Call `run`, once. `drain` makes it end as soon as no request is under way, `cancel` at once.

    codec: of its own. client: its address, for records.
    """

    def __init__(
        self,
        stream: TcpStream,
        codec: ServerCodec,
        service: Service,
        *,
        client: str | None = None,
        draining: bool = False,
        retiring: bool = False,
    ) -> None:
        self.reply: Reply | None = None
        """The one that is under way."""
        self.deadline = math.inf
        """In Trio's time."""
        self._stream = stream
        self._codec = codec
        self._service = service
        self._client = client
        self._limits = service.limits
        self._draining = draining
        self._retiring = retiring
        self._served = 0
        self._held = 0  # bytes of the memory for bodies
        self._screened: Record | None = None  # of a request that was refused by its head
        self._idle = False
        self._idle_since = trio.current_time()
        self._client_left = False
        self._half_read = False  # Whether the rest of a request is waited for.
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve the client until one side has enough. Closes the stream."""
        try:
            self._stream.on_hangup(self._on_hangup)
            with self._scope:
                # A request that came before the end was announced is refused, not ignored.
                while not self._draining or self._codec.buffered or self._stream.has_something_to_read():
                    if not await self._serve_request():
                        break
                    self._codec.next_cycle()
        finally:
            self._stream.close()

    def drain(self) -> None:
        """Finish what is under way, refuse what comes after it, then end."""
        self._draining = True
        if self._idle:
            self.cancel()

    def retire(self) -> None:
        """Take one more request at most, and tell the client with its answer to use another connection."""
        self._retiring = True

    def cancel(self) -> None:
        """End, whatever is under way."""
        self._scope.cancel()

    def expire(self) -> None:
        """End, since its deadline has passed; with a word on it for a client whose request is not whole."""
        if self._half_read:
            late = error("request_timeout")
            with suppress(trio.BrokenResourceError):
                self._stream.send_nowait(self._codec.respond(late.status, late.headers, late.body, close=True))
        self.cancel()

    def _on_hangup(self) -> None:
        self._client_left = True
        if self.reply is not None:
            self.reply.client_gone = True
            self.cancel()

    async def _serve_request(self) -> bool:
        """Read one request and answer it. False: there can't be another one on this connection."""
        try:
            match head := await self._read_head():
                case RequestHead():
                    self._served += 1
                    body = await self._read_body(head)
                    request = self._request(head, body if isinstance(body, bytes) else b"")
                    record = self._screened or Record.of(request, trio.current_time())
                    record.request_id = request_id(request.headers) or new_request_id()
                    record.client = self._client
                    if self._service.begin is not None:
                        self._service.begin(request, record)
                    reply = self._new_reply(record, http_1_0=head.http_1_0)
                    if not isinstance(body, bytes):
                        await self._refuse(reply, body)
                        return False
                    await self._answer(request, reply)
                    return reply.complete and self._codec.keep_alive
                case Malformed():
                    record = Record("", b"", trio.current_time(), request_id=new_request_id(), client=self._client)
                    await self._refuse(self._new_reply(record), head)
                    return False
                case bytes() | Signal():  # In place of a head this can only be `CLOSED`.
                    return False
                case _:
                    assert_never(head)
        finally:
            self._service.memory.used -= self._held
            self._held = 0

    def _request(self, head: RequestHead, body: bytes = b"") -> Request:
        return Request(head.method, head.target, head.headers, body, scheme=self._service.scheme, received=time.time())

    # Requests in

    async def _read_head(self) -> ServerEvent:
        if self._codec.buffered:
            await trio.lowlevel.checkpoint()  # Requests in a row are not to hold up other connections.
        else:
            self.deadline = self._idle_since + self._limits.idle_timeout_secs
            self._idle = True
            self._codec.receive(await self._receive())
            self._idle = False
        event = self._codec.next_event()
        if event is Signal.NEED_DATA:
            self.deadline = trio.current_time() + self._limits.head_timeout_secs
            self._half_read = True
            while event is Signal.NEED_DATA:
                self._codec.receive(await self._receive())
                event = self._codec.next_event()
            self._half_read = False
        return event

    async def _read_body(self, head: RequestHead) -> bytes | Respond | Malformed:
        """The body, or why it is not worth reading any further."""
        if self._draining:
            return error("service_unavailable", "The gateway is shutting down.")
        if head.content_length is not None and head.content_length > self._limits.body_bytes:
            return error("payload_too_large")
        waited = False
        pieces: list[bytes] = []
        size = 0
        while True:
            match event := self._codec.next_event():
                case bytes():
                    size += len(event)
                    if size > self._limits.body_bytes:
                        return error("payload_too_large")
                    if not self._hold(len(event)):
                        return overloaded()
                    pieces.append(event)
                case Signal.NEED_DATA:
                    if not waited:
                        waited = True
                        if refusal := await self._before_body(head):
                            return refusal
                    self.deadline = trio.current_time() + self._limits.body_timeout_secs
                    self._half_read = True
                    self._codec.receive(await self._receive())
                    self._half_read = False
                case Malformed():
                    return event
                case _:
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _before_body(self, head: RequestHead) -> Respond | None:
        """A body that has to be waited for is worth it only if the request is not refused anyway."""
        request = self._request(head)
        record = Record.of(request, trio.current_time())
        refusal = self._service.screen(request, record)
        if refusal is not None:
            self._screened = record
        if refusal is None and head.expects_continue and not self._codec.buffered:
            with suppress(trio.BrokenResourceError):  # Reading will tell.
                await self._stream.send_all(self._codec.continue_100())
        return refusal

    def _hold(self, size: int) -> bool:
        """Whether so many more bytes may be held until this request has its answer."""
        memory = self._service.memory
        if memory.used + size > self._limits.body_memory_bytes:
            return False
        memory.used += size
        self._held += size
        return True

    async def _receive(self) -> bytes:
        """What the client sent, `b""` when it has closed."""
        try:
            return await self._stream.receive_some()
        except trio.BrokenResourceError:
            return b""

    # Answers out

    def _new_reply(self, record: Record, *, http_1_0: bool = False) -> Reply:
        return Reply(self._stream, self._codec, record, http_1_0=http_1_0, last=self._is_last, hold=self._hold)

    def _is_last(self) -> bool:
        most = self._limits.requests_per_connection
        return self._draining or self._retiring or (most is not None and self._served >= most)

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.deadline = math.inf  # How long an answer may take is not the client's matter.
        self.reply = reply
        try:
            if self._client_left:  # while it was still being read
                reply.client_gone = True
            else:
                await self._service.handle(request, reply)
        except ClientGone:
            pass
        except Exception as fault:  # noqa: BLE001  # A bug ends the request that met it, and no other.
            reference = log_fault(fault)
            if not reply.begun:
                answer = error("internal_error", f"The gateway failed (reference {reference}).")
                reply.record.answered(answer.code)
                with suppress(ClientGone):
                    await reply.respond(answer)
        finally:
            self.reply = None
            if reply.needs_reset:
                self._stream.reset_on_close()
            self._end(reply)

    async def _refuse(self, reply: Reply, why: Respond | Malformed) -> None:
        """Answer a request that was not read to its end."""
        if isinstance(why, Malformed):
            if why.truncated:
                return
            why = attrs.evolve(error("bad_request", why.message), status=why.status)
        self.deadline = trio.current_time() + REFUSAL_TIME
        reply.record.answered(why.code)
        try:
            await reply.respond(why)
        except ClientGone:
            return
        finally:
            self._end(reply)
        # To close while the client is still sending would reset the connection, and the answer could get lost.
        with suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
        while await self._receive():
            pass

    def _end(self, reply: Reply) -> None:
        self._idle_since = reply.close()
        self._service.observe(reply.record)
