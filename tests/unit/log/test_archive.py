"""The archive: what it writes is what tlog-tiles names, it never changes its mind, and proofs read from it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from outlast.core.errors import Corrupt, Refused
from outlast.core.log import merkle, tiles
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.fsck import verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.tiles import ENTRIES, Tile

ORIGIN = "log.example/eu-1"

Entries = Callable[[int, int], list[bytes]]
Publish = Callable[[TileArchive, int], bytes]


def files_in(directory: Path) -> set[str]:
    """The names of a log's files, without the staging directory."""
    paths = (
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    )
    return {path for path in paths if not path.startswith(".staging")}


def root_of(leaves: list[bytes]) -> bytes:
    """The root over these entries."""
    edge = merkle.CompactRange()
    edge.extend(map(merkle.leaf_hash, leaves))
    return edge.root()


def test_a_log_is_made_of_the_files_tlog_tiles_names(
    tmp_path: Path, entries: Entries, publish: Publish
) -> None:
    """One growth writes the checkpoint and exactly the tiles and bundles of its size."""
    archive = TileArchive(tmp_path)
    publish(archive, 1_000)
    named = {tile.path for tile in tiles.tiles_between(0, 1_000)}
    assert files_in(tmp_path) == {"checkpoint", *named}
    published = archive.published()
    assert published is not None
    assert (published.size, published.root) == (1_000, root_of(entries(0, 1_000)))
    assert list(archive.entries(0, 1_000)) == entries(0, 1_000)
    assert (tmp_path / "tile/entries/000").read_bytes() == tiles.format_bundle(entries(0, 256))


def test_growth_in_steps_gives_the_same_files(
    tmp_path: Path, key: LogKey, publish: Publish
) -> None:
    """Steps of every kind end in the same log; partial tiles go once the full one is there."""
    steps, whole = TileArchive(tmp_path / "steps"), TileArchive(tmp_path / "whole")
    for size in (1, 2, 255, 256, 257, 511, 512, 769):
        publish(steps, size)
        assert verify_log(tmp_path / "steps", key.verifiers).ok
    publish(whole, 769)
    left = files_in(tmp_path / "steps") - files_in(tmp_path / "whole")
    assert files_in(tmp_path / "whole") <= files_in(tmp_path / "steps")
    assert all(path.startswith("tile/1/000.p/") for path in left)
    for path in files_in(tmp_path / "whole"):
        assert (tmp_path / "steps" / path).read_bytes() == (tmp_path / "whole" / path).read_bytes()


def test_a_new_process_goes_on_where_the_last_stopped(
    tmp_path: Path, key: LogKey, publish: Publish
) -> None:
    """The edge is read back from the partial tiles."""
    for size in (3, 300, 600, 601):
        publish(TileArchive(tmp_path), size)
    assert verify_log(tmp_path, key.verifiers).ok


def test_growing_twice_changes_nothing(tmp_path: Path, entries: Entries, publish: Publish) -> None:
    """Repeating a growth, from the same or an earlier size, writes the same bytes and the same root."""
    archive = TileArchive(tmp_path)
    publish(archive, 300)
    publish(archive, 700)
    stamps = {path: (tmp_path / path).stat().st_mtime_ns for path in files_in(tmp_path)}
    for old in (0, 1, 256, 299, 300, 512, 699, 700):
        assert archive.grow(old, entries(old, 700)).root == root_of(entries(0, 700))
    again = {path: (tmp_path / path).stat().st_mtime_ns for path in files_in(tmp_path)}
    assert {path: again[path] for path in stamps} == stamps


def test_other_entries_in_the_same_place_are_corrupt(
    tmp_path: Path, key: LogKey, entries: Entries, publish: Publish
) -> None:
    """A store that was restored from a backup and went on differently cannot overwrite what was published."""
    archive = TileArchive(tmp_path)
    publish(archive, 700)
    for old in (0, 1, 256, 300, 600):
        with pytest.raises(Corrupt) as caught:
            archive.grow(old, [*entries(old, 600), b"other", *entries(601, 700)])
        assert caught.value.code == "archive-rewrite"
    with pytest.raises(Refused) as gap:
        archive.grow(701, [b"other"])
    assert gap.value.code == "archive-gap"
    assert verify_log(tmp_path, key.verifiers).ok


def test_the_published_tree_never_goes_back(
    tmp_path: Path, key: LogKey, entries: Entries, publish: Publish
) -> None:
    """A smaller checkpoint, another of the same size, and one of a tree that was not grown are refused."""
    archive = TileArchive(tmp_path)
    publish(archive, 300)
    head = archive.grow(0, entries(0, 200))
    older = sign_checkpoint(ORIGIN, head.size, head.root, key.signers[:1])
    forked = sign_checkpoint(ORIGIN, 300, b"x" * 32, key.signers[:1])
    ahead = sign_checkpoint(ORIGIN, 301, b"x" * 32, key.signers[:1])
    for checkpoint, code in (
        (older, "archive-rollback"),
        (forked, "archive-rollback"),
        (ahead, "archive-head"),
    ):
        with pytest.raises(Corrupt) as caught:
            archive.publish(checkpoint)
        assert caught.value.code == code
    assert archive.size == 300


