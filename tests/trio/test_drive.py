"""The driver: each action is carried out, and whatever happens, nothing stays open."""

import json
import math

import pytest
import trio
import trio.testing

from onwards_core import Gateway, Record, Request
from onwards_trio._drive import forward
from onwards_trio._reply import ClientGone, Reply
from onwards_trio._wire import RequestHead
from onwards_trio._wire._h11 import H11ServerCodec
from tests.trio.gateway_support import (
    EVENTS,
    Answered,
    Client,
    Scripted,
    ScriptedTransport,
    gateway,
    pool,
    post,
)

COMPLETION = json.dumps({"choices": [{"index": 0, "message": {"content": "hi"}}], "secret": 1}).encode()
CHUNK = b'data: {"id": "1", "created": 1, "choices": [{"index": 0, "delta": {"content": "x"}}], "secret": 1}\n\n'


async def answer(
    transport: ScriptedTransport, stream: trio.abc.Stream, served: Gateway | None = None, request: bytes = b""
) -> Record:
    """Drive one request to its end on a stream; its record."""
    codec = H11ServerCodec()
    codec.receive(request or post())
    head = codec.next_event()
    assert isinstance(head, RequestHead)
    body = b""
    while isinstance(piece := codec.next_event(), bytes):
        body += piece
    received = Request(head.method, head.target, head.headers, body)
    reply = Reply(stream, codec, Record.of(received, 0.0), http_1_0=head.http_1_0)
    handle = forward(served or gateway(m=pool("a", "b")), transport)
    try:
        await handle(received, reply)
    finally:
        await stream.aclose()
        reply.close()
    return reply.record


async def answered(
    transport: ScriptedTransport, served: Gateway | None = None, request: bytes = b""
) -> tuple[Answered, Record]:
    """What a client gets for one request, and its record."""
    ours, theirs = trio.testing.memory_stream_pair()
    record = await answer(transport, ours, served, request)
    return await Client(theirs).answer(), record


async def test_passes_an_answer_on() -> None:
    """Status, headers and body of the provider reach the client, and the record says so."""
    transport = ScriptedTransport(Scripted(201, (b"{", b"}"), [(b"content-length", b"2"), (b"x-own", b"1")]))
    got, record = await answered(transport)
    assert (got.status, got.body, got.whole, got.headers[b"x-own"]) == (201, b"{}", True, b"1")
    assert (record.outcome, record.status, record.bytes_sent, record.alias) == ("ok", 201, 2, "m")
    assert record.first_byte is not None
    assert transport.open == 0


async def test_discards_a_failed_attempt_before_the_next() -> None:
    """A response that is not the answer is closed before another request goes out, and leaves no trace."""
    transport = ScriptedTransport(Scripted(503, (b"down",)), Scripted(200, (b"up",)))
    got, record = await answered(transport)
    assert (got.status, got.body) == (200, b"up")
    assert transport.most_open == 1
    assert [attempt.outcome for attempt in record.attempts] == ["status_503", "ok"]


async def test_goes_on_after_a_failure_without_a_response() -> None:
    """No connection: the next provider gets the request."""
    transport = ScriptedTransport(Scripted("connect"), Scripted(200, (b"up",)))
    got, record = await answered(transport)
    assert got.body == b"up"
    assert [attempt.outcome for attempt in record.attempts] == ["connect", "ok"]


async def test_answers_itself_when_no_provider_does() -> None:
    """After the last failure the client gets the gateway's own answer."""
    got, record = await answered(ScriptedTransport(Scripted("reset")))
    assert (got.status, got.code, record.status, record.outcome) == (502, "bad_gateway", 502, "ok")


async def test_collects_a_body_that_has_to_be_looked_at_whole() -> None:
    """A plain completion is sanitized in one piece, however it came."""
    transport = ScriptedTransport(Scripted(200, (COMPLETION[:9], COMPLETION[9:])))
    got, _ = await answered(transport, gateway(m=pool("a", sanitize_response=True)))
    assert got.status == 200
    assert b"hi" in got.body
    assert b"secret" not in got.body
    assert transport.open == 0


@pytest.mark.parametrize("steps", [(COMPLETION[:9], "reset"), (b"x" * 9_000_000, b"x" * 9_000_000)])
async def test_an_incomplete_collection_is_no_answer(steps: tuple[bytes | str, ...]) -> None:
    """A body that breaks off or is too large while it is collected: nothing of it reaches the client."""
    transport = ScriptedTransport(Scripted(200, steps))
    got, record = await answered(transport, gateway(m=pool("a", sanitize_response=True)))
    assert (got.status, got.code) == (502, "bad_gateway")
    assert record.attempts[0].outcome == ("reset" if "reset" in steps else "too_large")
    assert transport.open == 0


async def test_discards_the_response_that_its_own_answer_stands_in_for() -> None:
    """The provider is let go before the client gets the gateway's answer."""
    transport = ScriptedTransport(Scripted(418, (b"teapot",)))
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, transport, ours, gateway(m=pool("a", sanitize_response=True)))
        await trio.testing.wait_all_tasks_blocked()
        assert transport.open == 0
        got = await Client(theirs).answer()
    assert (got.status, got.code) == (418, "upstream_error")


