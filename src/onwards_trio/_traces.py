"""Traces: a span for each exchange that is sampled, one below it for each attempt.

Spans are begun and ended by hand, with times and parents of their own: what OpenTelemetry calls the current span is
kept in a context variable, which an answer that another task closes could not give back. A thread of OpenTelemetry's
sends them away; what it can't send in time is lost, and nothing waits for it.
"""

import os
import random
import threading
import time
from collections.abc import Awaitable
from types import TracebackType
from typing import Final, Self

import attrs
import trio
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from onwards_core import Attempt, Headers, Record, Request, SendUpstream
from onwards_trio import _semantic_conventions as names
from onwards_trio._metrics import http_labels
from onwards_trio._status_data import PASSED_OVER
from onwards_trio._upstream import Answer
from onwards_trio._upstream._protocol import Sender

FAREWELL: Final = 2.0
"""Seconds at the end for the spans that still wait."""
_PARENT: Final = b"traceparent"
_STATE: Final = b"tracestate"
_NO_PARENT: Final = Context()
_W3C: Final = TraceContextTextMapPropagator()  # https://www.w3.org/TR/trace-context/


class Traces:
    """A context manager. Call `begin` with each request, send by way of `through`, and call `observe` in the end.

    `OTEL_*` environment variables say where spans go and which are sampled.
    """

    def __init__(self) -> None:
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {"service.name": "onwards"})
        self._ids = _Ids()
        # Its own shutdown at exit would wait for long.
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("onwards")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        farewell = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        farewell.start()
        farewell.join(FAREWELL)

    def begin(self, request: Request, record: Record) -> None:
        """Decide whether a request is sampled, and note it in its record if so."""
        parent = _parent(request.headers)
        # A span that is not sampled would cost three times as much as to ask for it.
        trace_id = self._ids.following = random.getrandbits(128) or 1
        asked = self._provider.sampler.should_sample(parent, trace_id, request.method, SpanKind.SERVER)
        if asked.decision is Decision.DROP:
            return
        epoch = time.time() - trio.current_time()
        method, endpoint = http_labels(record)
        span = self._tracer.start_span(
            method if endpoint == "other" else f"{method} {endpoint}",
            context=parent,
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(record.started, epoch),
        )
        record.trace_id = f"{span.get_span_context().trace_id:032x}"
        record.trace = _Trace(self._tracer, span, record, request.scheme, epoch)

    def through(self, sender: Sender, record: Record) -> Sender:
        """A sender that traces the attempts of a request which is sampled."""
        return sender if record.trace is None else _TracedSender(sender, _of(record))

    def observe(self, record: Record) -> None:
        """End the spans of a request whose record is final."""
        if record.trace is not None:
            _of(record).end()
            record.trace = None  # They hold each other, and the garbage collector rarely comes.


