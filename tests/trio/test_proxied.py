"""Providers behind proxies: forwarded, tunnelled, over SOCKS5, and what becomes of a proxy's refusals."""

import logging
from contextlib import aclosing
from typing import Self

import pytest
import trio
import trio.testing
import trustme

from onwards_core import SendUpstream
from onwards_trio._upstream import Answer, Transports, UpstreamError
from onwards_trio._upstream._httpcore import HttpcoreTransport
from tests.trio.proxies import Http2Provider, Http2Stream, HttpProxy, Socks5Proxy
from tests.trio.upstream_support import (
    BODY_TIMEOUT,
    CONNECT_TIMEOUT,
    answer_all,
    answer_once,
    ask,
    cancelled_at,
    fails,
    listening,
    over_tls,
    read_request,
    request_to,
    saying,
    server_context,
)


async def test_forwarding() -> None:
    """A plain request goes to the proxy with its whole URL; the connection to the proxy is reused."""
    proxy = HttpProxy()
    connections = []

    async def script(stream: trio.abc.Stream) -> None:
        connections.append(stream)
        await answer_all(stream)

    async with listening(script) as port, listening(proxy.script) as proxy_port, HttpcoreTransport() as transport:
        request = request_to("127.0.0.1", port, target=b"/v1/x?y", proxy=f"http://127.0.0.1:{proxy_port}")
        assert await ask(transport, request) == (200, b"ok")
        [head] = proxy.asked
        assert head.startswith(b"POST http://127.0.0.1:%d/v1/x?y HTTP/1.1\r\n" % port)
        assert len(connections) == 1


@pytest.mark.parametrize("http2", [False, True])
async def test_tunnels(authority: trustme.CA, http2: bool) -> None:
    """Over TLS the proxy sees nothing but where to; the tunnel is reused, and shared over HTTP/2."""
    proxy = HttpProxy()

    async def respond(stream: Http2Stream) -> None:
        await stream.complete.wait()
        await stream.respond()

    script = Http2Provider(server_context(authority), respond).script if http2 else over_tls(authority, answer_all)
    async with listening(script) as port, listening(proxy.script) as proxy_port, HttpcoreTransport() as transport:
        request = request_to(
            "127.0.0.1", port, scheme="https", http2=http2, proxy=f"http://us%65r:p%40ss@127.0.0.1:{proxy_port}"
        )
        for _ in range(3):
            assert await ask(transport, request) == (200, b"ok")
        assert (transport.opened, transport.reused) == ({"127.0.0.1": 1}, {"127.0.0.1": 2})
    [head] = proxy.asked
    assert head.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % port)
    assert b"Proxy-Authorization: Basic dXNlcjpwQHNz" in head  # user:p@ss
    assert b"authorization: bearer" not in head.lower()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("password", [None, (b"user", b"p@ss")])
async def test_socks5(authority: trustme.CA, scheme: str, password: tuple[bytes, bytes] | None) -> None:
    """Plain and over TLS, with a password and without; the connection is reused."""
    proxy = Socks5Proxy(password)
    script = answer_all if scheme == "http" else over_tls(authority, answer_all)
    user = "user:p%40ss@" if password else ""
    async with listening(script) as port, listening(proxy.script) as proxy_port, HttpcoreTransport() as transport:
        request = request_to("127.0.0.1", port, scheme=scheme, proxy=f"socks5://{user}127.0.0.1:{proxy_port}")
        for _ in range(3):
            assert await ask(transport, request) == (200, b"ok")
    assert proxy.asked == [("127.0.0.1", port)]


