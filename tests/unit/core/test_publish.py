"""The log's publisher: tiles, comparison, checkpoint, in that order; and what stops it for good."""

from __future__ import annotations

import asyncio
import pathlib
from collections.abc import Iterable, Iterator

import msgspec
import pytest

from outlast.core import publish
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Committer, Planner
from outlast.core.errors import (
    Conflict,
    Corrupt,
    OutlastError,
    Refused,
    Unavailable,
    Unknown,
)
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.publish import Publisher
from outlast.testing.ledger import Deposit, ledger_deciders
from outlast.testing.store import MemoryStore
from outlast.testing.suites.store import work

pytestmark = pytest.mark.anyio


class Tree(msgspec.Struct, frozen=True):
    """A tree's size and root."""

    size: int
    root: bytes


class ListArchive:
    """An archive that is a list; what is published is (size, root). ``errors`` are raised by the next grows."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.checkpoints: list[bytes] = []
        self.errors: list[Exception] = []
        self.lie = b""

    @property
    def size(self) -> int:
        """The published size."""
        return int(self.checkpoints[-1].split()[0]) if self.checkpoints else 0

    def published(self) -> Tree | None:
        """The newest that is visible."""
        if not self.checkpoints:
            return None
        size, root = self.checkpoints[-1].split()
        return Tree(int(size), bytes.fromhex(root.decode()))

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """What is there."""
        return iter(self.leaves[start:end])

    def grow(self, old_size: int, entries: Iterable[bytes]) -> Tree:
        """Keep the entries."""
        if self.errors:
            raise self.errors.pop(0)
        self.leaves[old_size:] = entries
        return self.tree()

    def tree(self) -> Tree:
        """What is there."""
        edge = CompactRange()
        edge.extend(leaf_hash(leaf) for leaf in self.leaves)
        return Tree(edge.size, self.lie or edge.root())

    def publish(self, checkpoint: bytes) -> None:
        """Make it visible."""
        self.checkpoints.append(checkpoint)


def sign(size: int, root: bytes) -> bytes:
    """A checkpoint anybody could make."""
    return b"%d %s" % (size, root.hex().encode())


class Bench:
    """A store with a log, an archive, a publisher."""

    def __init__(self) -> None:
        self.clock, self.store, self.archive = ManualClock(), MemoryStore(), ListArchive()
        planner = Planner(ledger_deciders(), HybridClock(self.clock), "site-a")
        self.committer = Committer(self.store, planner, self.clock)
        self.publisher = Publisher(self.store, self.archive, sign, self.clock)

    async def commit(self, entries: int) -> None:
        """More entries."""
        await self.committer.submit(work("a", Deposit(at_ms=0, amount=1, parts=entries)))


async def test_publishes_what_was_committed() -> None:
    """The checkpoint speaks for exactly the entries of the store; nothing new, nothing published."""
    bench = Bench()
    assert await bench.publisher.publish_once() == 0
    assert bench.archive.checkpoints == []
    for entries in (3, 1, 5):
        await bench.commit(entries)
        size = await bench.publisher.publish_once()
        assert bench.archive.leaves == await bench.store.entries(0, 100)
        root = CompactRange.decode((await bench.store.head()).edge).root()
        assert bench.archive.checkpoints[-1] == sign(size, root)
    assert bench.publisher.published == 9
    await bench.publisher.publish_once()
    assert len(bench.archive.checkpoints) == 3


async def test_catches_up_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long absence is read piece by piece and published once."""
    monkeypatch.setattr(publish, "READ_BATCH", 4)
    bench = Bench()
    await bench.commit(11)
    assert await bench.publisher.publish_once() == 11
    assert len(bench.archive.checkpoints) == 1


async def test_goes_on_where_the_archive_stands() -> None:
    """A new process publishes from the archive's checkpoint on, not from the beginning."""
    bench = Bench()
    await bench.commit(3)
    await bench.publisher.publish_once()
    again = Publisher(bench.store, bench.archive, sign, bench.clock)
    assert again.published == 3
    await bench.commit(2)
    assert await again.publish_once() == 5


async def test_store_older_than_the_log_is_a_fork() -> None:
    """A store restored from a backup has fewer entries than were published: nothing is signed."""
    bench = Bench()
    await bench.commit(3)
    await bench.publisher.publish_once()
    older = Bench()
    await older.commit(2)
    forked = Publisher(older.store, bench.archive, sign, bench.clock)
    with pytest.raises(Corrupt, match="log-fork"):
        await forked.publish_once()
    assert len(bench.archive.checkpoints) == 1


@pytest.mark.parametrize("grown", [1, 3])
async def test_older_store_that_was_written_to_is_a_fork(grown: int) -> None:
    """As many entries as were published or more, but others: at the start, and while running (the simulator's seeds
    2:17 and 2:500). Nothing of them reaches the archive, so the log goes on once the newer store is back."""
    bench = Bench()
    await bench.commit(2)
    older = Bench()
    older.store.disk.entries[:] = bench.store.disk.entries
    older.store.disk.head = bench.store.disk.head
    older.store.disk.streams.update(bench.store.disk.streams)
    await bench.commit(1)
    assert await bench.publisher.publish_once() == 3
    older.clock.advance(5)
    await older.commit(grown)
    forked = Publisher(older.store, bench.archive, sign, bench.clock)
    await forked.begin()
    assert forked.failure is not None
    assert forked.failure.code == "log-fork"
    newer = bench.store
    assert await bench.publisher.publish_once() == 3
    bench.publisher._store = older.store
    with pytest.raises(Corrupt, match="log-fork"):
        await bench.publisher.publish_once()
    assert bench.archive.leaves == await newer.entries(0, 100)
    assert len(bench.archive.checkpoints) == 1
    await bench.commit(1)
    assert await Publisher(newer, bench.archive, sign, bench.clock).publish_once() == 4


