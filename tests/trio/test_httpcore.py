"""HTTP/2 over httpcore's connections: shared ones, interrupted ones, and whose answer is whose."""

from collections.abc import Callable
from contextlib import aclosing

import httpcore
import pytest
import trio
import trio.testing
import trustme

from onwards_trio._upstream._httpcore import HttpcoreTransport
from onwards_trio._upstream._httpcore_io import Stream, Wire
from tests.trio.proxies import Http2Provider, Http2Stream
from tests.trio.upstream_support import (
    BODY_TIMEOUT,
    IDLE_LIMIT,
    IDLE_TIME,
    answer_all,
    ask,
    cancelled_at,
    fails,
    listening,
    over_tls,
    read_all,
    request_to,
    server_context,
)

Serving = Callable[..., Http2Provider]


@pytest.fixture
def serving(authority: trustme.CA) -> Serving:
    """Makes providers that speak HTTP/2 and are trusted."""

    def make(respond: Callable[[Http2Stream], object], **options: int | None) -> Http2Provider:
        return Http2Provider(server_context(authority), respond, **options)

    return make


def request(port: int, path: bytes = b"/", body: bytes = b"{}") -> object:
    return request_to("127.0.0.1", port, scheme="https", target=path, body=body, http2=True)


async def echo(stream: Http2Stream) -> None:
    """Answers with the path and the body, once that is complete."""
    await stream.complete.wait()
    await stream.respond(body=stream.path + b" " + stream.body)


async def test_an_exchange(serving: Serving) -> None:
    """Over HTTP/2 a request arrives whole, and the answer comes back with lower-case names and repeated fields."""
    got = []

    async def respond(stream: Http2Stream) -> None:
        await stream.complete.wait()
        got.append((dict(stream.headers), stream.body))
        await stream.respond(418, b"teapot")

    body = bytes(range(256)) * 1000
    async with listening(serving(respond).script) as port, HttpcoreTransport() as transport:
        answer = await transport.send(request(port, b"/v1/x?y=%20", body))
        async with aclosing(answer):
            assert answer.status == 418
            assert answer.headers == [(b"x-many", b"1"), (b"x-many", b"2")]
            assert await read_all(answer) == b"teapot"
            assert await answer.receive() == b""
    [(headers, received)] = got
    assert headers[b":method"] == b"POST"
    assert headers[b":path"] == b"/v1/x?y=%20"
    assert headers[b":authority"] == b"127.0.0.1"
    assert headers[b"content-length"] == b"256000"
    assert received == body


async def test_a_provider_without_http2(authority: trustme.CA) -> None:
    """It's asked over HTTP/1.1, and its connection is reused."""
    connections = []

    async def script(stream: trio.abc.Stream) -> None:
        connections.append(stream)
        await answer_all(stream)

    async with listening(over_tls(authority, script)) as port, HttpcoreTransport() as transport:
        for _ in range(3):
            assert await ask(transport, request(port)) == (200, b"ok")
        assert len(connections) == 1
        held = await transport.send(request(port))
        assert await ask(transport, request(port)) == (200, b"ok")
        assert len(connections) == 2
        async with aclosing(held):
            pass


async def test_connections_are_shared(serving: Serving) -> None:
    """Many exchanges at once over one connection; each gets its own answer, in whatever order they end."""
    started: list[bytes] = []

    async def respond(stream: Http2Stream) -> None:
        started.append(stream.path)
        await stream.complete.wait()
        await stream.respond(end=False, body=stream.path)
        if stream.path != b"/first":
            while len(started) < 21:
                await trio.testing.wait_all_tasks_blocked()
        await stream.send(stream.body, end=True)

    async def exchange(number: int) -> None:
        expected = b"/%d-%d" % (number, number)
        assert await ask(transport, request(port, b"/%d" % number, b"-%d" % number)) == (200, expected)

    provider = serving(respond)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        await ask(transport, request(port, b"/first"))
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(exchange, number)
        assert len(provider.connections) == 1
        assert (transport.opened, transport.reused) == ({"127.0.0.1": 1}, {"127.0.0.1": 20})


async def test_connections_are_counted(serving: Serving) -> None:
    """Opened and reused ones, and those that are busy or idle now, by the provider's host: until they are closed."""

    async def respond(stream: Http2Stream) -> None:
        await stream.respond(end=stream.path != b"/open")

    def state() -> list[dict[str, int]]:
        return [dict(each) for each in (transport.opened, transport.reused, *transport.connections())]

    host = "127.0.0.1"
    async with listening(serving(respond).script) as port, HttpcoreTransport() as transport:
        assert state() == [{}, {}, {}, {}]
        first = await transport.send(request(port, b"/open"))
        assert state() == [{host: 1}, {}, {host: 1}, {}]
        await ask(transport, request(port))
        assert state() == [{host: 1}, {host: 1}, {host: 1}, {}]
        await first.aclose()
        assert state() == [{host: 1}, {host: 1}, {}, {}]
        await ask(transport, request(port))
        assert state() == [{host: 2}, {host: 1}, {}, {host: 1}]
    assert state() == [{host: 2}, {host: 1}, {}, {}]


