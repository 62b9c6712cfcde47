"""The site's own eyes: backlog, owed timestamps, disk, providers' health; and the mode that follows from them.

What routing notices goes on record here, and so does every change of mode that the rule asks for; what people switch is
in `switches`. The admission of new work is decided from what was seen last, so it costs an accept nothing.

A disk is seen to be full by the first write that it refuses: from then on no new work is taken, until a look finds room.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from outlast.core.access import SITE_TENANT
from outlast.core.backpressure import Gate
from outlast.core.commit import Submission
from outlast.core.decider import Command
from outlast.core.errors import OutlastError, Unavailable
from outlast.core.publish import Publisher
from outlast.core.routing.changes import HealthChange
from outlast.core.routing.outcome import OK, outcome_of
from outlast.core.routing.router import MAX_CHANGES, Call, Router
from outlast.core.store.port import Store, WriteSet
from outlast.operations.model import mode as modes
from outlast.operations.model import provider as providers
from outlast.operations.model.mode import Limits, Observed, SiteMode
from outlast.operations.views import LogHead, Status, Work, out_of_use, status
from outlast.signing.model.request import SETTLE_JOB
from outlast.signing.world import World
from outlast.wiring.blobs import BlobPart
from outlast.wiring.nodes import Nodes
from outlast.wiring.switches import Switches

log = logging.getLogger("outlast.watch")

LOOK_EVERY_S = 0.25
"""How often health is drained and the mode assessed."""
RECOUNT_EVERY_S = 10.0
"""How often the running counts are replaced by real ones."""
RECOUNT_SHARED_S = 2.0
"""The same while other nodes write: what they finish is not in our running counts."""
CHECK_TIMEOUT_S = 2.0
STORAGE_FULL = "storage-full"
"""The code with which a store or a disk refuses a write for want of room."""


class Watch:
    """What this process of the site knows of it."""

    def __init__(
        self,
        *,
        name: str,
        version: str,
        world: World,
        store: Store,
        blobs: BlobPart,
        gate: Gate,
        publisher: Publisher,
        switches: Switches,
        nodes: Nodes,
        limits: Limits,
        local: frozenset[str],
    ) -> None:
        self._name = name
        self._version = version
        self._world = world
        self._store = store
        self._blobs = blobs
        self._gate = gate
        self._publisher = publisher
        self._switches = switches
        self._nodes = nodes
        self._limits = limits
        self._local = local
        self._noticed: deque[HealthChange] = deque(maxlen=MAX_CHANGES)
        self._others_wrote = False
        self._wake = asyncio.Event()
        self.is_full = False
        """A write was refused for want of room, and no look has found any since."""
        self.backlog = 0
        self.owed = 0
        self.dead = 0
        self.disk_free: int | None = None

    @property
    def mode(self) -> SiteMode:
        """The mode that this process works in."""
        return self._switches.mode

    @property
    def limits(self) -> Limits:
        """The room on disk that the rule goes by."""
        return self._limits

    # -- admission --------------------------------------------------------------------------------------------

    def admit(self, tenant: str) -> _Admitted:
        """Let one request for new work in; raises Unavailable ``read-only``, ``overloaded``, ``rate-limited``."""
        refused = self.refusal()
        if refused is not None:
            raise refused
        self._gate.admit(max(0, self.backlog), tenant)
        return _Admitted(self)

    def refusal(self) -> OutlastError | None:
        """Why no new work is taken now; None: it is."""
        # accepted into a store that is older than the log, work would be lost when the newer one is put back
        is_forked = self._publisher.failure is not None
        is_stopped = is_forked or (self.is_full and not self.mode.held)
        return modes.refusal("read-only" if is_stopped else self.mode.label, "accept")

    def admitted(self, error: BaseException | None) -> None:
        """A request for new work has been accepted or refused."""
        self._gate.leave()
        if isinstance(error, Unavailable) and error.code == STORAGE_FULL and not self.is_full:
            log.error("the disk is full: no new work is taken until there is room")
            self.is_full = True
            self._wake.set()

    def committed(self, write: WriteSet) -> None:
        """Keep the counts up with a flush."""
        done = 0
        for job in write.jobs.values():
            ended = job.state in ("done", "dead", "parked")
            done += job.state == "done"
            change = -1 if ended else int(job.id in write.new_jobs)
            if self._blobs.is_debt(job):
                self._blobs.owed += change
                continue
            self.backlog += change
            if job.kind == SETTLE_JOB:
                self.owed += change
        if done:
            self._gate.completed(done)

    def others_wrote(self) -> None:
        """Another node has written: count again soon."""
        self._others_wrote = True

    # -- looking ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the record: what people switched, the counts."""
        await self._switches.start()
        await self.recount()

    async def recount(self) -> None:
        """Count what waits."""
        counts = await self._store.job_counts()
        self.backlog = counts.ready + counts.leased - await self._blobs.recount()
        self.dead = counts.dead
        self.owed = await self._store.count_jobs(SETTLE_JOB)
        self.disk_free = await self._blobs.free_bytes()
        if self.is_full and (
            self.disk_free is None or self.disk_free >= self._limits.disk_ok_bytes
        ):
            self.is_full = (
                False  # tried again: where another disk is full than this one, the next write tells
            )

    def observed(self) -> Observed:
        """What the rule for modes looks at."""
        world = self._world
        signers, authorities = world.signer_router.snapshot(), world.authority_router.snapshot()
        ejected, disabled = out_of_use((*signers, *authorities, *self._blobs.snapshots()))
        remote = [s for s in signers if s.provider not in self._local] + list(authorities)
        out = {*ejected, *disabled}
        failure = self._publisher.failure
        return Observed(
            ejected=ejected,
            disabled=disabled,
            timestamps_owed=max(0, self.owed),
            remote_configured=len(remote),
            remote_reachable=sum(1 for s in remote if s.provider not in out),
            disk_free_bytes=0 if self.is_full else self.disk_free,
            log_damage=failure.message if failure else "",
        )

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            recounted_s = float("-inf")
            while True:
                now_s = self._world.clock.monotonic_s()
                every_s = RECOUNT_SHARED_S if self._others_wrote else RECOUNT_EVERY_S
                recount = now_s - recounted_s >= every_s
                recounted_s = now_s if recount else recounted_s
                try:
                    await self._look(group, recount=recount)
                except OutlastError as error:
                    log.warning("cannot record what was seen: %s", error)
                await self._pause()

    async def _pause(self) -> None:
        """Until the next look is due, or something is to be looked at now."""
        try:
            async with asyncio.timeout(LOOK_EVERY_S):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _look(self, group: asyncio.TaskGroup, *, recount: bool) -> None:
        if recount:
            self._others_wrote = False
            await self.recount()
            await self._nodes.look()
        self._start_checks(group)
        world = self._world
        stores = [router for router, _ in self._blobs.routers()]
        for router in (world.signer_router, world.authority_router, *stores):
            self._noticed.extend(router.changes())
        await self._record_noticed()
        assess = modes.AssessMode(
            at_ms=world.clock.now_ms(),
            observed=self.observed(),
            limits=self._limits,
            actor=world.actor,
        )
        now = self._switches.by_rule
        asked = modes.assess(assess.observed, self._limits, now.label)
        if asked.mode != now.label and not now.held:
            await self._submit(modes.KIND, self._switches.rule_stream, assess)

    def stopped_by(self) -> tuple[str, ...]:
        """Why the site takes no new work although its mode does not say so yet: on a full disk the mode itself
        cannot be recorded. Empty where mode and world agree, or a person decided."""
        asked = modes.assess(self.observed(), self._limits, self.mode.label)
        is_unsaid = asked.mode == "read-only" and self.mode.label != "read-only"
        return asked.reasons if is_unsaid and not self.mode.held else ()

    async def _record_noticed(self) -> None:
        """Routing hands out each change once: one that cannot be written now stays first in line."""
        while self._noticed:
            change = self._noticed[0]
            note = providers.NoteHealth(at_ms=self._world.clock.now_ms(), change=change)
            await self._submit(providers.KIND, change.provider, note)
            self._noticed.popleft()

    def _start_checks(self, group: asyncio.TaskGroup) -> None:
        world = self._world
        sides: tuple[tuple[Router, Mapping[str, Any]], ...] = (
            (world.signer_router, world.signers),
            (world.authority_router, world.authorities),
            *self._blobs.routers(),
        )
        for router, ports in sides:
            for name in router.checks_due():
                call = router.check_started(name)
                if call is not None:
                    group.create_task(_check(router, call, ports[name].check()))

    # -- showing ----------------------------------------------------------------------------------------------

    async def status(self) -> Status:
        """The status page."""
        world = self._world
        counts, head = await self._store.job_counts(), await self._store.head()
        return status(
            site=self._name,
            version=self._version,
            at_ms=world.clock.now_ms(),
            mode=self.mode,
            observed=self.observed(),
            limits=self._limits,
            signers=world.signer_router.snapshot(),
            authorities=world.authority_router.snapshot(),
            blob_stores=self._blobs.snapshots(),
            copies_owed=max(0, self._blobs.owed),
            work=Work(
                ready=counts.ready,
                leased=counts.leased,
                dead=counts.dead,
                parked=counts.parked,
                drain_per_s=self._gate.drain_per_s(),
            ),
            log=LogHead(committed=head.size, published=self._publisher.published),
            node=self._nodes.node,
            nodes=await self._nodes.view(),
        )

    async def _submit(self, kind: str, stream: str, command: Command) -> None:
        await self._world.door.submit(
            Submission(
                tenant=SITE_TENANT,
                actor=self._world.actor,
                kind=kind,
                stream=stream,
                command=command,
            )
        )


class _Admitted(AbstractContextManager[None]):
    """Tells the watch when the request has been accepted or refused."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def __exit__(
        self,
        _type: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._watch.admitted(error)


async def _check(router: Router, call: Call, check: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check
        router.finished(call, OK)
    except Exception as error:
        router.finished(call, outcome_of(error))
