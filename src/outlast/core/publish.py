"""Takes the log from the store to the world: tiles first, then the signed checkpoint that speaks for them.

A loop of its own, so that no slow disk or archive stands in a commit's way. Every CADENCE_S with something new it
takes the entries since the last checkpoint, lets the archive write their tiles, compares the root that the
archive computed from those bytes with the root that the commits computed, and only then signs. A difference is
Corrupt: nothing is signed again until a person has looked.

Entries come from the commits themselves (`Publisher.committed`), as the bytes that were made durable; what came in
otherwise, or before, or is more than RECENT_BYTES, is read from the store. Reading them back each time was most of a
checkpoint's time under load: SQLite hands over the interpreter's lock at every row.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from outlast.core.clock import Clock
from outlast.core.errors import Conflict, Corrupt, Refused, Unavailable, Unknown
from outlast.core.log.merkle import CompactRange
from outlast.core.store.port import EntryRow, Head, Store, WriteSet
from outlast.core.telemetry import Tracer, traced

log = logging.getLogger("outlast.log")

CADENCE_S = 0.1
"""At most one checkpoint in this time: ML-DSA costs 0.8 ms, a file system sync more."""
READ_BATCH = 8_192
"""Entries read from the store at once: bounds memory when catching up."""
RECENT_BYTES = 16 * 1024 * 1024
"""Committed entries kept in memory for the next checkpoint; a site that is further behind reads them again."""
RETRY_S = 1.0
"""Pause after the store could not be read, or the archive not be written."""

T = TypeVar("T")


class Tree(Protocol):
    """A tree's size and root (`outlast.core.log.archive.Head`)."""

    @property
    def size(self) -> int: ...

    @property
    def root(self) -> bytes: ...


