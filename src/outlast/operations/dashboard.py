"""A Grafana dashboard, made from the objectives and a table of panels. Its queries name only metrics that a site has.

The model is Grafana's dashboard JSON (schema 39); the data source is asked for at import (`__inputs`).
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import msgspec

from outlast.operations.slo import Slo

Unit = Literal["short", "s", "percentunit", "bytes", "reqps", "ops"]
SCHEMA = 39
WIDTH, HEIGHT = 8, 7
"""Of a panel, in Grafana's grid of 24 columns."""
_SOURCE = {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}
_HERE = 'job="$job",instance=~"$instance"'


class Panel(NamedTuple):
    """A graph: queries with the legend of each; ``@`` stands for the site's own labels."""

    title: str
    unit: Unit
    queries: tuple[tuple[str, str], ...]


def _quantiles(histogram: str, by: str = "") -> tuple[tuple[str, str], ...]:
    labels = f"{by}, le" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return tuple(
        (f"histogram_quantile({q}, sum by ({labels}) (rate({histogram}_bucket{{@}}[5m])))", f"p{n}{legend}")
        for q, n in (("0.5", 50), ("0.99", 99))
    )  # fmt: skip


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Requests",
        (
            Panel("Requests by operation", "reqps", (
                ("sum by (operation) (rate(outlast_http_requests_total{@}[5m]))", "{{operation}}"),
            )),
            Panel("Errors by operation", "reqps", (
                ('sum by (operation, status) (rate(outlast_http_requests_total{@,status=~"[45].."}[5m]))',
                 "{{operation}} {{status}}"),
            )),
            Panel("Time to answer", "s", _quantiles("outlast_http_request_seconds", "operation")),
        ),
    ),
    (
        "Commits and log",
        (
            Panel("Commits", "ops", (
                ("rate(outlast_commands_total{@}[5m])", "committed"),
                ("rate(outlast_idempotent_replays_total{@}[5m])", "replayed"),
                ("rate(outlast_commits_failed_total{@}[5m])", "failed: {{error}}"),
            )),
            Panel("Flushes", "s", _quantiles("outlast_flush_seconds")),
            Panel("Commit queue, flush size", "short", (
                ("outlast_commit_queue{@}", "waiting"),
                ("histogram_quantile(0.99, sum by (le) (rate(outlast_flush_entries_bucket{@}[5m])))",
                 "entries of a flush, p99"),
            )),
            Panel("Log", "short", (
                ("outlast_log_next_index{@}", "next index"),
                ("outlast_log_signed_entries{@}", "signed"),
            )),
            Panel("Checkpoint", "s", (
                ("outlast_checkpoint_age_seconds{@}", "oldest unsigned entry"),
                ("outlast_publish_seconds{@}", "last publication"),
            )),
            Panel("Mode", "short", (("outlast_mode{@} == 1", "{{mode}}"),)),
        ),
    ),
    (
        "Work",
        (
            Panel("Jobs", "short", (("sum by (kind, state) (outlast_jobs{@})", "{{kind}} {{state}}"),)),
            Panel("Oldest due job", "s", (("outlast_job_oldest_due_seconds{@}", "{{kind}}"),)),
            Panel("Jobs done", "ops", (
                ("rate(outlast_jobs_done_total{@}[5m])", "done"),
                ("outlast_jobs_running{@}", "running now"),
            )),
            Panel("Accepted to signed", "s", _quantiles("outlast_signing_seconds")),
            Panel("Timestamps owed", "short", (("outlast_timestamps_owed{@}", "owed"),)),
            Panel("Oldest timestamp debt", "s", (
                ("outlast_timestamp_oldest_owed_seconds{@}", "owed for"),
                ("outlast_timestamp_deadline_seconds{@} - outlast_clock_seconds{@}", "until one may fall due"),
            )),
        ),
    ),
    (
        "Providers",
        (
            Panel("Calls by outcome", "reqps", (
                ("sum by (provider, outcome) (rate(outlast_provider_outcomes_total{@}[5m]))",
                 "{{provider}} {{outcome}}"),
            )),
            Panel("Time of calls", "s", _quantiles("outlast_provider_call_seconds", "provider")),
            Panel("Breakers", "short", (
                ('outlast_provider_breaker{@,state!="closed"} == 1', "{{provider}} {{state}}"),
            )),
            Panel("Error budget left", "percentunit", (
                ("outlast_provider_budget_remaining{@}", "{{provider}}"),
            )),
            Panel("Burn rate", "short", (
                ("outlast_provider_burn_rate{@}", "{{provider}} {{window}}"),
            )),
            Panel("Throttles, retries left", "short", (
                ("increase(outlast_provider_throttles_total{@}[5m])", "{{provider}} throttled"),
                ("outlast_provider_retries_left{@}", "{{provider}} retries left"),
            )),
        ),
    ),
    (
        "Process and storage",
        (
            Panel("Processor, memory", "short", (
                ("rate(process_cpu_seconds_total{@}[5m])", "cores"),
                ("process_resident_memory_bytes{@} / 2^30", "resident, GiB"),
            )),
            Panel("Event loop lag", "s", _quantiles("outlast_event_loop_lag_seconds")),
            Panel("Queues", "short", (
                ("outlast_pdf_sandbox_waiting{@}", "PDFs waiting"),
                ("outlast_uploads_waiting{@}", "uploads waiting"),
                ("outlast_event_streams{@}", "event streams"),
                ("outlast_long_polls{@}", "long polls"),
            )),
            Panel("Room", "bytes", (
                ("outlast_blob_free_bytes{@}", "free: {{store}}"),
                ("outlast_blob_min_free_bytes{@}", "read-only below"),
            )),
            Panel("Certificates end in", "s", (
                ("outlast_certificate_not_after_seconds{@} - on (job, instance) group_left () outlast_clock_seconds{@}",
                 "{{role}} {{provider}}"),
            )),
            Panel("Garbage collection, files, traces lost", "ops", (
                ("rate(python_gc_collections_total{@}[5m])", "generation {{generation}}"),
                ("process_open_fds{@}", "open files"),
                ('rate(outlast_spans_total{@,fate=~"dropped|refused"}[5m])', "spans {{fate}}"),
            )),
        ),
    ),
)  # fmt: skip
"""What is shown below the objectives, row by row."""


