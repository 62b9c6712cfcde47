"""Checks a whole log from its durable bytes: nothing it holds is taken on trust.

Recomputes every leaf from the entry bundles, every tile from the leaves, and the root from the tiles; compares each
with what is stored, the root with the checkpoint, the checkpoint's signatures with pinned keys, and, given a
checkpoint seen earlier, that the log still contains that tree. Memory is bounded by one tile a level. It goes on after
a fault where it can, so that a report tells the extent of the damage and not only its beginning.

Never repairs. Leaves to others: what the entries say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

import msgspec

from outlast.core.errors import OutlastError
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from outlast.core.log.edge import TreeEdge
from outlast.core.log.merkle import leaf_hash
from outlast.core.log.note import Verified, Verifier, parse_note
from outlast.core.log.tiles import (
    ENTRIES,
    TILE_WIDTH,
    Tile,
    parse_bundle,
    parse_tile,
    tiles_between,
)

MAX_FINDINGS = 20
"""Faults described in a report; those beyond are only counted."""


class LogReader(Protocol):
    """Where a log is read from: a TileArchive, or a client of somebody's ``/log``."""

    def read_checkpoint(self) -> bytes | None:
        """The checkpoint, a signed note; None if there is none."""
        ...

    def read_tile(self, tile: Tile) -> bytes:
        """A tile's or bundle's bytes; raises an OutlastError if there is none."""
        ...


class Finding(msgspec.Struct, frozen=True):
    """One fault: a stable ``code``, ``where`` (a path, or ``checkpoint``), and what is wrong there."""

    code: str
    where: str
    message: str


