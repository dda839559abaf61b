"""One client request from admission to answer: a state machine without I/O.

How it works
============

`Gateway.admit` checks the request (model, key, limits) and returns an `Exchange`. From there on it is one action
out, one event in: `begin` gives the first action, each `feed` takes what became of the last action and gives the next
one, until one of them ends it. States are named after what the exchange waits for:

    NEW         `begin`. A refused exchange goes straight to DONE.
    SENDING     what became of `SendUpstream`. A failure, or a status to fall back on, leads to the next provider and
                back here; a response to `CollectBody` or to the end.
    COLLECTING  the whole body of a plain answer that has to be sanitized; then the end.
    DONE        nothing: the last action was `StreamThrough` or `Respond`.

Nothing reaches the client before DONE, so an attempt that is given up leaves no trace with the client; from DONE on
there is no fallback.

The exchange holds the permits of key and pool from `admit` on, and those of the provider that is being tried. When the
next provider has been found, the last one's go back; `close` gives back the rest. It is synchronous, so no
cancellation can come between.

When no provider is left, the client gets what came of the last attempt: its response, which the driver still holds
open, else a 502 or 504. A provider at its own limit was not tried; if none was, the client gets a 429.
"""

import enum
import warnings
from random import Random
from types import TracebackType
from typing import Self, assert_never

from onwards_core._actions import Action, CollectBody, Respond, SendUpstream, StreamThrough
from onwards_core._admission import Admission, check, refused, screen
from onwards_core._decoding import MAX_DECODED, CannotDecode, decoder
from onwards_core._errors import error, overloaded, upstream_error
from onwards_core._events import (
    BodyCollected,
    Event,
    FailureReason,
    Headers,
    Request,
    UpstreamFailed,
    UpstreamResponded,
)
from onwards_core._fallback import provider_order
from onwards_core._ledger import Ledger, Permit, Refusal
from onwards_core._record import Attempt, Record
from onwards_core._request import client_headers, upstream_headers, upstream_target
from onwards_core._sanitize import PassEvents, SanitizeEvents, sanitize_completion
from onwards_core._snapshot import Provider, Snapshot

# What describes a body that the client does not get as the provider sent it.
_ABOUT_BODY = frozenset(
    (
        b"content-length",
        b"content-encoding",
        b"content-range",
        b"accept-ranges",
        b"etag",
        b"content-md5",
        b"content-digest",
        b"repr-digest",
        b"digest",
    )
)
# An event stream may get a closing error event, so it can't promise a length.
_LENGTH = frozenset((b"content-length",))


class _State(enum.Enum):
    NEW = enum.auto()
    SENDING = enum.auto()
    COLLECTING = enum.auto()
    DONE = enum.auto()
    CLOSED = enum.auto()


class Gateway:
    """Admits requests under its current snapshot.

    Assign `snapshot` to reload: the next request meets the new one, and what is counted stays counted.
    """

    def __init__(self, snapshot: Snapshot, *, random: Random) -> None:
        self.snapshot = snapshot
        self.ledger = Ledger()
        self._random = random

    def admit(self, request: Request, now: float, record: Record | None = None) -> "Exchange":
        """Check a request and take the permits of its key and pool.

        Always gives an exchange, to be used as a context manager; the only action of a refused one is the refusal.
        `now`: seconds on a monotonic clock, the same clock for all calls. `record`: that of this request, to be
        filled in; a new one by default.
        """
        record = record or Record.of(request, now)
        admission = check(request, record, self.snapshot, self.ledger, now)
        return Exchange(request, record, admission, self.ledger, self._random)

    def screen(self, head: Request, now: float) -> Respond | None:
        """The answer to a request that need not be read any further: `head` is all of it but the body.

        None: read the body, then `admit` it. Takes no permits.
        """
        return screen(head, self.snapshot, self.ledger, now)


