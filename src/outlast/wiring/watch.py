"""The site's own eyes: backlog, owed timestamps, disk, providers' health; and the mode that follows from them.

What routing notices goes on record here, and so does every change of mode. The admission of new work is decided
from what was seen last, so it costs an accept nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from outlast.core.backpressure import Gate
from outlast.core.commit import Receipt, Submission
from outlast.core.decider import Command, Deciders
from outlast.core.errors import OutlastError, Refused
from outlast.core.publish import Publisher
from outlast.core.routing.changes import HealthChange
from outlast.core.routing.outcome import OK, outcome_of
from outlast.core.routing.router import MAX_CHANGES, Call, Router
from outlast.core.store.port import Store, StreamKey, WriteSet
from outlast.operations.model import mode as modes
from outlast.operations.model import provider as providers
from outlast.operations.model.mode import Limits, Observed, SiteMode
from outlast.operations.views import LogHead, Status, Work, out_of_use, status
from outlast.ports.blob import BlobStore
from outlast.signing.model.request import SETTLE_JOB
from outlast.signing.world import World

log = logging.getLogger("outlast.watch")

SITE_TENANT = "-"
"""The tenant of the site's own streams."""
LOOK_EVERY_S = 0.25
"""How often health is drained and the mode assessed."""
RECOUNT_EVERY_S = 10.0
"""How often the running counts are replaced by real ones."""
CHECK_TIMEOUT_S = 2.0


