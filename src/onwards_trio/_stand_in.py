"""What stands in for keys, requests and providers' answers that are not there: for `explain` and `replay`."""

from typing import Final, get_args

import attrs
import msgspec

from onwards_core import (
    BodyCollected,
    BodyRead,
    CollectBody,
    Event,
    FailureReason,
    Headers,
    Pool,
    ReadBody,
    Request,
    SendUpstream,
    Snapshot,
    UpstreamFailed,
    UpstreamResponded,
)
from onwards_core._keys import KeyLimits, KeySet
from onwards_trio._mock_answers import Call, answer

KEY: Final = b"stand-in"

_JSON: Final[Headers] = [(b"content-type", b"application/json")]
_EVENTS: Final[Headers] = [(b"content-type", b"text/event-stream")]
_REASONS: Final = frozenset(get_args(FailureReason)) - {"first_content_timeout", "too_large", "no_resources"}


def with_stand_in_key(snapshot: Snapshot, limits: KeyLimits | None, like: bytes | None = None) -> Snapshot:
    """The same, with `KEY` in it, which has these limits and labels.

    like: the digest of a key that opens the same pools; None: it opens all of them.
    """
    digest = snapshot.hasher.token(KEY)

    def opened(pool: Pool) -> Pool:
        keys = pool.keys
        if keys is None or (like is not None and like not in keys):
            return pool
        return attrs.evolve(pool, keys=KeySet(keys.own | {digest}, keys.shared))

    return attrs.evolve(
        snapshot,
        pools={alias: opened(pool) for alias, pool in snapshot.pools.items()},
        key_limits={**snapshot.key_limits, **({digest: limits} if limits else {})},
    )


def request(
    path: str,
    model: str,
    *,
    key: bytes | None = None,
    stream: bool = False,
    headers: Headers | None = None,
    number: int = 0,
) -> Request:
    """One for a model that any endpoint of OpenAI's takes. number: tells it from others by its user and prompt."""
    text = f"Hello {number}"
    endpoint = path.removeprefix("/v1")
    body: dict[str, object] = {"model": model, "user": f"user-{number}"}
    match endpoint:
        case "/completions":
            body["prompt"] = text
        case "/embeddings" | "/responses":
            body["input"] = text
        case _:
            body["messages"] = [{"role": "user", "content": text}]
    if stream:
        body["stream"] = True
    fields = [*_JSON, *(headers or [])]
    if key is not None:
        fields.append((b"authorization", b"Bearer " + key))
    return Request("POST", path.encode(), fields, msgspec.json.encode(body))


def understood_outcome(text: str) -> str:
    """How an attempt goes, as records name it: `ok`, a status, `connect`, `reset`, `embedded_429`, `empty`, ...

    Raises `ValueError` for what is none.
    """
    if text == "timeout":
        return "head_timeout"
    status = text.removeprefix("embedded_")
    if (
        text in _REASONS
        or text in ("ok", "empty")
        or (status.isascii() and status.isdigit() and 200 <= int(status) < 600)
    ):
        return text
    raise ValueError(f"expected ok, a status, {', '.join(sorted(_REASONS))}, timeout, empty or embedded_STATUS")


class Answers:
    """What providers answer to one request."""

    def __init__(self, request: Request) -> None:
        path = request.target.partition(b"?")[0].decode("latin-1")
        usual = answer(Call(request.method, path, b"application/json", request.body, seed=0, number=0, created=0))
        self._stream = isinstance(usual.body, list)
        self._content = b"".join(usual.body) if isinstance(usual.body, list) else usual.body
        if usual.status != 200:  # the mock provider has no such endpoint
            self._content = b"{}"

    def event(self, action: SendUpstream | ReadBody | CollectBody, outcome: str) -> Event:
        """What comes of an action in an attempt that is to go like this."""
        match action:
            case SendUpstream():
                return self._head(outcome)
            case ReadBody():
                return BodyRead(self.body(outcome, stream=True), ended=True)
            case CollectBody():
                return BodyCollected(self.body(outcome, stream=False))

    def _head(self, outcome: str) -> UpstreamResponded | UpstreamFailed:
        if outcome in _REASONS:
            return UpstreamFailed(outcome)  # type: ignore[arg-type]  # as `understood_outcome` has seen to
        status = int(outcome) if outcome.isdigit() else 200
        return UpstreamResponded(status, _EVENTS if self._stream and status < 300 else _JSON)

    def body(self, outcome: str, *, stream: bool) -> bytes:
        """Of an answer that turns out to be this."""
        if outcome == "empty":
            return b""
        if outcome.startswith("embedded_"):
            error = b'{"error": {"code": %b}}' % outcome.removeprefix("embedded_").encode()
            return b"data: %b\n\n" % error if stream else error
        if outcome == "protocol":
            return b"data: ?\n\n" if stream else b"?"
        return self._content
