"""The disk says no, at every write and every sync of a run (ENOSPC, EIO), and the power goes afterwards.

A write that fails: the command is refused, the site goes on, and everything acknowledged before and after is there. A
sync that fails: the process leaves at once and starts again on what it finds, which may be what the disk has only in
memory: what it acknowledges then must survive a power cut all the same.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import shutil
from typing import Literal

import pytest

from outlast.core.errors import Refused, Unavailable
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.powerloss import Fault, Recorder, RecordingVfs, VolatileDisk, noted, write_tree
from outlast.testing.powerloss.site import IN_PARALLEL, Record, Site, damage, record

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.slow,
    # APSW reports an error of a VFS here, too, where it cannot raise it: in the closing of a connection
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

STRIDE = int(os.environ.get("POWERLOSS_STRIDE", "16"))
"""Every so manieth write or sync fails; `make powerloss` lets each fail once."""
SAMPLES = int(os.environ.get("POWERLOSS_SAMPLES", "0"))
ROUNDS = 3
MORE = 3
"""Rounds after those that the fault falls into, at least."""
MAX_LIVES = 4
LATE = 3
"""The last few steps of a run are not the same in number each time: a fault there might never be met."""
Hits = Literal["write", "sync"]
SEED = 3


class Machine:
    """A site on a disk with a fault, started again each time its process leaves."""

    def __init__(self, folder: pathlib.Path, recorder: Recorder) -> None:
        self.last = ""
        self.record = Record([], set())
        self.folder = folder
        self.recorder = recorder
        self.bounds = {0}
        self.refused: list[str] = []
        self.lives = 0
        self._dead = False

    def leave(self, error: BaseException) -> None:
        """In the place of `exit_process`: from here on nothing that is done counts."""
        self._dead = True
        self.recorder.stop()

    async def run(self) -> Record:
        """Work through the fault, and a little more in each new life."""
        number, end = 0, ROUNDS + MORE
        while self.lives < MAX_LIVES:
            number = await self._live(number, end)
            end += ROUNDS
            if not self._dead:
                break
        assert not self._dead, "the site does not come up again"
        return Record(list(self.recorder.steps), self.bounds)

    async def _live(self, first: int, end: int) -> int:
        """One life of the process, on the files as they look, synced or not; returns the number of the next round."""
        folder = self.folder / str(self.lives)
        self.lives, self._dead = self.lives + 1, False
        disk = VolatileDisk()
        for step in self.recorder.steps:
            disk.do(step)
        write_tree(disk.live(), folder)
        self.recorder.go_on()
        vfs = RecordingVfs(folder, self.recorder)
        try:
            store = await SqliteStore.open(folder / "site.db", self.leave)
            self.bounds.add((await store.head()).size)
            number = await self._work(Site(store, self.recorder), first, end)
            self.recorder.stop()  # closing writes, which a process that is killed does not
            await store.close()
            return number
        except (Unavailable, Refused) as error:  # it says why, and is started again
            self.refused.append(error.code)
            self.leave(error)
            return first
        finally:
            vfs.end()

    async def _work(self, site: Site, first: int, end: int) -> int:
        number = first
        self.last = str(end * IN_PARALLEL - 1)
        while number < end and not self._dead:
            await self._one_round(site, number)
            number += 1
        self.bounds |= site.bounds
        return number

    async def _one_round(self, site: Site, number: int) -> None:
        deposits = [site.deposit(str(number * IN_PARALLEL + at)) for at in range(IN_PARALLEL)]
        outcomes = await asyncio.gather(*deposits, site.end_a_job(), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Unavailable):
                self.refused.append(outcome.code)
            elif isinstance(outcome, BaseException):
                raise outcome


async def run_with(fault: Fault, folder: pathlib.Path, patch: pytest.MonkeyPatch) -> Machine:
    """A machine that has met the fault and gone on."""
    recorder = Recorder(fault)
    machine = Machine(folder, recorder)
    patch.setattr(engine, "exit_process", machine.leave)
    machine.record = await machine.run()
    assert recorder.failed, "the fault was never met"
    return machine


async def lost(machine: Machine, ruins: pathlib.Path) -> dict[int, list[str]]:
    """What is wrong after power cuts at some points of its lives."""
    end = len(machine.record.steps)
    points = {end - (end // 5) * part for part in range(5)}
    _, wrong = await damage(machine.record, ruins, SAMPLES, SEED, points.__contains__)
    return wrong


async def check(
    folder: pathlib.Path, ruins: pathlib.Path, fault: Fault, patch: pytest.MonkeyPatch
) -> list[str]:
    """Nothing is lost, and it went on; returns with what commands were refused."""
    machine = await run_with(fault, folder, patch)
    assert await lost(machine, ruins) == {}, fault
    assert machine.last in noted(machine.record.steps, len(machine.record.steps)), "it stopped"
    return machine.refused


async def count_steps(folder: pathlib.Path, hits: Hits) -> int:
    """How many writes or syncs a run without a fault has."""
    recorder = Recorder()
    await record(folder, ROUNDS, recorder)
    return recorder.count(hits)


@pytest.fixture(autouse=True)
def eager_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of the database come every few commits."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 8)
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 40)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
async def test_a_write_that_fails(
    number: int, tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write in turn, half of it done: refused or made good, never lost, and the site goes on by itself."""
    refused: list[str] = []
    total = await count_steps(tmp_path / "count", "write")
    for at in range(number % STRIDE, total - LATE, STRIDE):
        fault = Fault(at, "write", number, lasts=1 + at % (ROUNDS - 1), half=True)
        refused += await check(tmp_path / str(at), ruins, fault, monkeypatch)
    assert ("storage-full" if number == errno.ENOSPC else "storage-error") in refused
    print(f"{total} writes, every {STRIDE}. failed")


async def test_a_sync_that_fails(
    tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sync in turn: the process leaves, and what it started again on is durable before anything builds on it."""
    total = await count_steps(tmp_path / "count", "sync")
    for at in range(0, total - LATE, max(1, STRIDE // 4)):
        await check(tmp_path / str(at), ruins, Fault(at, "sync"), monkeypatch)
    print(f"{total} syncs")


async def test_a_restart_that_trusts_what_it_reads_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a store that builds on the write-ahead log it finds, whether the disk has it or not."""
    monkeypatch.setattr(engine, "resync", lambda path: None)
    for at in range(3, 12):
        machine = await run_with(Fault(at, "sync"), tmp_path / str(at), monkeypatch)
        if await lost(machine, ruins):
            return
        shutil.rmtree(ruins)
    raise AssertionError("nothing was lost")