class Watch:
    """What the site knows of itself. ``mode`` is the newest on record."""

    def __init__(
        self,
        *,
        name: str,
        version: str,
        world: World,
        store: Store,
        blobs: BlobStore,
        gate: Gate,
        publisher: Publisher,
        deciders: Deciders,
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
        self._deciders = deciders
        self._limits = limits
        self._local = local
        self._noticed: deque[HealthChange] = deque(maxlen=MAX_CHANGES)
        self.mode = SiteMode()
        self.backlog = 0
        self.owed = 0
        self.dead = 0
        self.disk_free: int | None = None

    # -- admission --------------------------------------------------------------------------------------------

    def admit(self, tenant: str) -> _Admitted:
        """Let one request for new work in; raises Unavailable ``read-only``, ``overloaded``, ``rate-limited``."""
        refused = modes.refusal(self.mode.label, "accept")
        if refused is not None:
            raise refused
        self._gate.admit(max(0, self.backlog), tenant)
        return _Admitted(self._gate)

    def committed(self, write: WriteSet) -> None:
        """Keep the counts up with a flush."""
        done = 0
        for job in write.jobs.values():
            ended = job.state in ("done", "dead", "parked")
            done += job.state == "done"
            change = -1 if ended else int(job.id in write.new_jobs)
            self.backlog += change
            if job.kind == SETTLE_JOB:
                self.owed += change
        if done:
            self._gate.completed(done)
        for key in write.streams:
            if key.kind == modes.KIND:
                self.mode = self._deciders.decode_state(key.kind, write.streams[key].state)

    # -- looking ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up the record: the mode, providers disabled by hand, the counts."""
        row = await self._store.stream(StreamKey(SITE_TENANT, modes.KIND, modes.STREAM))
        if row is not None:
            self.mode = self._deciders.decode_state(modes.KIND, row.state)
        for item in await self._store.streams(SITE_TENANT, providers.KIND, label="disabled"):
            state = self._deciders.decode_state(providers.KIND, item.row.state)
            router = self._router_of(item.id)
            if router is not None:
                router.disable(item.id, state.disabled_reason)
        await self.recount()

    async def recount(self) -> None:
        """Count what waits."""
        counts = await self._store.job_counts()
        self.backlog = counts.ready + counts.leased
        self.dead = counts.dead
        self.owed = await self._store.count_jobs(SETTLE_JOB)
        self.disk_free = await self._blobs.free_bytes()

    def observed(self) -> Observed:
        """What the rule for modes looks at."""
        world = self._world
        signers, authorities = world.signer_router.snapshot(), world.authority_router.snapshot()
        ejected, disabled = out_of_use((*signers, *authorities))
        remote = [s for s in signers if s.provider not in self._local] + list(authorities)
        out = {*ejected, *disabled}
        failure = self._publisher.failure
        return Observed(
            ejected=ejected,
            disabled=disabled,
            timestamps_owed=max(0, self.owed),
            remote_configured=len(remote),
            remote_reachable=sum(1 for s in remote if s.provider not in out),
            disk_free_bytes=self.disk_free,
            log_damage=failure.message if failure else "",
        )

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            looked = 0
            while True:
                try:
                    await self._look(
                        group, recount=looked % int(RECOUNT_EVERY_S / LOOK_EVERY_S) == 0
                    )
                except OutlastError as error:
                    log.warning("cannot record what was seen: %s", error)
                looked += 1
                await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self, group: asyncio.TaskGroup, *, recount: bool) -> None:
        if recount:
            await self.recount()
        self._start_checks(group)
        world = self._world
        for router in (world.signer_router, world.authority_router):
            self._noticed.extend(router.changes())
        await self._record_noticed()
        assess = modes.AssessMode(
            at_ms=world.clock.now_ms(),
            observed=self.observed(),
            limits=self._limits,
            actor=f"site:{self._name}",
        )
        asked = modes.assess(assess.observed, self._limits, self.mode.label)
        if asked.mode != self.mode.label and not self.mode.held:
            await self._submit(modes.KIND, modes.STREAM, assess)

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
        )
        for router, ports in sides:
            for name in router.checks_due():
                call = router.check_started(name)
                if call is not None:
                    group.create_task(_check(router, call, ports[name].check()))

    # -- by hand ----------------------------------------------------------------------------------------------

    async def set_mode(self, actor: str, mode: modes.Mode, reason: str) -> Receipt:
        """A person sets the mode; it holds until released."""
        command = modes.SetMode(
            at_ms=self._world.clock.now_ms(), mode=mode, reason=reason, actor=actor
        )
        return await self._submit(modes.KIND, modes.STREAM, command, actor)

    async def release_mode(self, actor: str, reason: str) -> Receipt:
        """A person hands the mode back to the rule."""
        command = modes.ReleaseMode(
            at_ms=self._world.clock.now_ms(),
            reason=reason,
            actor=actor,
            observed=self.observed(),
            limits=self._limits,
        )
        return await self._submit(modes.KIND, modes.STREAM, command, actor)

    async def disable_provider(self, actor: str, provider: str, reason: str) -> Receipt:
        """A person takes a provider or authority out of use. Raises Refused ``unknown-provider``."""
        router = self._known_router(provider)
        command = providers.DisableProvider(
            at_ms=self._world.clock.now_ms(), provider=provider, reason=reason, actor=actor
        )
        receipt = await self._submit(providers.KIND, provider, command, actor)
        router.disable(provider, reason)
        return receipt

    async def enable_provider(self, actor: str, provider: str, reason: str) -> Receipt:
        """A person puts it back to use."""
        router = self._known_router(provider)
        command = providers.EnableProvider(
            at_ms=self._world.clock.now_ms(), provider=provider, reason=reason, actor=actor
        )
        receipt = await self._submit(providers.KIND, provider, command, actor)
        router.enable(provider)
        return receipt

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
            work=Work(
                ready=counts.ready,
                leased=counts.leased,
                dead=counts.dead,
                parked=counts.parked,
                drain_per_s=self._gate.drain_per_s(),
            ),
            log=LogHead(committed=head.size, published=self._publisher.published),
        )

    def _router_of(self, provider: str) -> Router | None:
        if provider in self._world.signers:
            return self._world.signer_router
        return self._world.authority_router if provider in self._world.authorities else None

    def _known_router(self, provider: str) -> Router:
        router = self._router_of(provider)
        if router is None:
            raise Refused(
                "unknown-provider",
                f"no provider or authority is called {provider!r}",
                hint="See `outlast providers list`.",
            )
        return router

    async def _submit(self, kind: str, stream: str, command: Command, actor: str = "") -> Receipt:
        return await self._world.door.submit(
            Submission(
                tenant=SITE_TENANT,
                actor=actor or f"site:{self._name}",
                kind=kind,
                stream=stream,
                command=command,
            )
        )


class _Admitted(AbstractContextManager[None]):
    """Leaves the gate when the request has been accepted or refused."""

    __slots__ = ("_gate",)

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def __exit__(self, *_: object) -> None:
        self._gate.leave()


async def _check(router: Router, call: Call, check: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await check
        router.finished(call, OK)
    except Exception as error:
        router.finished(call, outcome_of(error))
