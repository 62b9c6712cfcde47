"""Objectives: what is made of them is current, Prometheus takes it, and its alerts say what they should."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess

import pytest

from outlast.core.errors import Refused
from outlast.operations.dashboard import dashboard_json
from outlast.operations.slo import BURNS, load_slo, metrics_named, rule_groups, rules_yaml
from outlast.surfaces.cli.main import main

ROOT = pathlib.Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "observability"
RUNBOOK = ROOT / "docs" / "howto" / "observe.md"
SLO = load_slo((FOLDER / "slo.toml").read_bytes())

SMALL = """
[site]
[objectives.one]
title = "t"
objective = 0.9
about = "a"
{how}
[alerts]
"""


def promtool(*arguments: str | pathlib.Path) -> None:
    """Run it; its words are the failure's."""
    program = shutil.which("promtool")
    assert program, "promtool is missing: scripts/install-system-packages.sh installs it"
    ran = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_what_is_checked_in_is_current() -> None:
    """rules.yml and dashboard.json are what slo.toml gives; `make observability` makes them again."""
    assert (FOLDER / "rules.yml").read_text() == rules_yaml(SLO)
    assert (FOLDER / "dashboard.json").read_text() == dashboard_json(SLO)


def test_prometheus_takes_the_rules() -> None:
    """promtool finds nothing wrong with them."""
    promtool("check", "rules", FOLDER / "rules.yml")


@pytest.mark.slow
def test_alerts_fire_when_they_should_and_only_then(tmp_path: pathlib.Path) -> None:
    """Synthetic series through Prometheus' own evaluation: see alerts.yml."""
    text = (pathlib.Path(__file__).parent / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(text.replace("RULES", str(FOLDER / "rules.yml")))
    promtool("test", "rules", tmp_path / "alerts.yml")


def test_every_objective_burns_in_three_pairs_of_windows() -> None:
    """14.4 times over 1 h and 5 min, 6 times over 6 h and 30 min, once over 3 d and 2 h."""
    rates = [(b.rate, b.long, b.short) for b in BURNS]
    assert rates == [(14.4, "1h", "5m"), (6.0, "6h", "30m"), (1.0, "3d", "2h")]
    burns = [r for g in rule_groups(SLO) for r in g.rules if r.alert == "OutlastSloBurn"]
    assert len(burns) == 3 * len(SLO.objectives)


def test_every_alert_has_its_place_in_the_runbook() -> None:
    """Its link leads to a heading of the page."""
    headings = {
        line.strip("# ").lower()
        for line in RUNBOOK.read_text().splitlines()
        if line.startswith("###")
    }
    wanted = {name.lower() for name in SLO.alerts} | set(SLO.objectives)
    assert wanted - headings == set()


def test_dashboard_is_whole() -> None:
    """It is JSON, its panels have numbers of their own and do not overlap, and every query is asked of this site."""
    model = json.loads(dashboard_json(SLO))
    ids = [panel["id"] for panel in model["panels"]]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in model["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(places)) == len(places)
    queries = [t["expr"] for p in model["panels"] for t in p.get("targets", ())]
    assert all('job="$job"' in query and "@" not in query for query in queries)
    assert metrics_named(" ".join(queries))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("", "only one of these"),
        ('bad = "a_total"', "only one of these"),
        ('bad = "a"\ntotal = "b"\nlate = { gauge = "c", than = 1.0 }', "only one of these"),
        ('slower = { histogram = "rate(a[5m])", than = 1.0 }', "histogram"),
        ('surprise = "x"', "surprise"),
    ],
)
def test_what_cannot_be_meant_is_refused(how: str, why: str) -> None:
    """No way to count, two ways, expressions where a name belongs, unknown members."""
    with pytest.raises(Refused, match=why) as refused:
        load_slo(SMALL.format(how=how).encode())
    assert refused.value.code == "slo-invalid"


def test_promises_that_cannot_be_kept_are_refused() -> None:
    """An objective of 1 leaves no budget: every alert would divide by it."""
    text = SMALL.replace("0.9", "1.0").format(how='bad = "a"\ntotal = "b"')
    with pytest.raises(Refused, match="between 0 and 1"):
        load_slo(text.encode())


def test_commands_write_both(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`outlast slo rules` and `dashboard` to a file or standard output; a missing file is named."""
    assert main(["slo", "rules", str(FOLDER / "slo.toml"), "-o", str(tmp_path / "r.yml")]) == 0
    assert (tmp_path / "r.yml").read_text() == rules_yaml(SLO)
    assert main(["slo", "dashboard", str(FOLDER / "slo.toml")]) == 0
    assert capsys.readouterr().out == dashboard_json(SLO)
    assert main(["slo", "rules", str(tmp_path / "none.toml")]) == 2
    assert "none.toml" in capsys.readouterr().err
