"""A disk that fills up: new work is refused and says why, nothing is lost, and work resumes with the space.

On a small file system of its own where one can be mounted (root), which fills for real; elsewhere SQLite is told
that its file may not grow. Both are the same to the store: a write that finds no room.
"""

from __future__ import annotations

import asyncio
import gc
import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Planner, Receipt, Settle
from outlast.core.errors import Unavailable
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, Deposit, ledger_deciders
from outlast.testing.suites.store import deposit, work

pytestmark = pytest.mark.anyio

DECIDERS = ledger_deciders()
MOUNT_MIB = 4
BALLAST_BLOCK = b"\0" * 4096


class Disk(Protocol):
    """Somewhere to put a database, that can be full."""

    folder: pathlib.Path

    def fill(self, store: SqliteStore) -> None:
        """No room from now on."""

    def free(self, store: SqliteStore) -> None:
        """Room again."""


class SmallDisk:
    """A file system of MOUNT_MIB; filled with a file."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def fill(self, store: SqliteStore) -> None:
        """Write until there is no room for a single byte."""
        with (self.folder / "ballast").open("wb", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(BALLAST_BLOCK)
            except OSError:
                pass  # full: what was wanted

    def free(self, store: SqliteStore) -> None:
        """Remove the file."""
        (self.folder / "ballast").unlink()


class CappedFile:
    """SQLite's own limit on its file's pages."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder

    def fill(self, store: SqliteStore) -> None:
        """Not a page more."""
        store._writer.pragma("max_page_count", store._writer.pragma("page_count"))

    def free(self, store: SqliteStore) -> None:
        """As many as it likes."""
        store._writer.pragma("max_page_count", 1_000_000)


def _mounted(folder: pathlib.Path) -> bool:
    if os.geteuid() != 0:
        return False
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={MOUNT_MIB}m", "tmpfs", str(folder)]
    return subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0


@pytest.fixture(params=["small-disk", "capped-file"])
def disk(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Disk]:
    """Both kinds where both can be had, else the capped file twice: the check is then the same."""
    folder = tmp_path / "mount"
    if request.param == "small-disk" and _mounted(folder):
        yield SmallDisk(folder)
        gc.collect()  # connections that failed to open are closed when they are collected
        subprocess.run(["umount", str(folder)], check=True)
    else:
        yield CappedFile(tmp_path)


async def _until_refused(submit: Callable[[int], object]) -> tuple[list[Receipt], Unavailable]:
    """Commit until there is no room: the receipts, and the refusal."""
    receipts: list[Receipt] = []
    for number in range(100_000):
        try:
            receipts.append(await submit(number))  # type: ignore[misc]  # a coroutine
        except Unavailable as error:
            return receipts, error
    raise AssertionError("the disk was never full")


async def test_full_disk_refuses_and_loses_nothing(disk: Disk) -> None:
    """Refused as storage-full with a time to come back; reads go on; with space back, so does everything."""
    path, clock = disk.folder / "site.db", SystemClock()
    store = await SqliteStore.open(path)
    committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)
    await committer.submit(work("a", deposit(jobs=2), key="first", body=b""))
    wish = Claim(worker="w", kinds=(JOB,), limit=1, now_ms=clock.now_ms(), ttl_ms=60_000)
    (held,) = await committer.claim(wish)
    disk.fill(store)

    async def submit(number: int) -> Receipt:
        ballast = Deposit(at_ms=0, amount=1, memo="x" * 4_000)
        return await committer.submit(work("b", ballast, key=f"k{number}", body=b""))

    receipts, error = await _until_refused(submit)
    assert (error.code, error.retry, error.scope) == ("storage-full", "later", "site")
    assert error.retry_after_s is not None
    assert error.hint
    head = await store.head()
    assert head.size == 1 + len(receipts)
    outcomes = await asyncio.gather(*[submit(10_000 + n) for n in range(5)], return_exceptions=True)
    assert {getattr(outcome, "code", "") for outcome in outcomes} == {"storage-full"}
    assert await store.head() == head
    await audit(store, DECIDERS)

    disk.free(store)
    again = await submit(len(receipts))
    assert (again.replayed, again.index) == (False, head.size)
    assert (await committer.submit(work("a", deposit(jobs=2), key="first", body=b""))).replayed
    await committer.settle(Settle("t1", Finish(job=held.id, lease=held.lease)))
    before = await audit(store, DECIDERS)
    await store.close()
    store = await SqliteStore.open(path)
    after = await audit(store, DECIDERS)
    assert after.entries == before.entries
    assert [job.state for job in after.jobs.values()] == ["done", "ready"]
    await store.close()


async def test_restart_on_a_full_disk_says_so(disk: Disk) -> None:
    """Opened while there is no room at all, a store says storage-full or works; afterwards it opens, whole."""
    path, clock = disk.folder / "site.db", SystemClock()
    store = await SqliteStore.open(path)
    committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)
    for number in range(20):
        await committer.submit(work(f"s{number}", deposit(jobs=1)))
    await store.close()
    if isinstance(disk, SmallDisk):
        disk.fill(store)
        for _ in range(2):
            with pytest.raises(Unavailable, match="storage-full"):
                await SqliteStore.open(path)
        disk.free(store)
    store = await SqliteStore.open(path)
    assert len((await audit(store, DECIDERS)).entries) == 20
    committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)
    assert (await committer.submit(work("s0"))).index == 20
    await store.close()
