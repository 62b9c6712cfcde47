"""The rightmost tiles of a growing tree, kept so that new leaves become tiles without reading anything back.

Pure, and deterministic: the same leaves give the same tiles however they are cut into batches. The archive uses it to
write tiles, ``fsck`` to compute what must stand in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from outlast.core.errors import Corrupt
from outlast.core.log.merkle import HASH_BYTES, CompactRange
from outlast.core.log.tiles import (
    MAX_LEVEL,
    TILE_BYTES,
    TILE_WIDTH,
    Tile,
    hashes_root,
    items_at,
)


class TreeEdge:
    """The partial tile of each level of a tree of ``size`` leaves, lowest level first, as bytes.

    At most 8 levels of less than 8 KiB. A level's partial tile may be empty.
    """

    __slots__ = ("_levels", "_size")

    def __init__(self, size: int = 0, levels: Sequence[bytes] = ()) -> None:
        for level, part in enumerate(levels):
            if len(part) != items_at(level, size) % TILE_WIDTH * HASH_BYTES:
                raise Corrupt("tree-edge", f"level {level} is not the edge of a tree of {size}")
        if len(levels) <= MAX_LEVEL and items_at(len(levels), size):
            raise Corrupt("tree-edge", f"a tree of {size} has more than {len(levels)} levels")
        self._size = size
        self._levels = list(levels)

    @property
    def size(self) -> int:
        """The number of leaves."""
        return self._size

    def copy(self) -> TreeEdge:
        """An independent edge of the same tree."""
        return TreeEdge(self._size, self._levels)

    def add(self, leaves: Sequence[bytes]) -> Iterator[tuple[Tile, bytes]]:
        """Append leaf hashes; yields each tile they fill, with its bytes. Run it to its end."""
        at = 0
        while at < len(leaves):
            room = TILE_WIDTH - self._size % TILE_WIDTH
            part = leaves[at : at + room]
            at += len(part)
            self._size += len(part)
            yield from self._push(0, b"".join(part))

    def _push(self, level: int, hashes: bytes) -> Iterator[tuple[Tile, bytes]]:
        """Put hashes, not more than fit, into a level's tile; a tile that is full adds its root one level up."""
        if level == len(self._levels):
            self._levels.append(b"")
        tile = self._levels[level] + hashes
        if len(tile) < TILE_BYTES:
            self._levels[level] = tile
            return
        self._levels[level] = b""
        yield Tile(level, (items_at(level, self._size) >> 8) - 1), tile
        yield from self._push(level + 1, hashes_root(tile))

    def partials(self, since: int = 0) -> Iterator[tuple[Tile, bytes]]:
        """The partial tiles, with their bytes, that a tree of size ``since`` does not have."""
        for level, part in enumerate(self._levels):
            items = items_at(level, self._size)
            if part and items != items_at(level, since):
                yield Tile(level, items // TILE_WIDTH, items % TILE_WIDTH), part

    def root(self) -> bytes:
        """The root hash of the tree."""
        hashes: list[bytes] = []
        for part in reversed(self._levels):
            width, start = len(part) // HASH_BYTES, 0
            while width:  # the complete subtrees in a partial tile, largest first
                run = 1 << (width.bit_length() - 1)
                end = start + run * HASH_BYTES
                hashes.append(hashes_root(part[start:end]))
                width, start = width - run, end
        return CompactRange(self._size, hashes).root()