def test_a_checkpoint_may_be_signed_again(tmp_path: Path, key: LogKey, publish: Publish) -> None:
    """The same tree with more signatures replaces its checkpoint, also after a restart."""
    publish(TileArchive(tmp_path), 300)
    archive = TileArchive(tmp_path)
    published = archive.published()
    assert published is not None
    archive.publish(sign_checkpoint(ORIGIN, 300, published.root, key.signers, time_s=1))
    assert verify_log(tmp_path, key.verifiers, need=2).ok


def test_an_empty_log_can_be_published(tmp_path: Path, key: LogKey, publish: Publish) -> None:
    """Size 0 has a checkpoint and no tiles."""
    publish(TileArchive(tmp_path), 0)
    assert files_in(tmp_path) == {"checkpoint"}
    assert verify_log(tmp_path, key.verifiers).ok


def test_partial_tiles_are_still_read_when_they_have_filled_up(
    tmp_path: Path, entries: Entries, publish: Publish
) -> None:
    """Who holds an older checkpoint reads its partial tiles out of the full ones."""
    archive = TileArchive(tmp_path)
    publish(archive, 100)
    before = {level: archive.read_tile(Tile(level, 0, 100)) for level in (ENTRIES, 0)}
    publish(archive, 600)
    assert not (tmp_path / "tile/0/000.p").exists()
    assert {level: archive.read_tile(Tile(level, 0, 100)) for level in (ENTRIES, 0)} == before
    assert tiles.parse_bundle(before[ENTRIES], 100) == entries(0, 100)


@pytest.mark.parametrize("tile", [Tile(0, 9), Tile(0, 2, 90), Tile(3, 0, 1), Tile(ENTRIES, 7, 3)])
def test_tiles_that_are_not_there_are_refused(tile: Tile, tmp_path: Path, publish: Publish) -> None:
    """A tile beyond the log is not found, which is no fault of the log's."""
    archive = TileArchive(tmp_path)
    publish(archive, 600)
    with pytest.raises(Refused) as caught:
        archive.read_tile(tile)
    assert caught.value.code == "tile-not-found"


def test_entries_are_read_in_any_range(tmp_path: Path, entries: Entries, publish: Publish) -> None:
    """Ranges across bundle borders give what was written; ranges beyond the log are refused."""
    archive = TileArchive(tmp_path)
    publish(archive, 600)
    for start, end in ((0, 0), (0, 1), (255, 257), (256, 512), (599, 600), (100, 600)):
        assert list(archive.entries(start, end)) == entries(start, end)
    for start, end in ((-1, 1), (2, 1), (0, 601)):
        with pytest.raises(Refused):
            archive.entries(start, end)


def test_proofs_read_from_tiles_verify(tmp_path: Path, entries: Entries, publish: Publish) -> None:
    """Inclusion of any entry and consistency between any two published sizes come from the files alone."""
    archive = TileArchive(tmp_path)
    roots = {}
    sizes = (1, 5, 256, 300, 700)
    for size in sizes:
        publish(archive, size)
        published = archive.published()
        assert published is not None
        roots[size] = published.root
    read_node = archive.node_reader(700)
    for index in (0, 1, 255, 256, 300, 511, 512, 698, 699):
        made = merkle.inclusion_proof(index, 700, read_node)
        leaf = merkle.leaf_hash(entries(index, index + 1)[0])
        merkle.verify_inclusion(leaf, index, 700, made, roots[700])
    for old, new in itertools.combinations(sizes, 2):
        made = merkle.consistency_proof(old, new, read_node)
        merkle.verify_consistency(old, roots[old], new, roots[new], made)


def test_a_damaged_edge_is_not_built_on(tmp_path: Path, publish: Publish) -> None:
    """A restart that finds tiles of another root than its checkpoint states stops."""
    publish(TileArchive(tmp_path), 300)
    path = tmp_path / "tile/0/001.p/44"
    path.write_bytes(b"x" * len(path.read_bytes()))
    with pytest.raises(Corrupt) as caught:
        TileArchive(tmp_path).grow(300, [b"more"])
    assert caught.value.code == "archive-root"
    path.write_bytes(b"short")
    with pytest.raises(Corrupt):
        TileArchive(tmp_path).grow(300, [b"more"])


def test_an_entry_too_large_grows_nothing(tmp_path: Path, key: LogKey, publish: Publish) -> None:
    """An entry beyond the format is refused, and the log goes on without it."""
    archive = TileArchive(tmp_path)
    publish(archive, 10)
    with pytest.raises(Refused) as caught:
        archive.grow(10, [b"fits", b"x" * 65_536])
    assert caught.value.code == "entry-too-large"
    publish(archive, 20)
    assert verify_log(tmp_path, key.verifiers).ok
