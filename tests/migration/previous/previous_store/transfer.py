"""Carries a whole store over into another, empty one: SQLite to PostgreSQL, or back.

It reads tables in the order of their keys, a page at a time, and writes each page as one flush of the target, so memory
is bounded and the target needs nothing that a running site does not. Whoever calls it has made sure that nobody else
writes to either side.

Guarantees:

- What is killed in the middle is gone on with: a page is in the target wholly or not at all, and in key order.
- The target's head stays empty until `verify` has compared every row of both sides, recomputed the tree from the
  target's own leaves, and found it to be the source's head and the published checkpoint's.
- Each side has a `Mark` that outlives the process. From the first page on a site is refused on both; after `finish` on
  the source alone, for ever: going on there would fork the log.

Leaves to others: opening, locks, where the checkpoint is, what a person is told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from outlast.core.errors import Corrupt, Refused, Unavailable, Unknown
from outlast.core.log.merkle import CompactRange, leaf_hash
from previous_store.port import (
    EntryRow,
    Head,
    IdempotencyRow,
    JobRow,
    Needs,
    Snapshot,
    Store,
    StreamKey,
    StreamRow,
    WriteSet,
)

PAGE_ROWS = 500
"""Rows read, and written by one flush, at once: at most 32 MiB of entries."""

Row = tuple[Any, ...]
Progress = Callable[[str, int, int], None]
"""``(what, done, total)`` rows."""


class Mark(msgspec.Struct, frozen=True):
    """What a store says of being moved. ``move`` tells one move from another, ``other`` where the other side is."""

    move: str
    role: Literal["source", "target"]
    state: Literal["moving", "moved"]
    other: str
    at_ms: int


class Side(Protocol):
    """One of the two stores, with what only a move needs of it. Methods raise what `Store` raises."""

    @property
    def store(self) -> Store: ...

    @property
    def name(self) -> str:
        """Where it is, for people: no password."""
        ...

    async def page(self, table: str, after: Row, limit: int) -> list[Row]:
        """Rows of a table whose key is greater, in the key's order; a row begins with its key."""
        ...

    async def last(self, table: str) -> Row | None:
        """The greatest key in a table."""
        ...

    async def count(self, table: str) -> int:
        """The rows of a table."""
        ...

    async def mark(self) -> Mark | None:
        """What was noted last."""
        ...

    async def set_mark(self, mark: Mark | None) -> None:
        """Note it, durably, in place of what was."""
        ...

    async def empty(self) -> None:
        """Remove every row and the mark: the store is as if just made."""
        ...


class Table(NamedTuple):
    """A table that is carried over: its key's columns, a key smaller than all, how rows become a write."""

    name: str
    before_all: Row
    put: Callable[[WriteSet, list[Row]], None]

    def key(self, row: Row) -> Row:
        """A row's key."""
        return row[: len(self.before_all)]


def _put_entries(write: WriteSet, rows: list[Row]) -> None:
    write.entries += [EntryRow(*row) for row in rows]


def _put_streams(write: WriteSet, rows: list[Row]) -> None:
    write.streams.update((StreamKey(*row[:3]), StreamRow(*row[3:])) for row in rows)
    write.new_streams.update(write.streams)


def _put_idempotency(write: WriteSet, rows: list[Row]) -> None:
    write.idempotency += [IdempotencyRow(*row) for row in rows]


def _put_jobs(write: WriteSet, rows: list[Row]) -> None:
    write.jobs.update((row[0], JobRow(*row)) for row in rows)
    write.new_jobs.update(write.jobs)


def _put_counters(write: WriteSet, rows: list[Row]) -> None:
    write.counters.update(rows)


def _put_subject_keys(write: WriteSet, rows: list[Row]) -> None:
    write.subject_keys.update(rows)


TABLES = (
    Table("entry", (-1,), _put_entries),
    Table("stream", ("", "", ""), _put_streams),
    Table("idempotency", (b"",), _put_idempotency),
    Table("job", (0,), _put_jobs),
    Table("counter", ("",), _put_counters),
    Table("subject_key", ("",), _put_subject_keys),
)
"""All that a site's store holds beside its head."""


