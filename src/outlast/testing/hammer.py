"""A log under load: writers that append, a publisher, and readers that believe nothing.

Store, committer, publisher and archive are the real ones, in one process, as in a site. Each reader is a thread that
takes the newest checkpoint from the archive, checks its signatures, proves one random entry's inclusion and the
consistency with the checkpoint before, from tiles alone, and checks the proofs. Anything that does not hold ends the
run with that error.
"""

from __future__ import annotations

import asyncio
import pathlib
import threading
import time
from collections import deque

import msgspec

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner, Submission
from outlast.core.ids import Random
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from outlast.core.publish import Publisher
from outlast.core.store.port import WriteSet
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.ledger import KIND, Deposit, ledger_deciders

ORIGIN = "log.example/hammer"
KEY = LogKey(ORIGIN, bytes(range(32)), bytes(range(32, 64)))
STREAMS_PER_CLIENT = 50
READER_PAUSE_S = 0.005
"""Between two of a reader's checks: they share the interpreter with what they measure."""
DRAIN_S = 30.0
"""How long the last entries may take to be published."""


class Load(msgspec.Struct, frozen=True):
    """What to do: ``clients`` submit commands of ``parts`` events with ``memo_bytes`` for ``seconds``, each its next
    when the last is durable; ``readers`` check."""

    seconds: float
    clients: int = 64
    parts: int = 1
    memo_bytes: int = 300
    readers: int = 2


class LoadReport(msgspec.Struct, frozen=True):
    """What came out. ``lags_s``: for each flush, from its commit to the checkpoint that covers it, sorted."""

    entries: int
    seconds: float
    cpu_s: float
    checkpoints: int
    checks: int
    lags_s: list[float]

    def lag_s(self, share: float) -> float:
        """The lag that this share of flushes did not exceed."""
        return self.lags_s[min(len(self.lags_s) - 1, int(share * len(self.lags_s)))]


class Reader(threading.Thread):
    """Checks what is published until told to end; ``error`` is what did not hold."""

    def __init__(self, archive: TileArchive, seed: int) -> None:
        super().__init__(name=f"reader-{seed}", daemon=True)
        self.checks = 0
        self.error: BaseException | None = None
        self._archive = archive
        self._rng = Random(seed)
        self._before: Checkpoint | None = None
        self._over = threading.Event()

    def run(self) -> None:
        """See threading.Thread."""
        try:
            while not self._over.wait(READER_PAUSE_S):
                self._check()
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        """Stop; raises what did not hold."""
        self._over.set()
        self.join()
        if self.error is not None:
            raise self.error

    def _check(self) -> None:
        note = self._archive.read_checkpoint()
        if note is None:
            return
        now = open_checkpoint(note, KEY.verifiers, origin=ORIGIN, need=2).checkpoint
        index = self._rng.randrange(now.size)
        read_node = self._archive.node_reader(now.size)
        proof = inclusion_proof(index, now.size, read_node)
        (entry,) = self._archive.entries(index, index + 1)
        verify_inclusion(leaf_hash(entry), index, now.size, proof, now.root)
        before = self._before
        if before is not None:
            made = consistency_proof(before.size, now.size, read_node)
            verify_consistency(before.size, before.root, now.size, now.root, made)
        self._before = now
        self.checks += 1


class Hammered:
    """The site's parts, in ``folder``."""

    def __init__(self, store: SqliteStore, folder: pathlib.Path) -> None:
        clock = SystemClock()
        self.archive = TileArchive(folder / "log")
        planner = Planner(ledger_deciders(), HybridClock(clock), "hammer")
        self.committer = Committer(store, planner, clock, self._committed)
        self.publisher = Publisher(store, self.archive, self._sign, clock)
        self.publisher.on_publish = self._published
        self._waiting: deque[tuple[int, float]] = deque()
        self.lags_s: list[float] = []
        self.checkpoints = 0
        self.size = 0

    def _sign(self, size: int, root: bytes) -> bytes:
        return sign_checkpoint(ORIGIN, size, root, KEY.signers, time_s=1)

    def _committed(self, write: WriteSet) -> None:
        self.size = write.head.size
        self._waiting.append((write.head.size, time.perf_counter()))
        self.publisher.committed(write)

    async def _published(self, size: int) -> None:
        now = time.perf_counter()
        self.checkpoints += 1
        while self._waiting and self._waiting[0][0] <= size:
            self.lags_s.append(now - self._waiting.popleft()[1])

    async def client(self, number: int, load: Load) -> None:
        """One writer."""
        end, turn = time.perf_counter() + load.seconds, 0
        command = Deposit(at_ms=0, amount=1, parts=load.parts, memo="x" * load.memo_bytes)
        while time.perf_counter() < end:
            stream = f"{number}-{turn % STREAMS_PER_CLIENT}"
            await self.committer.submit(
                Submission(tenant="t", actor="hammer", kind=KIND, stream=stream, command=command)
            )
            turn += 1


async def hammer(folder: pathlib.Path, load: Load) -> LoadReport:
    """Append under load in a new ``folder``; raises what a reader found wrong."""
    store = await SqliteStore.open(folder / "site.db")
    site = Hammered(store, folder)
    readers = [Reader(site.archive, seed) for seed in range(load.readers)]
    publishing = asyncio.create_task(site.publisher.run())
    try:
        for reader in readers:
            reader.start()
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*[site.client(number, load) for number in range(load.clients)])
        seconds = time.perf_counter() - began
        if not await site.publisher.wait_for(site.size - 1, DRAIN_S):
            if publishing.done():
                publishing.result()  # raises what ended it
            head = await store.head()
            raise RuntimeError(
                f"{site.publisher.published} of {head.size} published: {site.publisher.failure}"
            )
        await asyncio.sleep(0)  # the last publication is told after those who waited for it
        cpu_s = time.process_time() - cpu
        for reader in readers:
            await asyncio.to_thread(reader.end)
        checks = sum(reader.checks for reader in readers)
        lags_s = sorted(site.lags_s)
        return LoadReport(site.size, seconds, cpu_s, site.checkpoints, checks, lags_s)
    finally:
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await store.close()
