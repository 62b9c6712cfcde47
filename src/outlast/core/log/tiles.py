"""Tiles and entry bundles (C2SP tlog-tiles): which resources make up a tree, how they are named and written.

Pure: names, bytes and numbers, no I/O. A tile is ``TILE_WIDTH`` neighbouring hashes of one level (every eighth level
of the tree); an entry bundle is the entries under a level-0 tile. The rightmost of each level is partial until
it fills up. Nothing that arises here depends on anything but the entries, so the same resource always has the same
bytes.

Refuses (``tile-path``) every spelling of a path but the one, so a path checked here cannot leave its directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from hashlib import sha256

import msgspec

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.entry import MAX_ENTRY_BYTES
from outlast.core.log.merkle import HASH_BYTES, MAX_SIZE

TILE_HEIGHT = 8
"""Levels of the tree that one tile covers."""

TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile, entries in a full bundle."""

TILE_BYTES = TILE_WIDTH * HASH_BYTES
"""Length of a full tile, in bytes."""

MAX_BUNDLE_BYTES = TILE_WIDTH * (MAX_ENTRY_BYTES + 2)
"""Length of the largest bundle, in bytes."""

MAX_LEVEL = 63
"""Largest tile level that a path may name (tlog-tiles, "Merkle Tree")."""

ENTRIES = -1
"""The level of entry bundles: they stand below level 0."""

MAX_PATH_CHARS = 64
"""Longest path taken, in characters; ``MAX_SIZE`` leaves need fewer."""

_LENGTH_BYTES = 2
_PATH = re.compile(
    r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/)*[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?"
)


class Tile(msgspec.Struct, frozen=True):
    """The name of a resource: tile ``index`` of ``level`` (``ENTRIES`` for a bundle), ``width`` items wide."""

    level: int
    index: int
    width: int = TILE_WIDTH

    @property
    def partial(self) -> bool:
        """Whether it will still be superseded by a wider one."""
        return self.width < TILE_WIDTH

    @property
    def full(self) -> Tile:
        """The full tile at the same place."""
        return Tile(self.level, self.index)

    @property
    def path(self) -> str:
        """Where it is served under the log's prefix, such as ``tile/0/x001/x234/067.p/5``."""
        level = "entries" if self.level == ENTRIES else str(self.level)
        digits, rest = f"{self.index % 1000:03d}", self.index // 1000
        while rest:
            digits, rest = f"x{rest % 1000:03d}/{digits}", rest // 1000
        return f"tile/{level}/{digits}" + (f".p/{self.width}" if self.partial else "")


def parse_path(path: str) -> Tile:
    """The tile that a path names; raises Refused ``tile-path`` unless it is written the one right way."""
    match = _PATH.fullmatch(path) if len(path) <= MAX_PATH_CHARS else None
    if match is None:
        raise Refused("tile-path", "not the path of a tile or entry bundle")
    level, digits, width = match.groups()
    index = int(digits.replace("x", "").replace("/", ""))
    tile = Tile(
        ENTRIES if level == "entries" else int(level), index, int(width) if width else TILE_WIDTH
    )
    if tile.level > MAX_LEVEL or index > MAX_SIZE >> TILE_HEIGHT or tile.path != path:
        raise Refused("tile-path", "not the path of a tile or entry bundle")
    return tile


def tiles_between(old: int, new: int) -> Iterator[Tile]:
    """The resources that a tree of size ``new`` has and one of size ``old`` has not: bundles, then tiles upwards.

    Within a level full ones come first and the partial one last. ``old`` 0 gives the whole tree.
    """
    if not 0 <= old <= new <= MAX_SIZE:
        raise Refused("tile-path", f"a tree cannot grow from {old} to {new}")
    yield from _level_between(ENTRIES, old, new)
    level = 0
    while old != new:
        yield from _level_between(level, old, new)
        old, new, level = old >> TILE_HEIGHT, new >> TILE_HEIGHT, level + 1


