"""The simulator as a tool: its summary, its trace, its exit status, its file of kept seeds, and ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from outlast.core import commit
from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.testing.simulation import command
from outlast.testing.simulation.seedfile import keep_seeds, parse_seed, read_seeds, seed_name
from outlast.testing.simulation.swarm import DRAW_VERSION
from outlast.testing.simulation.sweep import Tally, sweep

pytestmark = pytest.mark.slow


def plant_forgotten_keys(patch: pytest.MonkeyPatch) -> None:
    """A bug that many seeds find: idempotency keys are not written."""
    patch.setattr(commit._Flush, "_remember", lambda *_: None)


def test_one_seed_shows_its_story(capsys: pytest.CaptureFixture[str]) -> None:
    """What was drawn, what happened when, and the verdict; by number or with its version."""
    assert command.main(["--seed", "3"]) == 0
    shown = capsys.readouterr().out
    for words in ("lease_ms", "faults:", "everything heals", "all promises kept"):
        assert words in shown
    assert command.main(["--seed", f"{DRAW_VERSION}:3"]) == 0
    assert capsys.readouterr().out == shown


def test_seed_of_another_draw_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A number means a schedule only together with its version."""
    assert command.main(["--seed", f"{DRAW_VERSION - 1}:3"]) == 2
    assert "another schedule" in capsys.readouterr().err
    for text in ("", "x", "2:", ":3 ", "-1", "2:3:4"):
        with pytest.raises(Refused):
            parse_seed(text)


def test_many_seeds_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Rates and counts, for a person and as JSON; the same counts from two processes as from one."""
    assert command.main(["--seeds", "24", "--start", "7", "--processes", "1"]) == 0
    shown = capsys.readouterr().out
    assert "24 seeds from" in shown
    assert "every seed kept every promise" in shown
    outcomes: list[dict[str, Any]] = []
    for processes in ("1", "2"):
        argv = ["--seeds", "24", "--start", "7", "--json", "--processes", processes]
        assert command.main(argv) == 0
        outcome = json.loads(capsys.readouterr().out)
        assert outcome.pop("took_s") > 0
        assert outcome.pop("processes") == int(processes)
        outcomes.append(outcome)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0]["seeds"] == 24
    assert outcomes[0]["failures"] == []


def test_time_is_up(capsys: pytest.CaptureFixture[str]) -> None:
    """As many seeds as fit into the time, and no error."""
    assert command.main(["--minutes", "0.01", "--processes", "1"]) == 0
    assert "time is up" in capsys.readouterr().out


def test_failing_seeds_are_told_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit status 1, the command that shows each, and the file that the tests run; a seed is kept once."""
    plant_forgotten_keys(monkeypatch)
    kept = tmp_path / "seeds.toml"
    kept.write_text("# a comment stays\n")
    argv = ["--seeds", "8", "--processes", "1", "--keep", str(kept)]
    assert command.main(argv) == 1
    shown = capsys.readouterr().out
    seeds = read_seeds(kept)
    assert seeds
    assert all(f"--seed {seed.seed}" in shown for seed in seeds)
    assert seeds[0].failed
    assert command.main(argv) == 1
    assert read_seeds(kept) == seeds
    assert kept.read_text().startswith("# a comment stays\n")


def test_kept_text_survives_its_file(tmp_path: Path) -> None:
    """Whatever a failure says is read back as it was."""
    kept = tmp_path / "seeds.toml"
    kept.write_text("")
    text = 'quotes " and \\ and\nlines, \x7f \x01 ü 😀'
    assert keep_seeds(kept, [(seed_name(1), text)]) == 1
    assert read_seeds(kept)[0].failed == text
    kept.write_text("[[seed]]\nnumber = 3\n")
    with pytest.raises(Refused, match="seed-file-malformed"):
        read_seeds(kept)


def test_what_is_declared_must_happen_when_there_are_enough_seeds() -> None:
    """A sweep of enough seeds is not good while something declared was never seen."""
    tally = sweep(start=0, seeds=1, processes=1, clock=SystemClock())
    assert tally.is_good
    tally.never = ["head's lock taken from a frozen node"]
    assert not tally.is_good
    assert Tally(start=0, processes=1).is_good


def test_interrupt_ends_it_neatly() -> None:
    """Ctrl-C on a terminal reaches every process: what is under way is summed up, nothing is left running."""
    argv = [sys.executable, "-m", "outlast.testing.simulation", "--seeds", "100000", "--json"]
    with subprocess.Popen(
        [*argv, "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            process.communicate(timeout=6)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    outcome = json.loads(out)
    assert "Traceback" not in err, err
    assert outcome["stopped"] == "interrupted"
    assert 0 < outcome["seeds"] < 100_000
    assert process.returncode == 130
