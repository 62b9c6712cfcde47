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

Tiles could be left unsynced, being derivable; they are not, because then a restart would have to doubt each. A
checkpoint waits for the disk four times, whatever its size up to ``SYNC_BATCH`` files: for its tiles, all at once; for
the directories that got names, all at once; for itself; for its name.

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
    TILE_HEIGHT,
    TILE_WIDTH,
    Tile,
    format_bundle,
    inner_nodes,
    items_at,
    node_place,
    parse_bundle,
    tile_at,
    tiles_between,
)

SYNC_BATCH = 128
"""Most files that are written, synced and named together: up to 64 full bundles and their tiles."""

SYNC_BATCH_BYTES = 8 * 1024 * 1024
"""A batch takes no further file once it has this much: bounds the memory of a growth."""

CACHED_TILES = 256
"""Tiles kept in memory for proofs, with the hashes inside them: of 16 KiB at most."""

KNOWN_DIRECTORIES = 65_536
"""Directories remembered as durable, one for 256,000 entries; beyond, they are synced again."""


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
        self._edge: _Edge | None = None
        self._writing = _Writing(directory, self._files)
        self._cached = lru_cache(CACHED_TILES)(self._inner_nodes)

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
            height = (end - start).bit_length() - 1
            at = (start >> height) * HASH_BYTES
            return self._cached(tile)[height][at : at + HASH_BYTES]

        return read_node

    def _inner_nodes(self, tile: Tile) -> tuple[bytes, ...]:
        return inner_nodes(self.read_tile(tile))

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
        try:
            self._writing.write(_resources(edge, iter(entries)))
        except BaseException:
            self._writing.start_over()
            raise
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
        self._writing.make_names_durable()
        self._writing.replace_checkpoint(checkpoint)
        # from here on the new checkpoint stands; superseded partial tiles that stay do no harm
        self._writing.drop_partials(0 if before is None else before.size, body.size)

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


class _Writing:
    """Files on their way: written and synced under staging names, all at once, then named."""

    def __init__(self, directory: Path, files: Files) -> None:
        self._directory = directory
        self._staging = directory / ".staging"
        self._files = files
        self._is_staging_clean = False
        self._taken: list[tuple[Path, bytes]] = []
        self._taken_bytes = 0
        self._durable: set[Path] = set()  # directories whose own names are known to be durable
        self._unsynced: set[Path] = set()  # directories with names not yet known to be durable
        self._partials: set[Tile] = set()  # full tiles beside which partial ones were written
        self._is_first = True

    def start_over(self) -> None:
        """After a failure: whatever was taken is dropped, whatever is staged is not looked at again."""
        self._taken.clear()
        self._taken_bytes = 0
        self._is_staging_clean = False

    def write(self, resources: Iterable[tuple[Tile, bytes]]) -> None:
        """Give these tiles and bundles their names; durable with ``make_names_durable``."""
        for tile, data in resources:
            self._put(tile, data)
            if len(self._taken) >= SYNC_BATCH or self._taken_bytes >= SYNC_BATCH_BYTES:
                self._flush()
        self._flush()

    def _put(self, tile: Tile, data: bytes) -> None:
        """Take one resource."""
        target = self._directory / tile.path
        self._taken.append((target, data))
        self._taken_bytes += len(data)
        if tile.partial:
            self._partials.add(tile.full)
        # also where it was there: a crash may have come between its rename and the sync of its directory
        self._note_name_in(target.parent)

    def _note_name_in(self, directory: Path) -> None:
        """A name in ``directory`` is new; so may be its own, up to the first that is known to be durable."""
        while directory not in self._unsynced:
            self._unsynced.add(directory)
            if directory in self._durable or directory == self._directory.parent:
                return
            directory = directory.parent

    def _flush(self) -> None:
        """Write, sync and name all that was taken; what is in place already with the same bytes is left alone."""
        if not self._taken:
            return
        self._clean_staging()
        there = self._there()
        new = [(target, data) for target, data in self._taken if target not in there]
        for directory in {target.parent for target, _ in new} - self._durable:
            self._files.make_directory(directory)
        self._files.install([(self._staging / str(at), *one) for at, one in enumerate(new)])
        self._taken.clear()
        self._taken_bytes = 0

    def _there(self) -> set[Path]:
        """Which of those taken are in place already; raises Corrupt where one has other bytes."""
        there = set(self._files.existing([target for target, _ in self._taken]))
        for target, data in self._taken:
            if target in there and self._files.read(target, len(data) + 1) != data:
                raise Corrupt(
                    "archive-rewrite",
                    f"{target.relative_to(self._directory)} is there with other content",
                    hint="The archive is of another history than the store. Compare both with a peer's copy.",
                )
        return there

    def _clean_staging(self) -> None:
        if not self._is_staging_clean:
            self._files.remove_tree(self._staging)
            self._files.make_directory(self._staging)
            self._is_staging_clean = True

    def make_names_durable(self) -> None:
        """From here on every tile that was written survives the power's loss."""
        self._clean_staging()
        if self._directory not in self._durable:
            self._note_name_in(self._directory)  # it may be as new as its first tile
        self._files.sync_directories(sorted(self._unsynced))
        self._durable |= self._unsynced
        self._unsynced.clear()
        if len(self._durable) > KNOWN_DIRECTORIES:
            self._durable.clear()

    def replace_checkpoint(self, checkpoint: bytes) -> None:
        """Make it the visible one, durably."""
        try:
            self._clean_staging()
            staged = self._staging / "checkpoint"
            self._files.write_durably([(staged, checkpoint)])
            self._files.rename(staged, self._directory / "checkpoint")
            self._files.sync_directories([self._directory])
        except BaseException:
            self.start_over()
            raise

    def drop_partials(self, old: int, new: int) -> None:
        """Remove the partial tiles that a tree of size ``new`` has full ones for.

        Those written by this process are known; those of an earlier one are looked for, once.
        """
        known, self._partials = self._partials, set()
        if self._is_first:
            known |= {tile for tile in tiles_between(old, new) if not tile.partial}
            self._is_first = False
        for tile in known:
            if (tile.index + 1) << TILE_HEIGHT > items_at(tile.level, new):
                self._partials.add(tile)  # still growing
                continue
            directory = self._directory / f"{tile.path}.p"
            self._durable.discard(directory)
            self._files.remove_tree(directory)


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
