"""The exporter: bounded, counted, and no reason to wait at the end."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.telemetry import Span, Tracer
from outlast.testing.collector import running_collector
from outlast.wiring import telemetry
from outlast.wiring.config import Config, TelemetrySection, check
from outlast.wiring.nodes import known_name, who_am_i
from outlast.wiring.telemetry import BATCH_SPANS, Exporter, exporting, otlp


def tracer(spans: int) -> Tracer:
    """A tracer with so many ended spans."""
    made = Tracer(SystemClock(), os.urandom)
    for _ in range(spans):
        made.begin("x").end()
    return made


def test_what_is_left_is_sent_at_the_end() -> None:
    """In batches; all counted as exported."""
    own, sizes = tracer(2 * BATCH_SPANS + 3), []

    def export(spans: Sequence[Span]) -> bool:
        sizes.append(len(spans))
        return True

    Exporter(own, export, lambda: None).close()
    assert sizes == [BATCH_SPANS, BATCH_SPANS, 3]
    assert (own.exported, own.refused, own.waiting) == (2 * BATCH_SPANS + 3, 0, 0)


def test_an_export_that_hangs_delays_the_end_by_its_bound_only() -> None:
    """Whoever closes waits for the given time, then lets the thread be; the exporter is told to stop."""
    own, let_go, shut = tracer(1), threading.Event(), threading.Event()

    def export(spans: Sequence[Span]) -> bool:
        return let_go.wait(30)

    exporter = Exporter(own, export, shut.set)
    began_s = time.monotonic()
    exporter.close(0.2)
    assert time.monotonic() - began_s < 2
    assert shut.is_set()
    let_go.set()


def test_failures_are_counted_said_once_and_survived(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused or raised, spans are counted as refused; one line when it begins, one when it is over."""
    monkeypatch.setattr(telemetry, "EXPORT_EVERY_S", 0.01)
    own, answers = tracer(0), [False, False, True]
    asked = threading.Event()

    def export(spans: Sequence[Span]) -> bool:
        if not answers:
            return True
        if len(answers) == 2:
            answers.pop(0)
            raise RuntimeError("of the exporter")
        if len(answers) == 1:
            asked.set()
        return answers.pop(0)

    exporter = Exporter(own, export, lambda: None)
    deadline_s = time.monotonic() + 10
    while not asked.is_set() and time.monotonic() < deadline_s:
        if not own.waiting:
            own.begin("x").end()
        time.sleep(0.01)
    exporter.close()
    assert own.refused >= 2
    assert own.exported >= 1
    said = [r.getMessage() for r in caplog.records if "collector" in r.getMessage()]
    assert len(said) == 2, said


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"endpoint": "collector:4318"}, "endpoint"),
        ({"endpoint": "ftp://collector"}, "endpoint"),
        ({"endpoint": "https://user:pw@collector"}, "endpoint"),
        ({"endpoint": "http://collector:4318", "headers_file": "x"}, "https"),
        ({"endpoint": "https://collector", "ca_file": "/nowhere/ca.pem"}, "ca_file"),
    ],
)
def test_configurations_that_would_leak_or_fail_are_refused(
    given: dict[str, str], why: str
) -> None:
    """Before anything is sent: credentials over plain HTTP to another machine among them."""
    with pytest.raises(Refused, match=why) as refused:
        otlp(TelemetrySection(**given), "site", tracer(0))
    assert refused.value.code == "config-invalid"
    assert "pw" not in str(refused.value)


def test_headers_file_is_a_secret(tmp_path: Path) -> None:
    """Readable by others it is refused; a line without a colon too, without being repeated."""
    path = tmp_path / "headers"
    path.write_text("authorization Bearer letmein")
    path.chmod(0o644)
    section = TelemetrySection(endpoint="https://collector", headers_file=str(path))
    with pytest.raises(Refused, match="can be read by other users"):
        otlp(section, "site", tracer(0))
    path.chmod(0o600)
    with pytest.raises(Refused, match="name: value") as refused:
        otlp(section, "site", tracer(0))
    assert "letmein" not in str(refused.value)


def test_the_ratio_is_one() -> None:
    """From 0 to 1; anything else is not a share."""
    for ratio in (-0.1, 1.5, float("nan")):
        with pytest.raises(Refused, match="sample_ratio"):
            check(Config(telemetry=TelemetrySection(sample_ratio=ratio)))


def test_spans_and_log_lines_go_by_the_nodes_own_name(tmp_path: Path) -> None:
    """A shared site's node has a name of its own, kept in the data folder: the same in spans, in log lines and on the
    status page. Before the first start, and for a site that is one process, there is none."""
    assert known_name("", tmp_path, is_shared=True) == ""
    me = who_am_i("", "site", tmp_path, "0123456789abcdef", is_shared=True)
    assert known_name("", tmp_path, is_shared=True) == me.node == "node-89abcdef"
    assert known_name("", tmp_path, is_shared=False) == ""
    assert known_name("east", tmp_path, is_shared=False) == "east"

    async def send(url: str) -> None:
        section = TelemetrySection(endpoint=url, sample_ratio=1.0)
        async with exporting(section, "site", SystemClock(), os.urandom, node=me.node) as made:
            assert made is not None
            made.begin("x").end()

    with running_collector() as collector:
        asyncio.run(send(collector.url))
        (span,) = collector.named("x")
    assert span.resource["service.instance.id"] == me.node