@attrs.define
class _Trace:
    """The spans of one exchange."""

    tracer: Tracer
    span: Span
    record: Record = attrs.field(repr=False)
    scheme: str
    epoch: float
    """What makes Unix time of Trio's."""
    attempts: list[tuple[Attempt, Span]] = attrs.field(factory=list)

    def begin_attempt(self, request: SendUpstream) -> SendUpstream:
        """The same request, as part of the trace if its provider may know of it."""
        attempt, provider = self.record.attempts[-1], request.provider
        operation = names.OPERATIONS.get(http_labels(self.record)[1])
        model = provider.model or self.record.alias or ""
        span = self.tracer.start_span(
            f"{operation} {model}" if operation else request.method,
            context=set_span_in_context(self.span, _NO_PARENT),
            kind=SpanKind.CLIENT,
            start_time=_nanoseconds(attempt.started, self.epoch),
            attributes={
                names.HTTP_METHOD: request.method,
                names.SERVER_ADDRESS: provider.url.host,
                names.SERVER_PORT: provider.url.port,
                names.GEN_AI_PROVIDER: provider.label,
                names.GEN_AI_MODEL: model,
                **({names.GEN_AI_OPERATION: operation} if operation else {}),
                **({names.HTTP_RESEND_COUNT: len(self.attempts)} if self.attempts else {}),
            },
        )
        self.attempts.append((attempt, span))
        if not provider.propagate_trace_context:
            return request
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, set_span_in_context(span, _NO_PARENT))
        headers = [field for field in request.headers if field[0] not in (_PARENT, _STATE)]
        headers += [(name.encode("ascii"), value.encode("latin-1")) for name, value in carrier.items()]
        return attrs.evolve(request, headers=headers)

    def end(self) -> None:
        record = self.record
        ended = record.ended or record.started
        for attempt, span in self.attempts:
            answered = attempt is record.attempts[-1] and attempt.outcome in ("ok", None)
            self._end_attempt(attempt, span, ended if answered or attempt.ended is None else attempt.ended)
        for attempt in record.attempts:
            if attempt.outcome in PASSED_OVER:
                about = {names.PROVIDER: attempt.provider, names.OUTCOME: attempt.outcome or ""}
                self.span.add_event(names.PASSED_OVER, about, _nanoseconds(attempt.started, self.epoch))
        for name, when in ((names.FIRST_BYTE, record.first_byte), (names.FIRST_CONTENT, record.first_content)):
            if when is not None:
                self.span.add_event(name, timestamp=_nanoseconds(when, self.epoch))
        self._describe()
        self.span.end(_nanoseconds(ended, self.epoch))

    def _end_attempt(self, attempt: Attempt, span: Span, ended: float) -> None:
        outcome = attempt.outcome or "abandoned"
        span.set_attribute(names.OUTCOME, outcome)
        if attempt.response_id is not None:
            span.set_attribute(names.RESPONSE_ID, attempt.response_id)
        if outcome.startswith("status_"):
            span.set_attribute(names.HTTP_STATUS, int(outcome.removeprefix("status_")))
        if outcome not in ("ok", "abandoned"):
            span.set_attribute(names.ERROR_TYPE, outcome.removeprefix("status_"))
            span.set_status(Status(StatusCode.ERROR))
        span.end(_nanoseconds(ended, self.epoch))

    def _describe(self) -> None:
        record, verdict, usage = self.record, self.record.verdict, self.record.usage
        method, endpoint = http_labels(record)
        found = {
            names.HTTP_METHOD: "_OTHER" if method == "OTHER" else method,
            names.HTTP_ROUTE: None if endpoint == "other" else endpoint,
            names.URL_SCHEME: self.scheme,
            names.CLIENT_ADDRESS: record.client,
            names.HTTP_STATUS: record.status,
            names.HTTP_BODY_SIZE: record.bytes_sent,
            names.GEN_AI_OPERATION: names.OPERATIONS.get(endpoint),
            names.GEN_AI_MODEL: record.alias,
            names.GEN_AI_INPUT_TOKENS: usage.input_tokens if usage else None,
            names.GEN_AI_OUTPUT_TOKENS: usage.output_tokens if usage else None,
            names.REQUEST_ID: record.request_id,
            names.KEY: record.key,
            names.OUTCOME: verdict,
            names.CODE: record.code,
            names.REFUSED_BY: record.refused_by,
        }
        self.span.set_attributes({name: value for name, value in found.items() if value is not None})
        # What was wrong with a request is no error of the server that says so.
        if (record.status or 0) >= 500 or verdict == "broken":
            self.span.set_attribute(names.ERROR_TYPE, verdict if record.outcome != "ok" else str(record.status))
            self.span.set_status(Status(StatusCode.ERROR))


def _of(record: Record) -> _Trace:
    assert isinstance(record.trace, _Trace)
    return record.trace


class _Ids(RandomIdGenerator):
    """Gives the trace id with which the sampler was asked, so that it answers the same again."""

    following = 1

    def generate_trace_id(self) -> int:
        return self.following


@attrs.frozen
class _TracedSender:
    sender: Sender
    trace: _Trace

    def send(self, request: SendUpstream) -> Awaitable[Answer]:
        return self.sender.send(self.trace.begin_attempt(request))


def _parent(headers: Headers) -> Context:
    """What a client's trace headers say, if they are sound; two of the first kind are not."""
    parents = [value for name, value in headers if name == _PARENT]
    if len(parents) != 1:
        return _NO_PARENT
    states = [value.decode("latin-1") for name, value in headers if name == _STATE]
    return _W3C.extract({"traceparent": parents[0].decode("latin-1"), "tracestate": ",".join(states)}, _NO_PARENT)


def _nanoseconds(moment: float, epoch: float) -> int:
    return int((moment + epoch) * 1e9)
