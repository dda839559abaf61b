"""The mock provider: an OpenAI-compatible server for trying configurations, for tests and for load runs.

It says nothing of worth, but at the pace and with the failures that were asked for, and the same ones each time.
"""

import time
from random import Random
from typing import assert_never

import attrs
import trio

from onwards_trio._mock_answers import Call, answer, failure
from onwards_trio._server import open_listeners
from onwards_trio._wire import Malformed, RequestHead, Signal
from onwards_trio._wire._h11 import H11ServerCodec

_READ = 65536
_PLAIN = [(b"content-type", b"text/plain; charset=utf-8")]


@attrs.frozen
class MockOptions:
    """How a mock provider behaves."""

    host: str = "127.0.0.1"
    port: int = 0
    """0: the system chooses one."""
    latency: float = 0.0
    """Seconds that each answer's first byte is late."""
    tokens_per_second: float | None = None
    """The pace of generation; None: without a pause."""
    fail_rate: float = 0.0
    """The part of requests that fail, from 0 to 1."""
    fail_status: int = 503
    """What those are answered with."""
    seed: int = 0
    """Determines the texts and which requests fail."""


async def serve_mock(options: MockOptions, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
    """Serve until cancelled. Starts with the base URL to give to a client. Raises `OSError` for a busy port."""
    listeners = await open_listeners(options.host, options.port)
    host = f"[{options.host}]" if ":" in options.host else options.host
    task_status.started(f"http://{host}:{listeners[0].socket.getsockname()[1]}/v1/")
    await trio.serve_listeners(MockProvider(options).serve_connection, listeners)


async def run_mock(options: MockOptions) -> None:
    """The same, as a program: prints the base URL."""
    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_mock, options)
        print(f"The mock provider serves {url}", flush=True)


class MockProvider:
    """What all connections to one mock provider share. Call `serve_connection` for each."""

    def __init__(self, options: MockOptions) -> None:
        self._options = options
        self._random = Random(options.seed)
        self._requests = 0

    async def serve_connection(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Answer the requests of one client until it goes away."""
        codec = H11ServerCodec()
        try:
            while (request := await _read_request(stream, codec)) is not None:
                head, body = request
                await self._answer(stream, codec, head, body)
                if not codec.keep_alive:
                    break
                codec.next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone, and nobody else is interested

    async def _answer(self, stream: trio.abc.SendStream, codec: H11ServerCodec, head: RequestHead, body: bytes) -> None:
        options = self._options
        self._requests += 1
        if self._random.random() < options.fail_rate:
            reply = failure(options.fail_status, "The mock provider was told to fail.")
        else:
            reply = answer(self._call(head, body))
        headers = [(b"content-type", reply.content_type), (b"x-request-id", f"mock-{self._requests}".encode())]
        due = trio.current_time() + options.latency
        pause = 1 / options.tokens_per_second if options.tokens_per_second else 0.0
        if isinstance(reply.body, bytes):
            await _sleep_until(due + pause * reply.tokens)
            await stream.send_all(codec.respond(reply.status, headers, reply.body))
            return
        await _sleep_until(due)
        await stream.send_all(codec.start(reply.status, headers))
        for event in reply.body:
            await _sleep_until(due)
            await stream.send_all(codec.data(event))
            due += pause
        await stream.send_all(codec.finish())

    def _call(self, head: RequestHead, body: bytes) -> Call:
        return Call(
            method=head.method,
            path=head.target.partition(b"?")[0].decode("latin-1"),
            content_type=dict(head.headers).get(b"content-type", b""),
            body=body,
            seed=self._options.seed,
            number=self._requests,
            created=int(time.time()),
        )


async def _read_request(stream: trio.abc.Stream, codec: H11ServerCodec) -> tuple[RequestHead, bytes] | None:
    """The next request; None if there will be none."""
    head: RequestHead | None = None
    body = bytearray()
    while True:
        event = codec.next_event()
        match event:
            case Signal.NEED_DATA:
                codec.receive(bytes(await stream.receive_some(_READ)))
            case RequestHead():
                head = event
                if head.expects_continue:
                    await stream.send_all(codec.continue_100())
            case bytes():
                body += event
            case Malformed():
                await stream.send_all(codec.respond(event.status, _PLAIN, event.message.encode()))
                return None
            case Signal.CLOSED:
                return None
            case Signal.END:
                assert head is not None
                return head, bytes(body)
            case _:
                assert_never(event)


async def _sleep_until(deadline: float) -> None:
    """`trio.sleep_until` makes a round through the scheduler also when there is nothing to wait for."""
    if deadline > trio.current_time():
        await trio.sleep_until(deadline)
