"""Our own keep-alive connections: who gets which, when a request is repeated, how answers end."""

import errno
import socket
import struct
from collections.abc import Callable
from contextlib import aclosing

import pytest
import trio
import trio.testing

from onwards_core import TlsConfig
from onwards_trio._tcp import TcpStream
from onwards_trio._upstream._direct import DirectTransport
from tests.trio.upstream_support import (
    OK,
    Network,
    answer_all,
    answer_once,
    ask,
    fails,
    keeping_open,
    listening,
    read_all,
    read_request,
    request_to,
    saying,
)


async def test_an_exchange(nursery: trio.Nursery) -> None:
    """The provider gets the request as it is; status, repeated headers and body come back as they were sent."""
    got = []

    async def script(stream: trio.abc.Stream) -> None:
        got.append(await read_request(stream))
        await stream.send_all(b"HTTP/1.1 418 x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\n\r\nhello")

    network = Network(nursery, script)
    request = request_to(target=b"/x?y", body=b"data")
    async with DirectTransport(network.connect) as transport, aclosing(await transport.send(request)) as answer:
        assert answer.status == 418
        assert answer.headers == [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"5")]
        assert await read_all(answer) == b"hello"
    [(head, body)] = got
    assert (head.method, head.target, body) == ("POST", b"/x?y", b"data")
    assert (head.headers, head.content_length) == ([(b"host", b"provider")], 4)


async def test_connections_are_reused(nursery: trio.Nursery) -> None:
    """One after the other over one connection, each origin over its own."""
    network = Network(nursery, answer_all)
    async with DirectTransport(network.connect) as transport:
        for _ in range(5):
            assert await ask(transport, request_to()) == (200, b"ok")
        assert len(network.lines) == 1
        for other in (request_to("other"), request_to(port=81), request_to(scheme="https")):
            await ask(transport, other)
        assert len(network.lines) == 4
        assert network.open == 4
    assert network.open == 0


@pytest.mark.parametrize("answer", [OK, b"HTTP/1.1 204 No Content\r\n\r\n"])
async def test_an_answer_that_is_here_and_not_wanted_leaves_the_connection_usable(
    nursery: trio.Nursery, answer: bytes
) -> None:
    """As after a failure that leads to the next provider: its body is not read, and there is no need to reconnect."""

    async def script(stream: trio.abc.Stream) -> None:
        while True:
            await read_request(stream)
            await stream.send_all(answer)

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport:
        for _ in range(3):
            await (await transport.send(request_to())).aclose()
        assert len(network.lines) == network.open == 1


async def test_the_connection_used_last_is_taken_first(nursery: trio.Nursery) -> None:
    """Three idle ones: the last to become idle serves all that follows one by one."""
    served: list[int] = []

    async def script(stream: trio.abc.Stream) -> None:
        number = len(network.lines)
        while True:
            await read_request(stream)
            served.append(number)
            await stream.send_all(OK)

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport:
        answers = [await transport.send(request_to()) for _ in range(3)]
        assert served == [1, 2, 3]
        for answer in (answers[2], answers[0], answers[1]):
            async with aclosing(answer):
                await read_all(answer)
        await ask(transport, request_to())
        await ask(transport, request_to())
        assert served == [1, 2, 3, 2, 2]
        held = await transport.send(request_to())
        await ask(transport, request_to())
        assert served == [1, 2, 3, 2, 2, 2, 1]
        async with aclosing(held):
            pass


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_a_stale_connection_is_replaced_once(nursery: trio.Nursery, method: str) -> None:
    """A reused connection that ends before a byte of response: the same request goes over a fresh one, any method."""
    got = []

    async def keep(stream: trio.abc.Stream) -> None:
        got.append(await read_request(stream))
        await stream.send_all(OK)

    async def stale(stream: trio.abc.Stream) -> None:
        await answer_once(stream)
        got.append(await read_request(stream))

    network = Network(nursery, stale, keep)
    async with DirectTransport(network.connect) as transport:
        await ask(transport, request_to())
        assert await ask(transport, request_to(method=method, body=b"again")) == (200, b"ok")
    assert len(network.lines) == 2
    assert [(head.method, body) for head, body in got] == [(method, b"again")] * 2
    assert network.open == 0


