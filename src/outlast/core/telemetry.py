"""Traces and distributions as the rest of the program records them: no SDK, no thread, no I/O.

Guarantees:

- **Off costs a None.** Whoever can be traced has an attribute ``tracer`` (or ``spans``) that is None; nothing else of
  this module runs then.
- **Nothing waits.** An ended span goes into a queue of MAX_QUEUED_SPANS, or is dropped and counted. Whoever exports
  takes them from there with `Tracer.drain`, from a thread of its own.
- **Sampled at the door.** What a request leads to (commits, jobs, provider calls) is recorded where the request is.
- **No personal data, no secrets**: attributes are operations, names of the configuration, numbers and error codes.

Refuses: to keep more than MAX_ATTRIBUTES attributes or MAX_LINKS links of a span. Leaves to others: export
(`outlast.wiring.telemetry`), what is a span of its own (whoever calls `Tracer`).

Names of attributes and spans are those of the OpenTelemetry semantic conventions SEMCONV (messaging is in
*Development* there, hence the pin); what has no name there is under ``outlast.``. Trace context: W3C Trace Context.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar, Token
from typing import Any, Literal, NamedTuple, TypeVar

from outlast.core.clock import Clock
from outlast.core.errors import OutlastError

SEMCONV = "1.44.0"
"""Version of the semantic conventions that names are taken from."""
SCHEMA_URL = f"https://opentelemetry.io/schemas/{SEMCONV}"

MAX_QUEUED_SPANS = 8_192
"""Ended spans waiting for export, about 1 KiB each; more are dropped and counted."""
MAX_ATTRIBUTES = 32
MAX_LINKS = 256
"""Of one span: a flush carries at most `outlast.core.commit.MAX_FLUSH` requests."""
MAX_VALUE_CHARS = 200
"""Of a text attribute."""

SpanKind = Literal["internal", "server", "client", "consumer"]
Value = str | int | float | bool
T = TypeVar("T")

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"
MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION = "messaging.destination.name"
MESSAGING_ID = "messaging.message.id"
BATCH_SIZE = "db.operation.batch.size"
CONVENTIONAL = frozenset(
    {HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, ERROR_TYPE, MESSAGING_SYSTEM, MESSAGING_OPERATION,
     MESSAGING_OPERATION_TYPE, MESSAGING_DESTINATION, MESSAGING_ID, BATCH_SIZE}
)  # fmt: skip
"""The names that are not ours; a test compares them with the conventions' own list."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16


class SpanContext(NamedTuple):
    """Which span: 32 and 16 lower-case hex digits."""

    trace_id: str
    span_id: str


class Parsed(NamedTuple):
    """A ``traceparent`` as it came in."""

    context: SpanContext
    sampled: bool


def parse_traceparent(text: str) -> Parsed | None:
    """W3C Trace Context, section 3.2: None for what is invalid (all zeros, version ff, other forms)."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None or match[1] == _NO_TRACE or match[2] == _NO_SPAN:
        return None
    return Parsed(SpanContext(match[1], match[2]), bool(int(match[3], 16) & 1))


_current: ContextVar[Span | None] = ContextVar("outlast_span", default=None)


def current_span() -> Span | None:
    """The span that this task works in."""
    return _current.get()


class Span:
    """One operation with a beginning and an end. Recorded spans only: what is not sampled has none at all."""

    __slots__ = (
        "_tracer",
        "attributes",
        "context",
        "ended_s",
        "error",
        "kind",
        "links",
        "name",
        "parent_id",
        "started_s",
    )

    def __init__(
        self, tracer: Tracer, name: str, kind: SpanKind, context: SpanContext, parent_id: str
    ) -> None:
        self._tracer = tracer
        self.name = name
        self.kind = kind
        self.context = context
        self.parent_id = parent_id
        self.attributes: dict[str, Value] = {}
        self.links: list[SpanContext] = []
        self.error = ""
        self.started_s = tracer.clock.monotonic_s()
        self.ended_s = -1.0

    @property
    def traceparent(self) -> str:
        """For whoever is called from here."""
        return f"00-{self.context.trace_id}-{self.context.span_id}-01"

    def set(self, name: str, value: Value) -> None:
        """Put an attribute on it; past MAX_ATTRIBUTES nothing happens."""
        if len(self.attributes) < MAX_ATTRIBUTES:
            self.attributes[name] = value[:MAX_VALUE_CHARS] if isinstance(value, str) else value

    def link(self, to: SpanContext) -> None:
        """Point to a span of this or another trace; past MAX_LINKS nothing happens."""
        if len(self.links) < MAX_LINKS:
            self.links.append(to)

    def failed(self, code: str) -> None:
        """It did not do what it was for; ``code`` is stable and low in number."""
        self.error = code
        self.set(ERROR_TYPE, code)

    def over(self, error: BaseException | None) -> None:
        """End it, failed where there is an error."""
        if error is not None:
            self.failed(code_of(error))
        self.end()

    def called(self, outcome: str, failed: bool, code: str) -> None:
        """A provider's call ended; see `outlast.core.routing.outcome`."""
        self.set("outlast.call.outcome", outcome)
        if failed:
            self.failed(code or outcome)
        self.end()

    def exemplar(self, value: float) -> Exemplar:
        """A value that was measured in it."""
        return Exemplar(self.context.trace_id, value, self._tracer.clock.now_ms() / 1000)

    def enter(self) -> Token[Span | None]:
        """Make it the current span of this task; hand the result to `leave`."""
        return _current.set(self)

    def leave(self, token: Token[Span | None]) -> None:
        """Undo `enter`, and end it."""
        _current.reset(token)
        self.end()

    def end(self) -> None:
        """It is over: to the queue. A second end is ignored."""
        if self.ended_s < 0:
            self.ended_s = self._tracer.clock.monotonic_s()
            self._tracer.ended(self)