class Archive(Protocol):
    """Where tiles and checkpoints go (`outlast.core.log.archive.TileArchive`)."""

    @property
    def size(self) -> int:
        """The size of the published checkpoint; 0 before the first."""
        ...

    def published(self) -> Tree | None:
        """The tree of the published checkpoint; None before the first."""
        ...

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The published entries ``[start, end)``."""
        ...

    def grow(self, old_size: int, entries: Iterable[bytes]) -> Tree:
        """Write the tiles that arise when entries follow entry ``old_size - 1``."""
        ...

    def publish(self, checkpoint: bytes) -> None:
        """Make a signed checkpoint of the tree last grown visible."""
        ...


Sign = Callable[[int, bytes], bytes]
"""``(size, root)`` -> the signed checkpoint."""

OffLoop = Callable[..., Awaitable[Any]]
"""``(function, *arguments)`` -> its result, made where it holds nobody up; the simulator has its own."""


class Recent:
    """The newest committed entries, without a gap, RECENT_BYTES of them at most."""

    def __init__(self) -> None:
        self._start = 0
        self._leaves: list[bytes] = []
        self._bytes = 0

    def add(self, entries: Sequence[EntryRow]) -> None:
        """What one commit wrote, in the order of the log."""
        if entries[0].index != self._start + len(self._leaves):
            self._forget_all()
            self._start = entries[0].index
        self._leaves += [entry.leaf for entry in entries]
        self._bytes += sum(len(entry.leaf) for entry in entries)
        if self._bytes > RECENT_BYTES:
            self._forget_all()

    def take(self, start: int, limit: int) -> list[bytes]:
        """Entries from ``start`` on, ``limit`` at most; none where the first is not here."""
        at = start - self._start
        return self._leaves[at : at + limit] if at >= 0 else []

    def forget(self, end: int) -> None:
        """The entries before ``end`` are not needed any more."""
        gone = min(max(0, end - self._start), len(self._leaves))
        self._bytes -= sum(map(len, self._leaves[:gone]))
        del self._leaves[:gone]
        self._start += gone

    def _forget_all(self) -> None:
        self._start += len(self._leaves)
        self._leaves.clear()
        self._bytes = 0


class Publisher:
    """Publishes one site's log. ``published`` is the size of the newest visible checkpoint.

    ``lag_s`` is how long the newest checkpoint came after the earliest commit of those it was the first to cover.
    """

    def __init__(
        self,
        store: Store,
        archive: Archive,
        sign: Sign,
        clock: Clock,
        off_loop: OffLoop = asyncio.to_thread,
    ) -> None:
        self._store = store
        self._off_loop = off_loop
        self._archive = archive
        self._sign = sign
        self._clock = clock
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._recent = Recent()
        self._agreed = b""
        """The edge of the store's tree that is known to be the published one's."""
        self._last_leaf = b""
        """The last published entry, once it was looked at."""
        self._waiting_since_s: float | None = None
        self._covering_since_s: float | None = None
        self.tracer: Tracer | None = None
        self.published = archive.size
        self.lag_s = 0.0
        self.failure: Corrupt | Refused | None = None
        self.on_publish: Callable[[int], Awaitable[None]] | None = None

    def wake(self) -> None:
        """There are new entries, of whatever origin."""
        if self._waiting_since_s is None:
            self._waiting_since_s = self._clock.monotonic_s()
        self._wake.set()

    def committed(self, write: WriteSet) -> None:
        """This has become durable, in the order of the log: called for each commit of this process."""
        if write.entries:
            self._recent.add(write.entries)
            self.wake()

    @property
    def behind_s(self) -> float:
        """How long the oldest entry without a signed checkpoint has waited; 0.0: there is none."""
        since = [s for s in (self._covering_since_s, self._waiting_since_s) if s is not None]
        return max(0.0, self._clock.monotonic_s() - min(since)) if since else 0.0

    async def wait_for(self, index: int, timeout_s: float) -> bool:
        """Whether the entry at ``index`` is under a published checkpoint within ``timeout_s`` seconds."""
        try:
            async with asyncio.timeout(timeout_s), self._moved:
                await self._moved.wait_for(lambda: self.published > index)
        except TimeoutError:
            pass
        return self.published > index

    async def compare(self) -> None:
        """Compare the store with the published log, to be awaited before anything is accepted. Afterwards ``failure``
        is to be looked at.

        Raises Unavailable where the store cannot be read: who cannot compare must not begin.
        """
        head = await _asked(self._store.head())
        try:
            await self._check_history(head)
        except Corrupt as error:
            self._stop(error)

    async def begin(self) -> None:
        """`compare`, and the first publication, to be awaited before anything is done that this log says is still to
        be done: a store restored from a backup owes what has been done since. An archive that cannot be written holds
        nothing up.
        """
        await self.compare()
        if self.failure is None:
            await self.attempt()

    async def run(self) -> None:
        """Publish until cancelled. A fork or a damaged tile stops publishing and is kept in ``failure``."""
        while self.failure is None:
            started = self._clock.monotonic_s()
            if not await self.attempt():
                await asyncio.sleep(RETRY_S)
                continue
            took_s = self._clock.monotonic_s() - started
            await asyncio.sleep(max(0.0, CADENCE_S - took_s))
            await self._wake.wait()

    async def attempt(self) -> bool:
        """Publish what there is; False where it did not succeed, and is to be tried again unless ``failure`` is set."""
        since_s = self._waiting_since_s
        try:
            await self.publish_once()
        except (Corrupt, Refused) as error:
            self._stop(error)
        except (Unavailable, OSError) as error:
            log.warning("no checkpoint made, will try again: %s", error)
            self._waiting_since_s = since_s
        else:
            return True
        return False

    async def publish_once(self) -> int:
        """Bring archive and checkpoint up to the store's head; returns the published size."""
        self._wake.clear()
        since_s, self._waiting_since_s = self._waiting_since_s, None
        self._covering_since_s = since_s
        head = await _asked(self._store.head())
        await self._check_history(head)
        if head.size > self.published:
            span = None if self.tracer is None else self.tracer.root("publish checkpoint")
            work = self._publish(head, since_s)
            await (work if span is None else traced(span, work))
        self._covering_since_s = None
        return self.published

    def _stop(self, error: Corrupt | Refused) -> None:
        self.failure = error
        log.critical("the log will not be signed again until this is looked into: %s", error)

    async def _check_history(self, head: Head) -> None:
        """Whether the store goes on from what is published, before anything is written to the archive: an older store is
        shorter; or, where it was written to since, has other entries, which carry other times. That it does in every
        entry is for the root to say, once the tiles have grown (`_publish`). Raises Corrupt ``log-fork``."""
        if head.size < self.published:
            raise _fork(
                f"{self.published} entries are published, the store has only {head.size}",
                "The store is older than the log: it was restored from a backup.",
            )
        if not self.published or head.edge == self._agreed:
            return
        if head.size > self.published:
            is_same = await self._goes_on()
        else:
            known = self._archive.published()
            is_same = known is not None and known.root == CompactRange.decode(head.edge).root()
        if not is_same:
            raise _fork(
                f"{self.published} entries are published, and the store has others in their place",
                "The store is of another history than the log: an older copy that was written to.",
            )
        if head.size == self.published:
            self._agreed = head.edge

    async def _goes_on(self) -> bool:
        last = self.published - 1
        if not self._last_leaf:
            found = await self._off_loop(list, self._archive.entries(last, last + 1))
            self._last_leaf = found[0]
        return await _asked(self._store.entries(last, 1)) == [self._last_leaf]

    async def _publish(self, head: Head, since_s: float | None) -> None:
        tree, last_leaf = await self._grow(head.size)
        if tree.root != CompactRange.decode(head.edge).root():
            raise Corrupt(
                "log-root-mismatch",
                f"at {head.size} entries, tiles and commits disagree on the root",
                hint="Run `outlast log fsck`.",
                scope="log",
            )
        await self._off_loop(self._archive.publish, self._sign(tree.size, tree.root))
        self._agreed, self._last_leaf = head.edge, last_leaf
        self._recent.forget(tree.size)
        if since_s is not None:
            self.lag_s = self._clock.monotonic_s() - since_s
        async with self._moved:
            self.published = tree.size
            self._moved.notify_all()
        if self.on_publish is not None:
            await self.on_publish(tree.size)

    async def _grow(self, size: int) -> tuple[Tree, bytes]:
        start = self.published
        while True:
            # pieces end where tiles do, so that none but the last leaves partial ones behind
            limit = min(READ_BATCH - start % READ_BATCH, size - start)
            entries = self._recent.take(start, limit)
            entries = entries or await _asked(self._store.entries(start, limit))
            if not entries:
                raise Corrupt(
                    "log-gap",
                    f"the store counts {size} entries and has none at {start}",
                    hint="Keep the database, and restore it from a copy.",
                    scope="log",
                )
            tree: Tree = await self._off_loop(self._archive.grow, start, entries)
            start += len(entries)
            if start >= size:
                return tree, entries[-1]


async def _asked(reading: Awaitable[T]) -> T:
    """What the store answers. Why it does not says nothing of the log: a login refused during a failover, say, passes,
    and must not stop the signing as a fork does. Raises Unavailable, Corrupt."""
    try:
        return await reading
    except (Refused, Conflict, Unknown) as error:
        raise Unavailable(error.code, error.message, hint=error.hint, scope=error.scope) from error


def _fork(what: str, why: str) -> Corrupt:
    hint = f"{why} Put the newer database back; signing on would fork the log."
    return Corrupt("log-fork", what, hint=hint, scope="log")