async def test_refusals(authority: trustme.CA) -> None:
    """A proxy that is not there, refuses, talks nonsense or hangs up: no connection could be made."""

    async def nonsense(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def nothing(stream: trio.abc.Stream) -> None:
        await stream.receive_some()

    scripts = {
        "http": [
            HttpProxy(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").script,
            HttpProxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").script,
            HttpProxy(b"nonsense\r\n\r\n").script,
            HttpProxy(b"\r\n").script,
            nothing,
        ],
        "socks5": [
            Socks5Proxy((b"user", b"password")).script,
            Socks5Proxy(reply=5).script,
            nonsense,
            nothing,
        ],
    }

    async def refused(proxy: str) -> None:
        request = request_to("127.0.0.1", 9, scheme="https", proxy=proxy)
        assert await fails(transport.send(request)) == "connect"

    async with HttpcoreTransport() as transport:
        for scheme, kinds in scripts.items():
            for script in kinds:
                async with listening(script) as port:
                    await refused(f"{scheme}://127.0.0.1:{port}")
            await refused(f"{scheme}://127.0.0.1:{port}")  # By now nobody listens there.
        await refused("ftp://127.0.0.1:1")
        await refused("http://127.0.0.1:port")


async def test_connecting_has_a_limit(mock_clock: trio.testing.MockClock) -> None:
    """A proxy that never answers is a timeout, also at its own protocol."""

    async def silent(stream: trio.abc.Stream) -> None:
        await stream.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(CONNECT_TIMEOUT)
        await trio.sleep_forever()

    for scheme in ("http", "socks5"):
        async with listening(silent) as port, HttpcoreTransport() as transport:
            request = request_to("127.0.0.1", 9, scheme="https", proxy=f"{scheme}://127.0.0.1:{port}")
            assert await fails(transport.send(request)) == "connect_timeout"


async def test_a_head_may_take_long(mock_clock: trio.testing.MockClock) -> None:
    """Once connected there is no limit for the head."""

    async def slow(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(10 * BODY_TIMEOUT)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    proxy = Socks5Proxy()
    async with listening(slow) as port, listening(proxy.script) as proxy_port, HttpcoreTransport() as transport:
        request = request_to("127.0.0.1", port, proxy=f"socks5://127.0.0.1:{proxy_port}")
        assert await ask(transport, request) == (200, b"ok")


def through(proxy_port: int, port: int) -> SendUpstream:
    return request_to("127.0.0.1", port, proxy=f"socks5://127.0.0.1:{proxy_port}")


async def test_a_stale_connection_is_replaced_once() -> None:
    """A reused connection that ends before a byte of response: once more over a fresh one, and only once."""
    requests = []

    async def script(stream: trio.abc.Stream) -> None:
        await answer_once(stream)
        requests.append(await read_request(stream))

    async def silent_next(stream: trio.abc.Stream) -> None:
        if requests:
            requests.append(await read_request(stream))
        else:
            await script(stream)

    for provider, outcome in ((script, "ok"), (silent_next, "reset")):
        requests.clear()
        async with (
            listening(provider) as port,
            listening(Socks5Proxy().script) as proxy_port,
            HttpcoreTransport() as transport,
        ):
            assert await ask(transport, through(proxy_port, port)) == (200, b"ok")
            if outcome == "ok":
                assert await ask(transport, through(proxy_port, port)) == (200, b"ok")
                assert len(requests) == 1
            else:
                assert await fails(transport.send(through(proxy_port, port))) == "reset"
                assert len(requests) == 2


async def test_after_one_byte_nothing_is_repeated() -> None:
    """A response had begun on the reused connection, so the provider is at work: a reset."""
    connections = []

    async def script(stream: trio.abc.Stream) -> None:
        connections.append(stream)
        await answer_once(stream)
        await saying(b"H")(stream)

    async with (
        listening(script) as port,
        listening(Socks5Proxy().script) as proxy_port,
        HttpcoreTransport() as transport,
    ):
        assert await ask(transport, through(proxy_port, port)) == (200, b"ok")
        assert await fails(transport.send(through(proxy_port, port))) == "reset"
    assert len(connections) == 1


@pytest.mark.parametrize(
    ("answer", "head", "body"),
    [
        (b"", "reset", ""),
        (b"HTTP/1.1 200 OK\r\nConte", "reset", ""),
        (b"nonsense\r\n\r\n", "protocol", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "protocol", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello", "", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "", "reset"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n", "", "protocol"),
    ],
)
async def test_broken_answers(answer: bytes, head: str, body: str) -> None:
    """The same reasons as without a proxy."""
    async with (
        listening(saying(answer)) as port,
        listening(Socks5Proxy().script) as proxy_port,
        HttpcoreTransport() as transport,
    ):
        if head:
            assert await fails(transport.send(through(proxy_port, port))) == head
        else:
            async with aclosing(await transport.send(through(proxy_port, port))) as response:
                assert await response.receive() == b"hello"
                assert await fails(response.receive()) == body


async def test_cancellation_leaves_nothing_open() -> None:
    """Cancelled at each of its checkpoints in turn, with two exchanges over one connection: in the end the provider
    has no connection, and nothing was left unfinished."""
    open_connections = 0

    async def script(stream: trio.abc.Stream) -> None:
        nonlocal open_connections
        open_connections += 1
        try:
            await answer_all(stream)
        finally:
            open_connections -= 1

    async def client(transport: HttpcoreTransport) -> None:
        for _ in range(2):
            assert await ask(transport, through(proxy_port, port)) == (200, b"ok")

    async def cancel_at(step: int) -> bool:
        async with HttpcoreTransport() as transport:
            cancelled = await cancelled_at(step, client, transport)
            assert await ask(transport, through(proxy_port, port)) == (200, b"ok")
        while open_connections:
            await trio.testing.wait_all_tasks_blocked()
        return cancelled

    async with listening(script) as port, listening(Socks5Proxy().script) as proxy_port:
        step = 1
        while await cancel_at(step):
            step += 1
    assert step > 15


async def test_nothing_secret_is_logged(authority: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    """Not even at debug level, by none of the libraries."""
    caplog.set_level(logging.DEBUG)

    async def respond(stream: Http2Stream) -> None:
        stream.connection.h2.send_headers(stream.stream_id, [(":status", "200"), ("set-cookie", "planted-3")])
        await stream.send(b"", end=True)

    provider = Http2Provider(server_context(authority), respond)
    proxy = Socks5Proxy((b"user", b"planted-1"))
    async with (
        listening(provider.script) as port,
        listening(proxy.script) as proxy_port,
        HttpcoreTransport() as transport,
    ):
        request = request_to(
            "127.0.0.1", port, scheme="https", http2=True, proxy=f"socks5://user:planted-1@127.0.0.1:{proxy_port}"
        )
        request.headers.append((b"authorization", b"Bearer planted-2"))
        assert await ask(transport, request) == (200, b"")
    assert "planted" not in caplog.text


class Recording:
    """A transport that notes whether it is open, and what it was asked."""

    def __init__(self) -> None:
        self.entered = False
        self.asked: list[SendUpstream] = []

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(self, *_: object) -> None:
        self.entered = False

    async def send(self, request: SendUpstream) -> Answer:
        assert self.entered
        self.asked.append(request)
        raise UpstreamError("connect")


async def test_each_request_takes_its_way() -> None:
    """Proxies and HTTP/2 over TLS go through httpcore, everything else over our own connections; both are closed."""
    direct, httpcore = Recording(), Recording()
    proxied = request_to(proxy="http://proxy")
    shared = request_to(scheme="https", http2=True)
    plain = [request_to(), request_to(scheme="https"), request_to(http2=True)]
    async with Transports(direct, httpcore) as transport:
        for request in (proxied, shared, *plain):
            assert await fails(transport.send(request)) == "connect"
    assert httpcore.asked == [proxied, shared]
    assert direct.asked == plain
    assert not direct.entered
    assert not httpcore.entered


async def test_both_ways_over_the_network(authority: trustme.CA) -> None:
    """As they are made by default: both trust what the system trusts."""

    async def respond(stream: Http2Stream) -> None:
        await stream.complete.wait()
        await stream.respond()

    async with (
        listening(over_tls(authority, answer_all)) as port,
        listening(Http2Provider(server_context(authority), respond).script) as http2_port,
        Transports() as transport,
    ):
        assert await ask(transport, request_to("127.0.0.1", port, scheme="https")) == (200, b"ok")
        assert await ask(transport, request_to("127.0.0.1", http2_port, scheme="https", http2=True)) == (200, b"ok")
        assert transport.opened == {"127.0.0.1": 2}
        assert transport.reused == {}
        assert transport.connections() == ({}, {"127.0.0.1": 2})


async def test_a_head_has_a_limit_if_the_config_says_so(mock_clock: trio.testing.MockClock) -> None:
    """Then it is a timeout."""

    async def slow(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(5)
        await trio.sleep_forever()

    proxy = Socks5Proxy()
    async with listening(slow) as port, listening(proxy.script) as proxy_port, HttpcoreTransport() as transport:
        request = request_to("127.0.0.1", port, proxy=f"socks5://127.0.0.1:{proxy_port}", head_timeout=4.5)
        assert await fails(transport.send(request)) == "head_timeout"
