"""One client connection: requests in, answers out, one after the other.

Who left? While a request is handled, a second task reads on from the client's socket. What it reads is the
beginning of a pipelined request and is kept for later; when the client closes, the handler is cancelled, and with it
the request to the provider. A client that closes only its sending side counts as gone too: nothing can tell the two
apart, and clients of HTTP APIs don't do that. A client that pipelines more than `PIPELINE_LIMIT` is not read from any
further, so its leaving is seen no sooner than by a failing send.

Time limits: the whole connection lives in one cancel scope, whose deadline moves with what is being waited for.

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
PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes that are read ahead while a request is handled."""

IDLE_TIME: Final = 75.0
"""Seconds until a request begins."""
HEAD_TIME: Final = 15.0
"""Seconds for a request's head, from its first byte."""
BODY_TIME: Final = 30.0
"""Seconds without a byte in the middle of a body."""
REFUSAL_TIME: Final = 5.0
"""Seconds that a client gets to take an answer that came before the end of its request."""

_READ_SIZE = 64 * 1024

Handler: TypeAlias = Callable[[Request, Reply], Awaitable[None]]
"""Answers one request. It is cancelled when the client leaves, and lets `ClientGone` pass."""


class Connection:
    """Call `run`, once. `drain` makes it end as soon as no request is under way.

    codec: of its own. observe: gets the record of each request.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        codec: ServerCodec,
        handle: Handler,
        observe: Callable[[Record], None],
        *,
        draining: bool = False,
    ) -> None:
        self.reply: Reply | None = None
        """The one that is under way."""
        self._stream = stream
        self._codec = codec
        self._handle = handle
        self._observe = observe
        self._draining = draining
        self._idle = False
        self._scope = trio.CancelScope()

    async def run(self) -> None:
        """Serve the client until one side has enough. Closes the stream."""
        try:
            with self._scope:
                while not self._draining or self._codec.buffered:
                    if not await self._serve_request():
                        break
                    self._codec.next_cycle()
        finally:
            await trio.aclose_forcefully(self._stream)

    def drain(self) -> None:
        """Finish what is under way, refuse what comes after it, then end."""
        self._draining = True
        if self._idle:
            self._scope.cancel()

    async def _serve_request(self) -> bool:
        """Read one request and answer it. False: there can't be another one on this connection."""
        head = await self._read_head()
        match head:
            case RequestHead():
                body = await self._read_body(head)
                record = Record(head.method, head.target.partition(b"?")[0], trio.current_time())
                reply = self._new_reply(record, http_1_0=head.http_1_0)
                if not isinstance(body, bytes):
                    await self._refuse(reply, body)
                    return False
                request = Request(head.method, head.target, head.headers, body, received=time.time())
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
        if not self._codec.buffered:
            self._scope.deadline = trio.current_time() + IDLE_TIME
            self._idle = True
            self._codec.receive(await self._receive())
            self._idle = False
        self._scope.deadline = trio.current_time() + HEAD_TIME
        return await self._next_event()

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
            self._scope.deadline = trio.current_time() + BODY_TIME
            event = await self._next_event()
            if isinstance(event, Malformed):
                return event
            if not isinstance(event, bytes):
                return b"".join(pieces)
            size += len(event)
            if size > BODY_LIMIT:
                return error("payload_too_large")
            pieces.append(event)

    async def _next_event(self) -> ServerEvent:
        while (event := self._codec.next_event()) is Signal.NEED_DATA:
            self._codec.receive(await self._receive())
        return event

    async def _receive(self) -> bytes | bytearray:
        """What the client sent, `b""` when it has closed."""
        try:
            return await self._stream.receive_some(_READ_SIZE)
        except trio.BrokenResourceError:
            return b""

    # Answers out

    def _new_reply(self, record: Record, *, http_1_0: bool = False) -> Reply:
        return Reply(self._stream, self._codec, record, http_1_0=http_1_0, last=lambda: self._draining)

    async def _answer(self, request: Request, reply: Reply) -> None:
        self._scope.deadline = math.inf  # How long an answer may take is not the client's matter.
        self.reply = reply
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, reply, nursery.cancel_scope)
                await self._run_handler(request, reply)
                nursery.cancel_scope.cancel()
        finally:
            self.reply = None
            if reply.needs_reset and isinstance(self._stream, TcpStream):
                self._stream.reset_on_close()
            self._end(reply)

    async def _watch(self, reply: Reply, handling: trio.CancelScope) -> None:
        """Cancel the handling of a request when its client leaves."""
        while self._codec.buffered < PIPELINE_LIMIT:
            data = await self._receive()
            if not data:
                reply.client_gone = True
                handling.cancel()
                return
            self._codec.receive(data)

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
        self._scope.deadline = trio.current_time() + REFUSAL_TIME
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
