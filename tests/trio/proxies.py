"""Proxies and an HTTP/2 provider for the transports' tests, small but real."""

import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import h2.config
import h2.connection
import h2.events
import h2.settings
import trio

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


async def relay(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    """Both ways, until either side closes."""

    async def copy(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
        with suppress(*GONE):
            while data := await source.receive_some():
                await target.send_all(data)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, one, other)
        nursery.start_soon(copy, other, one)


async def receive(stream: trio.abc.Stream) -> bytes:
    """What comes next; `EOFError` if nothing does."""
    if data := await stream.receive_some():
        return bytes(data)
    raise EOFError


class HttpProxy:
    """Tunnels CONNECT, forwards the rest; `asked` are the request heads it got."""

    def __init__(self, refusal: bytes = b"") -> None:
        self.asked: list[bytes] = []
        self._refusal = refusal

    async def script(self, stream: trio.abc.Stream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await receive(stream)
        head, _, rest = data.partition(b"\r\n\r\n")
        self.asked.append(head)
        if self._refusal:
            await stream.send_all(self._refusal)
            return
        method, target, _ = head.split(b"\r\n")[0].split(b" ")
        if method == b"CONNECT":
            host, _, port = target.partition(b":")
            path = b""
        else:
            origin, _, path = target.removeprefix(b"http://").partition(b"/")
            host, _, port = origin.partition(b":")
        async with await trio.open_tcp_stream(host.decode(), int(port)) as provider:
            if method == b"CONNECT":
                await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                await provider.send_all(head.replace(target, b"/" + path) + b"\r\n\r\n" + rest)
            await relay(stream, provider)


class Socks5Proxy:
    """RFC 1928 with RFC 1929's password, if one is given; `asked` are the addresses it was sent to."""

    def __init__(self, password: tuple[bytes, bytes] | None = None, reply: int = 0) -> None:
        self.asked: list[tuple[str, int]] = []
        self._password = password
        self._reply = reply

    async def script(self, stream: trio.abc.Stream) -> None:
        greeting = await receive(stream)
        method = 2 if self._password else 0
        if method not in greeting[2:]:
            await stream.send_all(b"\x05\xff")
            return
        await stream.send_all(bytes([5, method]))
        if self._password:
            user, password = self._password
            wanted = bytes([1, len(user)]) + user + bytes([len(password)]) + password
            accepted = await receive(stream) == wanted
            await stream.send_all(b"\x01\x00" if accepted else b"\x01\x01")
        request = await receive(stream)
        port = int.from_bytes(request[-2:], "big")
        host = request[5:-2].decode() if request[3] == 3 else str(ipaddress.ip_address(bytes(request[4:-2])))
        self.asked.append((host, port))
        await stream.send_all(bytes([5, self._reply, 0, 1, 127, 0, 0, 1, 0, 0]))
        if self._reply == 0:
            async with await trio.open_tcp_stream(host, port) as provider:
                await relay(stream, provider)


Respond = Callable[["Http2Stream"], Awaitable[None]]


class Http2Stream:
    """One exchange on an HTTP/2 connection, as its provider sees it."""

    def __init__(self, connection: "Http2Connection", stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.headers = headers
        self.body = b""
        self.complete = trio.Event()
        self.reset = trio.Event()
        self.connection = connection
        self.stream_id = stream_id

    @property
    def path(self) -> bytes:
        return dict(self.headers)[b":path"]

    async def respond(self, status: int = 200, body: bytes = b"ok", *, end: bool = True) -> None:
        self.connection.h2.send_headers(self.stream_id, [(":status", str(status)), ("X-Many", "1"), ("x-many", "2")])
        await self.send(body, end=end)

    async def send(self, body: bytes, *, end: bool = False) -> None:
        self.connection.h2.send_data(self.stream_id, body, end_stream=end)
        await self.connection.flush()


class Http2Connection:
    """Reads requests, and answers each in a task of its own."""

    def __init__(self, stream: trio.abc.Stream, respond: Respond, streams: int | None) -> None:
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, validate_outbound_headers=False, header_encoding=None)
        )
        limit = {} if streams is None else {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=limit)
        self.stream = stream
        self.streams: dict[int, Http2Stream] = {}
        self._respond = respond
        self._lock = trio.Lock()

    async def flush(self) -> None:
        async with self._lock:
            if data := self.h2.data_to_send():
                with suppress(*GONE):
                    await self.stream.send_all(data)

    async def serve(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        async with trio.open_nursery() as nursery:
            with suppress(*GONE):
                while data := await self.stream.receive_some():
                    for event in self.h2.receive_data(bytes(data)):
                        self._handle(event, nursery)
                    await self.flush()
            nursery.cancel_scope.cancel()

    def _handle(self, event: h2.events.Event, nursery: trio.Nursery) -> None:
        match event:
            case h2.events.RequestReceived():
                stream = Http2Stream(self, event.stream_id, event.headers)
                self.streams[event.stream_id] = stream
                nursery.start_soon(self._respond, stream)
            case h2.events.DataReceived():
                self.streams[event.stream_id].body += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.streams[event.stream_id].complete.set()
            case h2.events.StreamReset():
                self.streams[event.stream_id].reset.set()


class Http2Provider:
    """Speaks HTTP/2 over TLS, allowing so many streams per connection."""

    def __init__(self, context: ssl.SSLContext, respond: Respond, *, streams: int | None = 100) -> None:
        self.connections: list[Http2Connection] = []
        self.open = 0
        self._context = context
        self._context.set_alpn_protocols(["h2"])
        self._respond = respond
        self._streams = streams

    async def script(self, stream: trio.abc.Stream) -> None:
        async with trio.SSLStream(stream, self._context, server_side=True) as tls:
            await tls.do_handshake()
            assert tls.selected_alpn_protocol() == "h2"
            connection = Http2Connection(tls, self._respond, self._streams)
            self.connections.append(connection)
            self.open += 1
            try:
                await connection.serve()
            finally:
                self.open -= 1