@pytest.mark.parametrize(("streams", "connections"), [(3, 3), (1, 7), (None, 7), (1000, 1)])
async def test_no_exchange_waits_for_another(serving: Serving, streams: int | None, connections: int) -> None:
    """As many on one connection as the provider allows, not more; without a word from it, one."""

    async def respond(stream: Http2Stream) -> None:
        await stream.respond(end=False)

    provider = serving(respond, streams=streams)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        answers = [await transport.send(request(port)) for _ in range(7)]
        assert len(provider.connections) == connections
        for answer in answers:
            async with aclosing(answer):
                pass


async def test_leaving_early_stops_the_stream(serving: Serving) -> None:
    """The provider is told to stop; the others on the connection go on; new ones get another connection."""
    finish = trio.Event()

    async def respond(stream: Http2Stream) -> None:
        await stream.respond(body=stream.path, end=False)
        if stream.path == b"/stays":
            await finish.wait()
            await stream.send(b" to the end", end=True)

    provider = serving(respond)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        stays = await transport.send(request(port, b"/stays"))
        leaves = await transport.send(request(port, b"/leaves"))
        async with aclosing(leaves):
            assert await leaves.receive() == b"/leaves"
        [connection] = provider.connections
        await connection.streams[3].reset.wait()
        async with aclosing(await transport.send(request(port, b"/new"))) as new:
            assert await new.receive() == b"/new"
            assert len(provider.connections) == 2
        async with aclosing(stays):
            finish.set()
            assert await read_all(stays) == b"/stays to the end"
        while provider.open:
            await trio.testing.wait_all_tasks_blocked()


async def test_leaving_while_waiting_for_the_head(serving: Serving) -> None:
    """A cancelled request that has no answer yet is stopped like any other."""
    arrived = trio.Event()

    async def respond(stream: Http2Stream) -> None:
        if stream.path == b"/stays":
            await stream.respond(end=False)
        else:
            arrived.set()

    async def leave() -> None:
        with scope:
            await transport.send(request(port, b"/leaves"))

    provider = serving(respond)
    scope = trio.CancelScope()
    async with listening(provider.script) as port, HttpcoreTransport() as transport, trio.open_nursery() as nursery:
        stays = await transport.send(request(port, b"/stays"))
        nursery.start_soon(leave)
        await arrived.wait()
        scope.cancel()
        [connection] = provider.connections
        await connection.streams[3].reset.wait()
        async with aclosing(stays):
            assert await stays.receive() == b"ok"
            await connection.streams[1].send(b"more", end=True)
            assert await read_all(stays) == b"more"


async def test_streams_and_connections_that_break_off(serving: Serving) -> None:
    """Reset by the provider, or closed, before and after the head: a reset, as often as one asks."""

    async def respond(stream: Http2Stream) -> None:
        if stream.path.endswith(b"/body"):
            await stream.respond(end=False)
            await arrived.wait()
        if stream.path.startswith(b"/close"):
            await stream.connection.stream.aclose()
        else:
            stream.connection.h2.reset_stream(stream.stream_id)
            await stream.connection.flush()

    async with listening(serving(respond).script) as port, HttpcoreTransport() as transport:
        for path in (b"/reset", b"/close"):
            assert await fails(transport.send(request(port, path))) == "reset"
            arrived = trio.Event()
            async with aclosing(await transport.send(request(port, path + b"/body"))) as answer:
                assert await answer.receive() == b"ok"
                arrived.set()
                assert await fails(answer.receive()) == "reset"
                assert await fails(answer.receive()) == "reset"


async def test_a_goodbye_is_not_a_failure(serving: Serving) -> None:
    """A reused connection that the provider is about to close: the request goes over a fresh one."""

    async def respond(stream: Http2Stream) -> None:
        await stream.complete.wait()
        if len(stream.connection.streams) == 2:
            stream.connection.h2.close_connection(last_stream_id=1)
            await stream.connection.flush()
        else:
            await echo(stream)

    provider = serving(respond)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        assert await ask(transport, request(port, b"/1")) == (200, b"/1 {}")
        assert await ask(transport, request(port, b"/2")) == (200, b"/2 {}")
        assert len(provider.connections) == 2


async def test_a_connection_closed_while_idle_is_not_used(serving: Serving) -> None:
    """That can be seen before anything is sent."""
    provider = serving(echo)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        for number in range(1, 4):
            assert await ask(transport, request(port)) == (200, b"/ {}")
            assert len(provider.connections) == number
            await provider.connections[-1].stream.aclose()


