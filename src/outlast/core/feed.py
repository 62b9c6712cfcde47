"""The log as it grows, for whoever follows it: a tenant's entries in order, and the change of a single stream.

Guarantees: a follower sees each of its tenant's entries once, in log order, from wherever it says it stopped, and
never another tenant's. Nobody who follows costs memory of his own: recent entries are kept once for all; whoever
is further behind reads the store. So a slow follower can neither grow this process nor hold up a commit.

Leaves to others: how entries travel, and when to give up on someone slow. One event loop; not thread-safe.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from outlast.core.news import Written
from outlast.core.store.port import Store, StreamKey

RECENT = 8_192
"""Entries kept in memory for followers."""
READ_BATCH = 512
"""Entries read from the store at once for a follower who is further behind."""


class FeedEntry(msgspec.Struct, frozen=True):
    """An entry of the log: its index, its event's name, its bytes as first written (one line of JSON)."""

    index: int
    tenant: str
    type: str
    leaf: bytes


class Piece(msgspec.Struct, frozen=True):
    """What one look brought: the tenant's entries, and the index up to which (exclusive) all were looked at."""

    entries: tuple[FeedEntry, ...]
    end: int


class _Head(msgspec.Struct):
    """The few members of an entry that are needed here."""

    tenant: str
    type: str


_decode_head = msgspec.json.Decoder(_Head).decode


class Feed:
    """Follows one site's log. Give ``committed`` every flush, and what other nodes have written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: deque[FeedEntry] = deque(maxlen=RECENT)
        self._moved = asyncio.Event()
        self.followers = 0
        """How many follow; while there is none, nothing is kept."""

    def committed(self, write: Written) -> None:
        """Take note of what has been written. What comes late, or twice, is not taken into memory."""
        if not write.entries:
            return
        if not self.followers:
            self._recent.clear()
            return
        if self._recent and self._recent[-1].index + 1 < write.entries[0].index:
            self._recent.clear()  # another node wrote in between: followers read the store
        last = self._recent[-1].index if self._recent else -1
        for row in write.entries:
            if row.index > last:
                self._recent.append(_entry(row.index, row.leaf))
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    async def end(self) -> int:
        """The index that the next entry will have."""
        return (await self._store.head()).size

    def behind(self, start: int) -> bool:
        """Whether entry ``start`` is older than what is kept in memory."""
        return bool(self._recent) and start < self._recent[0].index

    def listen(self) -> asyncio.Event:
        """An event that is set by the next commit. Listen first, then read, then wait."""
        return self._moved

    async def read(self, tenant: str, start: int, *, fresh: bool = False) -> Piece:
        """The tenant's entries among the next ones from ``start`` on; empty with ``end == start``: none yet.

        ``fresh``: ask the store also where memory says that there is nothing new (another node may have written).
        """
        recent = self._recent
        if recent and not fresh and start == recent[-1].index + 1:
            return Piece((), start)
        if recent and recent[0].index <= start <= recent[-1].index:
            first = start - recent[0].index
            found = [recent[i] for i in range(first, min(len(recent), first + READ_BATCH))]
            return Piece(tuple(e for e in found if e.tenant == tenant), found[-1].index + 1)
        leaves = await self._store.entries(start, READ_BATCH)
        entries = [_entry(start + i, leaf) for i, leaf in enumerate(leaves)]
        return Piece(tuple(e for e in entries if e.tenant == tenant), start + len(leaves))


def _entry(index: int, leaf: bytes) -> FeedEntry:
    head = _decode_head(leaf)
    return FeedEntry(index, head.tenant, head.type, leaf)


class Changes:
    """Wakes whoever waits for a stream to change. Give ``committed`` every flush, and what other nodes have written."""

    def __init__(self) -> None:
        self._waiting: dict[StreamKey, asyncio.Event] = {}

    def committed(self, write: Written) -> None:
        """Wake those whose stream was written."""
        if self._waiting:
            for key in self._waiting.keys() & write.streams:
                self._waiting.pop(key).set()

    @property
    def waiting(self) -> int:
        """Streams that somebody waits for."""
        return len(self._waiting)

    def listen(self, key: StreamKey) -> asyncio.Event:
        """An event that is set at the stream's next change. Listen first, then look, then wait."""
        event = self._waiting.get(key)
        if event is None:
            event = self._waiting[key] = asyncio.Event()
        return event

    def forget(self, key: StreamKey, event: asyncio.Event) -> None:
        """Whoever listened gave up. Others may be waiting on the same event: they are woken and listen anew."""
        if self._waiting.get(key) is event:
            del self._waiting[key]
            event.set()

    def wake_all(self) -> None:
        """Wake everybody, whatever they wait for."""
        while self._waiting:
            self._waiting.popitem()[1].set()
