"""Figures for Prometheus. Counting costs the hot path a dictionary entry; everything else is done when asked.

No label ever carries a tenant, a key, an id or anything else a caller chooses, so the number of series is bounded by
the configuration.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from outlast.core.routing.health import ProviderSnapshot
from outlast.core.store.port import JobCounts, WriteSet

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCY_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
FLUSH_ENTRIES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0)
MODES = ("normal", "degraded", "isolated", "read-only")


class Histogram:
    """Counts by upper bound, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def into(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Add to a family, cumulated as the format wants it."""
        total, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        family.add_metric(labels, buckets, self._sum)


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked up when the metrics are asked for."""

    mode: str
    committed: int
    flushes: int
    waiting: int
    log_size: int
    log_published: int
    log_failed: bool
    publish_lag_s: float
    jobs: JobCounts
    jobs_done: int
    jobs_running: int
    drain_per_s: float
    followers: int
    uploads_waiting: int
    timestamps_owed: int
    signers: tuple[ProviderSnapshot, ...]
    authorities: tuple[ProviderSnapshot, ...]


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self._requests: dict[tuple[str, int], int] = {}
        self._latencies: dict[str, Histogram] = {}
        self._flushes = Histogram(FLUSH_ENTRIES)
        self._process = ProcessCollector(registry=None)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One request was answered."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1
        latency = self._latencies.get(route)
        if latency is None:
            latency = self._latencies[route] = Histogram(LATENCY_S)
        latency.observe(seconds)

    def committed(self, write: WriteSet) -> None:
        """One flush was written."""
        if write.entries:
            self._flushes.observe(len(write.entries))

    def render(self, gauges: Gauges) -> bytes:
        """Everything in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Once([*self._http(), *_site(gauges), *_providers(gauges)]))
        registry.register(self._process)
        return generate_latest(registry)

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "outlast_http_requests",
            "Requests answered, by operation and status.",
            labels=["operation", "status"],
        )
        for (route, status), count in self._requests.items():
            requests.add_metric([route, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "outlast_http_request_seconds",
            "Time to answer; event streams and long polls included.",
            labels=["operation"],
        )
        for route, latency in self._latencies.items():
            latency.into(seconds, [route])
        yield seconds
        flushes = HistogramMetricFamily(
            "outlast_flush_entries", "Log entries written by one transaction."
        )
        self._flushes.into(flushes, [])
        yield flushes


class _Once(Collector):
    """Hands families to a registry that lives for one answer."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _site(g: Gauges) -> Iterator[Metric]:
    mode = GaugeMetricFamily("outlast_mode", "1 for the mode the site is in.", labels=["mode"])
    for name in MODES:
        mode.add_metric([name], float(name == g.mode))
    yield mode
    yield CounterMetricFamily("outlast_commands", "Commands and job steps committed.", g.committed)
    yield CounterMetricFamily("outlast_flushes", "Transactions.", g.flushes)
    yield GaugeMetricFamily("outlast_commit_queue", "Commands waiting for the disk.", g.waiting)
    yield GaugeMetricFamily("outlast_log_entries", "Entries of the log.", g.log_size)
    yield GaugeMetricFamily(
        "outlast_log_published_entries", "Entries under a signed checkpoint.", g.log_published
    )
    yield GaugeMetricFamily(
        "outlast_log_failed", "1 when the log is not signed any longer.", float(g.log_failed)
    )
    yield GaugeMetricFamily(
        "outlast_publish_seconds",
        "How long the newest checkpoint came after the first commit that it covers.",
        g.publish_lag_s,
    )
    jobs = GaugeMetricFamily("outlast_jobs", "Jobs by state.", labels=["state"])
    for state in ("ready", "leased", "dead", "parked"):
        jobs.add_metric([state], getattr(g.jobs, state))
    yield jobs
    yield CounterMetricFamily("outlast_jobs_done", "Jobs finished by this process.", g.jobs_done)
    yield GaugeMetricFamily("outlast_jobs_running", "Jobs being handled now.", g.jobs_running)
    yield GaugeMetricFamily("outlast_jobs_drain_per_second", "Jobs finished lately.", g.drain_per_s)
    yield GaugeMetricFamily("outlast_event_streams", "Event streams open.", g.followers)
    yield GaugeMetricFamily(
        "outlast_uploads_waiting", "Uploads waiting for a turn.", g.uploads_waiting
    )
    yield GaugeMetricFamily(
        "outlast_timestamps_owed", "Signatures whose timestamp is owed.", g.timestamps_owed
    )


def _providers(g: Gauges) -> Iterator[Metric]:
    labels = ["role", "provider"]
    usable = GaugeMetricFamily(
        "outlast_provider_usable", "1 when it takes normal traffic.", labels=labels
    )
    disabled = GaugeMetricFamily(
        "outlast_provider_disabled", "1 when a person took it out of use.", labels=labels
    )
    calls = CounterMetricFamily("outlast_provider_calls", "Calls ended.", labels=labels)
    failures = CounterMetricFamily("outlast_provider_failures", "Calls failed.", labels=labels)
    p99 = GaugeMetricFamily("outlast_provider_p99_seconds", "99th percentile.", labels=labels)
    budget = GaugeMetricFamily(
        "outlast_provider_budget_remaining", "Share of the error budget left.", labels=labels
    )
    for role, snapshots in (("signer", g.signers), ("authority", g.authorities)):
        for s in snapshots:
            who = [role, s.provider]
            usable.add_metric(who, float(s.state == "closed" and not s.disabled))
            disabled.add_metric(who, float(bool(s.disabled)))
            calls.add_metric(who, s.calls)
            failures.add_metric(who, s.failures)
            p99.add_metric(who, s.p99_ms / 1000)
            budget.add_metric(who, s.budget_remaining)
    yield from (usable, disabled, calls, failures, p99, budget)