async def test_a_second_connection_is_not_replaced(nursery: trio.Nursery) -> None:
    """When the fresh one ends without a byte, too, that is a reset: the request was repeated once, never twice."""

    async def stale(stream: trio.abc.Stream) -> None:
        await answer_once(stream)
        await read_request(stream)

    network = Network(nursery, stale, saying())
    async with DirectTransport(network.connect) as transport:
        await ask(transport, request_to())
        assert await fails(transport.send(request_to())) == "reset"
        assert len(network.lines) == 2
        assert network.open == 0


async def test_a_fresh_connection_is_not_replaced(nursery: trio.Nursery) -> None:
    """It can't be stale, so the request may have been processed."""
    network = Network(nursery, saying())
    async with DirectTransport(network.connect) as transport:
        assert await fails(transport.send(request_to())) == "reset"
        assert len(network.lines) == 1
        assert network.open == 0


@pytest.mark.parametrize("first", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_after_one_byte_nothing_is_repeated(nursery: trio.Nursery, first: bytes) -> None:
    """A response had begun, interim or cut short, so the provider is at work: a reset."""

    async def script(stream: trio.abc.Stream) -> None:
        await answer_once(stream)
        await read_request(stream)
        await stream.send_all(first)

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport:
        await ask(transport, request_to())
        assert await fails(transport.send(request_to())) == "reset"
        assert len(network.lines) == 1
        assert network.open == 0


async def test_a_connection_closed_while_idle_is_not_used() -> None:
    """Over a real socket that can be seen: the request goes over a fresh one at once."""
    connections: list[int] = []

    async def script(stream: trio.abc.Stream) -> None:
        connections.append(1)
        await answer_once(stream)
        await stream.aclose()

    async with listening(script) as port, DirectTransport() as transport:
        for _ in range(3):
            assert await ask(transport, request_to("127.0.0.1", port)) == (200, b"ok")
        assert len(connections) == 3


async def test_an_unasked_answer_reaches_nobody() -> None:
    """What a provider says between two exchanges is never taken for the next answer."""
    said = trio.Event()

    async def script(stream: trio.abc.Stream) -> None:
        await answer_once(stream)
        if not said.is_set():
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")
            said.set()
        await stream.receive_some()

    async with listening(script) as port, DirectTransport() as transport:
        request = request_to("127.0.0.1", port)
        await ask(transport, request)
        await said.wait()
        assert await ask(transport, request) == (200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"H",
        OK + OK,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_what_makes_a_connection_unfit_for_reuse(nursery: trio.Nursery, answer: bytes) -> None:
    """Bytes left over, `connection: close`, HTTP/1.0: the answer is good, the connection is closed."""
    network = Network(nursery, keeping_open(answer))
    async with DirectTransport(network.connect) as transport:
        assert await ask(transport, request_to()) == (200, b"ok")
        assert network.open == 0


async def test_an_answer_that_is_left_early_closes_its_connection(nursery: trio.Nursery) -> None:
    network = Network(nursery, keeping_open(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"))
    async with DirectTransport(network.connect) as transport:
        async with aclosing(await transport.send(request_to())) as answer:
            assert await answer.receive() == b"hello"
        assert network.open == 0


async def test_pieces_arrive_as_they_come(nursery: trio.Nursery) -> None:
    """Nothing is held back for more; chunks that came together go on together."""
    go_on = trio.Event()

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n")
        await go_on.wait()
        await stream.send_all(b"1\r\nc\r\n0\r\n\r\n")

    network = Network(nursery, script)
    async with DirectTransport(network.connect) as transport, aclosing(await transport.send(request_to())) as answer:
        assert await answer.receive() == b"ab"
        go_on.set()
        assert await answer.receive() == b"c"
        assert await answer.receive() == b""
        assert await answer.receive() == b""


async def test_a_slow_reader_slows_the_provider(nursery: trio.Nursery) -> None:
    """Nothing is read ahead: while nobody receives, the provider can't go on sending."""
    sent: list[int] = []

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        for number in range(3):
            await stream.send_all(b"x")
            sent.append(number)

    network = Network(nursery, script, lockstep=True)
    async with DirectTransport(network.connect) as transport, aclosing(await transport.send(request_to())) as answer:
        await trio.testing.wait_all_tasks_blocked()
        assert sent == []
        await answer.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert sent == [0]
        assert await read_all(answer) == b"xx"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\nConte", "reset"),
        (b"HTTP/1.1 200 OK\n\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "protocol"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "protocol"),
    ],
)
async def test_heads_that_are_none(nursery: trio.Nursery, answer: bytes, reason: str) -> None:
    """Cut short is a reset, anything else that is not HTTP is its own reason; the connection is closed."""
    network = Network(nursery, saying(answer))
    async with DirectTransport(network.connect) as transport:
        assert await fails(transport.send(request_to())) == reason
        assert network.open == 0


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n", "protocol"),
    ],
)
async def test_bodies_that_break_off(nursery: trio.Nursery, answer: bytes, reason: str) -> None:
    """What arrived is handed out, then the failure, as often as one asks; never a proper end."""
    network = Network(nursery, saying(answer))
    async with DirectTransport(network.connect) as transport:
        async with aclosing(await transport.send(request_to())) as response:
            assert await response.receive() == b"hello"
            assert await fails(response.receive()) == reason
            assert await fails(response.receive()) == reason
        assert network.open == 0


async def test_a_reset_connection() -> None:
    """TCP's RST in the middle of a body, over a real socket."""
    reset = trio.Event()

    async def script(stream: trio.SocketStream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello")
        await reset.wait()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with listening(script) as port, DirectTransport() as transport:
        answer = await transport.send(request_to("127.0.0.1", port))
        async with aclosing(answer):
            assert await answer.receive() == b"hello"
            reset.set()
            assert await fails(answer.receive()) == "reset"


async def test_nobody_listens() -> None:
    """A refused connection."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with DirectTransport() as transport:
            assert await fails(transport.send(request_to("127.0.0.1", reserved.getsockname()[1]))) == "connect"


def no_files() -> OSError:
    return OSError(errno.EMFILE, "Too many open files")


def no_files_for_any_address() -> OSError:
    error = OSError("all attempts to connect failed")
    error.__cause__ = no_files()
    return error


@pytest.mark.parametrize("error", [no_files, no_files_for_any_address])
async def test_what_we_lack_is_not_the_providers_fault(error: Callable[[], OSError]) -> None:
    """Out of file descriptors: another provider could not be reached either."""

    async def connect(scheme: str, host: str, port: int, tls: TlsConfig | None) -> TcpStream:
        raise error()

    async with DirectTransport(connect) as transport:
        assert await fails(transport.send(request_to())) == "no_resources"


# More than any socket's buffers take.
BIG = bytes(8 * 1024 * 1024)


async def test_an_early_answer_gets_through(nursery: trio.Nursery) -> None:
    """A provider that refuses a big request without reading it is heard, and its connection is not reused."""

    async def script(stream: trio.abc.Stream) -> None:
        await stream.receive_some(1000)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await trio.sleep_forever()

    network = Network(nursery, script, lockstep=True)
    async with DirectTransport(network.connect) as transport:
        assert await ask(transport, request_to(body=BIG)) == (413, b"no")
        assert network.open == 0
    async with listening(script) as port, DirectTransport() as transport:
        for _ in range(2):
            assert await ask(transport, request_to("127.0.0.1", port, body=BIG)) == (413, b"no")
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize("body", [b"", BIG], ids=["small", "big"])
async def test_an_answer_from_a_provider_that_does_not_listen(nursery: trio.Nursery, body: bytes) -> None:
    """The request can't be sent at all, but the answer is there: it counts."""

    async def script(stream: trio.StapledStream) -> None:
        await stream.send_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno")
        await stream.receive_stream.aclose()
        await trio.sleep_forever()

    network = Network(nursery, script)

    async def connect(scheme: str, host: str, port: int, tls: object) -> trio.abc.Stream:
        stream = await network.connect(scheme, host, port, tls)
        await trio.testing.wait_all_tasks_blocked()
        return stream

    async with DirectTransport(connect) as transport:
        assert await ask(transport, request_to(body=body)) == (503, b"no")
        assert network.open == 0
    nursery.cancel_scope.cancel()


async def test_a_provider_may_answer_while_it_reads(nursery: trio.Nursery) -> None:
    """It gets the whole request although its answer has begun; then the connection is fit for reuse."""
    received = []

    async def script(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        received.append((await read_request(stream))[1])
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(b"ok")
        await trio.sleep_forever()

    network = Network(nursery, script, lockstep=True)
    async with DirectTransport(network.connect) as transport:
        assert await ask(transport, request_to(body=BIG)) == (200, b"ok")
        assert received == [BIG]
        assert network.open == 1
    nursery.cancel_scope.cancel()
