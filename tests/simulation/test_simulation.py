"""The simulated site: a thousand seeds keep every promise, each seed is one schedule, and planted bugs are found.

`make simulate SEEDS=` runs more; `python -m outlast.testing.simulation --seed N` shows one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from outlast.core import commit
from outlast.core.commit import Finish, Outcome
from outlast.core.errors import OutlastError
from outlast.core.ids import Random
from outlast.core.store.port import JobRow, Snapshot
from outlast.signing import attempt, source, work
from outlast.signing.model import request
from outlast.testing.simulation import command
from outlast.testing.simulation.checks import SOMETIMES
from outlast.testing.simulation.engine import run_now
from outlast.testing.simulation.node import Node
from outlast.testing.simulation.run import Result, run_seed
from outlast.testing.simulation.swarm import Swarm, draw

pytestmark = pytest.mark.slow

SEEDS = int(os.environ.get("OUTLAST_SEEDS", "1000"))
PARTS = 4
"""The seeds are run in so many tests, for parallel test runners."""
ENOUGH = 1_000
"""Seeds after which every interesting point must have been reached."""
PLANTED_WITHIN = 1_000
"""Seeds within which a planted bug is found."""


def failures(results: Iterator[Result] | list[Result]) -> list[str]:
    """What went wrong, with the command that shows it."""
    return [
        f"python -m outlast.testing.simulation --seed {result.seed}: {result.failure}"
        for result in results
        if result.failure
    ]


@pytest.mark.parametrize("part", range(PARTS))
def test_seeds_keep_every_promise(part: int) -> None:
    """Whatever crashes, stalls, lies or fills up: acknowledged is kept, signed once, numbered, and at rest."""
    results = [run_seed(seed) for seed in range(part, SEEDS, PARTS)]
    assert failures(results) == []
    assert sum(result.signed for result in results) >= len(results)
    if SEEDS >= ENOUGH:
        reached = sum((Counter(result.reached) for result in results), Counter[str]())
        assert [point for point in SOMETIMES if not reached[point]] == []


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


def test_command_shows_a_seed(capsys: pytest.CaptureFixture[str]) -> None:
    """One seed with its trace; several with their sum; the exit status says whether promises were kept."""
    assert command.main(["--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "everything heals" in shown
    assert "all promises kept" in shown
    assert command.main(["--seeds", "4", "--start", "7", "--processes", "1"]) == 0
    assert "4 seeds in" in capsys.readouterr().out


# -- planted bugs: a simulation that finds nothing may look at nothing ----------------------------------------


def found_within(seeds: int) -> Result | None:
    """The first seed that fails."""
    return next((result for result in map(run_seed, range(seeds)) if result.failure), None)


def plant_no_fence(patch: pytest.MonkeyPatch) -> None:
    """Whoever says so ends a job, with whatever lease."""

    def finished(self: Any, tenant: str, finish: Finish) -> JobRow:
        row: JobRow = self._write.jobs.get(finish.job) or self._snapshot.jobs.get(finish.job)
        return msgspec.structs.replace(
            row,
            state=finish.state,
            run_at_ms=finish.run_at_ms or row.run_at_ms,
            lease_until_ms=finish.lease_until_ms,
            error=finish.error,
        )

    patch.setattr(commit._Flush, "_finished", finished)


def plant_no_idempotency_row(patch: pytest.MonkeyPatch) -> None:
    """The key is not written with the event and the job."""
    patch.setattr(commit._Flush, "_remember", lambda *_: None)


def plant_early_answer(patch: pytest.MonkeyPatch) -> None:
    """Answered when it is planned, before the flush that makes it durable."""

    def begin(self: Node) -> None:
        batch = list(self._queue)
        self._queue.clear()
        works = [item for item, _ in batch]
        needs = commit.needs_of(works)
        outcomes: list[Outcome] = []

        def plan(snapshot: Snapshot) -> Any:
            outcomes[:] = self.planner.plan(works, snapshot, self.clock.now_ms())[1]
            raise OutlastError("planned", "only to see what the answer would be")

        try:
            run_now(self.site.store.flush(needs, plan))
        except OutlastError:
            pass  # as intended
        told = [(item, lambda *_: None) for item in works]
        delay_ms = self.sim.between(0.1, self.site.swarm.slow_disk_ms)
        self.sim.after(delay_ms, self._flush, told, of=self)
        for (_, answer), outcome in zip(batch, outcomes, strict=True):
            failed = isinstance(outcome, Exception)
            answer(None if failed else outcome, outcome if failed else None)  # type: ignore[arg-type]  # sorted out

    patch.setattr(Node, "_begin", begin)


def plant_no_pin_check(patch: pytest.MonkeyPatch) -> None:
    """A late value is taken although its attempt was closed."""
    record = request._record_signature

    def taken(order: request.RecordSignature, state: request.Request) -> Any:
        pin = state.signatures[order.place].pin
        known = order if pin is None else msgspec.structs.replace(order, attempt=pin.attempt)
        return record(known, state)

    patch.setitem(request._DECIDE, request.RecordSignature, taken)


def plant_blind_trust(patch: pytest.MonkeyPatch) -> None:
    """What a provider returns is not verified."""
    patch.setattr(attempt, "verify_signature", lambda *_: None)


def plant_shared_claims(patch: pytest.MonkeyPatch) -> None:
    """A claim does not raise the lease: two holders under one number."""
    claim = commit._Flush.claim

    def same_lease(self: Any, wish: commit.Claim, claimable: list[JobRow]) -> list[JobRow]:
        lower = [msgspec.structs.replace(j, lease=j.lease - 1) if j.lease else j for j in claimable]
        return claim(self, wish, lower)

    patch.setattr(commit._Flush, "claim", same_lease)


def plant_leaky_numbers(patch: pytest.MonkeyPatch) -> None:
    """A number is used up by a command that is refused."""
    number = commit._Flush._number

    def used_up(self: Any, order: commit.Submission) -> Any:
        numbered, numbers = number(self, order)
        self._write.counters.update(numbers)
        return numbered, numbers

    patch.setattr(commit._Flush, "_number", used_up)


def plant_lost_job(patch: pytest.MonkeyPatch) -> None:
    """A job is not written when its event shares the flush with others."""
    add = commit._Flush._add_job

    def forgets(self: Any, *args: Any) -> None:
        if len(self._write.entries) < 2:
            add(self, *args)

    patch.setattr(commit._Flush, "_add_job", forgets)


def plant_second_on_original(patch: pytest.MonkeyPatch) -> None:
    """A second signature goes on the original instead of the first's file."""
    load = source.load_source

    async def original(world: Any, tenant: str, state: request.Request, place: int) -> Any:
        bare = [msgspec.structs.replace(s, revision=None) for s in state.signatures]
        unsigned = msgspec.structs.replace(state, signatures=tuple(bare))
        return await load(world, tenant, unsigned, place)

    patch.setattr(work, "load_source", original)


@pytest.mark.parametrize(
    "plant",
    [
        plant_no_fence,
        plant_no_idempotency_row,
        plant_early_answer,
        plant_no_pin_check,
        plant_blind_trust,
        plant_shared_claims,
        plant_leaky_numbers,
        plant_lost_job,
        plant_second_on_original,
    ],
    ids=lambda plant: plant.__name__.removeprefix("plant_"),
)
def test_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of these bugs breaks a promise within a thousand seeds."""
    plant(monkeypatch)
    found = found_within(PLANTED_WITHIN)
    assert found is not None, "not found"


def test_swarms_differ() -> None:
    """Every kind of trouble is in some seeds and not in others."""

    swarms = [draw(Random(seed)) for seed in range(200)]
    for name in Swarm.__struct_fields__:
        values = {getattr(swarm, name) for swarm in swarms}
        assert len(values) > 1, name
