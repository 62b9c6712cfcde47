"""The log while it grows: readers check every proof they ask for, and checkpoints keep up with the commits.

Short forms of what `python bench/run.py --only logload` measures at 1,000,000 entries.
"""

from __future__ import annotations

import asyncio
import pathlib
import statistics
import time

import pytest

from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.fsck import verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import inclusion_proof, leaf_hash, verify_inclusion
from outlast.testing import hammer
from outlast.testing.hammer import Load

pytestmark = pytest.mark.anyio

BEHIND_S = 0.2
"""A checkpoint is at most so far behind the commit, on a machine that is not otherwise busy."""
BUSY = 5
"""How much slower a machine that runs other tests may be."""


async def test_readers_while_writers_append(tmp_path: pathlib.Path) -> None:
    """Signatures, inclusion and consistency hold at every moment, and checkpoints follow the commits closely."""
    report = await hammer.hammer(tmp_path, Load(seconds=1.5, clients=32, parts=4))
    assert report.entries > 1_000
    assert report.checks > 20
    assert report.checkpoints > 3
    assert report.lag_s(0.5) < BEHIND_S * BUSY
    checked = await asyncio.to_thread(verify_log, tmp_path / "log", hammer.KEY.verifiers, need=2)
    assert (checked.ok, checked.size) == (True, report.entries)


class Forking(TileArchive):
    """Planted: an archive that gives a wrong hash now and then."""

    def node_reader(self, size: int):  # type: ignore[no-untyped-def]  # as the real one's
        """See TileArchive."""
        read = super().node_reader(size)
        return lambda level, index: read(level, index) if index % 5 else b"\0" * 32


async def test_readers_find_a_log_that_lies(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: wrong nodes in proofs end the run."""
    monkeypatch.setattr(hammer, "TileArchive", Forking)
    with pytest.raises(Exception, match=r"inclusion-proof|consistency-proof"):
        await hammer.hammer(tmp_path, Load(seconds=0.8, clients=8, parts=4))


def test_a_proof_takes_less_than_a_millisecond(tmp_path: pathlib.Path) -> None:
    """Made from tiles that are in memory, an inclusion proof is a few look-ups; from cold ones, some hashing."""
    key = LogKey("log.example", bytes(range(32)), bytes(range(32, 64)))
    archive, size = TileArchive(tmp_path / "log"), 70_000
    entries = [b'{"n":%d}' % number for number in range(size)]
    head = archive.grow(0, entries)
    archive.publish(sign_checkpoint("log.example", head.size, head.root, key.signers[:1]))
    took = []
    for index in range(0, 2_000, 7):
        began = time.perf_counter()
        proof = inclusion_proof(index, size, archive.node_reader(size))
        took.append(time.perf_counter() - began)
        verify_inclusion(leaf_hash(entries[index]), index, size, proof, head.root)
    assert statistics.median(took) < 0.001
