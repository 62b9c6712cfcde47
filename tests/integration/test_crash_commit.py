"""kill -9 on a real process that commits to a real file: what it acknowledged is there, once; the rest may be.

The child dies at every boundary of a commit, by its own hand, and at random moments, by ours. After each death the
same file is opened again and read whole, every acknowledged command is looked up, every command is sent again with
its key, and the next child goes on where this one was killed.
"""

from __future__ import annotations

import importlib.util
import pathlib
import random  # noqa: TID251 - seeded: moments of death that a failing run can repeat
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from types import ModuleType
from typing import Any

import msgspec
import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner, Receipt
from outlast.core.log.entry import Entry
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import Audit, audit
from outlast.testing.ledger import ledger_deciders

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CHILD = pathlib.Path(__file__).with_name("committing_process.py")
DECIDERS = ledger_deciders()
CHILD_LIFE_S = 60.0
"""A child that does not die by then is a failure."""

POINTS = ("before-begin", "after-load", "after-plan", "before-commit", "after-commit", "checkpoint")


def _load_child() -> ModuleType:
    spec = importlib.util.spec_from_file_location("committing_process", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


child = _load_child()


class Site:
    """A database, and all that was ever acknowledged about it."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.acked: dict[str, Receipt] = {}
        self.runs = 0

    def run_child(self, *death: str, kill_after_s: float | None = None) -> int:
        """Let a child commit until it is dead; returns how many acknowledgements it got out."""
        self.runs += 1
        argv = [sys.executable, str(CHILD), str(self.path), f"r{self.runs}", *death]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        life = threading.Timer(CHILD_LIFE_S, process.kill)
        life.start()
        lines: list[str] = []
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            if kill_after_s is not None:
                time.sleep(kill_after_s)
                process.kill()
            lines = process.stdout.read().splitlines(keepends=True)
        finally:
            life.cancel()
            process.kill()
            status = process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # it is a pipe
        assert status == -signal.SIGKILL, f"the child ended by itself: {status}"
        # the last line may have been cut; what was not said whole was not acknowledged
        whole = [line for line in lines if line.endswith("\n")]
        self.acked.update(child.acknowledged(line) for line in whole)
        return len(whole)

    async def check(self) -> None:
        """Open the file again; compare all of it with all that was promised."""
        store = await SqliteStore.open(self.path)
        try:
            found = await audit(store, DECIDERS)
            self._check_acknowledged(found)
            _check_jobs(found)
            await self._replay(store, found)
            _check_jobs(await audit(store, DECIDERS))
        finally:
            await store.close()

    def _check_acknowledged(self, found: Audit) -> None:
        memos = Counter(_data(entry)["memo"] for entry in found.entries)
        assert set(memos.values()) <= {1}, "something is in the log twice"
        for key, receipt in self.acked.items():
            entry = found.entries[receipt.index]
            assert (_data(entry)["memo"], entry.seq) == (key, receipt.version), key
            assert entry.hlc == receipt.hlc
        numbers = [n for entry in found.entries if (n := _data(entry).get("number"))]
        assert numbers == list(range(1, len(numbers) + 1)), "a number is missing or doubled"

    async def _replay(self, store: SqliteStore, found: Audit) -> None:
        """Send everything again with its key, also what was never acknowledged: nothing happens twice."""
        clock = SystemClock()
        committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)
        known = {_data(e)["memo"]: i for i, e in enumerate(found.entries)}
        for key, index in known.items():
            if key.startswith("job-"):
                continue
            again = await committer.submit(child.submission(key))
            assert again.replayed
            assert again.index == index
            if key in self.acked:
                assert msgspec.structs.replace(again, replayed=False) == self.acked[key]
            self.acked[key] = msgspec.structs.replace(again, replayed=False)
        assert (await store.head()).size == len(found.entries)
        assert await store.counter(child.COUNTER) == sum("-" in k and k[0] == "r" for k in known)


def _check_jobs(found: Audit) -> None:
    """Each deposit of a client made one job; each job that is done has exactly one result in the log."""
    memos = [_data(entry)["memo"] for entry in found.entries]
    deposits = [memo for memo in memos if not memo.startswith("job-")]
    assert len(found.jobs) == len(deposits)
    assert sorted(found.jobs) == list(range(1, len(deposits) + 1))
    done = {f"job-{job.id}" for job in found.jobs.values() if job.state == "done"}
    assert done == {memo for memo in memos if memo.startswith("job-")}
    assert all(job.state in ("ready", "leased", "done") for job in found.jobs.values())


def _data(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = msgspec.json.decode(entry.data)
    return {"memo": "", **data}


@pytest.mark.parametrize("point", POINTS)
async def test_killed_at_a_boundary(tmp_path: pathlib.Path, point: str) -> None:
    """Dead by SIGKILL before, in and after a commit, the first and a later one: no promise is broken."""
    site = Site(tmp_path / "site.db")
    for count in (1, 2, 9):
        site.run_child(point, str(count))
        await site.check()
    assert site.acked


async def test_killed_after_commit_before_the_answer(tmp_path: pathlib.Path) -> None:
    """The one case a client cannot tell: written, not acknowledged; its retry gets the receipt it missed."""
    site = Site(tmp_path / "site.db")
    assert site.run_child("after-commit", "1") == 0
    store = await SqliteStore.open(site.path)
    found = await audit(store, DECIDERS)
    await store.close()
    assert len(found.entries) > 0
    await site.check()
    assert len(site.acked) == len(found.entries)


async def test_killed_before_commit_leaves_nothing(tmp_path: pathlib.Path) -> None:
    """Everything written but not committed is gone, with its log entries, jobs and numbers."""
    site = Site(tmp_path / "site.db")
    assert site.run_child("before-commit", "1") == 0
    store = await SqliteStore.open(site.path)
    assert (await store.head()).size == 0
    assert await store.counter(child.COUNTER) == 0
    await store.close()


async def test_killed_at_random(tmp_path: pathlib.Path) -> None:
    """Twelve deaths at moments nobody chose, on one database."""
    site, moments = Site(tmp_path / "site.db"), random.Random(20261121)
    for _ in range(12):
        site.run_child(kill_after_s=moments.uniform(0.0, 0.25))
        await site.check()
    assert len(site.acked) > 100
