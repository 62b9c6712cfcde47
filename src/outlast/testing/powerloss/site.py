"""A site at work on a recorded disk, and what must hold of whatever is left of it after a power cut.

The site is the real store, committer and publisher with the ledger's little accounts: commits in groups, jobs ended
with commands, checkpoints of the database in between, tiles and signed checkpoints of the log.
"""

from __future__ import annotations

import asyncio
import pathlib
import shutil
from collections import Counter
from collections.abc import Callable, Set
from typing import NamedTuple

import msgspec

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Claim, Committer, Finish, Idempotency, Planner, Submission
from outlast.core.errors import Corrupt
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.fsck import verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.publish import Publisher
from outlast.core.store.port import WriteSet
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import Audit, audit
from outlast.testing.ledger import JOB, KIND, Deposit, ledger_deciders
from outlast.testing.powerloss.disk import Cut, Tree, cuts, write_tree
from outlast.testing.powerloss.memory import MemoryFiles
from outlast.testing.powerloss.steps import Recorder, Step, noted
from outlast.testing.powerloss.vfs import RecordingVfs

DECIDERS = ledger_deciders()
IN_PARALLEL = 3
"""Commands in one group."""
BALLAST = "x" * 1_500
"""Makes entries span pages, so that checkpoints of the database write many."""
LOG = pathlib.PurePosixPath("log")
"""The archive's place on the recorded disk."""
ORIGIN = "log.example/powerloss"
KEY = LogKey(ORIGIN, bytes(range(32)), bytes(range(32, 64)))

PUBLISHED = "published "
"""A note that begins so is of a checkpoint, and names its size; any other is of a command or a job's end."""


def submission(stream: str, command: Deposit, key: str = "") -> Submission:
    """A command for an account."""
    return Submission(
        tenant="t",
        actor="test",
        kind=KIND,
        stream=stream,
        command=command,
        counters=(command.counter,) if command.counter else (),
        idempotency=Idempotency(key, b"") if key else None,
    )


class Site:
    """Store and committer, and where ``files`` are given a publisher; notes in ``recorder`` what it acknowledged.

    ``bounds`` are the log's sizes between flushes: it never has another.
    """

    def __init__(
        self, store: SqliteStore, recorder: Recorder, files: MemoryFiles | None = None
    ) -> None:
        self.store = store
        self.recorder = recorder
        self.clock = SystemClock()
        planner = Planner(DECIDERS, HybridClock(self.clock), "site")
        self.committer = Committer(store, planner, self.clock, self._flushed)
        self.bounds = {0}
        self.publisher: Publisher | None = None
        if files is not None:
            archive = TileArchive(files.path(LOG), files)
            self.publisher = Publisher(store, archive, sign, self.clock)

    def _flushed(self, write: WriteSet) -> None:
        self.bounds.add(write.head.size)
        if self.publisher is not None:
            self.publisher.committed(write)

    async def deposit(self, key: str) -> None:
        """One command, its acknowledgement noted."""
        command = Deposit(at_ms=0, amount=1, jobs=1, counter="n", memo=key + BALLAST)
        await self.committer.submit(submission(f"s{int(key) % 4}", command, key))
        self.recorder.note(key)

    async def end_a_job(self) -> None:
        """Claim one, and end it with a command."""
        now_ms = self.clock.now_ms()
        wish = Claim(worker="w", kinds=(JOB,), limit=1, now_ms=now_ms, ttl_ms=9_000)
        for job in await self.committer.claim(wish):
            ending = submission("jobs", Deposit(at_ms=0, amount=1, memo=f"job-{job.id}"))
            finish = Finish(job=job.id, lease=job.lease)
            await self.committer.submit(msgspec.structs.replace(ending, finish=finish))
            self.recorder.note(f"job-{job.id}")

    async def publish(self) -> None:
        """A checkpoint of all there is, where this site publishes."""
        if self.publisher is not None:
            size = await self.publisher.publish_once()
            self.recorder.note(f"{PUBLISHED}{size}")

    async def work(self, rounds: int, first: int = 0) -> None:
        """Groups of commands, beside a checkpoint of what was there before; a job's end after each."""
        for number in range(first, first + rounds):
            keys = [str(number * IN_PARALLEL + at) for at in range(IN_PARALLEL)]
            await asyncio.gather(self.publish(), *[self.deposit(key) for key in keys])
            await self.end_a_job()
        await self.publish()


def sign(size: int, root: bytes) -> bytes:
    """A checkpoint; one signature, which always has the same bytes."""
    return sign_checkpoint(ORIGIN, size, root, KEY.signers[:1])


class Record(NamedTuple):
    """A run: its steps, and the sizes that the log had between flushes."""

    steps: list[Step]
    bounds: Set[int]


