"""Our own connections over TLS: whom they trust, and that a cut is no end."""

from contextlib import aclosing

import pytest
import trio
import trustme

from onwards_trio._upstream._direct import DirectTransport
from tests.trio.upstream_support import answer_all, ask, fails, listening, over_tls, read_all, read_request, request_to


async def test_a_trusted_provider(authority: trustme.CA) -> None:
    """Its connection is reused as a plain one is, and HTTP/1.1 is all that is offered."""
    connections = []

    async def script(stream: trio.abc.Stream) -> None:
        connections.append(stream)
        await answer_all(stream)

    async with listening(over_tls(authority, script)) as port, DirectTransport() as transport:
        for _ in range(3):
            assert await ask(transport, request_to("127.0.0.1", port, scheme="https")) == (200, b"ok")
        assert len(connections) == 1


async def test_a_big_request(authority: trustme.CA) -> None:
    """Sending and receiving go on at the same time."""
    bodies = []

    async def script(stream: trio.abc.Stream) -> None:
        bodies.append((await read_request(stream))[1])
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    body = bytes(range(256)) * 20_000
    async with listening(over_tls(authority, script)) as port, DirectTransport() as transport:
        assert await ask(transport, request_to("127.0.0.1", port, scheme="https", body=body)) == (200, b"ok")
    assert bodies == [body]


@pytest.mark.parametrize("fault", ["another name", "unknown authority", "no TLS"])
async def test_whoever_cannot_prove_who_it_is(authority: trustme.CA, fault: str) -> None:
    """No request goes to a provider with another's certificate, an unknown authority's, or none."""

    async def script(stream: trio.abc.Stream) -> None:
        raise AssertionError

    async def plain(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"220 mail.example\r\n")
        while await stream.receive_some():
            pass

    served = {
        "another name": over_tls(authority, script, name="provider.example"),
        "unknown authority": over_tls(trustme.CA(), script),
        "no TLS": plain,
    }[fault]
    async with listening(served) as port, DirectTransport() as transport:
        assert await fails(transport.send(request_to("127.0.0.1", port, scheme="https"))) == "connect"


@pytest.mark.parametrize("goodbye", [True, False])
async def test_an_answer_that_ends_with_its_connection(authority: trustme.CA, goodbye: bool) -> None:
    """It is complete only if TLS says so: anyone on the way can cut a connection."""

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")

    served = over_tls(authority, script, compatible=not goodbye)
    async with listening(served) as port, DirectTransport() as transport:
        answer = await transport.send(request_to("127.0.0.1", port, scheme="https"))
        async with aclosing(answer):
            if goodbye:
                assert await read_all(answer) == b"hello"
            else:
                assert await answer.receive() == b"hello"
                assert await fails(answer.receive()) == "reset"


async def test_leaving_closes_at_once(authority: trustme.CA) -> None:
    """Also cancelled in the middle of an answer, the provider sees its connection closed."""
    gone = trio.Event()

    async def script(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
        assert await stream.receive_some() == b""
        gone.set()

    async with listening(over_tls(authority, script)) as port, DirectTransport() as transport:
        answer = await transport.send(request_to("127.0.0.1", port, scheme="https"))
        with trio.CancelScope() as scope:
            async with aclosing(answer):
                assert await answer.receive() == b"hello"
                scope.cancel()
                await answer.receive()
        await gone.wait()
