"""Bulk append without HTTP: journals, committer and the log's publisher in one process on SQLite.

    python -m bench.append_ours ENTRIES BATCH     on one core (the parent sets it); prints figures as JSON

Lines are checked, decided and committed durably (WAL, synchronous=FULL); tiles are written and synced and a checkpoint
is signed (Ed25519 and ML-DSA-44) up to ten times a second. The clock stops when the last entry is under a published
checkpoint.
"""

from __future__ import annotations

import asyncio
import gc
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator

import uvloop

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner
from outlast.core.decider import Deciders
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.log.proof import make_proof
from outlast.core.publish import Publisher
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.operations.api import Journals
from outlast.operations.model.journal import JournalDecider

SITE = "bench"
IN_FLIGHT = 4
"""Batches under way at once, as from four callers."""
LINE_BYTES = 512
"""Of each caller's line; its entry in the log has about 250 more."""
PROOFS = 1_000
PUBLISHED_WITHIN_S = 30.0


def lines(count: int) -> bytes:
    """As many lines of LINE_BYTES, each another."""
    text = "The invoice was approved by a second person, as the rules of the house demand it. " * 6

    def each() -> Iterator[bytes]:
        for number in range(count):
            record = {"at": "2026-11-22T10:00:00Z", "n": number, "action": "approved", "text": ""}
            room = LINE_BYTES - len(json.dumps(record, separators=(",", ":")))
            yield json.dumps({**record, "text": text[:room]}, separators=(",", ":")).encode()

    return b"\n".join(each())


async def measure(entries: int, batch: int) -> None:
    """Append, wait for the checkpoint, and make proofs of what is there."""
    with tempfile.TemporaryDirectory(prefix="outlast-bench-append-") as name:
        folder = pathlib.Path(name)
        store = await SqliteStore.open(folder / "site.db")
        try:
            await _measure(store, folder, entries, batch)
        finally:
            await store.close()


async def _measure(store: SqliteStore, folder: pathlib.Path, entries: int, batch: int) -> None:
    clock, key = SystemClock(), LogKey.generate(SITE)

    def sign(size: int, root: bytes) -> bytes:
        seconds = clock.now_ms() // 1000
        return sign_checkpoint(SITE, size, root, key.signers, time_s=seconds)

    archive = TileArchive(folder / "log")
    publisher = Publisher(store, archive, sign, clock)
    planner = Planner(Deciders([JournalDecider()]), HybridClock(clock), SITE)
    committer = Committer(store, planner, clock, lambda _: publisher.wake())
    journals = Journals(committer, store, clock, SITE, lambda: None)
    body, turns = lines(batch), iter(range(entries // batch))
    gc.freeze()
    publishing = asyncio.create_task(publisher.run())

    async def caller() -> None:
        for _ in turns:
            await journals.append("default", SITE, "bench", body)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(IN_FLIGHT)))
    committed = time.perf_counter() - began
    size = (await store.head()).size
    if not await publisher.wait_for(size - 1, PUBLISHED_WITHIN_S):
        raise RuntimeError(
            f"{publisher.published} of {size} entries published: {publisher.failure}"
        )
    published, cpu = time.perf_counter() - began, time.process_time() - cpu
    publishing.cancel()
    figures = {
        "committed_per_s": size / committed,
        "per_s": size / published,
        "cpu_us": 1e6 * cpu / size,
        "entry_bytes": float(len((await store.entries(size // 2, 1))[0])),
        "proof_ms": _proof_ms(archive, size),
    }
    print(json.dumps(figures))


def _proof_ms(archive: TileArchive, size: int) -> float:
    """What one inclusion proof costs, from files (each tile at most once: they stay in memory)."""
    checkpoint = archive.read_checkpoint()
    assert checkpoint is not None
    began = time.perf_counter()
    for turn in range(PROOFS):
        make_proof(turn * 7919 % size, checkpoint, archive.node_reader(size))
    return 1000 * (time.perf_counter() - began) / PROOFS


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(int(sys.argv[1]), int(sys.argv[2])))
