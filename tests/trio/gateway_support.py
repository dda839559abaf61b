"""A gateway without a network: a transport that follows a script, and a client on a stream in memory."""

import json
import socket
from collections.abc import Callable
from random import Random

import attrs
import h11
import trio

from onwards_core import Gateway, Headers, SendUpstream, Snapshot, load_config
from onwards_trio._tcp import TcpStream
from onwards_trio._upstream import UpstreamError

EVENTS = [(b"content-type", b"text/event-stream")]
JSON = [(b"content-type", b"application/json")]


def gateway(**targets: object) -> Gateway:
    """A gateway for a config with these targets; the same choices in each run."""
    config = load_config(json.dumps({"targets": targets}).encode(), lambda kind, name: name)
    return Gateway(Snapshot.compile(config, hash_key=b"k" * 32), random=Random(1))


def pool(*names: str, **settings: object) -> dict[str, object]:
    """A pool that tries providers in this order and falls back on every 5xx; one may be under way at each."""
    return {
        "providers": [
            {"url": f"http://{name}.test/", "concurrency_limit": {"max_concurrent_requests": 1}} for name in names
        ],
        "strategy": "priority",
        "fallback": {"enabled": True, "on_status": [5]},
        "concurrency_limit": {"max_concurrent_requests": 10},
        **settings,
    }


@attrs.define
class Scripted:
    """One answer of a provider: `delay` seconds until its head, then each step in turn.

    A step is a piece of the body, a pause in seconds, or the reason why the body breaks off. A `status` that is a
    text is the reason why there is no answer at all.
    """

    status: int | str = 200
    steps: tuple[bytes | float | str, ...] = ()
    headers: Headers = attrs.field(factory=lambda: list(JSON))
    delay: float = 0.0


class ScriptedAnswer:
    """Implements `Answer`."""

    def __init__(self, script: Scripted, left: Callable[[], None]) -> None:
        self.status = script.status
        self.headers = script.headers
        self.ended = False
        self._steps = list(script.steps)
        self._left = left
        self._closed = False

    def receive_nowait(self) -> bytes:
        return b""

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        while self._steps:
            match self._steps.pop(0):
                case bytes(piece):
                    return piece
                case str(reason):
                    raise UpstreamError(reason)
                case pause:
                    await trio.sleep(pause)
        self.ended = True
        return b""

    async def receive_until(self, until: float) -> bytes | None:
        match self._steps:
            case [float() | int() as pause, *rest] if trio.current_time() + pause > until:
                self._steps = [trio.current_time() + pause - until, *rest]
                await trio.sleep_until(until)
                return None
        return await self.receive()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._left()
        await trio.lowlevel.checkpoint_if_cancelled()


class ScriptedTransport:
    """Implements `Transport`: gives the answers in turn, the last one again and again."""

    def __init__(self, *answers: Scripted) -> None:
        self._answers = list(answers)
        self.requests: list[SendUpstream] = []
        self.open = 0
        """Requests under way, waiting for a head or reading a body."""
        self.most_open = 0

    async def send(self, request: SendUpstream) -> ScriptedAnswer:
        self.requests.append(request)
        script = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await trio.sleep(script.delay)
            if isinstance(script.status, str):
                raise UpstreamError(script.status)
        except BaseException:
            self._leave()
            raise
        return ScriptedAnswer(script, self._leave)

    def _leave(self) -> None:
        self.open -= 1

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exception):
        pass


def tcp_pair() -> tuple[TcpStream, TcpStream]:
    """Both ends of a connection on this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    return TcpStream(ours), TcpStream(theirs)


class Accepting(trio.abc.Listener[TcpStream]):
    """A listener that accepts these connections, or fails with these errors, then nothing more."""

    def __init__(self, *outcomes: TcpStream | OSError) -> None:
        self._outcomes = list(outcomes)

    async def accept(self) -> TcpStream:
        await trio.lowlevel.checkpoint()
        if not self._outcomes:
            await trio.sleep_forever()
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


def post(
    model: str = "m", *, path: str = "/v1/chat/completions", version: str = "1.1", headers: str = "", **members: object
) -> bytes:
    """The bytes of a chat completion request."""
    body = json.dumps({"model": model, **members})
    return f"POST {path} HTTP/{version}\r\nHost: h\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


@attrs.frozen
class Answered:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    whole: bool
    """Whether the body came to its proper end."""

    @property
    def code(self) -> str:
        """Of the error envelope."""
        return json.loads(self.body)["error"]["code"]


class Client:
    """Reads answers on a stream, with an HTTP parser that is not the gateway's codec."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def ask(self, request: bytes) -> Answered:
        await self.stream.send_all(request)
        return await self.answer(b"HEAD" if request.startswith(b"HEAD ") else b"POST")

    async def answer(self, method: bytes = b"POST") -> Answered:
        """The next answer, to a request with this method."""
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        parser.send(h11.EndOfMessage())
        if self._buffer:
            parser.receive_data(self._buffer)
        head, body = None, b""
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError:
                assert head is not None, "the connection was closed without an answer"
                return Answered(head.status_code, dict(head.headers), body, whole=False)
            match event:
                case h11.NEED_DATA:
                    try:
                        parser.receive_data(await self.stream.receive_some(4096))
                    except trio.BrokenResourceError:
                        if head is None:
                            raise
                        return Answered(head.status_code, dict(head.headers), body, whole=False)
                case h11.Response():
                    head = event
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage():
                    self._buffer = parser.trailing_data[0]
                    return Answered(head.status_code, dict(head.headers), body, whole=True)

    async def rest(self) -> bytes:
        """Everything that still comes, until the connection is closed."""
        data = self._buffer
        while piece := await self.stream.receive_some(4096):
            data += piece
        return data