def dashboard_json(slo: Slo) -> str:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in (("Objectives", _objectives(slo)), *ROWS):
        panels.append(_row(len(panels) + 1, title, y))
        for at, panel in enumerate(row):
            x, below = at % 3 * WIDTH, at // 3 * HEIGHT
            panels.append(_graph(len(panels) + 1, panel, x, y + 1 + below))
        y += 1 + -(-len(row) // 3) * HEIGHT
    model = {
        "__inputs": [
            {"name": "DS_PROMETHEUS", "label": "Prometheus", "type": "datasource",
             "pluginId": "prometheus", "pluginName": "Prometheus"}
        ],
        "title": "Outlast",
        "uid": "outlast",
        "tags": ["outlast"],
        "schemaVersion": SCHEMA,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_variable("job", "label_values(outlast_build_info, job)", False),
                                _variable("instance", 'label_values(outlast_build_info{job="$job"}, instance)', True)]},
        "panels": panels,
    }  # fmt: skip
    return msgspec.json.format(msgspec.json.encode(model), indent=1).decode() + "\n"


def _objectives(slo: Slo) -> tuple[Panel, ...]:
    panels = []
    for name, objective in slo.objectives.items():
        budget = f"{1 - objective.objective:.6g}"
        legend = " ".join(["{{" + label + "}}" for label in objective.by]) or "errors"
        queries = tuple(
            (
                f'outlast:slo_errors:ratio_{window}{{@,slo="{name}"}} / {budget}',
                f"{legend} {window}",
            )
            for window in ("1h", "6h", "3d")
        )
        panels.append(Panel(f"{objective.title}: budget spent, times", "short", queries))
    return tuple(panels)


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": 24, "h": 1}
    return {"id": number, "type": "row", "title": title, "gridPos": place, "panels": []}


def _graph(number: int, panel: Panel, x: int, y: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + at),
            "datasource": _SOURCE,
            "expr": expr.replace("@", _HERE),
            "legendFormat": legend,
            "exemplar": "_bucket" in expr,
        }
        for at, (expr, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "targets": targets,
    }


def _variable(name: str, query: str, is_many: bool) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "includeAll": is_many,
        "multi": is_many,
    }