class Verified(msgspec.Struct, frozen=True):
    """What was found equal: rows by table, and the root of the tree over the target's leaves (hex)."""

    rows: dict[str, int]
    size: int
    root: str
    published: int


class Published(NamedTuple):
    """The tree of the site's published checkpoint."""

    size: int
    root: bytes


async def is_empty(side: Side) -> bool:
    """Whether nothing has ever been written to a store."""
    head = await side.store.head()
    if (head.size, head.hlc, head.next_job) != (0, 0, 1):
        return False
    return not any([await side.count(table.name) for table in TABLES])


async def begin(source: Side, target: Side, mark: Mark) -> bool:
    """Mark both sides, or find that this very move had begun; whether there is anything left to copy and verify.

    Raises Refused ``store-moved`` (the source has gone elsewhere), ``store-target-taken`` (the target is another
    move's), ``store-not-empty``.
    """
    known, there = await source.mark(), await target.mark()
    if known is not None and known.role == "source":
        if there is not None and there.move == known.move:
            return there.state == "moving"  # killed in the middle: go on
        if known.state == "moved":
            raise moved(known)
        mark = msgspec.structs.replace(known, other=target.name)
    if there is not None and there.state == "moving":
        raise Refused(
            "store-target-taken",
            f"{target.name} holds part of another move, from {there.other}",
            hint="--start-over empties it first.",
        )
    if not await is_empty(target):
        raise _not_empty(target)
    # the source first: from here on nobody writes to it, so whatever the target gets stays true
    await source.set_mark(mark)
    await target.set_mark(msgspec.structs.replace(mark, role="target", other=source.name))
    return True


async def start_over(target: Side) -> None:
    """Empty a target that a move left half filled; Refused ``store-not-empty`` where a site may have been."""
    mark = await target.mark()
    if mark is not None and (mark.role, mark.state) == ("target", "moving"):
        await target.empty()
    elif not await is_empty(target):
        raise _not_empty(target)


async def copy(source: Side, target: Side, progress: Progress) -> None:
    """Bring every row over that is not there yet; may be repeated after any failure."""
    for table in TABLES:
        after = await target.last(table.name) or table.before_all
        done, total = await target.count(table.name), await source.count(table.name)
        progress(table.name, done, total)
        async for rows in _pages(source, table, after):
            await _flush(target, table, rows)
            done += len(rows)
            progress(table.name, done, total)


async def _flush(target: Side, table: Table, rows: list[Row]) -> None:
    def plan(snapshot: Snapshot) -> WriteSet:
        write = WriteSet(head=snapshot.head)
        table.put(write, rows)
        return write

    try:
        await target.store.flush(Needs(), plan)
    except (Unavailable, Unknown) as error:
        raise type(error)(
            error.code,
            f"{error.message}; the move stopped in the middle",
            hint=f"{error.hint} Then give the same command again: it goes on where it stopped.".lstrip(),
            retry_after_s=error.retry_after_s,
            scope=error.scope,
        ) from error


async def _pages(side: Side, table: Table, after: Row) -> AsyncIterator[list[Row]]:
    while rows := await side.page(table.name, after, PAGE_ROWS):
        yield rows
        after = table.key(rows[-1])


async def verify(
    source: Side, target: Side, published: Published | None, progress: Progress
) -> Verified:
    """Compare both sides row by row, and the target's tree with the source's head and the checkpoint.

    Raises Corrupt ``store-move-differs``, ``log-root-mismatch``, ``log-fork``. Nothing is changed.
    """
    head, tree, rows = await source.store.head(), _Tree(published), dict[str, int]()
    for table in TABLES:
        total, after, done = await source.count(table.name), table.before_all, 0
        while True:
            ours = await source.page(table.name, after, PAGE_ROWS)
            theirs = await target.page(table.name, after, PAGE_ROWS)
            if ours != theirs:
                raise _differs(table, ours, theirs)
            if not ours:
                break
            if table.name == "entry":
                tree.extend(theirs)
            after, done = table.key(ours[-1]), done + len(ours)
            progress(f"{table.name} checked", done, total)
        rows[table.name] = done
    root = tree.close(head)
    return Verified(rows, head.size, root.hex(), published.size if published else 0)


