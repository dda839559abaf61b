"""One client connection: how requests follow each other, what is refused, what is waited for, and who left."""

import json
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from onwards_core import Record, Request, Respond, ServerConfig
from onwards_trio._connection import REFUSAL_TIME, Handler
from onwards_trio._drive import forward
from onwards_trio._reply import Reply
from onwards_trio._server import DEADLINE_GRAIN, Server
from onwards_trio._tcp import TcpStream
from tests.trio.gateway_support import (
    EVENTS,
    Accepting,
    Client,
    Scripted,
    ScriptedTransport,
    gateway,
    pool,
    post,
    tcp_pair,
)

LIMITS = ServerConfig()
BODY_LIMIT, BODY_TIME = LIMITS.body_bytes, LIMITS.body_timeout_secs
HEAD_TIME, IDLE_TIME = LIMITS.head_timeout_secs, LIMITS.idle_timeout_secs

GET = b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n"
UPLOAD = b"POST /1 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n"


async def echo(request: Request, reply: Reply) -> None:
    """A handler that answers with what was asked."""
    await reply.respond(Respond(200, [], b"%b %b" % (request.target, request.body)))


class Served:
    """A server with one connection, and the client at its other end."""

    def __init__(self, handle: Handler = echo, wrap: type[TcpStream] = TcpStream) -> None:
        self.records: list[Record] = []
        self.server = Server(handle, observe=self.records.append)
        ours, theirs = tcp_pair()
        self.client = Client(theirs)
        self._accepting = Accepting(wrap(ours.hand_over()))
        self.over = trio.Event()

    async def run(self) -> None:
        await self.server.serve([self._accepting])
        self.over.set()


@asynccontextmanager
async def serving(handle: Handler = echo, wrap: type[TcpStream] = TcpStream) -> AsyncIterator[Served]:
    """In the end the client leaves, and the connection has to end with that."""
    served = Served(handle, wrap)
    async with trio.open_nursery() as nursery, served.client.stream:
        nursery.start_soon(served.run)
        yield served
        served.client.stream.close()
        while served.server._connections:
            await trio.lowlevel.checkpoint()
        served.server.drain()


class Deaf(TcpStream):
    """A client's connection that can't be sent to: it has left a moment ago."""

    def send_nowait(self, data: bytes) -> int:
        raise trio.BrokenResourceError


# How requests follow each other


async def test_keeps_the_connection() -> None:
    """Requests follow each other on one connection; each has its record."""
    async with serving() as served:
        for number in (b"1", b"2", b"3"):
            got = await served.client.ask(b"POST /%b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx" % number)
            assert got.body == b"/%b x" % number
    assert [record.path for record in served.records] == [b"/1", b"/2", b"/3"]
    assert all(record.outcome == "ok" and record.ended is not None for record in served.records)


@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n"],
)
async def test_closes_when_the_client_wants_it(request_bytes: bytes) -> None:
    """`Connection: close` and HTTP/1.0: the answer, then the end."""
    async with serving() as served:
        got = await served.client.ask(request_bytes)
        assert (got.body, got.headers[b"connection"]) == (b"/ ", b"close")
        assert await served.client.rest() == b""


async def test_answers_pipelined_requests_in_order() -> None:
    """Requests that come in one piece are answered one after the other."""
    active = []

    async def handle(request: Request, reply: Reply) -> None:
        active.append(request.target)
        assert len(active) == 1
        await trio.testing.wait_all_tasks_blocked()
        active.clear()
        await echo(request, reply)

    async with serving(handle) as served:
        await served.client.stream.send_all(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(5)))
        assert [(await served.client.answer()).body for _ in range(5)] == [b"/%d " % n for n in range(5)]


async def test_keeps_what_comes_while_it_answers() -> None:
    """Requests that arrive during an answer wait for their turn, however many they are."""
    begun, go_on = trio.Event(), trio.Event()

    async def handle(request: Request, reply: Reply) -> None:
        begun.set()
        await go_on.wait()
        await echo(request, reply)

    later = UPLOAD + b"X: %b\r\n\r\nbody" % (b"x" * 1000)
    count = 3000
    async with serving(handle) as served, trio.open_nursery() as nursery:
        await served.client.stream.send_all(GET)
        await begun.wait()
        nursery.start_soon(served.client.stream.send_all, later * count)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        bodies = [(await served.client.answer()).body for _ in range(1 + count)]
    assert bodies == [b"/1 "] + [b"/1 body"] * count


# What is refused


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"x" * 70_000), 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", 400),
    ],
)
async def test_answers_what_is_malformed(request_bytes: bytes, status: int) -> None:
    """The codec's status in the error envelope, a record, and the end of the connection."""
    async with serving() as served:
        got = await served.client.ask(request_bytes)
        assert (got.status, got.code, got.headers[b"connection"]) == (status, "bad_request", b"close")
        assert await served.client.rest() == b""
    assert [(record.status, record.outcome) for record in served.records] == [(status, "ok")]


