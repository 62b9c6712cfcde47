"""Writes metrics.md: every family of metrics that a site shows, with its labels and words, from the program itself.

python docs/reference/make_metrics.py          writes the page
python docs/reference/make_metrics.py --check  says whether the page is current
"""

from __future__ import annotations

import pathlib
import sys

from prometheus_client.core import Metric

from outlast.core.clock import ManualClock
from outlast.core.routing.choose import Candidate, RoutePolicy, RouteRequest
from outlast.core.routing.health import Tally
from outlast.core.routing.router import Router
from outlast.core.store.port import JobGroup, PoolUse
from outlast.core.telemetry import Histogram
from outlast.surfaces.http.families import BlobRoom, Gauges, Provider
from outlast.surfaces.http.metrics import Metrics

PAGE = pathlib.Path(__file__).parent / "metrics.md"

INTRODUCTION = """\
# Metrics

`GET /metrics`, with an API key of the scope `operate`; how to have Prometheus read it, what the alerts mean and
what to do then: [observe](../howto/observe.md). Whoever asks for OpenMetrics (`Accept: application/openmetrics-text`)
gets it, with exemplars on histograms where requests are traced: the trace of one request of each bucket.

No label holds a tenant, a key, an identifier or anything else that callers choose: `operation` is an operation of the
[API](http-api.md), `provider` and `store` are names of the configuration. A family whose value is not known has no
sample. Counters start at 0 with each process.

Names, labels and their meaning are part of the interface: a change is in the changelog.

Made from the program by `docs/reference/make_metrics.py`.

| metric | kind | labels | is |
|---|---|---|---|
"""


def families() -> list[Metric]:
    """One of everything, as a site would show it."""
    metrics = Metrics()
    metrics.answered("getStatus", 200, 0.1)
    clock = ManualClock()
    router = Router(clock)
    router.plan([Candidate("local", "")], RoutePolicy(), RouteRequest())
    tally = Tally()
    tally.outcomes["ok"] = 1
    gauges = Gauges(
        version="", now_s=1.0, mode="normal", committed=1, flushes=1, waiting=0,
        commits_failed={"refused": 1}, replays=0, flush_seconds=Histogram((1.0,)), log_size=1,
        log_published=1, log_failed=False, log_ahead_s=0.0, checkpoint_age_s=0.0, publish_lag_s=0.0,
        jobs=(JobGroup("signing.sign", "ready", 1, 0, 0),), kinds=("signing.sign",), jobs_done=0,
        jobs_running=0, drain_per_s=0.0, signing_seconds=Histogram((1.0,)), timestamps_owed=0,
        timestamp_deadline_s=1.0, followers=0, long_polls=0, uploads_waiting=0, sandbox_waiting=0,
        sandbox_busy=0, providers=(Provider("signer", router.snapshot()[0], tally.outcomes,
        tally.seconds, 0, 1.0),), blobs=(BlobRoom("local", 1),), min_free_bytes=1,
        certificates={("signing", "local"): 1.0}, sessions=PoolUse(1, 1, 1),
        loop_lag=Histogram((1.0,)), spans={"recorded": 0}, spans_waiting=0,
    )  # fmt: skip
    return list(metrics.collect(gauges))


def page() -> str:
    """The whole page."""
    rows = []
    for family in sorted(families(), key=lambda f: f.name):
        suffix = {"counter": "_total"}.get(family.type, "")
        labels = sorted({n for s in family.samples for n in s.labels} - {"le"})
        shown = ", ".join(f"`{label}`" for label in labels)
        about = " ".join(family.documentation.split()).replace("|", "\\|")
        rows.append(f"| `{family.name}{suffix}` | {family.type} | {shown} | {about} |")
    return INTRODUCTION + "\n".join(rows) + "\n"


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = page()
    if arguments == ["--check"]:
        return int(not PAGE.exists() or PAGE.read_text() != text)
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
