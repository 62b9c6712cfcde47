"""A site's log of a million entries: builds it, and looks at it from processes of their own, for their memory.

    python -m bench.biglog build CONFIG ENTRIES     appends to the site of this configuration
    python -m bench.biglog fsck CONFIG
    python -m bench.biglog proofs CONFIG
    python -m bench.biglog restart CONFIG           opens the site, has one command accepted
    python -m bench.biglog load FOLDER SECONDS CLIENTS PARTS

Each prints one JSON object.
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from outlast.core.access import SCOPES
from outlast.core.clock import HybridClock, SystemClock, hlc_text
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.entry import Entry, encode_entry
from outlast.core.log.files import DiskFiles
from outlast.core.log.fsck import verify_log
from outlast.core.log.merkle import CompactRange, inclusion_proof, leaf_hash, verify_inclusion
from outlast.core.publish import Publisher
from outlast.core.store.port import (
    EntryRow,
    Head,
    IdempotencyRow,
    Needs,
    Snapshot,
    Store,
    StreamKey,
    StreamRow,
    WriteSet,
)
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.hammer import Load, hammer
from outlast.wiring.config import load_config
from outlast.wiring.rootkeys import database, load_log_key
from outlast.wiring.site import data_log, open_site

ENTRY_BYTES = 512
PER_FLUSH = 512
EVENTS_PER_STREAM = 4
PROOFS = 2_000


class CountingFiles(DiskFiles):
    """Counts what goes to the disk, each sync."""

    def __init__(self) -> None:
        self.syncs = 0

    def write_durably(self, files: Sequence[tuple[Path, bytes]]) -> None:
        self.syncs += len(files)
        super().write_durably(files)

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        self.syncs += len(files)
        super().install(files)

    def sync_directories(self, paths: Sequence[Path]) -> None:
        self.syncs += len(paths)
        super().sync_directories(paths)


def peak_mb() -> float:
    """The most memory this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


class Filler:
    """Flushes of PER_FLUSH entries each, past the deciders: what the store and the log cost, no more."""

    def __init__(self) -> None:
        self._hlc = HybridClock(SystemClock())
        self._number = 0
        self.written: WriteSet | None = None

    def plan(self, snapshot: Snapshot) -> WriteSet:
        """The next flush."""
        self._hlc.resume(snapshot.head.hlc)
        head, tree = snapshot.head, CompactRange.decode(snapshot.head.edge)
        write = WriteSet(head=head)
        for at in range(head.size, head.size + PER_FLUSH, EVENTS_PER_STREAM):
            self._stream(write, tree, at)
        hlc = self._hlc.tick()
        write.head = Head(tree.size, tree.encode(), hlc, head.next_job)
        self.written = write
        return write

    def _stream(self, write: WriteSet, tree: CompactRange, first: int) -> None:
        """One command's events, its state and its idempotency record."""
        stream = f"{first:012d}"
        for part in range(EVENTS_PER_STREAM):
            leaf = encode_entry(_entry(stream, part + 1, hlc_text(self._hlc.tick())))
            tree.append(leaf_hash(leaf))
            write.entries.append(EntryRow(first + part, first + part - 1 if part else -1, leaf))
        key = StreamKey("bench", "bench.thing", stream)
        last = first + EVENTS_PER_STREAM - 1
        write.streams[key] = StreamRow(EVENTS_PER_STREAM, "done", b"{}" * 40, last, 0)
        write.new_streams.add(key)
        digest = first.to_bytes(16, "big")
        write.idempotency.append(IdempotencyRow(digest, digest, b"{}" * 60, 0))


def _entry(stream: str, seq: int, hlc: str) -> Entry:
    room = ENTRY_BYTES - 220
    return Entry(
        type="bench.happened",
        site="bench",
        hlc=hlc,
        vec={"bench": seq},
        tenant="bench",
        stream=f"bench.thing/{stream}",
        seq=seq,
        epoch=1,
        actor="bench",
        data=msgspec.Raw(b'{"text":"%s"}' % (b"x" * room)),
    )