async def test_what_is_not_http2(serving: Serving) -> None:
    """Data outside of all streams, a status out of range, a field that could not be sent on: `protocol`."""

    async def nowhere(stream: Http2Stream) -> None:
        await stream.connection.stream.send_all(bytes(9))

    def answering(*headers: tuple[str, str]) -> Callable[[Http2Stream], object]:
        async def respond(stream: Http2Stream) -> None:
            stream.connection.h2.send_headers(stream.stream_id, headers, end_stream=True)
            await stream.connection.flush()

        return respond

    for respond in (
        nowhere,
        answering((":status", "600")),
        answering((":status", "OK")),
        answering((":status", "200"), ("x", "a\r\nset-cookie: b")),
        answering((":status", "200"), ("x\r\ny", "a")),
    ):
        async with listening(serving(respond).script) as port, HttpcoreTransport() as transport:
            assert await fails(transport.send(request(port))) == "protocol"


async def test_whoever_cannot_prove_who_it_is(authority: trustme.CA) -> None:
    """No request goes to a provider that another authority vouches for."""
    provider = Http2Provider(server_context(trustme.CA()), echo)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        assert await fails(transport.send(request(port))) == "connect"


async def test_idle_connections_expire_and_are_limited(serving: Serving, mock_clock: trio.testing.MockClock) -> None:
    """An idle one is used until its time is over, and only so many are kept."""
    waiting: list[Http2Stream] = []

    async def respond(stream: Http2Stream) -> None:
        waiting.append(stream)

    async def at_once(count: int) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(ask, transport, request(port))
            while len(waiting) < count:
                await trio.testing.wait_all_tasks_blocked()
            while waiting:
                await waiting.pop().respond()

    provider = serving(respond, streams=1)
    async with listening(provider.script) as port, HttpcoreTransport() as transport:
        await at_once(1)
        mock_clock.jump(IDLE_TIME - 1)
        await at_once(1)
        assert len(provider.connections) == 1
        mock_clock.jump(IDLE_TIME)
        await at_once(1)
        assert len(provider.connections) == 2
        await at_once(IDLE_LIMIT + 5)
        [links] = transport._roomy.values()
        assert len(links) == IDLE_LIMIT


async def test_silence_in_a_body_has_a_limit(serving: Serving, mock_clock: trio.testing.MockClock) -> None:
    """A provider that goes quiet in the middle of a body is a timeout."""

    async def respond(stream: Http2Stream) -> None:
        await stream.respond(end=False)

    async def later() -> None:
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(BODY_TIMEOUT)

    async with listening(serving(respond).script) as port, HttpcoreTransport() as transport:
        answer = await transport.send(request(port))
        async with aclosing(answer), trio.open_nursery() as nursery:
            assert await answer.receive() == b"ok"
            nursery.start_soon(later)
            assert await fails(answer.receive()) == "idle_timeout"


async def test_cancellation_harms_nobody_else(serving: Serving) -> None:
    """Cancelled at each of its checkpoints in turn, an exchange leaves the others on its connection as they were, no
    later one gets its answer, and nothing stays open."""
    finish = trio.Event()

    async def respond(stream: Http2Stream) -> None:
        await stream.respond(body=b"", end=False)
        await stream.complete.wait()
        if stream.path == b"/stays":
            await finish.wait()
        await stream.send(stream.path, end=True)

    async def cancel_at(step: int) -> bool:
        nonlocal finish
        finish = trio.Event()
        async with HttpcoreTransport() as transport:
            stays = await transport.send(request(port, b"/stays"))
            cancelled = await cancelled_at(step, ask, transport, request(port, b"/victim", bytes(100_000)))
            assert await ask(transport, request(port, b"/later")) == (200, b"/later")
            async with aclosing(stays):
                finish.set()
                assert await read_all(stays) == b"/stays"
        while provider.open:
            await trio.testing.wait_all_tasks_blocked()
        return cancelled

    provider = serving(respond)
    async with listening(provider.script) as port:
        step = 1
        while await cancel_at(step):
            step += 1
    assert step > 20


async def test_a_write_can_be_waited_for_only_so_long(autojump_clock: trio.testing.MockClock) -> None:
    """A cancellation waits for a write to a shared connection; when that takes too long, the connection is closed."""
    client, server = trio.testing.lockstep_stream_pair()
    stream = Stream(client, Wire())
    stream._is_shared = True
    with trio.CancelScope() as scope:
        scope.cancel()
        with pytest.raises(httpcore.WriteError):
            await stream.write(b"nobody reads this")
    assert trio.current_time() > 1
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")
    await server.aclose()
