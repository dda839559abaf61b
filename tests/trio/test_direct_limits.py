"""Our own keep-alive connections: what ends by time or number, and that a cancellation leaves none open."""

import math
from contextlib import aclosing

import pytest
import trio
import trio.testing

from onwards_core import TlsConfig
from onwards_trio._upstream import UpstreamError
from onwards_trio._upstream._direct import DEADLINE_GRAIN, DirectTransport
from tests.trio.upstream_support import (
    BODY_TIMEOUT,
    CONNECT_TIMEOUT,
    IDLE_LIMIT,
    IDLE_TIME,
    OK,
    Network,
    Script,
    answer_all,
    answer_once,
    ask,
    cancelled_at,
    fails,
    read_all,
    read_request,
    request_to,
)


async def test_idle_connections_expire(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """They are used until their time is over, then closed, whether somebody asks for one or not."""
    network = Network(nursery, answer_all)
    async with DirectTransport(network.connect) as transport:
        await ask(transport, request_to())
        await trio.sleep(IDLE_TIME - 1)
        await ask(transport, request_to())
        assert len(network.lines) == 1
        await trio.sleep(2 * IDLE_TIME)
        assert network.open == 0
        await ask(transport, request_to())
        assert len(network.lines) == 2


async def test_an_expired_connection_is_not_used(nursery: trio.Nursery, mock_clock: trio.testing.MockClock) -> None:
    """Not even when it has not been cleared away yet."""
    network = Network(nursery, answer_all)
    async with DirectTransport(network.connect) as transport:
        await ask(transport, request_to())
        mock_clock.jump(IDLE_TIME)
        await ask(transport, request_to())
        assert [line.closed for line in network.lines] == [True, False]


async def test_idle_connections_are_limited(nursery: trio.Nursery) -> None:
    """So many per origin are kept, the rest is closed."""
    network = Network(nursery, answer_all)
    async with DirectTransport(network.connect) as transport:
        answers = [await transport.send(request_to()) for _ in range(IDLE_LIMIT + 5)]
        for answer in answers:
            async with aclosing(answer):
                await read_all(answer)
        assert network.open == IDLE_LIMIT
        await ask(transport, request_to("other"))
        assert network.open == IDLE_LIMIT + 1


async def test_connecting_has_a_limit(autojump_clock: trio.testing.MockClock) -> None:
    """A provider that can't be reached in time is a timeout."""

    async def connect(scheme: str, host: str, port: int, tls: TlsConfig | None) -> trio.abc.Stream:
        await trio.sleep_forever()
        raise AssertionError

    async with DirectTransport(connect) as transport:
        assert await fails(transport.send(request_to())) == "connect_timeout"
    assert trio.current_time() == CONNECT_TIMEOUT


async def test_a_head_has_a_limit_if_the_config_says_so(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Then it is a timeout, and the connection is closed."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await trio.sleep(5)
        await stream.send_all(OK)
        await trio.sleep_forever()

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport:
        assert await ask(transport, request_to(head_timeout=5.5)) == (200, b"ok")
        before = trio.current_time()
        assert await fails(transport.send(request_to("other", head_timeout=4.5))) == "head_timeout"
        assert trio.current_time() - before == 4.5
        assert network.open == 1
    nursery.cancel_scope.cancel()


async def test_silence_in_a_body_has_a_limit(nursery: trio.Nursery, autojump_clock: trio.testing.MockClock) -> None:
    """Neither a head that takes hours nor a slow reader is hit by it, and each byte starts it anew."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await trio.sleep(10 * BODY_TIMEOUT)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        for _ in range(3):
            await trio.sleep(BODY_TIMEOUT - 1)
            await stream.send_all(b"x")
        await trio.sleep(math.inf)

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport:
        async with aclosing(await transport.send(request_to())) as answer:
            for _ in range(3):
                assert await answer.receive() == b"x"
            await trio.sleep(2 * BODY_TIMEOUT)
            before = trio.current_time()
            assert await fails(answer.receive()) == "idle_timeout"
            assert BODY_TIMEOUT <= trio.current_time() - before <= BODY_TIMEOUT + DEADLINE_GRAIN
        assert network.open == 0
    nursery.cancel_scope.cancel()


async def test_one_silent_body_does_not_end_another(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Each has its own limit, however they interleave."""

    async def script(stream: trio.abc.Stream) -> None:
        head, _ = await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await trio.sleep(float(head.target[1:]))
        await stream.send_all(b"ok")

    reasons: dict[float, str] = {}

    async def receive(seconds: float) -> None:
        async with aclosing(await transport.send(request_to(target=b"/%d" % seconds))) as answer:
            try:
                assert await read_all(answer) == b"ok"
                reasons[seconds] = "ok"
            except UpstreamError as error:
                reasons[seconds] = error.reason

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport, trio.open_nursery() as readers:
        for seconds in (BODY_TIMEOUT + 10, 5, BODY_TIMEOUT - 10, BODY_TIMEOUT + 100):
            readers.start_soon(receive, seconds)
            await trio.sleep(20)
    assert sorted(reasons.items()) == [(5, "ok"), (290, "ok"), (310, "idle_timeout"), (400, "idle_timeout")]
    nursery.cancel_scope.cancel()


async def slowly(stream: trio.abc.Stream) -> None:
    """Answers with a pause before each piece, so that the client waits everywhere it can."""
    for _ in range(2):
        await read_request(stream)
        for piece in b"HTT P/1.1_200_OK\r\n Transfer-Encoding:chunked\r\n \r\n 2 \r\n o k \r\n 0 \r\n \r \n".split(
            b" "
        ):
            await trio.sleep(1)
            await stream.send_all(piece.replace(b"_", b" "))


async def stale(stream: trio.abc.Stream) -> None:
    await answer_once(stream)
    await read_request(stream)
    await trio.sleep(1)


@pytest.mark.parametrize("scripts", [(slowly,), (stale, slowly)], ids=["reused", "repeated"])
@pytest.mark.parametrize("body", [b"", bytes(100_000)], ids=["small", "big"])
def test_cancellation_leaves_nothing_open(scripts: tuple[Script, ...], body: bytes) -> None:
    """Cancelled at each of its checkpoints in turn: no connection stays open but idle ones that are fit for use."""

    async def run(step: int) -> bool:
        async def client() -> None:
            for _ in range(2):
                await ask(transport, request_to(body=body))

        async with trio.open_nursery() as providers:
            network = Network(providers, *scripts)
            async with DirectTransport(network.connect) as transport:
                cancelled = await cancelled_at(step, client)
                if cancelled:
                    idle = [connection for stack in transport._idle.values() for connection in stack]
                    assert network.open == len(idle)
                    for connection in idle:
                        assert connection.codec.reusable
                assert not transport._reading
            assert network.open == 0
            providers.cancel_scope.cancel()
        return cancelled

    step = 1
    while trio.run(run, step, clock=trio.testing.MockClock(autojump_threshold=0)):
        step += 1
    assert step > 20
