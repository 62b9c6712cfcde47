"""One power cut for store and archive: the log that is published is never ahead of the store it is made from.

A site commits and publishes on one recorded disk; after a cut at each point the real store is opened, and the archive
beside it must be whole, of the store's entries, no smaller than was announced, and able to be grown to the store's size.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from outlast.core.store.sqlite import engine
from outlast.testing.powerloss import Recorder, Step, noted
from outlast.testing.powerloss.site import PUBLISHED, damage, record

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

SAMPLES = int(os.environ.get("POWERLOSS_SAMPLES", "1"))
ROUNDS = int(os.environ.get("POWERLOSS_ROUNDS", "3"))
SEED = int(os.environ.get("POWERLOSS_SEED", "2"))


@pytest.fixture(autouse=True)
def eager_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of the database come every few commits."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 8)
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 40)


async def test_the_log_is_never_ahead_of_the_store(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Whatever of both reached the disk, the checkpoint speaks for entries that the store has."""
    run = await record(tmp_path / "site", ROUNDS, Recorder(), with_log=True)
    published = [text for text in noted(run.steps, len(run.steps)) if text.startswith(PUBLISHED)]
    assert len(set(published)) >= ROUNDS
    count, wrong = await damage(run, ruins, SAMPLES, SEED)
    assert wrong == {}
    print(f"{len(run.steps)} steps, {count} different sites after a cut")


async def test_a_log_ahead_of_its_store_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: commits that are not synced, so that the archive alone survives."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 10_000)  # one would make the commits durable
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 20_000)

    def forgotten(step: Step) -> bool:
        return (step.kind, step.name) == ("sync", "site.db-wal")

    run = await record(tmp_path / "site", 2, Recorder(deaf=forgotten), with_log=True)
    _, wrong = await damage(run, ruins, 0, SEED)
    assert any("the store" in text for texts in wrong.values() for text in texts), wrong


async def test_a_checkpoint_announced_too_early_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: the announcement goes out before the checkpoint's name is synced."""

    def forgotten(step: Step) -> bool:
        return (step.kind, step.name) == ("sync-directory", "log")

    run = await record(tmp_path / "site", 2, Recorder(deaf=forgotten), with_log=True)
    _, wrong = await damage(run, ruins, 0, SEED, stop_at_first=True)
    assert wrong