def _level_between(level: int, old: int, new: int) -> Iterator[Tile]:
    """One level's part of ``tiles_between``; ``old`` and ``new`` count that level's items."""
    for index in range(old >> TILE_HEIGHT, new >> TILE_HEIGHT):
        yield Tile(level, index)
    if old != new and new % TILE_WIDTH:
        yield Tile(level, new >> TILE_HEIGHT, new % TILE_WIDTH)


def items_at(level: int, size: int) -> int:
    """How many items (hashes, or entries for ``ENTRIES``) a level of a tree of ``size`` has in its tiles."""
    return size >> (TILE_HEIGHT * max(level, 0))


def tile_at(level: int, index: int, size: int) -> Tile:
    """The tile at this place, as wide as a tree of ``size`` makes it; Refused ``tile-path`` where there is none."""
    width = min(TILE_WIDTH, items_at(level, size) - (index << TILE_HEIGHT))
    if width <= 0 or not ENTRIES <= level <= MAX_LEVEL or index < 0:
        raise Refused("tile-path", f"a tree of size {size} has no tile {index} at level {level}")
    return Tile(level, index, width)


def node_place(level: int, index: int, size: int) -> tuple[Tile, int, int]:
    """Where the complete subtree ``(level, index)`` is found: the tile, and the range of its hashes under it."""
    height = level % TILE_HEIGHT
    first = index << height
    tile = tile_at(level // TILE_HEIGHT, first >> TILE_HEIGHT, size)
    start = first % TILE_WIDTH
    if start + (1 << height) > tile.width:
        raise Refused("tile-path", f"a tree of size {size} has no node {index} at level {level}")
    return tile, start, start + (1 << height)


def hashes_root(hashes: bytes) -> bytes:
    """The root over ``1 << n`` neighbouring hashes, joined, such as a full tile's bytes."""
    step = 2 * HASH_BYTES
    while len(hashes) > HASH_BYTES:
        # node_hash written out: this loop is most of what checking a log costs
        pairs = (hashes[at : at + step] for at in range(0, len(hashes), step))
        hashes = b"".join([sha256(b"\x01" + pair).digest() for pair in pairs])
    return hashes


def inner_nodes(hashes: bytes) -> tuple[bytes, ...]:
    """The hashes of all complete subtrees inside a tile, joined: item ``h`` those over ``1 << h`` of its hashes.

    The last of them, where a partial tile's width is odd at that height, has no neighbour and goes no further.
    """
    levels = [hashes]
    while len(hashes) >= 2 * HASH_BYTES:
        step = 2 * HASH_BYTES
        end = len(hashes) // step * step
        pairs = (hashes[at : at + step] for at in range(0, end, step))
        hashes = b"".join([sha256(b"\x01" + pair).digest() for pair in pairs])
        levels.append(hashes)
    return tuple(levels)


def parse_tile(data: bytes, width: int) -> list[bytes]:
    """The hashes of a tile; raises Corrupt ``tile-malformed`` unless there are ``width``."""
    if len(data) != width * HASH_BYTES:
        raise Corrupt("tile-malformed", f"a tile of width {width} has {len(data)} bytes")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def format_bundle(entries: Iterable[bytes]) -> bytes:
    """Entries as a bundle: each behind its length, uint16 big-endian (tlog-tiles, "Log entries")."""
    parts: list[bytes] = []
    for entry in entries:
        if len(entry) > MAX_ENTRY_BYTES:
            raise Refused("entry-too-large", f"an entry has {len(entry)} bytes")
        parts += (len(entry).to_bytes(_LENGTH_BYTES, "big"), entry)
    return b"".join(parts)


def parse_bundle(data: bytes, width: int) -> list[bytes]:
    """The entries of a bundle; raises Corrupt ``bundle-malformed`` unless there are exactly ``width``."""
    entries: list[bytes] = []
    at, end = 0, len(data)
    while at < end and len(entries) < width:
        start = at + _LENGTH_BYTES
        at = start + (data[at] << 8 | data[start - 1]) if start <= end else end + 1
        entries.append(data[start:at])
    if at != end or len(entries) != width:
        raise Corrupt("bundle-malformed", f"the bytes are not a bundle of {width} entries")
    return entries