async def traced(span: Span, work: Awaitable[T]) -> T:
    """Await what a span is about: it is current meanwhile and ended afterwards, failed where the work raises."""
    token = _current.set(span)
    failure: BaseException | None = None
    try:
        return await work
    except BaseException as error:
        failure = error
        raise
    finally:
        _current.reset(token)
        span.over(failure)


def note_failure(error: BaseException) -> None:
    """What the current span is about has failed, and is dealt with: nothing is raised."""
    span = _current.get()
    if span is not None:
        span.failed(code_of(error))


def code_of(error: BaseException) -> str:
    """An error's stable code; of an exception that has none, its class."""
    return error.code if isinstance(error, OutlastError) else type(error).__name__


class Tracer:
    """Starts spans and keeps those that ended until somebody takes them.

    ``ratio`` of requests are recorded; a caller that sends a traceparent decides for its own trace where
    ``callers_decide``. ``kinds`` tells what kind of provider is behind a name. One thread starts and ends spans; another
    may drain.
    """

    def __init__(
        self,
        clock: Clock,
        entropy: Callable[[int], bytes],
        *,
        ratio: float = 1.0,
        callers_decide: bool = True,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        self.clock = clock
        self.kinds = kinds or {}
        self.recorded = 0
        """Spans ended since the start."""
        self.dropped = 0
        """Of these, spans for which the queue had no room."""
        self.exported = 0
        """Spans that a collector took; counted by whoever exports."""
        self.refused = 0
        """Spans that no collector took."""
        self._entropy = entropy
        self._bound = int(ratio * (1 << 64))
        self._callers_decide = callers_decide
        self._queue: deque[Span] = deque()

    # -- what begins a trace ----------------------------------------------------------------------------------

    def server(self, traceparent: bytes | None) -> Span | None:
        """A request comes in; None where it is not recorded. ``name`` is set when its route is known."""
        parsed = None if traceparent is None else parse_traceparent(traceparent.decode("latin-1"))
        if parsed is None:
            return self.root("HTTP", "server")
        context = parsed.context
        keep = parsed.sampled if self._callers_decide else self._keeps(context.trace_id)
        if not keep:
            return None
        own = SpanContext(context.trace_id, self._entropy(8).hex())
        return Span(self, "HTTP", "server", own, context.span_id)

    def root(self, name: str, kind: SpanKind = "internal") -> Span | None:
        """The first span of a trace; None where the ratio leaves it out."""
        raw = self._entropy(24)
        # the rule of OpenTelemetry's TraceIdRatioBased sampler: the same trace is kept by all who keep this ratio
        if int.from_bytes(raw[8:16], "big") >= self._bound:
            return None
        return Span(self, name, kind, SpanContext(raw[:16].hex(), raw[16:].hex()), "")

    def linked(self, name: str, kind: SpanKind, traceparent: str) -> Span | None:
        """The first span of a trace that another one led to; recorded where that one is."""
        parsed = parse_traceparent(traceparent)
        if parsed is None or not parsed.sampled:
            return None
        span = self.begin(name, kind)
        span.link(parsed.context)
        return span

    def begin(self, name: str, kind: SpanKind = "internal") -> Span:
        """The first span of a trace that is recorded in any case."""
        raw = self._entropy(24)
        return Span(self, name, kind, SpanContext(raw[:16].hex(), raw[16:].hex()), "")

    # -- what goes on in it -----------------------------------------------------------------------------------

    def child(self, name: str, kind: SpanKind = "internal") -> Span | None:
        """A part of what the current span does; None where there is none."""
        parent = _current.get()
        if parent is None:
            return None
        context = SpanContext(parent.context.trace_id, self._entropy(8).hex())
        return Span(self, name, kind, context, parent.context.span_id)

    def job(self, kind: str, job_id: int, attempt: int, traceparent: str) -> Span | None:
        """A job is run: semantic conventions for messaging, "process" spans."""
        span = self.linked(f"process {kind}", "consumer", traceparent)
        if span is not None:
            span.attributes = {
                MESSAGING_SYSTEM: "outlast",
                MESSAGING_OPERATION: "process",
                MESSAGING_OPERATION_TYPE: "process",
                MESSAGING_DESTINATION: kind,
                MESSAGING_ID: str(job_id),
                "outlast.job.attempt": attempt,
            }
        return span

    def call(self, verb: str, role: str, provider: str, breaker: str) -> Span | None:
        """A provider is called: ``verb`` is sign or timestamp, ``role`` signer or authority."""
        span = self.child(f"{verb} {provider}", "client")
        if span is not None:
            span.attributes = {
                "outlast.provider.name": provider,
                "outlast.provider.role": role,
                "outlast.provider.kind": self.kinds.get(provider, ""),
                "outlast.provider.breaker": breaker,
            }
        return span

    # -- export -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Ended spans not yet taken."""
        return len(self._queue)

    def ended(self, span: Span) -> None:
        """Called by `Span.end`."""
        self.recorded += 1
        if len(self._queue) >= MAX_QUEUED_SPANS:
            self.dropped += 1
        else:
            self._queue.append(span)

    def drain(self, limit: int) -> list[Span]:
        """Take ended spans, oldest first. Any thread may, one at a time."""
        queue = self._queue
        return [queue.popleft() for _ in range(min(limit, len(queue)))]

    def epoch_ns(self) -> int:
        """What to add to monotonic nanoseconds to get Unix time, by the clocks as they are now."""
        return self.clock.now_ms() * 1_000_000 - int(self.clock.monotonic_s() * 1e9)

    def _keeps(self, trace_id: str) -> bool:
        return int(trace_id[16:], 16) < self._bound


class CommitSpans:
    """Commits as spans of their requests, and flushes as spans of their own: a flush is shared, so it is linked with
    the commits it carried, and they with it."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        # by identity of the submission: bounded by how many may wait
        self._waiting: dict[int, Span] = {}

    async def submit(self, work: Any, enqueue: Callable[[Any], Awaitable[T]]) -> T:
        """``enqueue(work)``, as a part of the current span if there is one."""
        span = self._tracer.child("commit")
        if span is None:
            return await enqueue(work)
        self._waiting[id(work)] = span
        try:
            return await traced(span, enqueue(work))
        finally:
            self._waiting.pop(id(work), None)

    def flush(self, works: Sequence[Any]) -> Span | None:
        """A flush of these begins; None where nobody records any of them."""
        if not self._waiting:
            return None
        carried = [span for work in works if (span := self._waiting.get(id(work))) is not None]
        if not carried:
            return None
        flush = self._tracer.begin("flush")  # a trace of its own: it belongs to all of them equally
        flush.set(BATCH_SIZE, len(works))
        for span in carried:
            flush.link(span.context)
            span.link(flush.context)
            span.set("outlast.commit.wait_s", round(flush.started_s - span.started_s, 6))
        return flush


class Exemplar(NamedTuple):
    """One observation of a bucket: which trace, its value, when (Unix seconds)."""

    trace_id: str
    value: float
    at_s: float


class Histogram:
    """Counts by upper bound, their sum, and of each bucket the newest observation that has a trace."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, span: Span | None = None) -> None:
        """Count one."""
        at = bisect_left(self._bounds, value)
        self._counts[at] += 1
        self._sum += value
        if span is not None:
            self._exemplars[at] = span.exemplar(value)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """Of all values."""
        return self._sum

    def buckets(self) -> list[tuple[float, int, Exemplar | None]]:
        """``(upper bound, observations up to it, exemplar)``, the last bound infinite."""
        total, found = 0, []
        for at, bound in enumerate((*self._bounds, float("inf"))):
            total += self._counts[at]
            found.append((bound, total, self._exemplars.get(at)))
        return found