async def test_passes_events_on_as_they_come(autojump_clock: trio.testing.MockClock) -> None:
    """An event is not held back for a later one: it's there at the time that its provider sent it."""
    transport = ScriptedTransport(Scripted(200, (b"data: 1\n\n", 5.0, b"data: 2\n\n"), EVENTS, delay=1.0))
    ours, theirs = trio.testing.memory_stream_pair()
    arrivals = {}

    async def read() -> None:
        received = b""
        while piece := await theirs.receive_some():
            received += piece
            for event in (b"200", b"data: 1", b"data: 2"):
                if event in received:
                    arrivals.setdefault(event, trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        start = trio.current_time()
        await answer(transport, ours)
    assert {event: at - start for event, at in arrivals.items()} == {b"200": 1.0, b"data: 1": 1.0, b"data: 2": 6.0}


async def test_reads_a_provider_no_faster_than_the_client() -> None:
    """As long as the client does not take a piece, the next one stays with the provider."""
    pieces = [b"%d" % number for number in range(5)]
    taken = []

    class Counted(ScriptedTransport):
        async def send(self, request):
            given = await super().send(request)
            receive = given.receive

            async def counted() -> bytes:
                taken.append(await receive())
                return taken[-1]

            given.receive = counted
            return given

    ours, theirs = trio.testing.lockstep_stream_pair()
    transport = Counted(Scripted(200, tuple(pieces), [(b"content-length", b"5")]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, transport, ours)
        await trio.testing.wait_all_tasks_blocked()
        assert taken == []
        head = await theirs.receive_some()
        assert head.endswith(b"\r\n\r\n")
        for number, piece in enumerate(pieces, start=1):
            await trio.testing.wait_all_tasks_blocked()
            assert taken == pieces[:number]
            assert await theirs.receive_some() == piece


async def test_an_event_stream_that_breaks_off_says_so() -> None:
    """A last event with the error goes out, and the terminating chunk does not."""
    got, record = await answered(ScriptedTransport(Scripted(200, (b"data: 1\n\ndata: 2\n", "reset"), EVENTS)))
    assert got.body.startswith(b'data: 1\n\ndata: 2\n\n\ndata: {"error"')
    assert got.body.endswith(b"\n\n")
    assert not got.whole
    assert record.outcome == "broken"


async def test_any_other_body_that_breaks_off_ends_short() -> None:
    """Nothing is added to it, and it does not look complete."""
    got, record = await answered(ScriptedTransport(Scripted(200, (b"12", "reset"), [(b"content-length", b"3")])))
    assert (got.body, got.whole, record.outcome, record.bytes_sent) == (b"12", False, "broken", 2)


@pytest.mark.parametrize(
    "steps",
    [
        (CHUNK, b"data: not json\n\n", CHUNK),
        (CHUNK, b"data: not json"),
    ],
)
async def test_a_stream_that_cannot_be_sanitized_breaks_off(steps: tuple[bytes, ...]) -> None:
    """What came before is passed on, what can't be parsed is not, be it in the middle or at the end."""
    transport = ScriptedTransport(Scripted(200, steps, EVENTS))
    got, record = await answered(transport, gateway(m=pool("a", sanitize_response=True)))
    first, second, rest = got.body.split(b"\n\n")
    assert b"choices" in first
    assert b"secret" not in first
    assert json.loads(second.removeprefix(b"data: "))["error"]
    assert (rest, got.whole, record.outcome) == (b"", False, "broken")


async def test_a_sanitized_stream_comes_to_its_proper_end() -> None:
    """An event that only the end of the body completes is passed on, too; half events are waited for."""
    steps = (CHUNK[:5], CHUNK[5:] + b"data: [DONE]\n")
    transport = ScriptedTransport(Scripted(200, steps, EVENTS))
    got, record = await answered(transport, gateway(m=pool("a", sanitize_response=True)))
    assert got.body.endswith(b"data: [DONE]\n\n")
    assert got.whole
    assert record.outcome == "ok"


async def test_a_client_that_is_gone_ends_it() -> None:
    """The first send that fails ends the exchange: `ClientGone`, provider and permits let go."""
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    served = gateway(m=pool("a"))
    transport = ScriptedTransport(Scripted(200, (b"1", math.inf)))
    with pytest.raises(ClientGone):
        await answer(transport, ours, served)
    assert transport.open == 0
    assert served.ledger.permits_out() == 0


async def test_permits_are_held_until_the_last_byte_is_sent() -> None:
    """They come back when the client has taken the end of its answer, not when the provider has sent it."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    served = gateway(m=pool("a"))
    transport = ScriptedTransport(Scripted(200, (b"data: 1\n\n",), EVENTS))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, transport, ours, served)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            await trio.testing.wait_all_tasks_blocked()
            assert served.ledger.permits_out() == 2
            received += await theirs.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        assert served.ledger.permits_out() == 0


async def test_head_is_answered_without_a_body() -> None:
    """The provider's head goes through with its length, and no body counts as sent."""
    request = b"HEAD /v1/files HTTP/1.1\r\nHost: h\r\nModel-Override: m\r\n\r\n"
    transport = ScriptedTransport(Scripted(200, (), [(b"content-length", b"7")]))
    ours, theirs = trio.testing.memory_stream_pair()
    record = await answer(transport, ours, request=request)
    got = await Client(theirs).answer(b"HEAD")
    assert (got.headers[b"content-length"], got.whole, record.bytes_sent) == (b"7", True, 0)


async def test_a_fault_closes_the_exchange() -> None:
    """An exception that nobody expected passes through, and leaves neither a permit nor a response behind."""

    class Faulty(ScriptedTransport):
        async def send(self, request):
            raise ZeroDivisionError

    served = gateway(m=pool("a"))
    ours, _ = trio.testing.memory_stream_pair()
    with pytest.raises(ZeroDivisionError):
        await answer(Faulty(Scripted()), ours, served)
    assert served.ledger.permits_out() == 0
