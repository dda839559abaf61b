"""A whole gateway on asyncio: what it takes to embed `onwards_core` in another event loop.

    python docs/examples/asyncio_gateway.py config.json --port 3000

The core decides, this file moves bytes. Each attempt at a provider gets a connection of its own. SIGHUP reloads the
config. What a gateway on a public network needs beyond it: deadlines for clients that fall silent, TLS towards
clients, a provider's own `tls` and proxies towards providers, a drain at shutdown, and HTTP parsing as strict
as that of `onwards_trio`; h11 forgives some things.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import ssl
import time
from functools import partial
from pathlib import Path
from random import Random
from typing import assert_never

import h11

from onwards_core import (
    Acquire,
    BodyCollected,
    BodyRead,
    BreakOff,
    CollectBody,
    ConfigError,
    Event,
    Exchange,
    FailureReason,
    Gateway,
    Headers,
    KeepAlive,
    PassedOn,
    PassOn,
    Pool,
    Provider,
    ReadBody,
    Request,
    Respond,
    SendUpstream,
    Snapshot,
    StreamThrough,
    Transform,
    UpstreamFailed,
    UpstreamResponded,
    Wait,
    WaitOver,
    error,
    load_config,
)

READ_SIZE = 64 * 1024
BODY_LIMIT = 64 * 1024 * 1024
TLS = ssl.create_default_context()


# The core's side: one action out, one event in.


async def answer(gateway: Gateway, request: Request, client: "Client") -> None:
    """Carry one exchange out. Cancelling it gives all permits back and closes the provider's connection."""
    now = asyncio.get_running_loop().time
    upstream = Upstream()
    with contextlib.closing(upstream), gateway.admit(request, now()) as exchange:
        action = exchange.begin(now())
        while True:
            event: Event
            match action:
                case SendUpstream() | ReadBody() | CollectBody() | Wait():
                    if exchange.keep_alive is None:
                        event = await upstream.carry_out(action)
                    else:
                        event = await keeping_alive(exchange, exchange.keep_alive, upstream, action, client)
                case PassOn():
                    await client.pass_on(action)
                    event = PassedOn()
                case StreamThrough():
                    if broken := await client.stream(action, upstream):
                        exchange.answer_broke(broken, now())
                    return None
                case Respond():
                    return await client.respond(action)
                case BreakOff():
                    return await client.send_body(action.data)
                case Acquire():
                    raise RuntimeError("limits are shared with nobody here")
                case _:
                    assert_never(action)
            action = exchange.feed(event, now())


async def keeping_alive(
    exchange: Exchange,
    keep_alive: KeepAlive,
    upstream: "Upstream",
    action: SendUpstream | ReadBody | CollectBody | Wait,
    client: "Client",
) -> Event:
    """Carry the action out, and send something to the client as often as it wants while that takes time."""
    working = asyncio.create_task(upstream.carry_out(action))
    # Counted from the request on, so that many short actions do not add up to a long silence.
    waited = asyncio.get_running_loop().time() - exchange.record.started
    wait = keep_alive.interval - waited % keep_alive.interval
    try:
        while not (await asyncio.wait([working], timeout=wait))[0]:
            await client.keep_alive(keep_alive)
            exchange.answer_begun()
            wait = keep_alive.interval
    except BaseException:
        working.cancel()
        raise
    return await working


# The provider's side.


class UpstreamError(Exception):
    """There is no more of the provider's answer."""

    def __init__(self, reason: FailureReason) -> None:
        super().__init__(reason)
        self.reason = reason


