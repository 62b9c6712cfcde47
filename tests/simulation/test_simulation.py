"""The simulated site: a thousand seeds keep every promise and see all there is to see; each seed is one schedule.

`make simulate SEEDS=` runs more; `python -m outlast.testing.simulation --seed N` shows one. Bugs that it must find are
in `test_simulation_planted`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from outlast.core.clock import SystemClock
from outlast.core.ids import Random
from outlast.testing.simulation.checks import REACHABLE, SOMETIMES, Checks, Violation, unreached
from outlast.testing.simulation.faults import POINTS, FaultPoints
from outlast.testing.simulation.run import run_seed
from outlast.testing.simulation.seedfile import parse_seed, read_seeds
from outlast.testing.simulation.swarm import Swarm, draw
from outlast.testing.simulation.sweep import sweep

pytestmark = pytest.mark.slow

SEEDS = int(os.environ.get("OUTLAST_SEEDS", "1000"))
PROCESSES = min(2, os.cpu_count() or 1)
KEPT = read_seeds(Path(__file__).with_name("seeds.toml"))


def test_seeds_keep_every_promise() -> None:
    """Whatever crashes, stalls, lies, fills up or is restored: acknowledged is kept, signed once, numbered, published
    as one log, and at rest; and everything that is declared sometimes, reachable or a fault point did happen."""
    tally = sweep(start=0, seeds=SEEDS, processes=PROCESSES, clock=SystemClock())
    assert [f"{failure.seed}: {failure.what}" for failure in tally.failures] == []
    assert tally.seeds == SEEDS
    assert tally.signed >= tally.seeds
    assert tally.never == []


@pytest.mark.parametrize("seed", [kept.seed for kept in KEPT])
def test_kept_seed(seed: str) -> None:
    """A seed that once failed keeps every promise."""
    assert run_seed(parse_seed(seed, any_version=True)).failure == ""


def test_seed_is_one_schedule() -> None:
    """The same seed gives the same trace, event by event, in this process and in others that hash otherwise."""
    here = [run_seed(seed).trace_hash for seed in range(6)]
    assert [run_seed(seed, keep_trace=True).trace_hash for seed in range(6)] == here
    assert len(set(here)) == 6
    program = (
        "from outlast.testing.simulation.run import run_seed\n"
        "print(' '.join(run_seed(seed).trace_hash for seed in range(6)))"
    )
    for hash_seed in ("1", "2"):
        output = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout
        assert output.split() == here


def test_swarms_differ() -> None:
    """Every kind of trouble is in some seeds and not in others."""
    swarms = [draw(Random(f"test/{seed}")) for seed in range(300)]
    for name in Swarm.__struct_fields__:
        values = {getattr(swarm, name) for swarm in swarms}
        assert len(values) > 1, name
    points = [FaultPoints(f"test/{seed}") for seed in range(300)]
    for name in POINTS:
        assert {bool(of.rates[name]) for of in points} == {True, False}, name


def test_fault_point_is_off_or_fires_at_its_rate_until_healed() -> None:
    """A point that is off never fires; one that is on fires about as often as drawn; a healed site has none."""
    name = "provider fails"
    on = next(of for of in map(FaultPoints, map(str, range(99))) if of.rates[name] > 0.2)
    off = next(of for of in map(FaultPoints, map(str, range(99))) if not of.rates[name])
    fired = sum(on.fires(name) for _ in range(4_000))
    assert abs(fired / 4_000 - on.rates[name]) < 0.05
    assert on.fired[f"fault: {name}"] == fired
    assert not any(off.fires(name) for _ in range(4_000))
    on.healed = True
    assert not any(on.fires(name) for _ in range(4_000))
    assert on.visits_until(name) == 0


def test_assertions_are_declared_and_missed_when_they_never_fire() -> None:
    """``always`` fails the seed; what is not declared is an error; what is declared and never true is reported."""
    checks = Checks()
    with pytest.raises(Violation, match="two and two"):
        checks.always(False, "two and two")
    with pytest.raises(AssertionError, match="never heard of"):
        checks.reachable("never heard of")
    with pytest.raises(AssertionError, match="never heard of"):
        checks.sometimes(True, "never heard of")
    checks.sometimes(False, SOMETIMES[0])
    checks.sometimes(True, SOMETIMES[1])
    checks.reachable(REACHABLE[0])
    missed = unreached(checks.reached)
    assert SOMETIMES[0] in missed
    assert f"fault: {next(iter(POINTS))}" in missed
    assert SOMETIMES[1] not in missed
    assert REACHABLE[0] not in missed
