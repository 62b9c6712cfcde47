"""A node of the simulated site, through all of its lives.

A life begins as `wiring.site` has it: the clock resumes from the record, the record is taken up, the log is published
before anything is done that it says is still to do; then work, publication, eyes and pruning run until the process
dies. What outlives it is the database and the node's archive of the log.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import HybridClock, hlc_ms
from outlast.core.commit import Planner
from outlast.core.envelope import Envelope, LocalRootKey, RootKeys
from outlast.core.errors import OutlastError
from outlast.core.log.archive import TileArchive
from outlast.core.publish import Publisher
from outlast.core.routing.breaker import BreakerConfig
from outlast.core.routing.choose import Pick
from outlast.core.routing.health import ProviderConfig
from outlast.core.routing.router import Call, Router
from outlast.core.store.port import WriteSet
from outlast.core.work.runner import Kind
from outlast.signing.work import kinds
from outlast.signing.world import Subjects, World
from outlast.testing.simulation.database import Session
from outlast.testing.simulation.door import Answer, Door
from outlast.testing.simulation.engine import Sleep, Task, Within
from outlast.testing.simulation.eyes import Eyes
from outlast.testing.simulation.parts import NodeClock, prepare
from outlast.testing.simulation.publishing import FOLDER, MemoryFiles, SigningPen
from outlast.testing.simulation.site import JOBS_KEPT_MS, Site
from outlast.testing.simulation.swarm import NEVER
from outlast.testing.simulation.worker import Worker

FEW_ATTEMPTS = 3
"""Tries of a job in seeds that want dead letters."""
BOOT_RETRY_MS = 500
PUBLISH_RETRY_MS = 1_000
AMPLE_BYTES = 1 << 40
ENVELOPE = Envelope(RootKeys(LocalRootKey("simulation", bytes(32))))
"""For personal fields; no simulated request has any."""


class WatchedRouter(Router):
    """The real router; nobody gets leave for a provider that this node knows to be switched off."""

    def __init__(self, node: Node) -> None:
        # as `wiring.site` has it: a node with eyes finds out by checks who is well again, one without by calls
        breaker = BreakerConfig(check_first=node.site.watched)
        super().__init__(node.clock, default=ProviderConfig(breaker=breaker))
        self._node = node

    def begin(self, pick: Pick, *, retry: bool = False) -> Call | None:
        """See Router."""
        call = super().begin(pick, retry=retry)
        off = self._node.eyes.disabled
        self._node.site.checks.always(
            call is None or pick.provider not in off, f"{pick.provider} was switched off and chosen"
        )
        return call


class Node:
    """One process of the site. ``serving``: it takes requests."""

    def __init__(self, site: Site, name: str) -> None:
        self.site = site
        self.sim = site.sim
        self.name = name
        self.life = 0
        self.stalled_until_ms = 0.0
        self.up = False
        self.serving = False
        self.untold = False
        self.publishing = False
        self.skew_ms = 0.0
        self.asking = 0
        """Providers being asked right now."""
        self.publisher: Publisher | None = None
        self.files = MemoryFiles(name, site.reader, site.faults)
        self.pen = SigningPen(site.checks, name)
        self._died_publishing = False
        self._tasks: dict[Task, None] = {}

    # -- lives ------------------------------------------------------------------------------------

    def start(self) -> None:
        """A fresh process: nothing is remembered, and its worker's name is new."""
        site, sim = self.site, self.sim
        self.life += 1
        self.up = True
        self.worker_name = f"{self.name}#{self.life}"
        self.clock = NodeClock(sim, self.skew_ms)
        self.store = Session(site.store, self, self.worker_name)
        planner = Planner(site.deciders, HybridClock(self.clock), "sim")
        self.door = Door(sim, self, self.store, planner, self.clock)
        self.signers: Router = WatchedRouter(self)
        self.stampers: Router = WatchedRouter(self)
        self.eyes = Eyes(sim, site.checks, self, site.deciders, site.providers, site.authorities)
        self.worker = Worker(sim, site.checks, self, self._kinds())
        self.publisher = None
        if site.swarm.engine == "embedded":
            site.store.disk.release_leases()  # as an embedded store does when it opens
        sim.note(f"{self.worker_name} starts")
        self.run(self._live())

    async def _live(self) -> None:
        while True:
            try:
                await self._boot()
                break
            except OutlastError as error:
                self.sim.note(f"{self.worker_name} cannot start: {error.code}")
                await Sleep(self.sim, BOOT_RETRY_MS)
        self.serving = True
        swarm = self.site.swarm
        self.run(self.worker.work())
        if self.publisher is not None:
            self.run(self._publish(self.publisher))
        if self.site.watched:
            self.run(self.eyes.run())
        if swarm.prune_every_ms != NEVER:
            self.run(self._prune())

    async def _boot(self) -> None:
        head = await self.store.head()
        self.clock.resume(hlc_ms(head.hlc))
        await self.eyes.start()
        if self.site.swarm.publish_every_ms == NEVER:
            return
        archive = TileArchive(FOLDER, self.files)
        publisher = Publisher(self.store, archive, self.pen.sign, self.clock, self._off_loop)  # type: ignore[arg-type]  # as much of a store as it uses
        await publisher.begin()
        self.publisher = publisher

    def _kinds(self) -> dict[str, Kind]:
        return {
            name: msgspec.structs.replace(kind, backoff=self._backoff(kind))
            for name, kind in kinds(self._world()).items()
        }

    def _backoff(self, kind: Kind) -> BackoffPolicy:
        few = self.site.swarm.few_attempts
        return msgspec.structs.replace(kind.backoff, attempts=FEW_ATTEMPTS) if few else kind.backoff

    def start_again(self) -> None:
        """Start, unless somebody did already."""
        if not self.up:
            self.start()

    def stall(self, for_ms: float) -> None:
        """Nothing of this process goes on for so long; the rest of the world does."""
        self.stalled_until_ms = max(self.stalled_until_ms, self.sim.now_ms + for_ms)
        if for_ms > self.lease_ms and self.up and self.worker.running:
            self.site.checks.reachable("node stalled beyond its lease")
        self.sim.note(f"{self.name} stalls for {for_ms:.0f} ms")

    def struck(self) -> int:
        """See Life: the process dies at this event."""
        self.site.faults.note("dies at an event")
        self.struck_down()
        return self.site.faults.visits_until("dies at an event")

    def struck_down(self) -> None:
        """The process dies, and somebody starts it again."""
        if self.up:
            self.crash()
            self.sim.after(self.sim.between(20, 2_000), self.start_again)

    def crash(self) -> None:
        """The process is gone, with everything that was not committed."""
        self.sim.note(f"{self.worker_name} crashes")
        checks = self.site.checks
        if self.asking:
            checks.reachable("crashed while a provider was asked")
        if self.untold:
            checks.reachable("crashed between commit and acknowledgement")
        if self.publishing:
            checks.reachable("crashed while publishing")
            self._died_publishing = True
        self.life += 1
        self.up = self.serving = self.untold = self.publishing = False
        self.stalled_until_ms = 0.0
        tasks, self._tasks = self._tasks, {}
        for task in tasks:
            task.cancel()
        self.asking = 0
        self.store.lost()

    def run(
        self,
        work: Coroutine[Any, Any, Any],
        done: Callable[[BaseException | None], None] | None = None,
    ) -> Task:
        """A task of this life."""

        def ended(_: Any, error: BaseException | None) -> None:
            self._tasks.pop(task, None)
            if done is not None:
                done(error)
            elif error is not None:
                raise error

        task = self.sim.spawn(work, of=self, done=ended)
        self._tasks[task] = None
        return task

    def drop(self, task: Task) -> None:
        """Cancel a task of this life."""
        task.cancel()
        self._tasks.pop(task, None)

    # -- what its parts ask it ----------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Nothing may be started: the log's publisher has stopped."""
        return self.publisher is not None and self.publisher.failure is not None

    @property
    def published(self) -> int:
        """How much of the log this node has ever published."""
        return TileArchive(FOLDER, self.files).size

    def pause_ms(self, usual_ms: float) -> float:
        """How long whoever has nothing to do sleeps."""
        return self.site.pause_ms(usual_ms)

    @property
    def concurrency(self) -> int:
        """Most jobs at once."""
        return self.site.swarm.concurrency

    @property
    def lease_ms(self) -> int:
        """How long a lease lasts."""
        return self.site.swarm.lease_ms

    @property
    def disk_free_bytes(self) -> int:
        """Room on the site's disk."""
        return 0 if self.site.store.full else AMPLE_BYTES

    async def next_due_ms(self) -> int | None:
        """When the next job comes due."""
        return await self.store.next_due_ms(tuple(self.worker.kinds))

    def durable(self) -> None:
        """A flush is durable; between here and the answer the process may die."""
        self.untold = True
        if self.site.faults.fires("dies between commit and answer"):
            self.sim.after(0.0, self.struck_down, of=self)

    def carried(self, pieces: int) -> None:
        """So many pieces of work were in one flush."""
        self.site.checks.sometimes(pieces > 1, "a flush carries more than one piece of work")

    def ending(self, job: int, is_holder: bool) -> None:
        """A job is being ended, moved or extended by whoever holds its newest lease, or not."""
        self.site.checks.always(is_holder, f"job {job} is written by {self.name}, who has lost it")

    def committed(self, write: WriteSet) -> None:
        """A flush is durable, and its callers are being told."""
        self.eyes.committed(write)
        if self.publisher is not None:
            self.publisher.committed(write)
        if write.new_jobs and not self.site.faults.fires("wake-up lost"):
            self.sim.after(1.0, self.worker.wake, of=self)

    def ask(self, work: Any, answer: Answer) -> None:
        """A request has arrived."""
        self.door.enqueue(work, answer)

    # -- its loops ------------------------------------------------------------------------------------

    async def _publish(self, publisher: Publisher) -> None:
        every_ms = self.site.swarm.publish_every_ms
        while publisher.failure is None:
            before = publisher.published
            good = await publisher.attempt()
            if good and publisher.published > before and self._died_publishing:
                self._died_publishing = False
                self.site.checks.reachable("published again after a crash")
            await Sleep(self.sim, self.pause_ms(every_ms) if good else PUBLISH_RETRY_MS)

    async def _off_loop(self, function: Callable[..., Any], *args: Any) -> Any:
        self.publishing = True
        await Sleep(self.sim, self.sim.between(0.1, 20))
        self.publishing = False
        return function(*args)

    async def _prune(self) -> None:
        while not self.site.healed:
            await Sleep(self.sim, self.site.swarm.prune_every_ms)
            now_ms = self.clock.now_ms()
            try:
                await self.store.prune(
                    idempotency_before_ms=now_ms - self.site.idempotency_kept_ms,
                    jobs_before_ms=now_ms - JOBS_KEPT_MS,
                )
            except OutlastError as error:
                self.sim.note(f"{self.worker_name} cannot prune: {error.code}")

    # -- the handlers' world ------------------------------------------------------------------------

    def _world(self) -> World:
        site, sim = self.site, self.sim

        async def within(timeout_ms: int, work: Any) -> Any:
            self.asking += 1
            if site.faults.fires("stalls while a provider is asked"):
                sim.after(1.0, self.stall, sim.between(0.8, 4) * self.lease_ms, of=self)
            try:
                return await Within(sim, timeout_ms, work)
            finally:
                self.asking -= 1

        async def prepared(document: bytes, options: Any) -> Any:
            await Sleep(sim, sim.between(1, 10))
            return prepare(document, options)

        return World(
            clock=self.clock,
            door=self.door,
            streams=self.store,
            deciders=site.deciders,
            bodies=site.shelf,
            envelope=ENVELOPE,
            subjects=Subjects(self.store, ENVELOPE),
            within=within,
            prepare=prepared,
            denied=lambda _tenant, _class, provider: self.eyes.denied(provider),
            classes=site.classes,
            signers=site.providers,
            authorities=site.authorities,
            regions={},
            signer_router=self.signers,
            authority_router=self.stampers,
            actor=self.worker_name,
        )