async def test_refuses_a_body_by_its_length() -> None:
    """A `content-length` over the limit: 413 before one byte of the body, and no 100 before that."""
    async with serving() as served:
        head = b"POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (BODY_LIMIT + 1)
        await served.client.stream.send_all(head)
        answer = await served.client.rest()
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b'"payload_too_large"' in answer
    assert [(record.method, record.status) for record in served.records] == [("POST", 413)]


async def test_refuses_a_body_when_it_gets_too_long() -> None:
    """A chunked body: 413 as soon as it crosses the limit, not before."""
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    async with serving() as served:
        await served.client.stream.send_all(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(BODY_LIMIT // 0x100000):
            await served.client.stream.send_all(chunk)
            await trio.testing.wait_all_tasks_blocked()
        assert served.records == []
        got = await served.client.ask(chunk)
        assert (got.status, got.code) == (413, "payload_too_large")


async def test_a_client_that_still_sends_can_read_its_refusal(autojump_clock: trio.testing.MockClock) -> None:
    """What is unread is taken in for a while: a reset connection could destroy the answer on its way."""
    async with serving() as served:
        got = await served.client.ask(b"nonsense\r\n\r\n")
        await served.client.stream.send_all(b"more")
        await trio.testing.wait_all_tasks_blocked()
        assert got.status == 400
        await trio.sleep(REFUSAL_TIME - 0.1)
        assert served.server._connections
        await trio.sleep(0.2 + DEADLINE_GRAIN)
        assert not served.server._connections


async def test_a_refused_client_that_left_is_no_fault() -> None:
    """The connection ends, and the record says who left."""
    async with serving(wrap=Deaf) as served:
        await served.client.stream.send_all(b"nonsense\r\n\r\n")
        assert await served.client.rest() == b""
    assert [(record.status, record.outcome) for record in served.records] == [(400, "client_gone")]


@pytest.mark.parametrize("request_bytes", [b"", b"GET / HT", UPLOAD + b"\r\nbo"])
async def test_a_request_that_never_comes_to_its_end_is_not_answered(request_bytes: bytes) -> None:
    """A client that leaves while sending: no answer, no record, no fault."""
    async with serving() as served:
        await served.client.stream.send_all(request_bytes)
        await served.client.stream.send_eof()
        assert await served.client.rest() == b""
        assert served.records == []


# 100-continue


async def test_asks_for_a_body_that_is_held_back() -> None:
    """`Expect: 100-continue`: the client sends the body after the interim answer."""
    async with serving() as served:
        await served.client.stream.send_all(UPLOAD + b"Expect: 100-continue\r\n\r\n")
        assert await served.client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await served.client.ask(b"body")).body == b"/1 body"


async def test_does_not_ask_for_a_body_that_is_there() -> None:
    """A client that did not wait gets no interim answer."""
    async with serving() as served:
        await served.client.stream.send_all(UPLOAD + b"Expect: 100-continue\r\n\r\nbody")
        assert (await served.client.stream.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_left_instead_of_waiting_is_no_fault() -> None:
    """The interim answer can't be sent: the connection ends."""
    async with serving(wrap=Deaf) as served:
        await served.client.stream.send_all(UPLOAD + b"Expect: 100-continue\r\n\r\n")
        await served.client.stream.send_eof()
        assert await served.client.rest() == b""
    assert served.records == []


# Limits on time


@pytest.mark.parametrize(
    ("sent", "limit", "late"),
    [
        (b"", IDLE_TIME, False),
        (GET, IDLE_TIME, False),
        (b"GET / HT", HEAD_TIME, True),
        (GET + b"GET / HT", HEAD_TIME, True),
        (UPLOAD + b"\r\nbo", BODY_TIME, True),
    ],
)
async def test_waits_for_a_client_only_so_long(
    sent: bytes, limit: float, late: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Before a first request and between two, in a head, in a body: each has its limit, then the end; a request that
    was begun is told why."""
    async with serving() as served:
        await served.client.stream.send_all(sent)
        start = trio.current_time()
        rest = await served.client.rest()
        assert (b"HTTP/1.1 408 " in rest, b'"request_timeout"' in rest) == (late, late)
        assert limit <= trio.current_time() - start <= limit + DEADLINE_GRAIN


async def test_a_head_has_its_time_however_it_drips(autojump_clock: trio.testing.MockClock) -> None:
    """Bytes do not prolong it: it's counted from the first one."""
    async with serving() as served:
        await trio.sleep(10)
        start = trio.current_time()
        for byte in GET[:-4]:
            try:
                await served.client.stream.send_all(bytes([byte]))
            except trio.BrokenResourceError:
                break
            await trio.sleep(1)
        assert HEAD_TIME <= trio.current_time() - start <= HEAD_TIME + DEADLINE_GRAIN + 1


async def test_a_body_has_time_as_long_as_it_comes(autojump_clock: trio.testing.MockClock) -> None:
    """Each byte prolongs it."""
    async with serving() as served:
        await served.client.stream.send_all(UPLOAD + b"\r\n")
        for byte in b"body":
            await trio.sleep(BODY_TIME - 1)
            await served.client.stream.send_all(bytes([byte]))
        assert (await served.client.answer()).body == b"/1 body"


async def test_an_answer_has_all_the_time(autojump_clock: trio.testing.MockClock) -> None:
    """None of the client's limits counts while the client waits for its answer."""

    async def handle(request: Request, reply: Reply) -> None:
        await trio.sleep(3600)
        await echo(request, reply)

    async with serving(handle) as served:
        assert (await served.client.ask(GET)).status == 200
        assert (await served.client.ask(GET)).status == 200


# Who left?


async def _close(stream: TcpStream) -> None:
    await stream.aclose()


async def _half_close(stream: TcpStream) -> None:
    await stream.send_eof()


async def _reset(stream: TcpStream) -> None:
    stream.reset_on_close()
    await stream.aclose()


@pytest.mark.parametrize("leave", [_close, _half_close, _reset])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_client_that_leaves_cancels_its_request(
    leave: Callable[[trio.abc.Stream], Awaitable[None]], begun: bool
) -> None:
    """While the answer is waited for, and in its middle; also if only the sending side was closed."""
    waiting, cancelled = trio.Event(), trio.Event()

    async def handle(request: Request, reply: Reply) -> None:
        if begun:
            reply.start(200, [])
            await reply.send(b"piece")
        waiting.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with serving(handle) as served:
        await served.client.stream.send_all(GET)
        await waiting.wait()
        await leave(served.client.stream)
        await cancelled.wait()
    assert [(record.outcome, record.status) for record in served.records] == [("client_gone", 200 if begun else None)]


async def test_a_client_that_leaves_after_the_last_byte_got_its_answer() -> None:
    """That is an exchange like any other."""
    async with serving() as served:
        await served.client.ask(GET)
    assert [record.outcome for record in served.records] == ["ok"]


STAGES = {
    "sending": (post()[:-5], Scripted()),
    "waiting": (post(), Scripted(delay=math.inf)),
    "streaming": (post(), Scripted(200, (b"data: 1\n\n", math.inf), EVENTS)),
    "collecting": (post("s"), Scripted(200, (b"{", math.inf))),
    "falling back": (post(), Scripted("connect")),
    "whole": (post(), Scripted(200, (b"1", b"2", b"3"))),
}


@pytest.mark.parametrize("leave", [True, False], ids=["client leaves", "server is cut"])
@pytest.mark.parametrize("stage", STAGES)
async def test_nothing_is_left_whenever_it_ends(
    stage: str, leave: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """At each checkpoint of each stage: the provider's answer is closed, all permits are back, one record at most."""
    sent, script = STAGES[stage]
    for checkpoints in range(40):
        records: list[Record] = []
        transport = ScriptedTransport(script)
        served = gateway(m=pool("a", "b"), s=pool("a", sanitize_response=True))
        server = Server(forward(served, transport), observe=records.append)
        ours, theirs = tcp_pair()
        async with theirs, trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, [Accepting(ours)])
            await theirs.send_all(sent)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            if leave:
                theirs.close()
                await trio.testing.wait_all_tasks_blocked()
                assert not server._connections
            nursery.cancel_scope.cancel()
        ours.close()
        assert transport.open == 0
        assert served.ledger.permits_out() == 0
        assert server.under_way() == []
        assert len(records) <= 1
        assert all(record.ended is not None and record.outcome is not None for record in records)
    # By now it has surely come to where it waits: what is counted there is certain.
    outcome = {"falling back": ["ok"], "whole": ["ok"], "sending": []}.get(
        stage, ["client_gone" if leave else "broken"]
    )
    assert [record.outcome for record in records] == outcome
    assert (transport.most_open == 0) == (stage == "sending")


# Bugs


@pytest.mark.parametrize("fault", [ZeroDivisionError("sk-secret"), ExceptionGroup("sk-secret", [ValueError("sk-2")])])
async def test_a_bug_ends_its_request_alone(fault: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """500 with a reference that is in the log, beside a traceback without what the exception says."""

    async def handle(request: Request, reply: Reply) -> None:
        if request.target == b"/1":
            raise fault
        await echo(request, reply)

    async with serving(handle) as served:
        got = await served.client.ask(GET)
        assert (got.status, got.code) == (500, "internal_error")
        reference = json.loads(got.body)["error"]["message"].partition("reference ")[2].rstrip(").")
        assert (await served.client.ask(b"GET /2 HTTP/1.1\r\nHost: h\r\n\r\n")).body == b"/2 "
    (line,) = caplog.records
    message = line.getMessage()
    assert len(reference) == 8
    assert reference in message
    assert f"raise fault\n{type(fault).__name__}" in message
    assert "sk-" not in caplog.text
    assert line.levelno == logging.ERROR
    assert [record.status for record in served.records] == [500, 200]


async def test_a_bug_in_the_middle_of_an_answer_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    """No status can be sent any more, but it must not look complete."""

    async def handle(request: Request, reply: Reply) -> None:
        reply.start(200, [])
        await reply.send(b"piece")
        raise ZeroDivisionError

    async with serving(handle) as served:
        got = await served.client.ask(GET)
        assert (got.body, got.whole) == (b"piece", False)
    assert [record.outcome for record in served.records] == ["broken"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_bug_whose_client_has_left_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """There's nobody to tell."""

    async def handle(request: Request, reply: Reply) -> None:
        raise ZeroDivisionError

    async with serving(handle, Deaf) as served:
        await served.client.stream.send_all(GET)
        assert await served.client.rest() == b""
    assert [record.outcome for record in served.records] == ["client_gone"]
    assert "ZeroDivisionError" in caplog.text


async def test_a_handler_that_does_not_answer_cuts_the_connection() -> None:
    """Another request would get the answer to this one."""

    async def handle(request: Request, reply: Reply) -> None:
        await trio.lowlevel.checkpoint()

    async with serving(handle) as served:
        await served.client.stream.send_all(GET + GET)
        assert await served.client.rest() == b""
    assert [record.outcome for record in served.records] == ["broken"]


# Answers that break off


async def _broken(request: Request, reply: Reply) -> None:
    reply.start(200, [])
    await reply.send(b"piece")
    await reply.break_off(request.body)


async def test_a_broken_body_without_a_length_resets_the_connection() -> None:
    """For HTTP/1.0 the end of the connection is the end of the body, so a cut has to look different."""
    async with serving(_broken) as served:
        await served.client.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(trio.BrokenResourceError):
            await served.client.rest()


async def test_a_broken_body_that_says_so_closes_the_connection() -> None:
    """A reset might destroy what says it."""
    async with serving(_broken) as served:
        await served.client.stream.send_all(b"POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nerror")
        assert (await served.client.rest()).endswith(b"\r\n\r\npieceerror")


async def test_a_whole_body_without_a_length_closes_the_connection() -> None:
    """Its end is a proper one."""

    async def handle(request: Request, reply: Reply) -> None:
        reply.start(200, [])
        await reply.send(b"pie")
        await reply.finish(b"ce")

    async with serving(handle) as served:
        await served.client.stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        assert (await served.client.rest()).endswith(b"\r\n\r\npiece")


# Drain


async def test_drain_ends_an_idle_connection() -> None:
    """Nothing is under way, so there's nothing to wait for."""
    async with serving() as served:
        await served.client.ask(GET)
        await trio.testing.wait_all_tasks_blocked()
        served.server.drain()
        assert await served.client.rest() == b""


async def test_drain_lets_a_request_finish() -> None:
    """Its answer tells the client that it is the last one; what was pipelined behind it is refused."""
    begun, go_on = trio.Event(), trio.Event()

    async def handle(request: Request, reply: Reply) -> None:
        if request.target == b"/streamed":
            reply.start(200, [])
            await reply.send(b"")
        begun.set()
        await go_on.wait()
        if reply.begun:
            await reply.finish(b"whole")
        else:
            await echo(request, reply)

    async with serving(handle) as served:
        await served.client.stream.send_all(GET)
        await begun.wait()
        served.server.drain()
        go_on.set()
        got = await served.client.answer()
        assert (got.body, got.headers[b"connection"]) == (b"/1 ", b"close")
        assert await served.client.rest() == b""

    begun, go_on = trio.Event(), trio.Event()
    async with serving(handle) as served:
        await served.client.stream.send_all(b"GET /streamed HTTP/1.1\r\nHost: h\r\n\r\n")
        await begun.wait()
        served.server.drain()
        await served.client.stream.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        assert (await served.client.answer()).body == b"whole"
        got = await served.client.answer()
        assert (got.status, got.code, got.headers[b"connection"]) == (503, "service_unavailable", b"close")
        assert await served.client.rest() == b""
    assert [record.status for record in served.records] == [200, 503]
