"""One client request from admission to answer: a state machine without I/O.

How it works
============

`Gateway.admit` checks the request (model, key, limits) and gives an `Exchange`. From there on it is one action
out, one event in: `begin` gives the first action, each `feed` takes what became of the last action and gives the next
one, until one of them ends it. States are named after what the exchange waits for:

    NEW         `begin`. A refused exchange goes straight to DONE.
    ACQUIRING   what the claim of `Acquire` comes to, for the admission, or for the provider that is next. Only where
                limits are shared with other processes.
    SENDING     what became of `SendUpstream`. A failure, or a status to fall back on, leads to the next provider,
                perhaps by way of WAITING; a response to READING, COLLECTING or the end.
    WAITING     the end of `Wait`; then SENDING.
    READING     the beginning of an event stream, up to its first content. Without any, it has failed as above.
    PASSING     the end of `PassOn`, for what came before the first content and is not to be held back any longer;
                then READING again.
    COLLECTING  the whole body of a plain answer that has to be looked into; then the end, or the next provider.
    DONE        nothing: the last action was `StreamThrough`, `Respond` or `BreakOff`.

Nothing of a provider reaches the client before DONE or PASSING, so an attempt that is given up leaves no trace with
the client; from there on there is no fallback. A client that was kept waiting with comments (`keep_alive`) has
the head of an event stream already: what would have been a whole answer becomes that stream's last event.

The exchange holds the permits of key and pool from `admit` on, and those of the provider that is being tried. When the
next provider has been found, or has to be waited for, the last one's go back; `close` gives back the rest. It is
synchronous, so no cancellation can come between.

When no provider is left, the client gets what came of the last attempt: its response, which the driver still holds
open, else a 502 or 504. A provider at its own limit was not tried; if none was, the client gets a 429. Providers that
are left out because they failed or asked for it are tried all the same if there is nobody else.
"""

import enum
import math
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self, assert_never

from onwards_core._actions import (
    Acquire,
    Action,
    BreakOff,
    CollectBody,
    KeepAlive,
    PassOn,
    ReadBody,
    Respond,
    SendUpstream,
    StreamThrough,
    Transform,
    Wait,
)
from onwards_core._admission import Admission, refused
from onwards_core._answer import (
    JSON,
    content_encoding,
    instead_of_answer,
    media_type,
    own_headers,
    passed_headers,
    stream_headers,
)
from onwards_core._attempts import Attempts, Upkeep
from onwards_core._decoding import MAX_DECODED, CannotDecode, decoded, decoder
from onwards_core._embedded import embedded_error
from onwards_core._errors import error, error_event, upstream_error
from onwards_core._events import (
    Acquired,
    BodyCollected,
    BodyRead,
    Event,
    FailureReason,
    Headers,
    PassedOn,
    Request,
    UpstreamFailed,
    UpstreamResponded,
    WaitOver,
)
from onwards_core._ledger import Claim, Permit, Refusal
from onwards_core._preamble import MAX_SECONDS, Found, Preamble
from onwards_core._record import Record
from onwards_core._request import response_id, upstream_headers, upstream_target
from onwards_core._sanitize import PassEvents
from onwards_core._snapshot import Provider
from onwards_core._strategies import affinity_key
from onwards_core._treatment import UNTOUCHED, Sanitized, Strict, Treatment, treatment
from onwards_core._usage import HideUsage, UsageReader, tells_usage_if_asked

_KEPT_ALIVE: Final[Headers] = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
_COMMENT: Final = b": keep-alive\n\n"


class _State(enum.Enum):
    NEW = enum.auto()
    ACQUIRING = enum.auto()
    SENDING = enum.auto()
    WAITING = enum.auto()
    READING = enum.auto()
    PASSING = enum.auto()
    COLLECTING = enum.auto()
    DONE = enum.auto()
    CLOSED = enum.auto()