class Upstream:
    """The attempt that is under way. The next `send` discards it, `close` ends the last one."""

    def __init__(self) -> None:
        self._writer: asyncio.StreamWriter | None = None
        self._ended = False

    def close(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()  # At once: there is nothing to be flushed, and nobody to wait for.

    async def carry_out(self, action: SendUpstream | ReadBody | CollectBody | Wait) -> Event:
        try:
            match action:
                case SendUpstream():
                    return await self._send(action)
                case ReadBody():
                    return await self._read(action.until)
                case CollectBody():
                    return await self._collect(action.limit)
                case Wait():
                    self.close()
                    await asyncio.sleep(action.until - asyncio.get_running_loop().time())
                    return WaitOver()
                case _:
                    assert_never(action)
        except UpstreamError as failure:
            return UpstreamFailed(failure.reason)

    async def _send(self, action: SendUpstream) -> UpstreamResponded:
        self.close()
        provider, url = action.provider, action.provider.url
        if provider.proxy is not None or provider.tls is not None:
            raise UpstreamError("connect")  # Not implemented here, and never to be gone around.
        tls = TLS if url.scheme == "https" else None
        try:
            async with asyncio.timeout(provider.connect_timeout):
                self._reader, self._writer = await asyncio.open_connection(url.host, url.port, ssl=tls)
        except TimeoutError:
            raise UpstreamError("connect_timeout") from None
        except OSError:
            raise UpstreamError("connect") from None
        self._ended = False
        self._idle_timeout = provider.idle_timeout
        self._codec = h11.Connection(h11.CLIENT)
        head = h11.Request(method=action.method, target=action.target, headers=action.headers)
        for part in (head, h11.Data(action.body), h11.EndOfMessage()):
            # Without waiting: a provider may answer before it has read all of a large body.
            self._writer.write(self._codec.send(part) or b"")
        try:
            async with asyncio.timeout(provider.head_timeout):
                while not isinstance(response := await self._next_event(), h11.Response):
                    pass  # An interim one, such as 103 Early Hints.
        except TimeoutError:
            raise UpstreamError("head_timeout") from None
        return UpstreamResponded(response.status_code, list(response.headers))

    async def _read(self, until: float | None) -> BodyRead | WaitOver:
        timeout = asyncio.timeout_at(until)
        try:
            async with timeout:
                data = await self.receive()
        except TimeoutError:
            return WaitOver()
        return BodyRead(data, ended=self._ended)

    async def _collect(self, limit: int) -> BodyCollected | UpstreamFailed:
        body = bytearray()
        while piece := await self.receive():
            body += piece
            if len(body) > limit:
                return UpstreamFailed("too_large")
        return BodyCollected(bytes(body))

    async def receive(self) -> bytes:
        """The body's next piece, `b""` at its proper end. Raises `UpstreamError`."""
        if self._ended:
            return b""
        try:
            async with asyncio.timeout(self._idle_timeout):
                event = await self._next_event()
        except TimeoutError:
            raise UpstreamError("idle_timeout") from None
        self._ended = not isinstance(event, h11.Data)
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next_event(self) -> object:
        data: bytes | None = None
        try:
            while (event := self._codec.next_event()) is h11.NEED_DATA:
                data = await self._reader.read(READ_SIZE)
                self._codec.receive_data(data)
        except h11.RemoteProtocolError:
            raise UpstreamError("reset" if data == b"" else "protocol") from None
        except OSError:
            raise UpstreamError("reset") from None
        return event


# Probes: how providers are, asked by themselves, where `health.probe` is configured.


async def probe_all(gateway: Gateway) -> None:
    """Ask each provider at its interval, by the config of the moment."""
    now = asyncio.get_running_loop().time
    due: dict[str, float] = {}
    async with asyncio.TaskGroup() as probes:
        while True:
            probed = [
                (pool, pool.probe, provider)
                for pool in gateway.snapshot.pools.values()
                if pool.probe is not None
                for provider in pool.providers
            ]
            due = {provider.identity: due.get(provider.identity, now()) for _, _, provider in probed}
            for pool, settings, provider in probed:
                if due[provider.identity] <= now():
                    due[provider.identity] = now() + settings.interval_secs
                    probes.create_task(probe(gateway, pool, provider, settings.timeout_secs))
            await asyncio.sleep(min([1.0, *(at - now() for at in due.values())]))  # A reload may change it all.


async def probe(gateway: Gateway, pool: Pool, provider: Provider, timeout: float) -> None:
    ok = False
    with contextlib.suppress(TimeoutError), contextlib.closing(Upstream()) as upstream:
        async with asyncio.timeout(timeout):
            answer = await upstream.carry_out(gateway.probe(pool, provider))
            ok = isinstance(answer, UpstreamResponded) and answer.status < 400
    gateway.probed(pool, provider, ok=ok, now=asyncio.get_running_loop().time())


# The client's side.


class Client:
    """One client's connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._codec = h11.Connection(h11.SERVER)
        self._method = ""
        self._has_body = True
        # Sending waits until the system has taken everything: a client that reads slowly slows its provider down.
        writer.transport.set_write_buffer_limits(0)

    async def read_request(self) -> Request | Respond | None:
        """The next request, or the refusal of what is none; None if the client closed instead."""
        if self._codec.our_state is h11.DONE:
            self._codec.start_next_cycle()
        body = bytearray()
        while True:
            try:
                event = self._codec.next_event()
            except h11.RemoteProtocolError:
                return error("bad_request")
            match event:
                case h11.NEED_DATA:
                    if self._codec.they_are_waiting_for_100_continue:
                        await self._send(h11.InformationalResponse(status_code=100, headers=[]))
                    self._codec.receive_data(await self._reader.read(READ_SIZE))
                case h11.Request(target=target, headers=fields):
                    headers = list(fields)
                    self._method = event.method.decode()
                    if int(dict(headers).get(b"content-length", 0)) > BODY_LIMIT:
                        return error("payload_too_large")
                case h11.Data(data=data):
                    body += data
                    if len(body) > BODY_LIMIT:
                        return error("payload_too_large")
                case h11.EndOfMessage():
                    return Request(self._method, target, headers, bytes(body), received=time.time())
                case _:
                    return None

    async def gone(self) -> None:
        """Return when the client has left. What it sends meanwhile is kept for its next request."""
        with contextlib.suppress(ConnectionError):
            while data := await self._reader.read(READ_SIZE):
                self._codec.receive_data(data)
                if len(self._codec.trailing_data[0]) > READ_SIZE:
                    await asyncio.Future()  # Too much to keep: read no further.

    async def respond(self, action: Respond) -> None:
        await self._start(action.status, [*action.headers, (b"content-length", b"%d" % len(action.body))])
        await self.send_body(action.body)
        await self._send(h11.EndOfMessage())

    async def keep_alive(self, keep_alive: KeepAlive) -> None:
        await self._begin(keep_alive.status, keep_alive.headers)
        await self.send_body(keep_alive.comment)

    async def pass_on(self, action: PassOn) -> None:
        await self._begin(action.status, action.headers)
        await self.send_body(action.data)

    async def stream(self, action: StreamThrough, upstream: Upstream) -> FailureReason | None:
        """Pass the body on piece by piece. One that breaks off is left without its end; gives the reason."""
        await self._begin(action.status, action.headers)
        await self.send_body(action.data)
        broken = await self._pump(action.transform, upstream)
        if broken is None:
            await self._send(h11.EndOfMessage())
        elif action.transform:
            await self.send_body(action.transform.abort())
        return broken

    async def _pump(self, transform: Transform | None, upstream: Upstream) -> FailureReason | None:
        """Why the body did not come to its proper end; None if it did."""
        try:
            while piece := await upstream.receive():
                await self.send_body(transform.feed(piece) if transform else piece)
                if transform and transform.failed:
                    return "protocol"
        except UpstreamError as error:
            return error.reason
        if transform:
            await self.send_body(transform.finish())
        return "protocol" if transform and transform.failed else None

    @property
    def may_go_on(self) -> bool:
        """Whether both messages ended such that another request can follow."""
        return self._codec.our_state is h11.DONE and self._codec.their_state is h11.DONE

    async def _begin(self, status: int, headers: Headers) -> None:
        if self._codec.our_state is h11.SEND_RESPONSE:
            await self._start(status, headers)

    async def _start(self, status: int, headers: Headers) -> None:
        self._has_body = self._method != "HEAD" and status not in (204, 304)
        await self._send(h11.Response(status_code=status, headers=headers))

    async def send_body(self, data: bytes) -> None:
        if data and self._has_body:
            await self._send(h11.Data(data))

    async def _send(self, event: h11.Event) -> None:
        self._writer.write(self._codec.send(event) or b"")
        await self._writer.drain()


async def answer_unless_gone(gateway: Gateway, request: Request, client: Client) -> None:
    """Whichever ends first ends the other: a client that leaves takes its request to the provider along."""
    async with asyncio.TaskGroup() as tasks:
        answering = tasks.create_task(answer(gateway, request, client))
        watching = tasks.create_task(client.gone())
        answering.add_done_callback(lambda _: watching.cancel())
        watching.add_done_callback(lambda _: answering.cancel())


async def serve_client(gateway: Gateway, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve one connection until either side has enough."""
    client = Client(reader, writer)
    try:
        while request := await client.read_request():
            if isinstance(request, Respond):
                await client.respond(request)
                break
            await answer_unless_gone(gateway, request, client)
            if not client.may_go_on:
                break
    except* ConnectionError:
        pass  # The client left in the middle of its answer.
    finally:
        writer.close()


# The program.


async def serve(path: Path, host: str, port: int) -> None:
    hash_key = os.urandom(32)

    def resolve(kind: str, name: str) -> str:
        """The secret behind `${env:NAME}` or `${file:PATH}`."""
        return os.environ[name] if kind == "env" else (path.parent / name).read_text().removesuffix("\n")

    def snapshot() -> Snapshot:
        config = load_config(path.read_bytes(), resolve)
        return Snapshot.compile(config, hash_key=hash_key, created=int(path.stat().st_mtime))

    def reload() -> None:
        try:
            gateway.snapshot = snapshot()
        except (ConfigError, OSError) as problem:
            print(f"config not reloaded: {problem}", flush=True)
        else:
            print("config reloaded", flush=True)

    gateway = Gateway(snapshot(), random=Random())  # noqa: S311 - for load balancing
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
    server = await asyncio.start_server(partial(serve_client, gateway), host, port)
    print(f"listening on http://{host}:{server.sockets[0].getsockname()[1]}", flush=True)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(probe_all(gateway))
        tasks.create_task(server.serve_forever())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A gateway for OpenAI-compatible APIs, on asyncio.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3000)
    arguments = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(arguments.config, arguments.host, arguments.port))
