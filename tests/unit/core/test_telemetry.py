"""Spans: which are recorded, how they hang together, and what bounds them."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable

import pytest
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import db_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes, http_attributes

from outlast.core import telemetry
from outlast.core.clock import ManualClock
from outlast.core.errors import Conflict, Unavailable
from outlast.core.telemetry import (
    MAX_ATTRIBUTES,
    MAX_LINKS,
    MAX_VALUE_CHARS,
    CommitSpans,
    Histogram,
    SpanContext,
    Tracer,
    current_span,
    parse_traceparent,
    traced,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def counting() -> Callable[[int], bytes]:
    """Random bytes that are none."""
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def tracer(ratio: float = 1.0, **given: bool) -> Tracer:
    """A tracer on a clock that stands."""
    return Tracer(ManualClock(), os.urandom, ratio=ratio, **given)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-zz",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-extra",
    ],
)
def test_invalid_traceparents_are_none(text: str) -> None:
    """W3C Trace Context, section 3.2.2: a request with one of these starts a trace of its own."""
    assert parse_traceparent(text) is None
    span = tracer().server(text.encode())
    assert span is not None
    assert (span.parent_id, span.context.trace_id == TRACE) == ("", False)


def test_callers_decide_unless_told_otherwise() -> None:
    """Their flag is obeyed at any ratio; without, the ratio speaks, by trace id, so that all services agree."""
    asked, not_asked = (f"00-{TRACE}-{SPAN}-0{flag}".encode() for flag in (1, 0))
    assert tracer(0.0).server(asked) is not None
    assert tracer(1.0).server(not_asked) is None
    assert tracer(0.0, callers_decide=False).server(asked) is None
    assert tracer(1.0, callers_decide=False).server(not_asked) is not None


def test_ratio_is_kept() -> None:
    """Of many roots about the ratio is recorded; of none and of all exactly none and all."""
    for ratio, least, most in ((0.0, 0, 0), (0.1, 120, 290), (1.0, 2000, 2000)):
        kept = sum(tracer(ratio).root("x") is not None for _ in range(2000))
        assert least <= kept <= most


def test_jobs_follow_their_request() -> None:
    """Linked, in a trace of its own, where the request is recorded; nothing where it is not, whatever the ratio."""
    own = tracer(0.0)
    span = own.job("signing.sign", 7, 1, f"00-{TRACE}-{SPAN}-01")
    assert span is not None
    assert span.links == [SpanContext(TRACE, SPAN)]
    assert span.context.trace_id != TRACE
    assert tracer(1.0).job("signing.sign", 7, 1, f"00-{TRACE}-{SPAN}-00") is None
    assert tracer(1.0).job("signing.sign", 7, 1, "") is None


async def test_children_belong_to_the_task_they_are_made_in() -> None:
    """Two tasks at once do not see each other's spans, and nothing is left current behind them."""
    own = tracer()

    async def inside() -> tuple[str, str]:
        await asyncio.sleep(0)
        child = own.child("part")
        assert child is not None
        return child.context.trace_id, child.parent_id

    spans = [own.begin("one"), own.begin("two")]
    found = await asyncio.gather(*(traced(span, inside()) for span in spans))
    assert found == [(s.context.trace_id, s.context.span_id) for s in spans]
    assert current_span() is None
    assert own.child("orphan") is None


async def test_failures_are_codes() -> None:
    """A span that ends by an error says its stable code, and passes it on; a cancelled one its class."""
    own = tracer()

    async def fails(error: BaseException) -> None:
        raise error

    for error, code in (
        (Unavailable("no-provider", "words"), "no-provider"),
        (ValueError("x"), "ValueError"),
    ):
        span = own.begin("work")
        with pytest.raises(type(error)):
            await traced(span, fails(error))
        assert (span.error, span.attributes["error.type"]) == (code, code)


def test_everything_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attributes, their length, links, and the queue, whose overflow is counted and costs nobody anything."""
    monkeypatch.setattr(telemetry, "MAX_QUEUED_SPANS", 3)
    own = tracer()
    span = own.begin("wide")
    for i in range(2 * MAX_LINKS):
        span.set(f"a{i}", "x" * (2 * MAX_VALUE_CHARS))
        span.link(SpanContext(TRACE, SPAN))
    assert (len(span.attributes), len(span.links)) == (MAX_ATTRIBUTES, MAX_LINKS)
    assert set(map(len, map(str, span.attributes.values()))) == {MAX_VALUE_CHARS}
    for _ in range(5):
        own.begin("x").end()
    assert (own.waiting, own.dropped, own.recorded) == (3, 2, 5)
    assert len(own.drain(2)) == 2
    assert own.waiting == 1


def test_a_span_ends_once() -> None:
    """A second end neither moves its time nor queues it again."""
    own = tracer()
    span = own.begin("x")
    span.end()
    span.end()
    assert own.waiting == 1


async def test_flushes_carry_those_who_are_recorded() -> None:
    """A flush of works of which one is traced links with that one; of none, there is no span; a failed commit
    leaves nothing behind."""
    own = tracer()
    spans = CommitSpans(own)
    works = [object(), object()]
    assert spans.flush(works) is None
    flushes = []

    async def enqueue(work: object) -> str:
        flushes.append(spans.flush(works))
        return "receipt"

    request = own.begin("request")
    assert await traced(request, spans.submit(works[0], enqueue)) == "receipt"
    [flush] = flushes
    assert flush is not None
    assert flush.attributes["db.operation.batch.size"] == 2
    [commit] = [s for s in own.drain(9) if s.name == "commit"]
    assert flush.links == [commit.context]
    assert commit.links == [flush.context]

    async def refuses(work: object) -> None:
        raise Conflict("version-conflict", "words")

    with pytest.raises(Conflict):
        await traced(own.begin("request"), spans.submit(works[0], refuses))
    assert spans.flush(works) is None


def test_histogram_keeps_the_newest_trace_of_each_bucket() -> None:
    """Bounds are inclusive, counts cumulate, and an untraced observation leaves the exemplar alone."""
    own = Tracer(ManualClock(), counting())
    histogram = Histogram((1.0, 2.0))
    first, second = own.begin("a"), own.begin("b")
    histogram.observe(1.0, first)
    histogram.observe(0.5, second)
    histogram.observe(0.7)
    histogram.observe(9.0)
    buckets = histogram.buckets()
    assert [(bound, count) for bound, count, _ in buckets] == [
        (1.0, 3),
        (2.0, 3),
        (float("inf"), 4),
    ]
    assert buckets[0][2] is not None
    assert (buckets[0][2].trace_id, buckets[0][2].value) == (second.context.trace_id, 0.5)
    assert buckets[2][2] is None
    assert (histogram.count, histogram.sum) == (4, pytest.approx(11.2))


def test_names_are_the_conventions_own() -> None:
    """Every attribute that is not ours is in the pinned version of the semantic conventions, not deprecated."""
    known: set[object] = set()
    for module in (http_attributes, error_attributes, messaging_attributes, db_attributes):
        known |= {value for name, value in vars(module).items() if name.isupper()}
    assert known >= telemetry.CONVENTIONAL
    assert telemetry.SCHEMA_URL in {s.value for s in schemas.Schemas}