async def record(
    folder: pathlib.Path,
    rounds: int,
    recorder: Recorder,
    *,
    with_log: bool = False,
    spoil: Callable[[Site], None] = lambda _: None,
) -> Record:
    """What a site at work does to its disk. ``spoil`` may plant a bug in it."""
    vfs = RecordingVfs(folder, recorder)
    try:
        store = await SqliteStore.open(folder / "site.db")
        site = Site(store, recorder, _files(recorder) if with_log else None)
        spoil(site)
        await site.work(rounds)
        steps = list(recorder.steps)
        await store.close()
        return Record(steps, site.bounds)
    finally:
        vfs.end()


def _files(recorder: Recorder) -> MemoryFiles:
    return MemoryFiles(pathlib.Path("/disk"), recorder=recorder)


async def damage(
    run: Record,
    ruins: pathlib.Path,
    samples: int,
    seed: int,
    points: Callable[[int], bool] = lambda _: True,
    stop_at_first: bool = False,
) -> tuple[int, dict[int, list[str]]]:
    """How many sites were looked at after a cut, and what is wrong with them, by the point of the cut."""
    wrong: dict[int, list[str]] = {}
    count = 0
    for count, cut in enumerate(cuts(run.steps, samples, seed, points), 1):
        folder = ruins / str(count)
        promised = noted(run.steps, cut.point)
        if found := await broken_promises(cut, promised, run.bounds, folder):
            wrong[cut.point] = found
            if stop_at_first:
                break
        shutil.rmtree(folder)
    return count, wrong


async def broken_promises(
    cut: Cut, promised: list[str], bounds: Set[int], folder: pathlib.Path
) -> list[str]:
    """What is wrong with the site that is left of ``cut``; its files are made in ``folder``."""
    write_tree({n: c for n, c in cut.tree.items() if not n.startswith("log/")}, folder)
    try:
        store = await SqliteStore.open(folder / "site.db")
    except Corrupt as error:
        return [str(error)]
    try:
        found = await audit(store, DECIDERS)
        acked = [text for text in promised if not text.startswith(PUBLISHED)]
        wrong = await _wrong_in_store(store, found, acked)
        if len(found.entries) not in bounds:
            wrong.append(f"{len(found.entries)} entries: a flush was cut in half")
        if any(name.startswith("log/") for name in cut.tree) or len(acked) < len(promised):
            wrong += await _wrong_in_log(store, cut.tree, promised)
        return wrong
    except (AssertionError, Corrupt) as error:
        return [str(error)]
    finally:
        await store.close()


async def _wrong_in_store(store: SqliteStore, found: Audit, acked: list[str]) -> list[str]:
    """Every acknowledged command is there once, whole flushes only; jobs and their ends agree."""
    memos = Counter(
        msgspec.json.decode(entry.data)["memo"].removesuffix(BALLAST) for entry in found.entries
    )
    wrong = [f"{key} is there {memos[key]} times" for key in acked if memos[key] != 1]
    wrong += [f"{key} is there twice" for key in memos if memos[key] > 1]
    done = {f"job-{job.id}" for job in found.jobs.values() if job.state == "done"}
    ended = {memo for memo in memos if memo.startswith("job-")}
    if done != ended:
        wrong.append(f"jobs {done ^ ended} and the log disagree")
    if await store.counter("n") != len(memos) - len(ended):
        wrong.append("the counter and the log disagree")
    return wrong


async def _wrong_in_log(store: SqliteStore, tree: Tree, promised: list[str]) -> list[str]:
    """The published log is whole, as far as acknowledged, of the store's entries, and can be grown to the store's."""
    files = MemoryFiles(pathlib.Path("/disk"), tree)
    archive = TileArchive(files.path(LOG), files)
    checkpoint = archive.published()
    size = 0 if checkpoint is None else checkpoint.size
    head = await store.head()
    sizes = [int(text.removeprefix(PUBLISHED)) for text in promised if text.startswith(PUBLISHED)]
    wrong = []
    if sizes and size < max(sizes):
        wrong.append(f"{max(sizes)} were published, the log has {size}")
    if size > head.size:
        return [*wrong, f"the log has {size} entries, the store {head.size}"]
    if checkpoint is not None:
        edge = CompactRange()
        edge.extend(leaf_hash(leaf) for leaf in await store.entries(0, size))
        if edge.root() != checkpoint.root:
            wrong.append("the log is not of the store's entries")
        wrong += [str(one) for one in verify_log(archive, KEY.verifiers).findings]
    again = Publisher(store, archive, sign, SystemClock())
    if await again.publish_once() != head.size:
        wrong.append("the log cannot be grown to the store's size")
    if head.size:
        wrong += [str(one) for one in verify_log(archive, KEY.verifiers).findings]
    return wrong
