"""The power goes, at every point: the real store on SQLite, over a disk that keeps what was synced and no more.

One run is recorded, write by write; then the files are built as they might be found after a power cut at each of its
points (nothing of what was not synced, all of it, every subset of a few, drawn subsets of many, writes torn at a
sector), opened by the real store, read whole, and compared with what had been acknowledged by then.

`make powerloss` looks at more: POWERLOSS_SAMPLES drawn subsets at each point, POWERLOSS_ROUNDS of work.
"""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Callable

import pytest

from outlast.core.store.sqlite import engine
from outlast.testing.powerloss import Recorder, Step, noted
from outlast.testing.powerloss.site import IN_PARALLEL, Site, damage, record

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SAMPLES = int(os.environ.get("POWERLOSS_SAMPLES", "1"))
ROUNDS = int(os.environ.get("POWERLOSS_ROUNDS", "5"))
SEED = int(os.environ.get("POWERLOSS_SEED", "1"))


@pytest.fixture(autouse=True)
def eager_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints come every few commits, by their thread and by the writer."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 8)
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 40)


@pytest.fixture
def late_checkpoints(eager_checkpoints: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """None: one that comes soon after a commit would make good what was not synced."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 10_000)
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 20_000)


async def test_power_cut_at_every_point(tmp_path: pathlib.Path, ruins: pathlib.Path) -> None:
    """Whatever was acknowledged is there, once; whatever is there is whole; nothing unsynced is relied upon."""
    run = await record(tmp_path / "site", ROUNDS, Recorder())
    steps = run.steps
    kinds = Counter((step.kind, step.name) for step in steps)
    assert kinds["sync", "site.db"] > 1, "no checkpoint was recorded"
    assert len(noted(steps, len(steps))) == ROUNDS * (IN_PARALLEL + 1)
    count, wrong = await damage(run, ruins, SAMPLES, SEED)
    assert wrong == {}
    assert count > len(steps) / 2, "hardly anything was looked at"
    print(f"{len(steps)} steps, {count} different sites after a cut")


def forgets(name: str) -> Callable[[Step], bool]:
    """A disk that is not told to sync this file."""
    return lambda step: (step.kind, step.name) == ("sync", name)


def answers_before_the_sync(site: Site) -> None:
    """The committer, but that it tells its callers before the store has committed."""
    stage = site.store._stage

    def staged(needs: object, plan: object) -> object:
        write = stage(needs, plan)  # type: ignore[arg-type]  # passed through
        for entry in write.entries if write is not None else ():
            memo = entry.leaf.partition(b'"memo":"')[2].partition(b'"')[0].rstrip(b"x")
            site.recorder.note(memo.decode())
        return write

    site.store._stage = staged  # type: ignore[method-assign,assignment]  # planted


@pytest.mark.usefixtures("late_checkpoints")
async def test_a_commit_without_its_sync_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: a commit that does not sync the write-ahead log."""
    run = await record(tmp_path / "site", 2, Recorder(deaf=forgets("site.db-wal")))
    _, wrong = await damage(run, ruins, 0, SEED, stop_at_first=True)
    assert wrong


async def test_a_checkpoint_without_its_sync_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: a checkpoint that does not sync the database."""
    forgotten = "site.db"
    run = await record(tmp_path / "site", 5, Recorder(deaf=forgets(forgotten)))
    _, wrong = await damage(run, ruins, 3, SEED, lambda point: point % 3 == 0, stop_at_first=True)
    assert wrong


@pytest.mark.usefixtures("late_checkpoints")
async def test_a_store_without_full_sync_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: synchronous=NORMAL, as many recommend for the write-ahead log."""

    def normal(site: Site) -> None:
        site.store._writer.pragma("synchronous", 1)

    run = await record(tmp_path / "site", 2, Recorder(), spoil=normal)
    _, wrong = await damage(run, ruins, 0, SEED, stop_at_first=True)
    assert wrong


@pytest.mark.usefixtures("late_checkpoints")
async def test_an_answer_before_the_sync_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: an acknowledgement that goes out when the write is staged."""
    run = await record(tmp_path / "site", 1, Recorder(), spoil=answers_before_the_sync)
    _, wrong = await damage(run, ruins, 0, SEED, stop_at_first=True)
    assert wrong
