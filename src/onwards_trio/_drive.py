"""The loop that carries out what an exchange asks for. Every decision is the core's."""

from collections.abc import Awaitable, Callable
from typing import assert_never

import trio

from onwards_core import (
    Acquire,
    Acquired,
    BodyCollected,
    BodyRead,
    BreakOff,
    CollectBody,
    Event,
    Exchange,
    FailureReason,
    Gateway,
    KeepAlive,
    PassedOn,
    PassOn,
    ReadBody,
    Record,
    Request,
    Respond,
    SendUpstream,
    StreamThrough,
    Transform,
    UpstreamFailed,
    UpstreamResponded,
    Wait,
    WaitOver,
)
from onwards_trio._connection import Handler, Screen
from onwards_trio._record import Incidents
from onwards_trio._reply import ClientGone, Reply
from onwards_trio._upstream import Answer, UpstreamError
from onwards_trio._upstream._protocol import Sender


def forward(
    gateway: Gateway,
    transport: Sender,
    incidents: Incidents | None = None,
    through: Callable[[Sender, Record], Sender] | None = None,
) -> Handler:
    """The handler for a `Server` that answers each request through the gateway.

    incidents: keeps what went badly. through: what sends for a request; see `Traces`.
    """
    through = through or (lambda sender, _: sender)

    def handle(request: Request, reply: Reply) -> Awaitable[None]:
        record = reply.record
        return drive(gateway.admit(request, record.started, record), through(transport, record), reply)

    async def handle_and_keep(request: Request, reply: Reply) -> None:
        assert incidents is not None
        digest = gateway.snapshot.digest
        exchange = incidents.admit(gateway, request, reply.record.started, reply.record)
        try:
            await drive(exchange, through(transport, reply.record), reply)
        finally:
            incidents.consider(exchange, request, digest)

    return handle if incidents is None else handle_and_keep


def screening(gateway: Gateway) -> Screen:
    """For the same `Server`: refuses what can be refused before its body is read."""
    return lambda head, record: gateway.screen(head, trio.current_time(), record)


async def drive(exchange: Exchange, transport: Sender, reply: Reply) -> None:
    """Carry out the exchange's actions until the client has its answer, then close it. Raises `ClientGone`."""
    upstream = _Upstream(transport, reply)
    # Left in this order: permits go back with the last byte, before anything that waits can come between; so a client
    # that has its answer finds them free. The response is closed after that.
    try:
        with exchange:
            action = exchange.begin(reply.record.started)
            while True:
                event: Event
                match action:
                    case SendUpstream() | ReadBody() | CollectBody() | Wait() | Acquire():
                        if exchange.keep_alive is None:
                            event = await upstream.carry_out(action)
                        else:
                            event = await _keeping_alive(exchange, exchange.keep_alive, upstream, action, reply)
                    case PassOn():
                        _begin(reply, action)
                        await reply.send(action.data)
                        event = PassedOn()
                    case StreamThrough():
                        _begin(reply, action)
                        broken = await upstream.pump(action.data, action.transform)
                        if broken is not None:
                            exchange.answer_broke(broken, trio.current_time())
                        return
                    case Respond():
                        await upstream.aclose()
                        await reply.respond(action)
                        return
                    case BreakOff():
                        await upstream.aclose()
                        await reply.break_off(action.data)
                        return
                    case _:
                        assert_never(action)
                action = exchange.feed(event, trio.current_time())
    finally:
        await upstream.aclose()


def _begin(reply: Reply, action: PassOn | StreamThrough) -> None:
    if not reply.begun:
        reply.start(action.status, action.headers)