async def build(config_file: Path, entries: int) -> dict[str, float]:
    """Append, publishing as a site does."""
    config = load_config(config_file)
    async with open_site(config):
        pass  # keys and settings are there afterwards
    files, filler = CountingFiles(), Filler()
    log_key = load_log_key(config, True)
    store = await SqliteStore.open(database(config))
    try:
        archive = TileArchive(data_log(config), files)

        def sign(size: int, root: bytes) -> bytes:
            return sign_checkpoint(config.origin, size, root, log_key.signers, time_s=1)

        publisher = Publisher(store, archive, sign, SystemClock())
        checkpoints = 0

        async def count(_: int) -> None:
            nonlocal checkpoints
            checkpoints += 1

        publisher.on_publish = count
        publishing = asyncio.create_task(publisher.run())
        before, began, cpu = (await store.head()).size, time.perf_counter(), time.process_time()
        size = await _fill(store, publisher, filler, before + entries)
        if not await publisher.wait_for(size - 1, 60):
            if publishing.done():
                publishing.result()  # raises what ended it
            raise RuntimeError(f"{publisher.published} of {size} published: {publisher.failure}")
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    finally:
        await store.close()
    done = size - before
    return {
        "entries": size,
        "per_s": done / seconds,
        "cpu_us": cpu_s / done * 1e6,
        "syncs": files.syncs / max(1, checkpoints),
        "checkpoints": checkpoints,
        "peak_mb": peak_mb(),
    }


async def _fill(store: Store, publisher: Publisher, filler: Filler, end: int) -> int:
    size = 0
    while size < end:
        await store.flush(Needs(), filler.plan)
        assert filler.written is not None
        publisher.committed(filler.written)
        size = filler.written.head.size
    return size


async def fsck(config_file: Path) -> dict[str, float]:
    """The whole log from its files."""
    config = load_config(config_file)
    verifiers = load_log_key(config, True).verifiers
    began, cpu = time.perf_counter(), time.process_time()
    report = verify_log(data_log(config), verifiers, origin=config.origin, need=2)
    seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    if not report.ok:
        raise RuntimeError(f"the log is damaged: {report.findings}")
    return {"entries": report.entries, "s": seconds, "cpu_s": cpu_s, "peak_mb": peak_mb()}


async def proofs(config_file: Path) -> dict[str, float]:
    """Inclusion proofs of random entries: with a reader that has seen no tile, and with one that has."""
    directory = data_log(load_config(config_file))
    warm = TileArchive(directory)
    published = warm.published()
    if published is None:
        raise RuntimeError("nothing is published")
    size, rng = published.size, random.Random(1)
    result: dict[str, float] = {}
    for name in ("cold", "warm"):
        took, busy = [], []
        for _ in range(PROOFS):
            # the newest entries are asked for most, as a client that awaits its receipt does
            index = size - 1 - rng.randrange(20_000 if name == "warm" else size)
            archive = warm if name == "warm" else TileArchive(directory)
            began, cpu = time.perf_counter(), time.thread_time()
            proof = inclusion_proof(index, size, archive.node_reader(size))
            busy.append((time.thread_time() - cpu) * 1e3)
            took.append((time.perf_counter() - began) * 1e3)
            (leaf,) = archive.entries(index, index + 1)
            verify_inclusion(leaf_hash(leaf), index, size, proof, published.root)
        result |= {f"{name}_median_ms": statistics.median(took)}
        result |= {f"{name}_p99_ms": sorted(took)[int(0.99 * len(took))]}
        result |= {f"{name}_p99_cpu_ms": sorted(busy)[int(0.99 * len(busy))]}
    return {**result, "peak_mb": peak_mb()}


async def restart(config_file: Path) -> dict[str, float]:
    """From nothing open to a command accepted, the program's modules being loaded."""
    config = load_config(config_file)
    began = time.perf_counter()
    async with open_site(config) as site:
        opened = time.perf_counter()
        await site.access.create(by="bench", tenant="bench", scopes=SCOPES, title="x")
        return {
            "open_s": opened - began,
            "accepted_s": time.perf_counter() - began,
            "peak_mb": peak_mb(),
        }


async def load(folder: Path, seconds: float, clients: int, parts: int) -> dict[str, float]:
    """The log under load; see `outlast.testing.hammer`."""
    report = await hammer(folder, Load(seconds=seconds, clients=clients, parts=parts))
    return {
        "per_s": report.entries / report.seconds,
        "cpu_us": report.cpu_s / report.entries * 1e6,
        "checks": report.checks,
        "p50_ms": report.lag_s(0.5) * 1e3,
        "p99_ms": report.lag_s(0.99) * 1e3,
        "max_ms": report.lag_s(1.0) * 1e3,
        "peak_mb": peak_mb(),
    }


def main(argv: Sequence[str]) -> None:
    """One task; its figures as JSON."""
    task, path, *rest = argv
    tasks = {"fsck": fsck, "proofs": proofs, "restart": restart}
    if task == "build":
        found = asyncio.run(build(Path(path), int(rest[0])))
    elif task == "load":
        found = asyncio.run(load(Path(path), float(rest[0]), int(rest[1]), int(rest[2])))
    else:
        found = asyncio.run(tasks[task](Path(path)))
    os.write(1, msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