class Exchange:
    """Call `begin` once, then `feed` for each action until `StreamThrough` or `Respond`; then `close`, or leave the
    `with` block. Another order raises `RuntimeError`."""

    def __init__(
        self, request: Request, record: Record, admission: Admission | Respond, ledger: Ledger, random: Random
    ) -> None:
        self.record = record
        self._request = request
        self._admission = admission
        self._ledger = ledger
        self._random = random
        self._state = _State.NEW
        self._permits: list[Permit] = [admission.permit] if isinstance(admission, Admission) else []
        self._refusals: list[Refusal] = []
        """Of providers at their own limits."""

    # Lifetime

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give all permits back. May be called again."""
        self._state = _State.CLOSED
        for permit in self._permits:
            permit.release()

    def __del__(self) -> None:
        if self._state is not _State.CLOSED:
            self.close()  # first: where warnings are errors, the next line raises
            warnings.warn("an exchange was dropped without being closed", ResourceWarning, stacklevel=2, source=self)

    # Progress

    def begin(self, now: float) -> Action:
        """The first action."""
        self._expect(_State.NEW)
        if isinstance(self._admission, Respond):
            return self._end(self._admission)
        self._pool = pool = self._admission.pool
        self._body = self._admission.body
        self._order = provider_order(pool.weights, pool.strategy, self._random)
        return self._try_next(now) or self._end(refused(min(self._refusals, key=lambda it: it.retry_after)))

    def feed(self, event: Event, now: float) -> Action:
        """The next action, after `event` came of the last one."""
        match event:
            case UpstreamResponded():
                self._expect(_State.SENDING)
                self._attempt.ended = now
                self._attempt.outcome = "ok" if event.status < 400 else f"status_{event.status}"
                if event.status in self._pool.fallback.statuses and (action := self._try_next(now)):
                    return action
                return self._accept(event)
            case UpstreamFailed():
                self._expect(_State.SENDING, _State.COLLECTING)
                self._attempt.ended = now
                self._attempt.outcome = event.reason
                # Once a response was accepted, its fate is the answer.
                may_retry = self._state is _State.SENDING and self._pool.fallback.enabled
                if may_retry and (action := self._try_next(now)):
                    return action
                return self._end(_failure(event.reason))
            case BodyCollected():
                self._expect(_State.COLLECTING)
                return self._collected(event.body)
            case _:
                assert_never(event)

    def _expect(self, *states: _State) -> None:
        if self._state not in states:
            raise RuntimeError(f"not to be called while the exchange is {self._state.name}")

    def _end(self, action: StreamThrough | Respond) -> Action:
        self._state = _State.DONE
        self.record.status = action.status
        return action

    # Attempts

    def _try_next(self, now: float) -> Action | None:
        """Go on with the next provider; None if none is left."""
        for index in self._order:
            provider = self._pool.providers[index]
            attempt = Attempt(provider.label, now)
            self.record.attempts.append(attempt)
            permit = self._ledger.acquire((provider.limit,), now)
            if isinstance(permit, Permit):
                # Not before the next provider is certain: until then the last one's response may be the answer.
                for earlier in self._permits[1:]:
                    earlier.release()
                self._permits[1:] = [permit]
                self._attempt = attempt
                self._provider = provider
                self._state = _State.SENDING
                return self._send(provider)
            attempt.ended, attempt.outcome = now, "refused_locally"
            self._refusals.append(permit)
            if not self._pool.fallback.on_rate_limit:
                return self._end(refused(permit))
        return None

    def _send(self, provider: Provider) -> SendUpstream:
        request = self._request
        body = self._body.with_model(provider.model)
        return SendUpstream(
            provider=provider,
            method=request.method,
            target=upstream_target(provider.url.path, request.target),
            headers=upstream_headers(request, provider, body, identity_encoding=provider.sanitize),
            body=body,
        )

    # Answers

    def _accept(self, response: UpstreamResponded) -> Action:
        """Decide how the response that the driver holds open becomes the answer."""
        provider, status, headers = self._provider, response.status, response.headers
        media_type = dict(headers).get(b"content-type", b"").partition(b";")[0].strip().lower()
        is_stream = media_type == b"text/event-stream"

        if provider.sanitize and not 200 <= status < 300:
            return self._end(self._own_body(upstream_error(status), response))
        if provider.sanitize and self.record.path.endswith(b"/chat/completions"):
            if not is_stream:
                self._response = response
                self._state = _State.COLLECTING
                return CollectBody(MAX_DECODED)
            try:
                decode = decoder(_content_encoding(headers))
            except CannotDecode:
                return self._unusable()
            transform = SanitizeEvents(self._pool.alias, self._default_id(), self._created(), decode)
            kept = client_headers(headers, provider, drop=_ABOUT_BODY, content_type=b"text/event-stream")
            return self._end(StreamThrough(status, kept, transform))
        if is_stream and _content_encoding(headers) is None:
            return self._end(StreamThrough(status, client_headers(headers, provider, drop=_LENGTH), PassEvents()))
        return self._end(StreamThrough(status, client_headers(headers, provider), None))

    def _collected(self, body: bytes) -> Action:
        encoding = _content_encoding(self._response.headers)
        sanitized = sanitize_completion(body, encoding, self._pool.alias, self._default_id(), self._created())
        return self._unusable() if sanitized is None else self._end(self._own_body(sanitized, self._response))

    def _own_body(self, body: bytes, response: UpstreamResponded) -> Respond:
        """The response with a JSON body of ours in the place of its own."""
        kept = client_headers(response.headers, self._provider, drop=_ABOUT_BODY, content_type=b"application/json")
        return Respond(response.status, kept, body)

    def _unusable(self) -> Action:
        """The provider's answer can't be sanitized, so nothing of it may go through."""
        self._attempt.outcome = "protocol"
        return self._end(error("bad_gateway"))

    def _default_id(self) -> str:
        return f"chatcmpl-{self._random.getrandbits(96):024x}"

    def _created(self) -> int:
        return int(self._request.received)


def _failure(reason: FailureReason) -> Respond:
    match reason:
        case "timeout":
            return error("gateway_timeout")
        case "no_memory":
            return overloaded()
        case _:
            return error("bad_gateway")


def _content_encoding(headers: Headers) -> bytes | None:
    """All the encodings, also when they came in several fields."""
    return b", ".join(value for name, value in headers if name == b"content-encoding") or None
