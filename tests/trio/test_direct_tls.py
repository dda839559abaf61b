"""Our own connections over TLS: whom they trust, and that a cut is no end."""

import ssl
from contextlib import aclosing, suppress

import attrs
import pytest
import trio
import trustme

from onwards_core import Secret, TlsConfig
from onwards_trio._upstream._direct import DirectTransport
from tests.trio.upstream_support import (
    answer_all,
    ask,
    fails,
    listening,
    over_tls,
    read_all,
    read_request,
    request_to,
    server_context,
)


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


async def test_a_provider_has_its_own_authorities() -> None:
    """Those of the config, and no others; connections with other settings are not used for it."""
    own, system = trustme.CA(), trustme.CA()
    trusting = TlsConfig(ca=Secret(own.cert_pem.bytes().decode()))
    connections = 0

    async def script(stream: trio.abc.Stream) -> None:
        nonlocal connections
        connections += 1
        await answer_all(stream)

    async with listening(over_tls(own, script)) as port, DirectTransport() as transport:
        request = request_to("127.0.0.1", port, scheme="https", tls=trusting)
        for _ in range(2):
            assert await ask(transport, request) == (200, b"ok")
        assert connections == 1
        others = TlsConfig(ca=Secret(system.cert_pem.bytes().decode()))
        assert await fails(transport.send(attrs.evolve(request, provider=attrs.evolve(request.provider, tls=others))))
        anyone = attrs.evolve(request.provider, tls=TlsConfig(insecure_skip_verification=True))
        assert await ask(transport, attrs.evolve(request, provider=anyone)) == (200, b"ok")


@pytest.mark.parametrize("apart", [False, True])
async def test_a_certificate_is_shown_to_the_provider(
    authority: trustme.CA, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its key beside it, or in the same text; without it there is no connection."""
    monkeypatch.delattr("os.memfd_create") if apart else None  # as on systems that lack it
    shown = authority.issue_cert("client@example.org")
    chain = b"".join(pem.bytes() for pem in shown.cert_chain_pems).decode()
    key = shown.private_key_pem.bytes().decode()
    tls = (
        TlsConfig(certificate=Secret(chain), key=Secret(key))
        if apart
        else TlsConfig(certificate=Secret(key + chain), insecure_skip_verification=True)
    )
    context = server_context(authority)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)

    async def script(stream: trio.abc.Stream) -> None:
        async with trio.SSLStream(stream, context, server_side=True) as secured:
            with suppress(trio.BrokenResourceError):
                await answer_all(secured)

    async with listening(script) as port, DirectTransport() as transport:
        request = request_to("127.0.0.1", port, scheme="https", tls=tls)
        assert await ask(transport, request) == (200, b"ok")
        with_none = attrs.evolve(request.provider, tls=None)
        assert await fails(transport.send(attrs.evolve(request, provider=with_none))) in ("connect", "reset")
