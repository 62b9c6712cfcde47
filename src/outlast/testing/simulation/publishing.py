"""The log as the nodes publish it, and somebody who reads it and believes nothing.

Each node has an archive of its own, kept in memory and outliving its crashes; archive, publisher and signature are the
real ones. The reader looks at every checkpoint in the moment in which it becomes visible: it must not be ahead of the
store, and its root must be that of the store's first entries. Now and then the reader takes two nodes' checkpoints,
checks the signatures and has one node's tiles prove that the one tree extends the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from outlast.core.errors import Unavailable
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import (
    Checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from outlast.core.log.merkle import (
    CompactRange,
    consistency_proof,
    leaf_hash,
    verify_consistency,
)
from outlast.core.log.note import Verifier, parse_note
from outlast.core.log.signers import Ed25519Signer, verifier_for
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.faults import FaultPoints
from outlast.testing.store import MemoryDisk

ORIGIN = "sim.example/log"
FOLDER = Path("log")


@lru_cache(maxsize=1)
def log_signer() -> Ed25519Signer:
    """The key that all nodes of the site sign checkpoints with."""
    return Ed25519Signer(ORIGIN, sha256(b"the simulated log").digest())


@lru_cache(maxsize=1)
def log_verifier() -> Verifier:
    """What a reader has pinned."""
    return verifier_for(log_signer().key)


class MemoryFiles:
    """`core.log.files.Files` in memory. ``checkpoint`` is the visible one, if any."""

    def __init__(self, name: str, reader: Reader, faults: FaultPoints) -> None:
        self.name = name
        self._reader = reader
        self._faults = faults
        self._files: dict[str, bytes] = {}

    @property
    def checkpoint(self) -> bytes | None:
        """The signed note that is visible."""
        return self._files.get(f"{FOLDER}/checkpoint")

    def make_directory(self, path: Path) -> None:
        """Every directory is there."""

    def write_durably(self, files: Sequence[tuple[Path, bytes]]) -> None:
        """See Files."""
        if self._faults.fires("archive cannot be written"):
            raise Unavailable("archive-io", "told to fail", scope="log")
        self._files.update((str(path), data) for path, data in files)

    def sync_directories(self, paths: Sequence[Path]) -> None:
        """Nothing here is lost with the power."""

    def rename(self, source: Path, target: Path) -> None:
        """See Files."""
        data = self._files.pop(str(source))
        self._files[str(target)] = data
        if target.name == "checkpoint":
            self._reader.appeared(self.name, data)

    def existing(self, paths: Sequence[Path]) -> list[Path]:
        """See Files."""
        return [path for path in paths if str(path) in self._files]

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        """See Files; where it fails, some have their names and some do not."""
        for staged, target, data in files:
            self.write_durably([(staged, data)])
            self.rename(staged, target)

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        above = f"{path}/"
        for name in [name for name in self._files if name.startswith(above)]:
            del self._files[name]

    def read(self, path: Path, limit: int) -> bytes | None:
        """See Files."""
        data = self._files.get(str(path))
        return None if data is None else data[:limit]


class Reader:
    """Whoever audits the log from outside. ``truth`` is the store that nobody restored."""

    def __init__(self, checks: Checks, truth: MemoryDisk) -> None:
        self._checks = checks
        self._truth = truth
        self._tree = CompactRange()
        self._roots: dict[int, bytes] = {}
        self._compared: set[tuple[bytes | None, bytes | None]] = set()
        self._known: dict[bytes, Checkpoint] = {}

    def appeared(self, name: str, data: bytes) -> None:
        """A node has made a checkpoint visible."""
        checkpoint, there = parse_checkpoint(parse_note(data).text), self._truth.head.size
        self._checks.always(
            checkpoint.size <= there,
            f"{name} published {checkpoint.size} entries, the store has {there}",
        )
        self._checks.sometimes(checkpoint.size < there, "a checkpoint is behind the store")
        self._checks.always(
            checkpoint.root == self.root(checkpoint.size),
            f"{name} published another tree of {checkpoint.size} entries than the store's",
        )

    def root(self, size: int) -> bytes:
        """The root over the store's first ``size`` entries."""
        if size not in self._roots:
            if size < self._tree.size:
                self._tree = CompactRange()
            new = self._truth.entries[self._tree.size : size]
            self._tree.extend(leaf_hash(leaf) for _, leaf in new)
            self._roots[size] = self._tree.root()
        return self._roots[size]

    def compare(self, one: MemoryFiles, other: MemoryFiles) -> None:
        """Two nodes' checkpoints, by nothing but signatures and tiles."""
        notes = [(files, files.checkpoint) for files in (one, other)]
        if (pair := (notes[0][1], notes[1][1])) in self._compared:
            return
        self._compared.add(pair)
        opened = [(self._opened(note), files) for files, note in notes if note is not None]
        if len(opened) < 2:
            return
        opened.sort(key=lambda pair: pair[0].size)
        (old, _), (new, files) = opened
        self._checks.sometimes(
            old.size != new.size, "two nodes have published up to different entries"
        )
        read_node = TileArchive(FOLDER, files).node_reader(new.size)
        proof = consistency_proof(old.size, new.size, read_node)
        verify_consistency(old.size, old.root, new.size, new.root, proof)
        if old.size != new.size:
            self._checks.reachable("reader verified a consistency proof")

    def _opened(self, note: bytes) -> Checkpoint:
        if note not in self._known:
            self._known[note] = open_checkpoint(note, [log_verifier()], origin=ORIGIN).checkpoint
        return self._known[note]


class SigningPen:
    """Signs checkpoints for one node. ``signed`` counts; ``capped``: whatever is signed now is a broken promise."""

    def __init__(self, checks: Checks, name: str) -> None:
        self._checks = checks
        self._name = name
        self.signed = 0
        self.capped = False

    def sign(self, size: int, root: bytes) -> bytes:
        """`core.publish.Sign`."""
        self._checks.always(
            not self.capped, f"{self._name} signed a checkpoint over a store older than its log"
        )
        self.signed += 1
        return sign_checkpoint(ORIGIN, size, root, [log_signer()])
