"""One client connection: requests in, answers out, one after the other.

Who left? When the client closes, its request is cancelled, and with it the request to the provider. A client that
closes only its sending side counts as gone too: nothing can tell the two apart, and clients of HTTP APIs don't do that.

Time limits: `deadline` says until when what is being waited for has to come. The server ends connections that are late.

A request that was answered has a record, and so has one whose client left while it was handled. One that never came
to its end has none.
"""

import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeAlias, assert_never

import attrs
import trio

from onwards_core import Record, Request, Respond, error
from onwards_trio._fault import log_fault
from onwards_trio._reply import ClientGone, Reply
from onwards_trio._tcp import TcpStream
from onwards_trio._wire import Malformed, RequestHead, ServerCodec, ServerEvent, Signal

BODY_LIMIT: Final = 64 * 1024 * 1024
"""Bytes of a request's body. It is held in memory, because a fallback sends it again."""

IDLE_TIME: Final = 75.0
"""Seconds until a request begins."""
HEAD_TIME: Final = 15.0
"""Seconds for a request's head, from its first byte."""
BODY_TIME: Final = 30.0
"""Seconds without a byte in the middle of a body."""
REFUSAL_TIME: Final = 5.0
"""Seconds that a client gets to take an answer that came before the end of its request."""

Handler: TypeAlias = Callable[[Request, Reply], Awaitable[None]]
"""Answers one request. It is cancelled when the client leaves, and lets `ClientGone` pass."""


class Connection:
    """Call `run`, once. `drain` makes it end as soon as no request is under way, `cancel` at once.

    codec: of its own. observe: gets the record of each request.
    """

    def __init__(
        self,
        stream: TcpStream,
        codec: ServerCodec,
        handle: Handler,
        observe: Callable[[Record], None],
        *,
        draining: bool = False,
    ) -> None:
        self.reply: Reply | None = None
        """The one that is under way."""
        self.deadline = math.inf
        """In Trio's time."""
        self._stream = stream
        self._codec = codec
        self._handle = handle
        self._observe = observe
        self._draining = draining
        self._idle = False
        self._client_left = False
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

    def cancel(self) -> None:
        """End, whatever is under way."""
        self._scope.cancel()

    def _on_hangup(self) -> None:
        self._client_left = True
        if self.reply is not None:
            self.reply.client_gone = True
            self.cancel()

    async def _serve_request(self) -> bool:
        """Read one request and answer it. False: there can't be another one on this connection."""
        head = await self._read_head()
        match head:
            case RequestHead():
                body = await self._read_body(head)
                whole = body if isinstance(body, bytes) else b""
                request = Request(head.method, head.target, head.headers, whole, received=time.time())
                reply = self._new_reply(Record.of(request, trio.current_time()), http_1_0=head.http_1_0)
                if not isinstance(body, bytes):
                    await self._refuse(reply, body)
                    return False
                await self._answer(request, reply)
                return reply.complete and self._codec.keep_alive
            case Malformed():
                await self._refuse(self._new_reply(Record("", b"", trio.current_time())), head)
                return False
            case bytes() | Signal():  # In place of a head this can only be `CLOSED`.
                return False
            case _:
                assert_never(head)

    # Requests in

    async def _read_head(self) -> ServerEvent:
        if self._codec.buffered:
            await trio.lowlevel.checkpoint()  # Requests in a row are not to hold up other connections.
        else:
            self.deadline = trio.current_time() + IDLE_TIME
            self._idle = True
            self._codec.receive(await self._receive())
            self._idle = False
        event = self._codec.next_event()
        if event is Signal.NEED_DATA:
            self.deadline = trio.current_time() + HEAD_TIME
            while event is Signal.NEED_DATA:
                self._codec.receive(await self._receive())
                event = self._codec.next_event()
        return event

    async def _read_body(self, head: RequestHead) -> bytes | Respond | Malformed:
        """The body, or why it is not worth reading any further."""
        if self._draining:
            return error("service_unavailable", "The gateway is shutting down.")
        if head.content_length is not None and head.content_length > BODY_LIMIT:
            return error("payload_too_large")
        if head.expects_continue and not self._codec.buffered:
            with suppress(trio.BrokenResourceError):  # Reading will tell.
                await self._stream.send_all(self._codec.continue_100())
        pieces: list[bytes] = []
        size = 0
        while True:
            match event := self._codec.next_event():
                case bytes():
                    size += len(event)
                    if size > BODY_LIMIT:
                        return error("payload_too_large")
                    pieces.append(event)
                case Signal.NEED_DATA:
                    self.deadline = trio.current_time() + BODY_TIME
                    self._codec.receive(await self._receive())
                case Malformed():
                    return event
                case _:
                    return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _receive(self) -> bytes:
        """What the client sent, `b""` when it has closed."""
        try:
            return await self._stream.receive_some()
        except trio.BrokenResourceError:
            return b""

    # Answers out

    def _new_reply(self, record: Record, *, http_1_0: bool = False) -> Reply:
        return Reply(self._stream, self._codec, record, http_1_0=http_1_0, last=self._is_last)

    def _is_last(self) -> bool:
        return self._draining

    async def _answer(self, request: Request, reply: Reply) -> None:
        self.deadline = math.inf  # How long an answer may take is not the client's matter.
        self.reply = reply
        try:
            if self._client_left:  # while it was still being read
                reply.client_gone = True
            else:
                await self._run_handler(request, reply)
        finally:
            self.reply = None
            if reply.needs_reset:
                self._stream.reset_on_close()
            self._end(reply)

    async def _run_handler(self, request: Request, reply: Reply) -> None:
        try:
            await self._handle(request, reply)
        except ClientGone:
            pass
        except Exception as fault:  # noqa: BLE001  # A bug ends the request that met it, and no other.
            reference = log_fault(fault)
            if not reply.begun:
                with suppress(ClientGone):
                    await reply.respond(error("internal_error", f"The gateway failed (reference {reference})."))

    async def _refuse(self, reply: Reply, why: Respond | Malformed) -> None:
        """Answer a request that was not read to its end."""
        if isinstance(why, Malformed):
            if why.truncated:
                return
            why = attrs.evolve(error("bad_request", why.message), status=why.status)
        self.deadline = trio.current_time() + REFUSAL_TIME
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
        reply.close()
        self._observe(reply.record)