class FsckReport(msgspec.Struct, frozen=True):
    """What was found. ``size`` is the checkpoint's, ``entries`` how many were checked; ``root`` what these give."""

    origin: str
    size: int
    entries: int
    bundles: int
    tiles: int
    entry_bytes: int
    root: bytes
    verified: tuple[Verified, ...]
    consistent_with: int | None
    faults: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether everything was checked and nothing found wrong."""
        return not self.faults and self.entries == self.size


def verify_log(
    log: Path | LogReader,
    verifiers: Collection[Verifier],
    *,
    origin: str | None = None,
    need: int = 1,
    trusted: Checkpoint | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> FsckReport:
    """Check a log wholly. Faults are reported, not raised.

    ``verifiers``, ``origin`` and ``need`` are as for ``open_checkpoint``. ``trusted`` is an earlier checkpoint of the
    log, verified by the caller: the log must extend it. ``progress(done, total)`` is called about once per bundle,
    in entries.
    """
    check = _Check(TileArchive(log) if isinstance(log, Path) else log, trusted)
    checkpoint = check.checkpoint(verifiers, origin, need)
    if checkpoint is not None:
        for tile in tiles_between(0, checkpoint.size):
            if tile.level != ENTRIES or not check.bundle(tile):
                break
            if progress is not None:
                progress(check.tree.size, checkpoint.size)
        check.finish(checkpoint)
    return check.report(checkpoint)


class _Check:
    """One run: the tree recomputed so far, and what was found."""

    def __init__(self, reader: LogReader, trusted: Checkpoint | None) -> None:
        self.tree = TreeEdge()
        self._reader = reader
        self._trusted = trusted
        self._consistent_with: int | None = None
        self._bundles = self._tiles = self._entry_bytes = self._faults = 0
        self._findings: list[Finding] = []
        self._verified: tuple[Verified, ...] = ()

    def checkpoint(
        self, verifiers: Collection[Verifier], origin: str | None, need: int
    ) -> Checkpoint | None:
        """The log's checkpoint, also one with bad signatures; None when there is none to go by."""
        try:
            data = self._reader.read_checkpoint()
        except OutlastError as error:
            self._fault(error.code, "checkpoint", error.message)
            return None
        if data is None:
            self._fault("checkpoint-missing", "checkpoint", "the log has no checkpoint")
            return None
        try:
            opened = open_checkpoint(data, verifiers, origin=origin, need=need)
        except OutlastError as error:
            self._fault(error.code, "checkpoint", error.message)
        else:
            self._verified = opened.verified
            return opened.checkpoint
        try:
            return parse_checkpoint(parse_note(data).text)
        except OutlastError:
            return None  # the same fault was noted above

    def bundle(self, tile: Tile) -> bool:
        """Check a bundle and the tiles it fills; False when the log cannot be followed beyond it."""
        leaves = self._leaves(tile)
        if leaves is None:
            return False
        self._bundles += 1
        cut = self._trusted.size - self.tree.size if self._trusted is not None else 0
        if 0 < cut <= len(leaves):
            self._add(leaves[:cut])
            self._compare_trusted()
            leaves = leaves[cut:]
        self._add(leaves)
        return True

    def _leaves(self, tile: Tile) -> list[bytes] | None:
        """A bundle's leaf hashes; where it is damaged, those its level-0 tile has, so as to go on."""
        try:
            entries = parse_bundle(self._reader.read_tile(tile), tile.width)
        except OutlastError as error:
            self._fault(error.code, tile.path, error.message)
        else:
            self._entry_bytes += sum(map(len, entries))
            return [leaf_hash(entry) for entry in entries]
        try:
            below = Tile(0, tile.index, tile.width)
            return parse_tile(self._reader.read_tile(below), tile.width)
        except OutlastError as error:
            self._fault(error.code, below.path, error.message)
            return None

    def _add(self, leaves: list[bytes]) -> None:
        for tile, computed in self.tree.add(leaves):
            self._compare(tile, computed)

    def _compare(self, tile: Tile, computed: bytes) -> None:
        self._tiles += 1
        try:
            stored = self._reader.read_tile(tile)
        except OutlastError as error:
            self._fault(error.code, tile.path, error.message)
            return
        if stored != computed:
            self._fault("tile-mismatch", tile.path, _first_difference(tile, stored, computed))

    def _compare_trusted(self) -> None:
        if self._trusted is None:
            return
        if self.tree.root() == self._trusted.root:
            self._consistent_with = self._trusted.size
        else:
            self._fault(
                "log-forked",
                "checkpoint",
                f"the log's first {self._trusted.size} entries are not those of the trusted checkpoint",
            )

    def finish(self, checkpoint: Checkpoint) -> None:
        """Compare the right edge and the root, once every bundle has been added."""
        trusted = self._trusted
        if trusted is not None and trusted.size == 0:
            self._consistent_with = 0
        if trusted is not None and trusted.origin != checkpoint.origin:
            self._fault(
                "checkpoint-origin", "checkpoint", "the trusted checkpoint is of another log"
            )
        if trusted is not None and trusted.size > checkpoint.size:
            self._fault(
                "log-shrunk",
                "checkpoint",
                f"the log has {checkpoint.size} entries, the trusted checkpoint {trusted.size}",
            )
        if self.tree.size != checkpoint.size:
            return  # the reason is among the findings
        for tile, computed in self.tree.partials():
            self._compare(tile, computed)
        if self.tree.root() != checkpoint.root:
            self._fault("root-mismatch", "checkpoint", "the entries do not give the root it states")

    def report(self, checkpoint: Checkpoint | None) -> FsckReport:
        """The findings so far."""
        return FsckReport(
            origin="" if checkpoint is None else checkpoint.origin,
            size=0 if checkpoint is None else checkpoint.size,
            entries=self.tree.size,
            bundles=self._bundles,
            tiles=self._tiles,
            entry_bytes=self._entry_bytes,
            root=self.tree.root(),
            verified=self._verified,
            consistent_with=self._consistent_with,
            faults=self._faults,
            findings=tuple(self._findings),
        )

    def _fault(self, code: str, where: str, message: str) -> None:
        self._faults += 1
        if len(self._findings) < MAX_FINDINGS:
            self._findings.append(Finding(code, where, message))


def _first_difference(tile: Tile, stored: bytes, computed: bytes) -> str:
    try:
        pairs = zip(parse_tile(stored, tile.width), parse_tile(computed, tile.width), strict=True)
    except OutlastError as error:
        return error.message
    place = next(at for at, (left, right) in enumerate(pairs) if left != right)
    item = tile.index * TILE_WIDTH + place
    what = f"entry {item}" if tile.level == 0 else f"hash {item} of level {tile.level}"
    return f"{what} is the first that does not agree with the entries"
