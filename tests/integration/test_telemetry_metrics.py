"""Metrics of a real site: well-formed in both formats, complete, bounded; rules and dashboard name nothing else."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from outlast.operations.slo import load_slo, metrics_named, rules_yaml

pytestmark = pytest.mark.anyio

ROOT = pathlib.Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "observability"
OPEN = {"accept": "application/openmetrics-text; version=1.0.0; charset=utf-8"}
_EQUAL = re.compile(r"(\w+)\{([^{}]*)\}")
_PAIR = re.compile(r'(\w+)="([^"$|]+)"')


async def worked(http_site: Any) -> str:
    """The metrics of a site that has taken in, signed, refused, and answered again."""
    document = await http_site.document()
    headers = {"idempotency-key": f"twice-{document}"}
    for _ in range(2):
        made = await http_site.client.post(
            "/v1/signature-requests", json={"document": document}, headers=headers
        )
        assert made.status_code == 202
    await http_site.client.get(made.json()["url"], headers={"prefer": "wait=10"})
    await http_site.client.post(f"{made.json()['url']}/cancel", json={})
    await http_site.site.vitals.look()
    text: str = (await http_site.client.get("/metrics")).text
    return text


def samples(text: str) -> dict[str, list[dict[str, str]]]:
    """Labels of all samples, by name."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


async def test_what_happened_is_counted(http_site: Any) -> None:
    """A signature, a replay and a refusal move the figures that stand for them."""
    values = {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for f in families(await worked(http_site))
        for s in f.samples
    }
    assert values["outlast_signing_seconds_count", ()] >= 1
    assert values["outlast_idempotent_replays_total", ()] >= 1
    assert values["outlast_commits_failed_total", (("error", "refused"),)] >= 1
    local = (("provider", "local"), ("role", "signer"))
    assert values["outlast_provider_call_seconds_count", local] >= 1
    assert values["outlast_provider_outcomes_total", (("outcome", "ok"), *local)] >= 1
    assert values["outlast_provider_breaker", (*local, ("state", "closed"))] == 1
    assert values["outlast_flush_seconds_count", ()] == values["outlast_flushes_total", ()]
    assert values[
        "outlast_certificate_not_after_seconds", (("provider", "local"), ("role", "signing"))
    ]
    assert abs(values["outlast_clock_seconds", ()] - http_site.site.clock.now_ms() / 1000) < 10
    waited = {
        dict(k[1]).get("wait") for k in values if k[0] == "outlast_http_request_seconds_count"
    }
    assert waited == {"yes", "no"}


async def test_both_formats_are_well_formed(http_site: Any) -> None:
    """The parsers of both take every line; only whoever asks for it gets OpenMetrics; a key is needed."""
    await worked(http_site)
    plain = await http_site.client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    asked = await http_site.client.get("/metrics", headers=OPEN)
    assert asked.headers["content-type"].startswith("application/openmetrics-text")
    assert {f.name for f in families(plain.text)} == {f.name for f in open_families(asked.text)}
    assert (await http_site.client_of(None).get("/metrics")).status_code == 401


async def test_rules_and_dashboard_name_what_there_is(http_site: Any) -> None:
    """Every metric of every expression is one that this site shows, and every label value that they ask for and that
    does not depend on what happens (bounds, states, fates, operations) is there."""
    text = await worked(http_site)
    declared = {
        n
        for f in families(text)
        for n in (f.name, f"{f.name}_total", f"{f.name}_bucket", f"{f.name}_count")
    }
    slo = load_slo((FOLDER / "slo.toml").read_bytes())
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    queries = [t["expr"] for p in panels for t in p.get("targets", ())]
    asked = [rules_yaml(slo), *queries]
    assert metrics_named(" ".join(asked)) - declared == set()
    there = samples(text)
    for name, selector in (pair for expr in asked for pair in _EQUAL.findall(expr)):
        fixed = {k: v for k, v in _PAIR.findall(selector) if k not in ("job", "instance")}
        if name in there and not name.startswith("outlast_store"):
            for label, value in fixed.items():
                if value == "authority":  # this site has none
                    continue
                assert value in {labels.get(label) for labels in there[name]}, (name, label, value)


async def test_labels_come_from_the_configuration_alone(http_site: Any) -> None:
    """Hostile paths, methods, tenants and keys make no series; a thousand requests make no more than one."""
    await worked(http_site)
    for path in ("/v1/nothing", "/v1/documents/../../etc", "/v1/keys/mallory:disable"):
        await http_site.client.request("BREW", path)
        await http_site.client.get(path)
    client = await http_site.key("operate", tenant="mallory-tenant")
    await client.get("/v1/jobs")
    before = samples((await http_site.client.get("/metrics")).text)
    for i in range(50):
        await http_site.client.get(f"/v1/documents/unknown-{i}")
    text = (await http_site.client.get("/metrics")).text
    grown = {n: len(found) - len(before.get(n, ())) for n, found in samples(text).items()}
    assert all(more <= 1 for name, more in grown.items() if not name.endswith("_bucket")), grown
    assert "mallory" not in text
    assert "BREW" not in text


def test_reference_is_current() -> None:
    """docs/reference/metrics.md is what the program says of itself."""
    script = ROOT / "docs" / "reference" / "make_metrics.py"
    ran = subprocess.run([sys.executable, script, "--check"], check=False)
    assert ran.returncode == 0, f"run {script.name}"


async def test_reference_has_every_family(http_site: Any) -> None:
    """No family of a real site is missing from the page."""
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    names = {f.name for f in families(await worked(http_site))}
    assert {n for n in names if f"`{n}`" not in page and f"`{n}_total`" not in page} == set()