class Exchange:
    """Call `begin` once, then `feed` for each action until `StreamThrough`, `Respond` or `BreakOff`; then `close`, or
    leave the `with` block. Another order raises `RuntimeError`."""

    def __init__(self, request: Request, record: Record, admission: Admission | Respond, upkeep: Upkeep) -> None:
        self.record = record
        self.keep_alive: KeepAlive | None = None
        """What the client gets whenever an action takes so long: the head once (then call `answer_begun` before
        `feed`), the comment each time."""
        self._request = request
        self._admission = admission
        self._upkeep = upkeep
        self._state = _State.NEW
        self._begun = False
        """Whether the client has the head of an event stream."""
        self._passed_on = False
        """Whether the client has something of the provider's answer."""
        self._claim: Claim | None = None
        """What it waits for in ACQUIRING."""
        self._if_nobody: Callable[[Exchange, float], Action]
        """What to do if no provider is left after that. Not a bound method: an exchange that refers to itself would
        be collected late."""
        self._otherwise: StreamThrough | Respond | BreakOff
        """The answer, if a response has to do that was found wanting."""
        self._last: FailureReason | int
        """What came of the last attempt: a status, or why there was none."""
        if isinstance(admission, Admission):
            self._pool = pool = admission.pool
            key = affinity_key(pool.affinity, request, admission.body) if pool.affinity else None
            self._attempts = Attempts(pool, record, upkeep, key)
            self._usage = UsageReader(record)
            asking = admission.body.asking_for_usage() if pool.inject_usage and tells_usage_if_asked(record) else None
            self._body = asking or admission.body
            self._hides_usage = asking is not None
            if pool.stream_keepalive is not None and self.wants_stream:
                self.keep_alive = KeepAlive(pool.stream_keepalive, 200, _KEPT_ALIVE, _COMMENT)

    @property
    def wants_stream(self) -> bool:
        """Whether the client asks for an event stream."""
        return isinstance(self._admission, Admission) and self._admission.body.member("stream") == b"true"

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
        if isinstance(self._admission, Admission):
            permit = self._admission.permit
            if self._claim is not None:
                self._claim.withdraw()
                if self._claim is not permit:
                    self._attempts.claim_withdrawn()
                self._claim = None
            self._attempts.close()
            if isinstance(permit, Permit):
                permit.release()
            self._usage.close()

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
        if isinstance(self._admission.permit, Claim):
            return self._acquire(Acquire(self._admission.permit))
        return self._try_first(now)

    def answer_begun(self) -> None:
        """To be called when the head of `keep_alive` was sent."""
        self._begun = True

    def answer_broke(self, reason: FailureReason, now: float) -> None:
        """To be called if what `StreamThrough` passed on had no proper end: so the attempt has failed after all."""
        self._attempt.ended, self._attempt.outcome = now, reason
        self._attempts.failed(now)

    def feed(self, event: Event, now: float) -> Action:
        """The next action, after `event` came of the last one."""
        match event:
            case Acquired():
                self._expect(_State.ACQUIRING)
                return self._acquired(event.outcome, now)
            case UpstreamResponded():
                self._expect(_State.SENDING)
                return self._responded(event, now)
            case UpstreamFailed():
                self._expect(_State.SENDING, _State.READING, _State.COLLECTING)
                return self._failed(event.reason, now)
            case BodyRead():
                self._expect(_State.READING)
                return self._read(event, now)
            case BodyCollected():
                self._expect(_State.COLLECTING)
                return self._collected(event.body, now)
            case PassedOn():
                self._expect(_State.PASSING)
                return self._read_on()
            case WaitOver():
                self._expect(_State.WAITING, _State.READING)
                if self._state is _State.WAITING:
                    return self._try_next(now, Exchange._give_up) or self._give_up(now)
                return self._pass_on(now) if now < self._content_by else self._failed("first_content_timeout", now)
            case _:
                assert_never(event)

    def _expect(self, *states: _State) -> None:
        if self._state not in states:
            raise RuntimeError(f"not to be called while the exchange is {self._state.name}")

    def _end(self, action: StreamThrough | Respond | BreakOff) -> Action:
        self._state = _State.DONE
        if isinstance(action, Respond):
            self.record.answered(action.code)
            if self._begun:
                action = BreakOff(error_event(action.body))
        if not isinstance(action, BreakOff):
            self.record.status = action.status
        return action

    # Attempts

    def _acquire(self, action: Acquire) -> Action:
        self._state = _State.ACQUIRING
        self._claim = action.claim
        return action

    def _acquired(self, outcome: Permit | Refusal, now: float) -> Action:
        claim, self._claim = self._claim, None
        admission = self._admission
        assert isinstance(admission, Admission)  # or there would be no claim
        if claim is admission.permit:
            if isinstance(outcome, Refusal):
                return self._refuse(outcome)
            admission.permit = outcome
            return self._try_first(now)
        following = self._attempts.acquired(outcome, now)
        if following is not None:
            return self._go_on(following, now)
        return self._try_next(now, self._if_nobody) or self._if_nobody(self, now)

    def _try_first(self, now: float) -> Action:
        return self._try_next(now, Exchange._all_at_their_limits) or self._all_at_their_limits(now)

    def _try_next(self, now: float, if_nobody: Callable[["Exchange", float], Action]) -> Action | None:
        """Go on with the next provider, perhaps after a wait; None if none is left, and if that shows only after a
        wait, `if_nobody` says how to go on."""
        following = self._attempts.next(now)
        self._if_nobody = if_nobody
        return None if following is None else self._go_on(following, now)

    def _go_on(self, following: Provider | Wait | Acquire | Refusal, now: float) -> Action:
        match following:
            case Wait():
                self._state = _State.WAITING
                return following
            case Acquire():
                return self._acquire(following)
            case Refusal():
                return self._refuse(following)
            case Provider():
                self._state = _State.SENDING
                self._provider = following
                self._attempt = self.record.attempts[-1]
                self._treatment = self._treat(following)
                self._content_by = now + (following.first_content_timeout or math.inf)
                return self._send(following)
            case _:
                assert_never(following)

    def _refuse(self, refusal: Refusal) -> Action:
        self.record.refused_by = refusal.by
        return self._end(refused(refusal))

    def _all_at_their_limits(self, now: float) -> Action:
        return self._refuse(min(self._attempts.refusals, key=lambda refusal: refusal.retry_after))

    def _give_up(self, now: float) -> Action:
        return self._end(instead_of_answer(self._last))

    def _treat(self, provider: Provider) -> Treatment:
        admission = self._admission
        assert isinstance(admission, Admission)  # as wherever there are attempts
        if admission.endpoint is None and not provider.sanitize:
            return UNTOUCHED
        created = int(self._request.received)
        return treatment(admission, provider, self.record.path, created, self._upkeep.random)

    def _is_strict(self) -> bool:
        return isinstance(self._admission, Admission) and self._admission.endpoint is not None

    def _send(self, provider: Provider) -> SendUpstream:
        request, admission = self._request, self._admission
        assert isinstance(admission, Admission)
        body = self._body.with_model(provider.model or admission.renamed)
        inside = provider.sanitize or self._is_strict() or self._hides_usage
        return SendUpstream(
            provider=provider,
            method=request.method,
            target=upstream_target(provider.url.path, request.target),
            headers=upstream_headers(
                request,
                provider,
                body,
                identity_encoding=inside,
                request_id=self.record.request_id,
                known=admission.passed,
            ),
            body=body,
        )

    def _failed(self, reason: FailureReason, now: float) -> Action:
        """There is no answer, or it broke off before anybody got anything of it."""
        self._attempt.ended, self._attempt.outcome = now, reason
        self._last = reason
        policy = self._pool.fallback
        if reason not in ("too_large", "no_resources"):
            self._attempts.failed(now)
            early = self._state is _State.SENDING or policy.on_embedded_error
            resend = policy.enabled and policy.may_resend(self._request.method, self.record.path, reason)
            if early and resend and not self._passed_on and (action := self._try_next(now, Exchange._give_up)):
                return action
        if self._passed_on:
            return self._end(BreakOff(self._transform.abort() if self._transform else b""))
        return self._end(instead_of_answer(reason))

    def _responded(self, response: UpstreamResponded, now: float) -> Action:
        status = response.status
        self._response = response
        self._is_stream = media_type(response.headers) == b"text/event-stream"
        self._attempt.ended = now
        self._attempt.outcome = "ok" if status < 400 else f"status_{status}"
        self._attempt.response_id = response_id(response.headers, self._provider)
        self._last = status
        falls_back = status in self._pool.fallback.statuses
        if falls_back or not 200 <= status < 300:
            self._judge(status, now)
        if falls_back and (action := self._try_next(now, Exchange._accept)):
            return action
        return self._accept(now)

    def _judge(self, status: int, now: float) -> None:
        """Whether a status speaks against its provider's health: a refusal does only if it is one to fall back on."""
        if status >= 500 or status in self._pool.fallback.statuses:
            self._attempts.failed(now, self._response.headers)
        else:
            self._attempts.succeeded(now)

    # Answers

    def _accept(self, now: float) -> Action:
        """Decide how the response that the driver holds open becomes the answer."""
        status = self._response.status
        if not 200 <= status < 300:
            if (instead := self._treatment.error(status)) is not None:
                return self._end(self._own_body(*instead))
            return self._collect() if self._begun else self._end(self._through())
        if self._is_stream:
            return self._accept_stream(now)
        if self._treatment.looks_inside:
            return self._collect()
        if self._begun:  # with the promise of a stream
            return self._no_answer(502, "protocol", error("bad_gateway"), now)
        self._attempts.succeeded(now)
        return self._end(self._through())

    def _accept_stream(self, now: float) -> Action:
        encoding = content_encoding(self._response.headers)
        try:
            transform = self._treatment.events(decoder(encoding))
            self._preamble = Preamble(decoder(encoding))
        except CannotDecode:
            if self._treatment.looks_inside:
                return self._no_answer(502, "protocol", error("bad_gateway"), now)
            self._attempts.succeeded(now)
            return self._end(self._through())
        if transform is not None:  # else it is compressed, and passes as it is
            whole = HideUsage(transform) if self._hides_usage else transform
            transform = self._usage.watch(whole, encoding)
        self._transform = transform
        if self._pool.fallback.on_embedded_error or self._content_by < math.inf or self.keep_alive:
            self._hold_until = math.inf
            return self._read_on()
        self._attempts.succeeded(now)
        return self._end(self._stream(b""))

    def _read_on(self) -> Action:
        self._state = _State.READING
        until = min(self._hold_until, self._content_by)
        return ReadBody(None if until == math.inf else until)

    def _read(self, piece: BodyRead, now: float) -> Action:
        match self._preamble.feed(piece.data, ended=piece.ended):
            case None:
                self._hold_until = min(self._hold_until, now + MAX_SECONDS)
                return self._read_on()
            case Found.CONTENT:
                self.record.first_content = now
                return self._commit(now)
            case Found.TOO_MUCH:
                return self._pass_on(now)
            case Found.NOTHING:
                return self._error_in_stream(502, "empty", now)
            case status:
                return self._error_in_stream(status, f"embedded_{status}", now)

    def _error_in_stream(self, status: int, outcome: str, now: float) -> Action:
        instead = self._treatment.error(status)
        if self._passed_on or instead is None:
            data = self._preamble.take()
            answer: StreamThrough | Respond = self._stream(self._transform.feed(data) if self._transform else data)
        else:
            answer = self._own_body(*instead)
        return self._no_answer(status, outcome, answer, now)

    def _pass_on(self, now: float) -> Action:
        """Hold back no longer what came before the first content."""
        if self._content_by == math.inf:
            return self._commit(now)
        data = self._transformed()
        if isinstance(data, bytes):
            self._state = _State.PASSING
            self._passed_on = self._begun = True
            self._hold_until = math.inf
            return PassOn(self._response.status, self._stream_headers(), data)
        return self._no_answer(502, "protocol", data, now)

    def _commit(self, now: float) -> Action:
        data = self._transformed()
        if isinstance(data, bytes):
            self._attempts.succeeded(now)
            return self._end(self._stream(data))
        return self._no_answer(502, "protocol", data, now)

    def _transformed(self) -> bytes | Respond | BreakOff:
        """What was held back, as the client gets it; or the answer if that can't be."""
        data = self._preamble.take()
        if self._transform is None:
            return data
        data = self._transform.feed(data)
        if not self._transform.failed:
            return data
        return BreakOff(data + self._transform.abort()) if self._begun else error("bad_gateway")

    def _collect(self) -> Action:
        self._state = _State.COLLECTING
        return CollectBody(MAX_DECODED)

    def _collected(self, body: bytes, now: float) -> Action:
        response = self._response
        try:
            text = decoded(body, content_encoding(response.headers))
        except CannotDecode:
            text = None
        if response.status >= 300:  # for a client that has the head of a stream
            if text is None or embedded_error(text) is None:
                text = upstream_error(response.status)
            return self._end(Respond(response.status, [(b"content-type", JSON)], text))
        if text is None:
            return self._no_answer(502, "protocol", error("bad_gateway"), now)
        if not text.strip():
            return self._no_answer(502, "empty", error("bad_gateway"), now)
        status = embedded_error(text) if self._pool.fallback.on_embedded_error or self._is_strict() else None
        if status is not None:
            instead = self._treatment.error(status) or (response.status, text)
            return self._no_answer(status, f"embedded_{status}", self._own_body(*instead), now)
        self._usage.read(text)
        assert isinstance(self._treatment, Sanitized | Strict)  # or nobody would have collected it
        whole = self._treatment.whole(text)
        if whole is None or self._begun:
            return self._no_answer(502, "protocol", error("bad_gateway"), now)
        self._attempts.succeeded(now)
        return self._end(self._own_body(response.status, whole))

    def _no_answer(
        self, status: int, outcome: str, otherwise: StreamThrough | Respond | BreakOff, now: float
    ) -> Action:
        """The response turned out to be worth no more than this status. `otherwise`: the answer if it has to do."""
        self._attempt.outcome = outcome
        policy = self._pool.fallback
        self._last = "protocol" if status == 502 else status
        self._judge(status, now)
        early = policy.on_embedded_error and not self._passed_on
        self._otherwise = otherwise
        if early and status in policy.statuses and (action := self._try_next(now, Exchange._make_do)):
            return action
        return self._end(otherwise)

    def _make_do(self, now: float) -> Action:
        return self._end(self._otherwise)

    def _through(self) -> StreamThrough:
        """The response as it is."""
        encoding = content_encoding(self._response.headers)
        # An event stream may get a closing error event, unless it is compressed. So it can't promise a length.
        transform: Transform | None = PassEvents() if self._is_stream and encoding is None else None
        headers = passed_headers(self._response, self._provider, transform)
        if not self._is_stream and 200 <= self._response.status < 300:
            transform = self._usage.watch(None, encoding)
        return StreamThrough(self._response.status, headers, transform)

    def _stream(self, data: bytes) -> StreamThrough:
        return StreamThrough(self._response.status, self._stream_headers(), self._transform, data)

    def _stream_headers(self) -> Headers:
        return stream_headers(self._response, self._provider, self._treatment, self._transform)

    def _own_body(self, status: int, body: bytes) -> Respond:
        """The response with a JSON body of ours in the place of its own."""
        return Respond(status, own_headers(self._response, self._provider, self._treatment, JSON), body)
