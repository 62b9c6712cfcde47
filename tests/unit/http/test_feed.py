"""The feed: each follower sees its tenant's entries once and in order, from memory or from the store."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from outlast.core.feed import Changes, Feed
from outlast.core.store.port import EntryRow, Head, StreamKey, StreamRow, WriteSet
from outlast.testing.store import MemoryStore

pytestmark = pytest.mark.anyio


class Log:
    """A log whose entries belong to tenants, and a feed over it."""

    def __init__(self, keep: int) -> None:
        self.store = MemoryStore()
        self.feed = Feed(self.store)
        self.feed.followers = 1
        self.feed._recent = deque(maxlen=keep)

    def write(self, *tenants: str, seen: bool = True) -> None:
        """Append an entry of each tenant in one flush; ``seen``: by this process."""
        at, rows = len(self.store.disk.entries), []
        for i, tenant in enumerate(tenants):
            leaf = b'{"v":1,"tenant":"%s","type":"t.happened"}' % tenant.encode()
            rows.append(EntryRow(at + i, -1, leaf))
            self.store.disk.entries.append((-1, leaf))
        head = Head(at + len(rows), b"", 0, 1)
        self.store.disk.head = head
        if seen:
            self.feed.committed(WriteSet(head=head, entries=rows))

    async def all(self, tenant: str, start: int = 0) -> list[int]:
        """Indices of everything that a follower sees."""
        found: list[int] = []
        while True:
            piece = await self.feed.read(tenant, start)
            found += [entry.index for entry in piece.entries]
            if piece.end == start:
                return found
            start = piece.end


@pytest.mark.parametrize("keep", [1, 3, 100])
async def test_once_and_in_order(keep: int) -> None:
    """However few entries memory keeps, a follower from the start sees its own, each once."""
    log = Log(keep)
    for _ in range(4):
        log.write("a", "b", "a")
    assert await log.all("a") == [0, 2, 3, 5, 6, 8, 9, 11]
    assert await log.all("b") == [1, 4, 7, 10]
    assert await log.all("b", start=5) == [7, 10]
    assert await log.all("c") == []


async def test_another_nodes_entries_in_between() -> None:
    """What another process wrote is read from the store, in its place."""
    log = Log(100)
    log.write("a")
    log.write("a", "a", seen=False)
    log.write("a")
    assert await log.all("a") == [0, 1, 2, 3]


async def test_nothing_is_kept_while_nobody_follows() -> None:
    """Without followers memory stays empty; whoever comes later reads the store."""
    log = Log(100)
    log.feed.followers = 0
    log.write("a", "a")
    assert len(log.feed._recent) == 0
    log.feed.followers = 1
    log.write("a")
    assert await log.all("a") == [0, 1, 2]


async def test_behind() -> None:
    """A follower is behind when memory no longer has what comes next for it."""
    log = Log(2)
    log.write("a", "a", "a", "a")
    assert log.feed.behind(1)
    assert not log.feed.behind(2)
    assert not log.feed.behind(4)


async def test_listening_before_reading_misses_nothing() -> None:
    """An entry written between reading and waiting wakes the waiter."""
    log = Log(10)
    moved = log.feed.listen()
    assert (await log.feed.read("a", 0)).end == 0
    log.write("a")
    async with asyncio.timeout(1):
        await moved.wait()


async def test_change_of_one_stream_wakes_its_waiters_only() -> None:
    """A flush wakes those who wait for a stream it wrote; whoever gives up is not remembered."""
    changes = Changes()
    mine, other = StreamKey("t", "k", "1"), StreamKey("t", "k", "2")
    waiting, quiet = changes.listen(mine), changes.listen(other)
    row = StreamRow(1, "", b"{}", 0, 0)
    changes.committed(WriteSet(head=Head(0, b"", 0, 1), streams={mine: row}))
    assert waiting.is_set()
    assert not quiet.is_set()
    changes.forget(other, quiet)
    assert changes._waiting == {}
    again = changes.listen(mine)
    changes.wake_all()
    assert again.is_set()
