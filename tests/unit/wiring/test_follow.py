"""The follower: what other nodes wrote is told in order and completely, what this process wrote is not."""

from __future__ import annotations

import pytest

from outlast.core.clock import ManualClock
from outlast.core.errors import Corrupt, Unavailable
from outlast.core.ids import Random
from outlast.core.news import News
from outlast.core.store.port import EntryRow, Head, StreamKey, WriteSet
from outlast.testing.store import MemoryStore
from outlast.wiring import follow
from outlast.wiring.follow import MAX_LAG_S, Follower

pytestmark = pytest.mark.anyio


class Log:
    """A log that this process and others write, and a follower of it."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = ManualClock()
        self.told: list[int] = []
        self.streams: set[StreamKey] = set()
        self.follower = Follower(self.store, self.clock, self.tell)

    async def tell(self, news: News) -> None:
        """What the follower tells."""
        self.told += [row.index for row in news.entries]
        self.streams |= news.streams

    def write(self, count: int = 1, *, own: bool = False, heard: bool = True) -> list[int]:
        """Append entries in one flush; ``own``: of this process, ``heard``: which has noticed so already."""
        at = len(self.store.disk.entries)
        leaf = b'{"v":1,"tenant":"t","stream":"a.b/%d","type":"x"}' % at
        rows = [EntryRow(at + i, -1, leaf) for i in range(count)]
        self.store.disk.entries += [(-1, row.leaf) for row in rows]
        self.store.disk.head = Head(at + count, b"", 0, 1)
        if own and heard:
            self.hear(rows)
        return [row.index for row in rows]

    def hear(self, rows: list[EntryRow]) -> None:
        """This process notices that it has written."""
        self.follower.committed(WriteSet(head=self.store.disk.head, entries=rows))


async def test_only_what_others_wrote_is_told() -> None:
    """Own and others' entries in any mixture: told are exactly the others', each once, in order."""
    rng = Random(7)
    for _ in range(50):
        log, others = Log(), []
        log.write(rng.randrange(3))
        await log.follower.begin()
        for _ in range(rng.randrange(12)):
            own = rng.random() < 0.5
            indices = log.write(rng.randrange(1, 4), own=own)
            others += [] if own else indices
            if rng.random() < 0.3:
                await log.follower.look()
        await log.follower.look()
        assert log.told == others
        assert not log.follower._own


async def test_more_than_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is more than one read brings is told to the end, with the streams it belongs to."""
    monkeypatch.setattr(follow, "READ_BATCH", 3)
    log = Log()
    await log.follower.begin()
    wanted = log.write(4)
    log.write(5, own=True)
    wanted += log.write(8)
    await log.follower.look()
    assert log.told == wanted
    assert log.streams == {StreamKey("t", "a.b", "0"), StreamKey("t", "a.b", "9")}


async def test_what_commits_while_it_looks() -> None:
    """A flush of this process that ends between two reads costs nothing that others wrote."""
    log = Log()
    await log.follower.begin()
    others = log.write(2)
    tell = log.tell

    async def meanwhile(news: News) -> None:
        await tell(news)
        if len(log.told) == 2:
            log.write(2, own=True)
            others.extend(log.write(1))

    log.follower._tell = meanwhile
    await log.follower.look()
    await log.follower.look()
    assert log.told == others == [0, 1, 4]


async def test_read_before_it_was_heard_of() -> None:
    """What this process has just written may be read before it is heard of: it is told, and nothing else is missed."""
    log = Log()
    await log.follower.begin()
    log.write(2, own=True, heard=False)
    await log.follower.look()
    log.hear([EntryRow(0, -1, b""), EntryRow(1, -1, b"")])
    log.write(1)
    await log.follower.look()
    assert log.told == [0, 1, 2]
    assert not log.follower._own


async def test_told_again_where_a_listener_failed() -> None:
    """A listener that could not take news up (the store was away) gets the same again."""
    log = Log()
    await log.follower.begin()
    log.write(2)
    tell = log.tell

    async def failing(_news: News) -> None:
        raise Unavailable("storage-unreachable", "away")

    log.follower._tell = failing
    with pytest.raises(Unavailable):
        await log.follower.look()
    log.follower._tell = tell
    await log.follower.look()
    assert log.told == [0, 1]


async def test_current_only_while_looks_succeed() -> None:
    """Nothing is current before the first look, nor MAX_LAG_S after the last look that succeeded began."""
    log = Log()
    await log.follower.begin()
    assert not log.follower.is_current()
    await log.follower.look()
    assert log.follower.is_current()
    log.clock.advance(int(MAX_LAG_S * 1000) - 1)
    assert log.follower.is_current()
    log.clock.advance(1)
    assert not log.follower.is_current()


async def test_a_gap_is_no_endless_loop() -> None:
    """A head beyond the entries is damage, and said so."""
    log = Log()
    await log.follower.begin()
    log.store.disk.head = Head(3, b"", 0, 1)
    with pytest.raises(Corrupt):
        await log.follower.look()
