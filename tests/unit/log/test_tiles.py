"""Tile names and bytes: one spelling each, and growth in any steps gives the same resources."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import merkle, tiles
from outlast.core.log.edge import TreeEdge
from outlast.core.log.tiles import ENTRIES, Tile

LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(70_000)]

SIZES = st.one_of(st.integers(0, 1_000), st.integers(65_400, 70_000))


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(1, 1234067, 1), "tile/1/x001/x234/067.p/1"),
        (Tile(63, 5, 255), "tile/63/005.p/255"),
        (Tile(ENTRIES, 273, 112), "tile/entries/273.p/112"),
        (Tile(ENTRIES, 1_000_000), "tile/entries/x001/x000/000"),
    ],
)
def test_paths_are_written_and_read(tile: Tile, path: str) -> None:
    """Each name has its path, each path its name."""
    assert tile.path == path
    assert tiles.parse_path(path) == tile


@given(st.integers(-1, 63), st.integers(0, merkle.MAX_SIZE >> 8), st.integers(1, 256))
def test_every_tile_has_a_path_of_its_own(level: int, index: int, width: int) -> None:
    """Paths read back to the tile they were made from, whatever its size."""
    tile = Tile(level, index, width)
    assert tiles.parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "checkpoint",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/x/000",
        "tile/entries",
        "tile/data/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/X001/000",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/-1",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000/1",
        "tile/0/000\n",
        "/tile/0/000",
        "tile//0/000",
        "tile/0/000/../001",
        "tile/0/%30%30%30",
        "../tile/0/000",
        "tile/0/٠٠٠",
        "tile/0/" + "x999/" * 7 + "999",
        "tile/0/" + "x999/" * 100_000 + "999",
    ],
)
def test_other_spellings_are_refused(path: str) -> None:
    """Nothing but the one right spelling names a tile, so no path leads out of the log."""
    with pytest.raises(Refused) as caught:
        tiles.parse_path(path)
    assert caught.value.code == "tile-path"


def needed(size: int) -> set[Tile]:
    """The tiles of a tree, straight from tlog-tiles: floor(s / 256**l) hashes at level l."""
    found: set[Tile] = set()
    for level in (ENTRIES, *range(9)):
        items = size // 256 ** max(level, 0)
        found |= {Tile(level, index) for index in range(items // 256)}
        if items % 256:
            found.add(Tile(level, items // 256, items % 256))
    return found


@settings(deadline=None, max_examples=60)
@given(SIZES, SIZES)
def test_growth_adds_exactly_what_the_larger_tree_has_more(one: int, other: int) -> None:
    """tiles_between is the set difference of the trees' resources, each named once."""
    old, new = sorted((one, other))
    found = list(tiles.tiles_between(old, new))
    assert len(set(found)) == len(found)
    assert set(found) == needed(new) - needed(old)


def test_growth_does_not_go_backwards() -> None:
    """A tree cannot shrink, nor exceed the largest size."""
    for old, new in ((2, 1), (-1, 1), (0, merkle.MAX_SIZE + 1)):
        with pytest.raises(Refused):
            list(tiles.tiles_between(old, new))


@settings(deadline=None, max_examples=25)
@given(st.lists(SIZES, min_size=1, max_size=5))
def test_tiles_are_the_same_however_the_tree_grew(sizes: list[int]) -> None:
    """Grown in any steps, the edge yields the named tiles, with the hashes of the naive tree, and its root."""
    edge, made, before = TreeEdge(), {}, 0
    for size in sorted(sizes):
        step = dict(edge.copy().add([])) | dict(edge.add(LEAVES[before:size]))
        step |= dict(edge.partials(before))
        named = {tile for tile in tiles.tiles_between(before, size) if tile.level != ENTRIES}
        assert set(step) == named
        made |= step
        before = size
    compact = merkle.CompactRange()
    compact.extend(LEAVES[:before])
    assert edge.root() == compact.root()
    for tile, data in made.items():
        if tile.level == 0:
            start = tile.index * 256
            assert data == b"".join(LEAVES[start : start + tile.width])


