"""The log as files: tiles, entry bundles and the checkpoint, under the names they are served by.

    <directory>/checkpoint
    <directory>/tile/<level>/<index>[.p/<width>]
    <directory>/tile/entries/<index>[.p/<width>]
    <directory>/.staging/                          files that have no name yet

Guarantees, whenever the power goes:

- A path with a final name has its whole, final content: it was written and synced under a staging name, then
  renamed. It never gets other bytes; an attempt is Corrupt ``archive-rewrite``.
- The checkpoint is renamed into place after every tile it needs, and every directory above those, is synced. So
  whoever sees a checkpoint can read, and after a power loss re-read, all that it commits to.
- All of it is derived from the store. ``grow`` may be repeated, from the same or an earlier size, after any failure.

Tiles could be left unsynced, being derivable; they are not, because then a restart would have to doubt each. Syncs are
batched instead: ``SYNC_BATCH`` files are written before the first of them is synced.

Leaves to others: which tree is the true one (the store and the publisher), signatures (``checkpoint``), one writer at a
time (the publisher). Readers may be many and in any thread. Its calls block: an event loop runs them in a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path

import msgspec

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.checkpoint import Checkpoint, parse_checkpoint
from outlast.core.log.edge import TreeEdge
from outlast.core.log.files import DiskFiles, Files
from outlast.core.log.merkle import HASH_BYTES, ReadNode, leaf_hash
from outlast.core.log.note import MAX_NOTE_BYTES, parse_note
from outlast.core.log.tiles import (
    ENTRIES,
    MAX_BUNDLE_BYTES,
    TILE_BYTES,
    TILE_WIDTH,
    Tile,
    format_bundle,
    hashes_root,
    items_at,
    node_place,
    parse_bundle,
    tile_at,
    tiles_between,
)

SYNC_BATCH = 128
"""Files written before they are synced and named together; up to 64 full bundles and their tiles."""

CACHED_TILES = 256
"""Tiles kept in memory for proofs, of 8 KiB at most."""


class Head(msgspec.Struct, frozen=True):
    """A tree: its size in entries, and its root hash."""

    size: int
    root: bytes


class _Edge(msgspec.Struct, frozen=True):
    """Where writing goes on: the tree's edge and the entries of the partial bundle."""

    tree: TreeEdge
    entries: list[bytes]

    def copy(self) -> _Edge:
        return _Edge(self.tree.copy(), self.entries.copy())


