"""Every family of metrics that is looked up when asked for: one table to read, to extend, and to make the reference from.

A family whose value is unknown (no pool, no blob store that tells its room) has no sample rather than a false one.
Who adds a part to the site adds its figures here: a field of `Gauges`, filled in `outlast.surfaces.http.gauges`, and a line
below. **Blob stores** have theirs in `_storage`: one `BlobRoom` for each store, and what it owes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.samples import Exemplar

from outlast.core.routing.health import ProviderSnapshot
from outlast.core.store.port import JobGroup, PoolUse
from outlast.core.telemetry import Histogram
from outlast.signing.model.request import SETTLE_JOB

MODES = ("normal", "degraded", "isolated", "read-only")
BREAKERS = ("closed", "open", "half-open")
JOB_STATES = ("ready", "leased", "dead", "parked")


class Provider(NamedTuple):
    """A provider (role ``signer``) or authority, and the outcomes of its calls."""

    role: str
    snapshot: ProviderSnapshot
    outcomes: Mapping[str, int]
    seconds: Histogram
    throttles: int
    retries_left: float


class BlobRoom(NamedTuple):
    """A blob store's free bytes, None where it cannot tell, and how many blobs it has still to be given."""

    store: str
    free_bytes: int | None
    owed: int = 0


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked up when the metrics are asked for. Times are Unix seconds."""

    version: str
    now_s: float
    mode: str
    # commits
    committed: int
    flushes: int
    waiting: int
    commits_failed: Mapping[str, int]
    replays: int
    flush_seconds: Histogram
    # log
    log_size: int
    log_published: int
    log_failed: bool
    log_ahead_s: float
    checkpoint_age_s: float
    publish_lag_s: float
    # work
    jobs: tuple[JobGroup, ...]
    kinds: tuple[str, ...]
    jobs_done: int
    jobs_running: int
    drain_per_s: float
    signing_seconds: Histogram
    timestamps_owed: int
    timestamp_deadline_s: float | None
    # surfaces
    followers: int
    long_polls: int
    uploads_waiting: int
    sandbox_waiting: int
    sandbox_busy: int
    # the world outside
    providers: tuple[Provider, ...]
    blobs: tuple[BlobRoom, ...]
    min_free_bytes: int
    certificates: Mapping[tuple[str, str], float]
    # this process
    sessions: PoolUse | None
    loop_lag: Histogram
    spans: Mapping[str, int]
    spans_waiting: int


class _Figure(NamedTuple):
    """A family with one sample and no label; None: no sample."""

    name: str
    about: str
    value: Callable[[Gauges], float | None]


_COUNTERS = (
    _Figure("outlast_commands", "Commands and job steps committed.", lambda g: g.committed),
    _Figure("outlast_flushes", "Transactions.", lambda g: g.flushes),
    _Figure(
        "outlast_idempotent_replays",
        "Commands answered with the answer given before to their key.",
        lambda g: g.replays,
    ),
    _Figure("outlast_jobs_done", "Jobs finished by this process.", lambda g: g.jobs_done),
)
_GAUGES = (
    _Figure("outlast_commit_queue", "Commands waiting for the disk.", lambda g: g.waiting),
    _Figure(
        "outlast_log_next_index", "Index that the log's next entry gets.", lambda g: g.log_size
    ),
    _Figure(
        "outlast_log_signed_entries",
        "Entries under a signed, published checkpoint.",
        lambda g: g.log_published,
    ),
    _Figure(
        "outlast_log_failed", "1 when the log is not signed any longer.", lambda g: g.log_failed
    ),
    _Figure(
        "outlast_log_ahead_seconds",
        "How far the newest entry is dated ahead of this machine's clock; negative: behind.",
        lambda g: g.log_ahead_s,
    ),
    _Figure(
        "outlast_checkpoint_age_seconds",
        "How long the oldest entry without a signed checkpoint has waited; 0: there is none.",
        lambda g: g.checkpoint_age_s,
    ),
    _Figure(
        "outlast_publish_seconds",
        "How long the newest checkpoint came after the first commit that it covers.",
        lambda g: g.publish_lag_s,
    ),
    _Figure("outlast_jobs_running", "Jobs being handled now.", lambda g: g.jobs_running),
    _Figure("outlast_jobs_drain_per_second", "Jobs finished lately.", lambda g: g.drain_per_s),
    _Figure(
        "outlast_timestamps_owed",
        "Signatures whose timestamp is owed.",
        lambda g: g.timestamps_owed,
    ),
    _Figure(
        "outlast_timestamp_oldest_owed_seconds",
        "How long the oldest timestamp debt has been owed; 0: there is none.",
        lambda g: oldest_s(g, SETTLE_JOB),
    ),
    _Figure(
        "outlast_timestamp_deadline_seconds",
        "Unix time before which no timestamp debt falls due; absent: there is none.",
        lambda g: g.timestamp_deadline_s,
    ),
    _Figure("outlast_event_streams", "Event streams open.", lambda g: g.followers),
    _Figure(
        "outlast_long_polls", "Streams that waiting callers listen for.", lambda g: g.long_polls
    ),
    _Figure("outlast_uploads_waiting", "Uploads waiting for a turn.", lambda g: g.uploads_waiting),
    _Figure(
        "outlast_pdf_sandbox_waiting", "PDFs waiting for a process.", lambda g: g.sandbox_waiting
    ),
    _Figure("outlast_pdf_sandbox_busy", "PDFs being looked into.", lambda g: g.sandbox_busy),
    _Figure("outlast_spans_waiting", "Ended spans not yet exported.", lambda g: g.spans_waiting),
    _Figure("outlast_clock_seconds", "This site's clock, Unix time.", lambda g: g.now_s),
)


def families(g: Gauges) -> Iterator[Metric]:
    """All of them."""
    for figure in _COUNTERS:
        yield CounterMetricFamily(figure.name, figure.about, figure.value(g))
    for figure in _GAUGES:
        value = figure.value(g)
        family = GaugeMetricFamily(figure.name, figure.about)
        if value is not None:
            family.add_metric([], float(value))
        yield family
    yield histogram("outlast_flush_seconds", "Time of one transaction.", g.flush_seconds)
    yield histogram(
        "outlast_signing_seconds",
        "From a request's acceptance to its signed file; requests that wait for a person left out.",
        g.signing_seconds,
    )
    yield histogram(
        "outlast_event_loop_lag_seconds", "How late the event loop woke a sleeper.", g.loop_lag
    )
    yield from _labelled(g)
    yield from _jobs(g)
    yield from _providers(g)
    yield from _storage(g)


def _labelled(g: Gauges) -> Iterator[Metric]:
    yield _gauge("outlast_build_info", "1 for the version that runs.", "version", {g.version: 1})
    modes = {name: float(name == g.mode) for name in MODES}
    yield _gauge("outlast_mode", "1 for the mode the site is in.", "mode", modes)
    failed = CounterMetricFamily(
        "outlast_commits_failed",
        "Commands that were not committed, by kind of error.",
        labels=["error"],
    )
    for error in sorted(g.commits_failed):
        failed.add_metric([error], g.commits_failed[error])
    yield failed
    spans = CounterMetricFamily(
        "outlast_spans", "Spans of traces, by what became of them.", labels=["fate"]
    )
    for fate in sorted(g.spans):
        spans.add_metric([fate], g.spans[fate])
    yield spans
    expiry = GaugeMetricFamily(
        "outlast_certificate_not_after_seconds",
        "Unix time at which the first certificate of a provider ends; role: signing, client.",
        labels=["role", "provider"],
    )
    for who in sorted(g.certificates):
        expiry.add_metric(who, g.certificates[who])
    yield expiry


def _jobs(g: Gauges) -> Iterator[Metric]:
    counts: dict[tuple[str, str], int] = {(k, s): 0 for k in g.kinds for s in JOB_STATES}
    for group in g.jobs:
        counts[group.kind, group.state] = group.count
    jobs = GaugeMetricFamily("outlast_jobs", "Jobs by kind and state.", labels=["kind", "state"])
    for who in sorted(counts):
        jobs.add_metric(who, counts[who])
    yield jobs
    overdue = dict.fromkeys(g.kinds, 0.0)
    for group in g.jobs:
        if group.state == "ready":
            overdue[group.kind] = max(0.0, g.now_s - group.oldest_due_ms / 1000)
    yield _gauge(
        "outlast_job_oldest_due_seconds",
        "How long the job that came due first has waited for a worker; 0: none is due.",
        "kind",
        overdue,
    )


def _providers(g: Gauges) -> Iterator[Metric]:
    labels = ["role", "provider"]

    def gauge(name: str, about: str, value: Callable[[Provider], float]) -> Metric:
        family = GaugeMetricFamily(name, about, labels=labels)
        for p in g.providers:
            family.add_metric([p.role, p.snapshot.provider], value(p))
        return family

    def counter(name: str, about: str, value: Callable[[Provider], float]) -> Metric:
        family = CounterMetricFamily(name, about, labels=labels)
        for p in g.providers:
            family.add_metric([p.role, p.snapshot.provider], value(p))
        return family

    yield gauge(
        "outlast_provider_usable",
        "1 when it takes normal traffic.",
        lambda p: p.snapshot.state == "closed" and not p.snapshot.disabled,
    )
    yield gauge(
        "outlast_provider_disabled",
        "1 when a person took it out of use.",
        lambda p: bool(p.snapshot.disabled),
    )
    yield gauge(
        "outlast_provider_throttled_seconds",
        "For how long it asked to be left alone.",
        lambda p: p.snapshot.throttled_ms / 1000,
    )
    yield gauge("outlast_provider_in_flight", "Calls under way.", lambda p: p.snapshot.in_flight)
    yield gauge(
        "outlast_provider_p99_seconds", "99th percentile.", lambda p: p.snapshot.p99_ms / 1000
    )
    yield gauge(
        "outlast_provider_budget_remaining",
        "Share of the error budget left, over an hour; negative: overspent.",
        lambda p: p.snapshot.budget_remaining,
    )
    yield gauge("outlast_provider_retries_left", "Retries in its budget.", lambda p: p.retries_left)
    yield counter("outlast_provider_calls", "Calls ended.", lambda p: p.snapshot.calls)
    yield counter("outlast_provider_failures", "Calls failed.", lambda p: p.snapshot.failures)
    yield counter("outlast_provider_throttles", "Pleas to be left alone.", lambda p: p.throttles)
    yield from _provider_details(g)


def _provider_details(g: Gauges) -> Iterator[Metric]:
    breaker = GaugeMetricFamily(
        "outlast_provider_breaker",
        "1 for the state of its circuit breaker.",
        labels=["role", "provider", "state"],
    )
    burn = GaugeMetricFamily(
        "outlast_provider_burn_rate",
        "How many times faster than its budget allows it fails; window: 1h, 5m.",
        labels=["role", "provider", "window"],
    )
    outcomes = CounterMetricFamily(
        "outlast_provider_outcomes",
        "Calls ended, by outcome.",
        labels=["role", "provider", "outcome"],
    )
    seconds = HistogramMetricFamily(
        "outlast_provider_call_seconds",
        "Time from sending a call to its end.",
        labels=["role", "provider"],
    )
    for p in g.providers:
        who = [p.role, p.snapshot.provider]
        for state in BREAKERS:
            breaker.add_metric([*who, state], float(p.snapshot.state == state))
        burn.add_metric([*who, "1h"], p.snapshot.burn_long)
        burn.add_metric([*who, "5m"], p.snapshot.burn_short)
        for outcome in sorted(p.outcomes):
            outcomes.add_metric([*who, outcome], p.outcomes[outcome])
        fill(seconds, who, p.seconds)
    yield from (breaker, burn, outcomes, seconds)


def _storage(g: Gauges) -> Iterator[Metric]:
    """Where bytes lie. Replicated blob stores belong here, each with its name as ``store``."""
    free = {b.store: float(b.free_bytes) for b in g.blobs if b.free_bytes is not None}
    yield _gauge("outlast_blob_free_bytes", "Room left in a blob store.", "store", free)
    owed = {b.store: float(b.owed) for b in g.blobs}
    yield _gauge("outlast_blob_owed", "Blobs that a store has still to be given.", "store", owed)
    yield GaugeMetricFamily(
        "outlast_blob_min_free_bytes", "With less room the site is read-only.", g.min_free_bytes
    )
    sessions = {}
    if g.sessions is not None:
        sessions = {
            "busy": float(g.sessions.open - g.sessions.idle),
            "idle": float(g.sessions.idle),
            "most": float(g.sessions.most),
        }
    yield _gauge("outlast_store_sessions", "Reading sessions with PostgreSQL.", "state", sessions)


def oldest_s(g: Gauges, kind: str) -> float:
    """How long ago the oldest unfinished job of a kind was made, in seconds."""
    made = [j.oldest_made_ms for j in g.jobs if j.kind == kind and j.state in ("ready", "leased")]
    return max(0.0, g.now_s - min(made) / 1000) if made else 0.0


def histogram(name: str, about: str, values: Histogram) -> HistogramMetricFamily:
    """A family of one histogram."""
    family = HistogramMetricFamily(name, about)
    fill(family, [], values)
    return family


def fill(family: HistogramMetricFamily, labels: Sequence[str], values: Histogram) -> None:
    """Add one histogram, cumulated as the format wants it, exemplars with it."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for bound, count, exemplar in values.buckets():
        at = "+Inf" if bound == float("inf") else str(bound)
        if exemplar is None:
            buckets.append((at, float(count)))
        else:
            labelled = {"trace_id": exemplar.trace_id}
            shown = Exemplar(labelled, exemplar.value, exemplar.at_s)
            buckets.append((at, float(count), shown))
    family.add_metric(labels, buckets, values.sum)


def _gauge(name: str, about: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, about, labels=[label])
    for key in sorted(values):
        family.add_metric([key], float(values[key]))
    return family