def test_upper_tiles_hold_the_roots_of_full_lower_ones() -> None:
    """A hash at level 1 is the Merkle Tree Hash of 256 leaves (tlog-tiles, "Merkle Tree")."""
    edge = TreeEdge()
    made = dict(edge.add(LEAVES)) | dict(edge.partials())
    hashes = tiles.parse_tile(made[Tile(1, 0)], 256)
    for index in (0, 1, 255):
        compact = merkle.CompactRange()
        compact.extend(LEAVES[index * 256 : (index + 1) * 256])
        assert hashes[index] == compact.root()
    assert made[Tile(2, 0, 1)] == tiles.hashes_root(made[Tile(1, 0)])


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_complete_subtree_is_found_in_a_tile(data: st.DataObject) -> None:
    """node_place leads to hashes whose root is the node, also above the tiles' own levels."""
    size = data.draw(st.integers(1, 70_000))
    level = data.draw(st.integers(0, size.bit_length() - 1))
    index = data.draw(st.integers(0, (size >> level) - 1))
    tile, start, end = tiles.node_place(level, index, size)
    assert tile in needed(size)
    compact = merkle.CompactRange()
    edge = TreeEdge()
    made = dict(edge.add(LEAVES[:size])) | dict(edge.partials())
    compact.extend(LEAVES[index << level : (index + 1) << level])
    assert tiles.hashes_root(made[tile][start * 32 : end * 32]) == compact.root()


@pytest.mark.parametrize(("level", "index", "size"), [(0, 5, 5), (1, 2, 5), (8, 1, 300), (3, 0, 7)])
def test_incomplete_subtrees_are_in_no_tile(level: int, index: int, size: int) -> None:
    """Only complete subtrees have a place."""
    with pytest.raises(Refused):
        tiles.node_place(level, index, size)


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        (1, ()),
        (1, (b"",)),
        (1, (b"x" * 64,)),
        (256, (b"",)),
        (0, (b"x" * 32,)),
        (257, (b"x" * 32,)),
    ],
)
def test_an_impossible_edge_is_corrupt(size: int, levels: tuple[bytes, ...]) -> None:
    """Partial tiles that cannot be those of the size are not gone on from."""
    with pytest.raises(Corrupt):
        TreeEdge(size, levels)


@given(st.lists(st.binary(max_size=600), max_size=256))
def test_bundles_read_back(entries: list[bytes]) -> None:
    """A bundle gives back its entries, empty ones included."""
    assert tiles.parse_bundle(tiles.format_bundle(entries), len(entries)) == entries


def test_a_bundle_takes_entries_up_to_its_prefix() -> None:
    """65,535 bytes fit the uint16, 65,536 do not."""
    longest = b"x" * 65_535
    assert tiles.format_bundle([longest]) == b"\xff\xff" + longest
    with pytest.raises(Refused) as caught:
        tiles.format_bundle([longest + b"x"])
    assert caught.value.code == "entry-too-large"


@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"", 1),
        (b"\0", 1),
        (b"\0\1", 1),
        (b"\xff\xffshort", 1),
        (b"\0\1a\0", 1),
        (b"\0\1a\0\1b", 1),
        (b"\0\1a", 2),
        (b"\0\0" * 255, 256),
        (b"\0\0" * 257, 256),
        (b"\0\0", 0),
    ],
)
def test_malformed_bundles_are_corrupt(data: bytes, width: int) -> None:
    """Cut short, too long, or with other than the number of entries expected."""
    with pytest.raises(Corrupt) as caught:
        tiles.parse_bundle(data, width)
    assert caught.value.code == "bundle-malformed"


@given(st.binary(max_size=200), st.integers(0, 256))
def test_noise_in_bundles_is_corrupt_or_reads_back(noise: bytes, width: int) -> None:
    """What parses as a bundle is written back the same."""
    try:
        entries = tiles.parse_bundle(noise, width)
    except Corrupt:
        return
    assert tiles.format_bundle(entries) == noise


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33, b"x" * 64])
def test_malformed_tiles_are_corrupt(data: bytes) -> None:
    """A tile is as long as its width says."""
    with pytest.raises(Corrupt):
        tiles.parse_tile(data, 1)
