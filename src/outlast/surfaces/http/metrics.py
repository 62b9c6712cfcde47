"""Figures for Prometheus. Counting costs the hot path a dictionary entry; everything else is done when asked.

No label ever carries a tenant, a key, an id or anything else a caller chooses, so the number of series is bounded by
the configuration. What there is, family by family, stands in `outlast.surfaces.http.families`.

Answers in the text format or, to whoever asks for it, in OpenMetrics, where histograms carry exemplars: the trace of one
request of each bucket.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from outlast.core.store.port import WriteSet
from outlast.core.telemetry import Histogram, Span
from outlast.surfaces.http.families import Gauges, families, fill, histogram

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
FLUSH_ENTRIES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)


class Rendered(NamedTuple):
    """An answer and its Content-Type."""

    body: bytes
    content_type: str


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._latencies: dict[tuple[str, bool], Histogram] = {}
        self._flushes = Histogram(FLUSH_ENTRIES)
        self._registry = CollectorRegistry(auto_describe=False)
        self._once = _Once()
        self._registry.register(self._once)
        self._registry.register(ProcessCollector(registry=None))
        self._registry.register(GCCollector(registry=CollectorRegistry()))

    def answered(
        self,
        route: str,
        status: int,
        seconds: float,
        waited: bool = False,
        span: Span | None = None,
    ) -> None:
        """One request was answered. ``waited``: the caller had asked for the answer to be held back."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        latency = self._latencies.get((route, waited))
        if latency is None:
            latency = self._latencies[route, waited] = Histogram(LATENCY_S)
        latency.observe(seconds, span)

    def committed(self, write: WriteSet) -> None:
        """One flush was written."""
        if write.entries:
            self._flushes.observe(len(write.entries))

    def render(self, gauges: Gauges, accept: str = "") -> Rendered:
        """Everything, in the format that an Accept header asks for."""
        encode, content_type = choose_encoder(accept)
        with self._showing(gauges):
            return Rendered(encode(self._registry), content_type)

    def collect(self, gauges: Gauges) -> list[Metric]:
        """All families with their samples."""
        with self._showing(gauges):
            return list(self._registry.collect())

    @contextmanager
    def _showing(self, gauges: Gauges) -> Iterator[None]:
        self._once.families = [*self._http(), *families(gauges)]
        try:
            yield
        finally:
            self._once.families = []

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "outlast_http_requests",
            "Requests answered, by operation and status (0: the caller left before).",
            labels=["operation", "status"],
        )
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "outlast_http_request_seconds",
            "Time to answer; wait: the caller sent Prefer, and may have asked to be kept waiting.",
            labels=["operation", "wait"],
        )
        for (route, waited), latency in self._latencies.items():
            fill(seconds, [route, "yes" if waited else "no"], latency)
        yield seconds
        yield histogram(
            "outlast_flush_entries", "Log entries written by one transaction.", self._flushes
        )


class _Once(Collector):
    """Hands out the families of the answer being made."""

    def __init__(self) -> None:
        self.families: list[Metric] = []

    def collect(self) -> Iterable[Metric]:
        return self.families