class _Tree:
    """The tree over the target's leaves, and what it was at the size of the checkpoint."""

    def __init__(self, published: Published | None) -> None:
        self._tree = CompactRange()
        self._published = published
        self._root_then = CompactRange().root()

    def extend(self, entries: list[Row]) -> None:
        """Add a page of entries."""
        for index, _, leaf in entries:
            if index != self._tree.size:
                raise Corrupt("log-gap", f"there is no entry {self._tree.size}")
            self._tree.append(leaf_hash(leaf))
            if self._published is not None and self._tree.size == self._published.size:
                self._root_then = self._tree.root()

    def close(self, head: Head) -> bytes:
        """The root, if it is that of the head and grew out of the checkpoint's."""
        if self._tree.encode() != head.edge or self._tree.size != head.size:
            raise Corrupt(
                "log-root-mismatch",
                f"the {self._tree.size} entries do not give the root that the store states",
                hint="The store that is moved from is damaged: restore it, or run `outlast log fsck`.",
            )
        published = self._published
        if published is not None and (
            published.size > head.size or published.root != self._root_then
        ):
            raise Corrupt(
                "log-fork",
                f"the published log of {published.size} entries is not that of this store of {head.size}",
                hint="The store is older than the log, or another site's: it was restored from a backup.",
            )
        return self._tree.root()


def _differs(table: Table, ours: list[Row], theirs: list[Row]) -> Corrupt:
    place = next(
        (at for at, (left, right) in enumerate(zip(ours, theirs, strict=False)) if left != right),
        min(len(ours), len(theirs)),
    )
    row = (ours[place : place + 1] or theirs[place : place + 1])[0]
    return Corrupt(
        "store-move-differs",
        f"{table.name} {table.key(row)!r} is not the same on both sides",
        hint="--start-over copies everything again.",
    )


async def finish(source: Side, target: Side) -> None:
    """Make the target the site's store: its head, then its mark, then the source's. May be repeated."""
    there, known = await target.mark(), await source.mark()
    assert there is not None, "begun"
    assert known is not None, "begun"
    if there.state == "moving":  # else a site may have gone on there already
        head = await source.store.head()
        await target.store.flush(Needs(), lambda _: WriteSet(head=head))
        await target.set_mark(msgspec.structs.replace(there, state="moved"))
    # if the power goes here, the same command given again ends it; until then the source is refused all the same
    await source.set_mark(msgspec.structs.replace(known, state="moved"))


async def cancel(source: Side, target: Side) -> None:
    """Undo a move: the target is emptied, the source may be used again. Raises Refused ``store-moved`` where a site has
    written to the target since, ``store-move-none`` where these two have none."""
    known, there = await source.mark(), await target.mark()
    if known is None or known.role != "source":
        raise Refused("store-move-none", f"{source.name} has not been moved")
    if there is not None and there.move == known.move:
        head, now = await source.store.head(), await target.store.head()
        if now.size and now != head:
            raise Refused(
                "store-moved",
                f"a site has worked on {target.name} since: what it did would be lost",
                hint="Move it back instead: `outlast store move --back`.",
            )
        await target.empty()
    elif not await is_empty(target):
        raise Refused(
            "store-target-taken",
            f"{target.name} is not where {source.name} was moved to: that was {known.other}",
        )
    await source.set_mark(None)


def _not_empty(side: Side) -> Refused:
    return Refused(
        "store-not-empty",
        f"{side.name} is not empty: a site has been there",
        hint="Name an empty database. Two sites cannot be merged.",
    )


def refuse_if_moved(mark: Mark | None) -> None:
    """Raise Refused where a store's mark says that no site may start on it."""
    if mark is None or (mark.role == "target" and mark.state == "moved"):
        return
    if mark.state == "moving":
        raise Refused(
            "store-move-unfinished",
            f"this store is in the middle of a move; the other side is {mark.other}",
            hint="Finish it: give the same `outlast store move` again. Or undo it with --cancel.",
            scope="site",
        )
    raise moved(mark)


def moved(mark: Mark) -> Refused:
    """A site's store went elsewhere."""
    return Refused(
        "store-moved",
        f"this site was moved to {mark.other}; going on here would fork its log",
        hint="Let [store] dsn_file name the database it was moved to.",
        scope="site",
    )
