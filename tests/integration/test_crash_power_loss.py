"""The power goes, at every point: the real store on SQLite, over a disk that keeps what was synced and no more.

One run is recorded, write by write; then the files are built as they would be found after a power cut at each of
its points, opened by the real store, read whole, and compared with what had been acknowledged by then.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import msgspec
import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Planner
from outlast.core.errors import Corrupt
from outlast.core.ids import Random
from outlast.core.store.sqlite import engine
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, Deposit, ledger_deciders
from outlast.testing.powerloss import RecordingDisk, Step, materialise, noted
from outlast.testing.suites.store import work

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DECIDERS = ledger_deciders()
ROUNDS = 10
IN_PARALLEL = 3
BALLAST = "x" * 1_500
"""Makes entries span pages, so that checkpoints write many."""


async def record(
    folder: pathlib.Path, spoil: Callable[[SqliteStore], None] = lambda _: None
) -> list[Step]:
    """A site at work: commits in groups, jobs ended with commands, checkpoints in between."""
    disk = RecordingDisk(folder)
    try:
        clock = SystemClock()
        store = await SqliteStore.open(folder / "site.db")
        spoil(store)
        committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)

        async def deposit(key: str) -> None:
            command = Deposit(at_ms=0, amount=1, jobs=1, counter="n", memo=key + BALLAST)
            stream = f"s{int(key) % 4}"
            await committer.submit(work(stream, command, key=key, body=b"", counters=("n",)))
            disk.note(key)

        for number in range(ROUNDS):
            keys = [str(number * IN_PARALLEL + at) for at in range(IN_PARALLEL)]
            await asyncio.gather(*[deposit(key) for key in keys])
            wish = Claim(worker="w", kinds=(JOB,), limit=1, now_ms=clock.now_ms(), ttl_ms=9_000)
            for job in await committer.claim(wish):
                ending = work("jobs", Deposit(at_ms=0, amount=1, memo=f"job-{job.id}"))
                finish = Finish(job=job.id, lease=job.lease)
                await committer.submit(msgspec.structs.replace(ending, finish=finish))
                disk.note(f"job-{job.id}")
        steps = list(disk.steps)
        await store.close()
        return steps
    finally:
        disk.end()


async def broken_promises(
    steps: list[Step], point: int, folder: pathlib.Path, rng: Random | None
) -> list[str]:
    """What is wrong with the site after the power went at ``point``."""
    materialise(steps, point, folder, rng)
    promised = noted(steps, point)
    try:
        store = await SqliteStore.open(folder / "site.db")
    except Corrupt as error:
        return [str(error)]
    try:
        found = await audit(store, DECIDERS)
        memos = Counter(
            msgspec.json.decode(entry.data)["memo"].removesuffix(BALLAST) for entry in found.entries
        )
        wrong = [f"{key} is there {memos[key]} times" for key in promised if memos[key] != 1]
        wrong += [f"{key} is there twice" for key in memos if memos[key] > 1]
        done = {f"job-{job.id}" for job in found.jobs.values() if job.state == "done"}
        ended = {memo for memo in memos if memo.startswith("job-")}
        wrong += [f"jobs {done ^ ended} and the log disagree"] if done != ended else []
        if await store.counter("n") != len(memos) - len(ended):
            wrong.append("the counter and the log disagree")
        return wrong
    except AssertionError as error:
        return [str(error)]
    finally:
        await store.close()


@pytest.fixture
def eager_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints come every few commits, by their thread and by the writer."""
    monkeypatch.setattr(engine, "CHECKPOINT_PAGES", 8)
    monkeypatch.setattr(engine, "WAL_LIMIT_PAGES", 60)


@pytest.fixture
def ruins(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to build what was left: in memory where there is such a place, hundreds of sites are opened here."""
    memory = pathlib.Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-ruins-", dir=parent))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.usefixtures("eager_checkpoints")
async def test_power_cut_at_every_point(tmp_path: pathlib.Path, ruins: pathlib.Path) -> None:
    """Whatever was acknowledged is there, once; whatever is there is whole; nothing unsynced is relied upon."""
    site = tmp_path / "site"
    site.mkdir()
    steps = await record(site)
    kinds = Counter((step.kind, step.name) for step in steps)
    assert kinds["sync", "site.db"] > 1, "no checkpoint was recorded"
    assert len(noted(steps, len(steps))) == ROUNDS * (IN_PARALLEL + 1)
    wrong: dict[int, list[str]] = {}
    for point in range(len(steps) + 1):
        for rng in (None, Random(point)) if point % 2 else (None,):
            folder = ruins / f"{point}-{rng is not None}"
            if found := await broken_promises(steps, point, folder, rng):
                wrong[point] = found
            shutil.rmtree(folder)
    assert wrong == {}


@pytest.mark.usefixtures("eager_checkpoints")
async def test_store_that_does_not_sync_is_found_out(tmp_path: pathlib.Path) -> None:
    """The same check sees a store whose commits are not synced lose what it acknowledged."""
    site = tmp_path / "site"
    site.mkdir()

    def never_sync(store: SqliteStore) -> None:
        store._writer.pragma("synchronous", 0)

    steps = await record(site, never_sync)
    for point in range(len(steps), 0, -7):
        try:
            lost = bool(await broken_promises(steps, point, tmp_path / str(point), None))
        except Corrupt:
            lost = True  # what is left need not even be a database
        if lost:
            return
    raise AssertionError("nothing was lost")