class TileArchive:
    """The archive in ``directory``, made on the first write. ``files`` is for tests that let operations fail."""

    def __init__(self, directory: Path, files: Files | None = None) -> None:
        self._directory = directory
        self._files = files or DiskFiles()
        self._staging = directory / ".staging"
        self._edge: _Edge | None = None
        self._unsynced: set[Path] = set()  # directories with names not yet known to be durable
        self._cached = lru_cache(CACHED_TILES)(self.read_tile)

    # reading

    def read_checkpoint(self) -> bytes | None:
        """The published checkpoint, a signed note; None for a log that has published none."""
        return self._files.read(self._directory / "checkpoint", MAX_NOTE_BYTES + 1)

    def published(self) -> Checkpoint | None:
        """What the published checkpoint says; its signatures are not checked here."""
        data = self.read_checkpoint()
        return None if data is None else parse_checkpoint(parse_note(data).text)

    @property
    def size(self) -> int:
        """The published size; 0 for a log that has published none."""
        checkpoint = self.published()
        return 0 if checkpoint is None else checkpoint.size

    def read_tile(self, tile: Tile) -> bytes:
        """A tile's or bundle's bytes; raises Refused ``tile-not-found``, Corrupt ``tile-malformed``.

        A partial one that was removed after it filled up is cut from the full one.
        """
        limit = MAX_BUNDLE_BYTES if tile.level == ENTRIES else TILE_BYTES
        data = self._files.read(self._directory / tile.path, limit + 1)
        if data is None and tile.partial:
            return _cut(self.read_tile(tile.full), tile.full, tile.width)
        if data is None:
            raise Refused("tile-not-found", f"this log has no {tile.path}")
        if tile.level != ENTRIES and len(data) != tile.width * HASH_BYTES:
            raise Corrupt("tile-malformed", f"{tile.path} has {len(data)} bytes")
        return data

    def node_reader(self, size: int) -> ReadNode:
        """Reads nodes of the tree of ``size`` entries, published before, for ``merkle``'s proofs."""

        def read_node(level: int, index: int) -> bytes:
            tile, start, end = node_place(level, index, size)
            return hashes_root(self._cached(tile)[start * HASH_BYTES : end * HASH_BYTES])

        return read_node

    def entries(self, start: int, end: int) -> Iterator[bytes]:
        """The published entries ``[start, end)``, one bundle in memory at a time."""
        size = self.size
        if not 0 <= start <= end <= size:
            raise Refused("log-range", f"no entries {start} to {end} in a log of {size}")
        return self._entries(start, end, size)

    def _entries(self, start: int, end: int, size: int) -> Iterator[bytes]:
        while start < end:
            tile = tile_at(ENTRIES, start // TILE_WIDTH, size)
            first = tile.index * TILE_WIDTH
            bundle = parse_bundle(self.read_tile(tile), tile.width)
            yield from bundle[start - first : end - first]
            start = first + TILE_WIDTH

    # writing

    def grow(self, old_size: int, entries: Iterable[bytes]) -> Head:
        """Write the tiles and bundles that arise when ``entries`` follow entry ``old_size - 1``; returns the tree.

        Nothing of it is published yet. May be repeated: what is there with the same bytes stays. Raises
        Refused ``archive-gap`` when ``old_size`` is beyond what is here, ``entry-too-large``; Corrupt
        ``archive-rewrite``, ``archive-sync``; Unavailable ``archive-io``. After a failure the archive is as good
        as before.
        """
        if self._edge is None or self._edge.tree.size != old_size:
            self._edge = self._load_edge(old_size)
        edge = self._edge.copy()
        batch = _Batch(self._directory, self._staging, self._files, self._unsynced)
        for tile, data in _resources(edge, iter(entries)):
            batch.put(tile, data)
        batch.flush()
        self._edge = edge
        return Head(edge.tree.size, edge.tree.root())

    def publish(self, checkpoint: bytes) -> None:
        """Make this signed checkpoint of the tree last grown the published one. Durable on return.

        Raises Corrupt ``archive-rollback`` when it is smaller than the published one or of another tree of that
        size, ``archive-head`` when it is not the tree that was grown.
        """
        body = parse_checkpoint(parse_note(checkpoint).text)
        before = self.published()
        if before is not None and (
            body.size < before.size or (body.size == before.size and body.root != before.root)
        ):
            raise Corrupt("archive-rollback", f"size {before.size} is published already")
        if self._edge is None:
            self._edge = self._load_edge(body.size)
        tree = self._edge.tree
        if (tree.size, tree.root()) != (body.size, body.root):
            raise Corrupt(
                "archive-head", f"the checkpoint is not of the tree of {tree.size} written"
            )
        # if the power goes here, the old checkpoint stands and the new tiles are there or not: grow again
        for directory in sorted(self._unsynced, reverse=True):
            self._files.sync(directory)
        self._unsynced.clear()
        staged = self._staging / "checkpoint"
        self._files.make_directory(self._staging)
        self._files.write(staged, checkpoint)
        self._files.sync(staged)
        self._files.rename(staged, self._directory / "checkpoint")
        self._files.sync(self._directory)
        if before is None:
            self._files.sync(self._directory.parent)
        # from here on the new checkpoint stands; superseded partial tiles that stay do no harm
        self._drop_partials(0 if before is None else before.size, body.size)

    def _drop_partials(self, old: int, new: int) -> None:
        for tile in tiles_between(old, new):
            if not tile.partial:
                self._files.remove_tree(self._directory / f"{tile.path}.p")

    def _load_edge(self, size: int) -> _Edge:
        """The edge of the tree of ``size``, from its partial tiles; checked if that size is the published one."""
        published = self.published()
        widest = max(size, 0 if published is None else published.size)
        try:
            bundle = self._read_partial(ENTRIES, size, widest)
            levels: list[bytes] = []
            while items_at(len(levels), size):
                levels.append(self._read_partial(len(levels), size, widest))
        except Refused as error:
            raise Refused("archive-gap", f"the archive has no tree of size {size}") from error
        tree = TreeEdge(size, levels)
        if published and published.size == size and published.root != tree.root():
            raise Corrupt("archive-root", f"the tiles at size {size} are not the published tree's")
        return _Edge(tree, parse_bundle(bundle, size % TILE_WIDTH))

    def _read_partial(self, level: int, size: int, widest: int) -> bytes:
        """A level's partial tile at ``size``, cut from the tile that the tree of ``widest`` has there."""
        items = items_at(level, size)
        if not items % TILE_WIDTH:
            return b""
        tile = tile_at(level, items // TILE_WIDTH, widest)
        return _cut(self.read_tile(tile), tile, items % TILE_WIDTH)


class _Batch:
    """Files on their way: written under staging names, then synced together, then named."""

    def __init__(self, directory: Path, staging: Path, files: Files, unsynced: set[Path]) -> None:
        self._directory = directory
        self._staging = staging
        self._files = files
        self._unsynced = unsynced
        self._staged: list[tuple[Path, Path]] = []
        files.remove_tree(staging)
        files.make_directory(staging)

    def put(self, tile: Tile, data: bytes) -> None:
        """Take one resource; the same bytes in place already are left alone, others are Corrupt."""
        target = self._directory / tile.path
        there = self._files.read(target, len(data) + 1)
        if there is None:
            staged = self._staging / str(len(self._staged))
            self._files.write(staged, data)
            self._staged.append((staged, target))
        elif there != data:
            raise Corrupt(
                "archive-rewrite",
                f"{tile.path} is there with other content",
                hint="The archive is of another history than the store. Compare both with a peer's copy.",
            )
        # also where it was there: a crash may have come between its rename and the sync of its directory
        self._note_directories(target.parent)
        if len(self._staged) >= SYNC_BATCH:
            self.flush()

    def flush(self) -> None:
        """Sync and name all that was taken."""
        for staged, _ in self._staged:
            self._files.sync(staged)
        for staged, target in self._staged:
            self._files.make_directory(target.parent)
            self._files.rename(staged, target)
        self._staged.clear()

    def _note_directories(self, directory: Path) -> None:
        while directory not in self._unsynced:
            self._unsynced.add(directory)
            if directory == self._directory:
                return
            directory = directory.parent


def _resources(edge: _Edge, entries: Iterator[bytes]) -> Iterator[tuple[Tile, bytes]]:
    """What arises when ``entries`` follow: bundles and tiles as they fill up, the partial ones at the end."""
    old_size = edge.tree.size
    while more := list(islice(entries, TILE_WIDTH - len(edge.entries))):
        edge.entries.extend(more)
        if len(edge.entries) == TILE_WIDTH:
            yield Tile(ENTRIES, edge.tree.size // TILE_WIDTH), format_bundle(edge.entries)
            edge.entries.clear()
        yield from edge.tree.add([leaf_hash(entry) for entry in more])
    size = edge.tree.size
    if edge.entries and size != old_size:
        yield tile_at(ENTRIES, size // TILE_WIDTH, size), format_bundle(edge.entries)
    yield from edge.tree.partials(old_size)


def _cut(data: bytes, tile: Tile, width: int) -> bytes:
    """The first ``width`` items of a tile or bundle."""
    if tile.level == ENTRIES:
        return format_bundle(parse_bundle(data, tile.width)[:width])
    return data[: width * HASH_BYTES]