class _Upstream:
    """The response that is open, one at most."""

    def __init__(self, transport: Sender, reply: Reply) -> None:
        self._transport = transport
        self._reply = reply
        self._answer: Answer | None = None

    async def aclose(self) -> None:
        if self._answer is not None:
            await self._answer.aclose()

    async def carry_out(self, action: SendUpstream | ReadBody | CollectBody | Wait | Acquire) -> Event:
        try:
            match action:
                case SendUpstream():
                    await self.aclose()
                    self._answer = answer = await self._transport.send(action)
                    return UpstreamResponded(answer.status, answer.headers)
                case ReadBody():
                    return await self._read(action.until)
                case CollectBody():
                    return await self._collect(action.limit)
                case Wait():
                    await self.aclose()
                    await trio.sleep_until(action.until)
                    return WaitOver()
                case Acquire():
                    decided = trio.Event()
                    action.claim.on_decided = decided.set
                    while action.claim.outcome is None:
                        await decided.wait()
                    return Acquired(action.claim.outcome)
                case _:
                    assert_never(action)
        except UpstreamError as error:
            return UpstreamFailed(error.reason)

    async def _read(self, until: float | None) -> BodyRead | WaitOver:
        assert self._answer is not None  # as for the other two
        data = self._answer.receive_nowait()
        if not data and not self._answer.ended:
            piece = await self._answer.receive() if until is None else await self._answer.receive_until(until)
            if piece is None:
                return WaitOver()
            data = piece
        return BodyRead(data, self._answer.ended)

    async def _collect(self, limit: int) -> BodyCollected | UpstreamFailed:
        assert self._answer is not None
        pieces, size = [], 0
        while not self._answer.ended:
            data = await self._answer.receive()
            size += len(data)
            if size > limit:
                return UpstreamFailed("too_large")
            if not self._reply.hold(len(data)):
                return UpstreamFailed("no_resources")
            pieces.append(data)
        return BodyCollected(b"".join(pieces))

    async def pump(self, data: bytes, transform: Transform | None) -> FailureReason | None:
        """Pass the body on, after `data`, which is of it. Gives the reason if it had no proper end.

        The next piece is read when the last one is sent: a slow client slows its provider down.
        """
        answer, reply = self._answer, self._reply
        assert answer is not None
        try:
            piece = b"" if answer.ended else answer.receive_nowait()  # What came with the head goes out with the head.
            while True:
                data += piece if transform is None else transform.feed(piece)
                if transform is not None and transform.failed:
                    await reply.break_off(data + transform.abort())
                    return "protocol"
                if answer.ended:
                    break
                await reply.send(data)
                data = b""
                piece = await answer.receive()
        except UpstreamError as error:
            await reply.break_off(data + (transform.abort() if transform is not None else b""))
            return error.reason
        if transform is not None:
            data += transform.finish()
            if transform.failed:
                await reply.break_off(data + transform.abort())
                return "protocol"
        await reply.finish(data)
        return None


async def _keeping_alive(
    exchange: Exchange,
    keep_alive: KeepAlive,
    upstream: _Upstream,
    action: SendUpstream | ReadBody | CollectBody | Wait | Acquire,
    reply: Reply,
) -> Event:
    """Carry the action out, and send something to the client as often as it wants while that takes time."""
    # Counted from the request on, so that many short actions do not add up to a long silence.
    waited = trio.current_time() - reply.record.started
    due = trio.current_time() + keep_alive.interval - waited % keep_alive.interval
    events: list[Event] = []
    done = trio.Event()

    async def carry_out() -> None:
        events.append(await upstream.carry_out(action))
        done.set()

    client_gone = False
    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry_out)
        while not done.is_set():
            with trio.move_on_at(due):
                await done.wait()
            if not done.is_set():
                due = trio.current_time() + keep_alive.interval
                if not reply.begun:
                    reply.start(keep_alive.status, keep_alive.headers)
                    exchange.answer_begun()
                try:
                    await reply.send(keep_alive.comment)
                except ClientGone:  # raised below: a nursery would wrap it
                    client_gone = True
                    nursery.cancel_scope.cancel()
                    break
    if client_gone:
        raise ClientGone
    return events[0]