async def test_no_beginning_without_a_look_at_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store cannot be read at the start nobody knows whether it is older than the log, so nothing may begin
    (the simulator's seed 2:315); an archive that cannot be written is no reason to wait."""
    bench = Bench()
    await bench.commit(3)
    bench.archive.errors.append(Unavailable("archive-io", "full"))
    await bench.publisher.begin()
    assert bench.publisher.failure is None

    async def gone() -> None:
        raise Unavailable("storage-error", "not now")

    monkeypatch.setattr(bench.store, "head", gone)
    with pytest.raises(Unavailable, match="storage-error"):
        await bench.publisher.begin()


async def test_different_root_is_never_signed() -> None:
    """When tiles and commits disagree, nothing is signed, now or later, and the reason is kept."""
    bench = Bench()
    await bench.commit(3)
    bench.archive.lie = b"\x00" * 32
    async with asyncio.timeout(5):
        await bench.publisher.run()
    assert bench.publisher.failure is not None
    assert bench.publisher.failure.code == "log-root-mismatch"
    assert bench.archive.checkpoints == []


async def test_missing_entries_are_damage() -> None:
    """Entries that the head counts and nobody can read stop the publisher, rather than being asked for for ever."""
    bench = Bench()
    await bench.commit(3)
    del bench.store.disk.entries[2:]
    async with asyncio.timeout(5):
        with pytest.raises(Corrupt, match="log-gap"):
            await bench.publisher.publish_once()


@pytest.mark.parametrize("error", [Refused("archive-gap", "x"), Corrupt("archive-rewrite", "x")])
async def test_refusing_archive_stops_the_publisher(error: OutlastError) -> None:
    """An archive that says the log is not what it holds is no passing trouble: it is kept for a person to see."""
    bench = Bench()
    await bench.commit(1)
    bench.archive.errors = [error]
    async with asyncio.timeout(5):
        await bench.publisher.run()
    assert bench.publisher.failure is error


async def test_archive_that_cannot_be_written_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk or a slow one stops nothing for good."""
    monkeypatch.setattr(publish, "RETRY_S", 0.005)
    bench = Bench()
    bench.archive.errors = [Unavailable("archive-io", "full"), OSError(28, "no space")]
    await bench.commit(2)
    running = asyncio.create_task(bench.publisher.run())
    assert await bench.publisher.wait_for(1, 5.0)
    assert not await bench.publisher.wait_for(2, 0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert bench.publisher.failure is None


async def test_waits_until_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """One checkpoint for whatever came within the cadence, the next after the next wake; listeners are told."""
    monkeypatch.setattr(publish, "CADENCE_S", 0.01)
    bench = Bench()
    told: list[int] = []

    async def listener(size: int) -> None:
        told.append(size)

    bench.publisher.on_publish = listener
    running = asyncio.create_task(bench.publisher.run())
    for size in (2, 4):
        await bench.commit(2)
        bench.publisher.wake()
        assert await bench.publisher.wait_for(size - 1, 5.0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert told == [2, 4]


async def test_with_real_tiles(tmp_path: pathlib.Path) -> None:
    """Store, archive and log key together: the published checkpoint is of the store's tree."""
    bench = Bench()
    key, archive = LogKey.generate("log.example"), TileArchive(tmp_path / "log")

    def checkpoint(size: int, root: bytes) -> bytes:
        return sign_checkpoint("log.example", size, root, key.signers, time_s=1_800_000_000)

    publisher = Publisher(bench.store, archive, checkpoint, bench.clock)
    for entries in (300, 1):
        await bench.commit(entries)
        await publisher.publish_once()
    published = archive.published()
    assert published is not None
    assert (published.size, published.root) == (
        301,
        CompactRange.decode((await bench.store.head()).edge).root(),
    )
    assert list(archive.entries(0, 301)) == await bench.store.entries(0, 400)


@pytest.mark.parametrize("kind", [Refused, Conflict, Unknown])
async def test_a_store_that_does_not_answer_is_asked_again(kind: type[OutlastError]) -> None:
    """Whatever the store says instead of an answer is about the store: it ends neither the signing nor its task."""
    bench, error = Bench(), kind("storage-login", "told to")
    await bench.commit(2)
    for name in ("head", "entries"):
        answer = getattr(bench.store, name)

        async def refuse(*_: object, error: OutlastError = error) -> None:
            raise error

        setattr(bench.store, name, refuse)
        assert not await bench.publisher.attempt()
        assert bench.publisher.failure is None
        setattr(bench.store, name, answer)
    assert await bench.publisher.attempt()
    assert bench.publisher.published == 2
