"""The loop that carries out what an exchange asks for. Every decision is the core's."""

from typing import assert_never

import trio

from onwards_core import (
    BodyCollected,
    CollectBody,
    Event,
    Exchange,
    Gateway,
    Request,
    Respond,
    SendUpstream,
    StreamThrough,
    Transform,
    UpstreamFailed,
    UpstreamResponded,
)
from onwards_trio._connection import Handler, Screen
from onwards_trio._reply import Reply
from onwards_trio._upstream import Answer, Transport, UpstreamError


def forward(gateway: Gateway, transport: Transport) -> Handler:
    """The handler for a `Server` that answers each request through the gateway."""

    async def handle(request: Request, reply: Reply) -> None:
        exchange = gateway.admit(request, trio.current_time(), reply.record)
        await drive(exchange, transport, reply)

    return handle


def screening(gateway: Gateway) -> Screen:
    """For the same `Server`: refuses what can be refused before its body is read."""
    return lambda head: gateway.screen(head, trio.current_time())


async def drive(exchange: Exchange, transport: Transport, reply: Reply) -> None:
    """Carry out the exchange's actions until the client has its answer, then close it. Raises `ClientGone`."""
    answer: Answer | None = None  # The response that is open, one at most.
    # Left in this order: permits go back with the last byte, before anything that waits can come between; so a client
    # that has its answer finds them free. The response is closed after that.
    try:
        with exchange:
            action = exchange.begin(trio.current_time())
            while True:
                event: Event
                match action:
                    case SendUpstream():
                        if answer is not None:
                            await answer.aclose()
                        try:
                            answer = await transport.send(action)
                        except UpstreamError as error:
                            event = UpstreamFailed(error.reason)
                        else:
                            event = UpstreamResponded(answer.status, answer.headers)
                    case CollectBody():
                        assert answer is not None  # as for the next action
                        event = await _collect(answer, action.limit, reply)
                    case StreamThrough():
                        assert answer is not None
                        reply.start(action.status, action.headers)
                        await _pump(answer, action.transform, reply)
                        return
                    case Respond():
                        if answer is not None:
                            await answer.aclose()
                        await reply.respond(action)
                        return
                    case _:
                        assert_never(action)
                action = exchange.feed(event, trio.current_time())
    finally:
        if answer is not None:
            await answer.aclose()


async def _collect(answer: Answer, limit: int, reply: Reply) -> BodyCollected | UpstreamFailed:
    pieces, size = [], 0
    try:
        while not answer.ended:
            data = await answer.receive()
            size += len(data)
            if size > limit:
                return UpstreamFailed("too_large")
            if not reply.hold(len(data)):
                return UpstreamFailed("no_memory")
            pieces.append(data)
    except UpstreamError as error:
        return UpstreamFailed(error.reason)
    return BodyCollected(b"".join(pieces))


async def _pump(answer: Answer, transform: Transform | None, reply: Reply) -> None:
    """Pass the body on. The next piece is read when the last one is sent: a slow client slows its provider down."""
    try:
        data = answer.receive_nowait()  # What came with the head goes out with the head.
        while True:
            if transform is not None:
                data = transform.feed(data)
                if transform.failed:
                    await reply.break_off(data + transform.abort())
                    return
            if answer.ended:
                break
            await reply.send(data)
            data = await answer.receive()
    except UpstreamError:
        await reply.break_off(transform.abort() if transform is not None else b"")
        return
    if transform is not None:
        data += transform.finish()
        if transform.failed:
            await reply.break_off(data + transform.abort())
            return
    await reply.finish(data)
