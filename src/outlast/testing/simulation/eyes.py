"""A simulated node's eyes: what `wiring.watch` and `wiring.switches` do. It takes up what people switched, assesses the
mode, and lets work in or not.

A person's word holds on every node; the rule's verdict is about one node and kept in a stream by its name. The rules are
the real ones (`operations.model`, the routers); only the loop is its own.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from outlast.core.access import SITE_TENANT
from outlast.core.commit import Submission
from outlast.core.decider import Deciders
from outlast.core.errors import OutlastError
from outlast.core.publish import Publisher
from outlast.core.routing.outcome import OK, outcome_of
from outlast.core.routing.router import Call, Router
from outlast.core.store.port import StreamKey, WriteSet
from outlast.operations.model import mode as modes
from outlast.operations.model import provider as providers
from outlast.operations.views import out_of_use
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.database import Session
from outlast.testing.simulation.door import Door
from outlast.testing.simulation.engine import Simulation, Sleep
from outlast.testing.simulation.parts import NodeClock

LOOK_MS = 250
LIMITS = modes.Limits()
LOCAL = frozenset({"hsm-0"})
"""Providers inside the site; everything else is out of reach while it is isolated."""


class Checked(Protocol):
    """A provider or authority, as far as it is asked whether it is well."""

    async def check(self) -> None:
        """Raises Unavailable while it is not."""
        ...


class Owner(Protocol):
    """The node whose eyes these are."""

    name: str
    worker_name: str
    clock: NodeClock
    door: Door
    store: Session
    publisher: Publisher | None
    signers: Router
    stampers: Router

    def pause_ms(self, usual_ms: float) -> float:
        """How long whoever has nothing to do sleeps."""
        ...

    def run(self, work: Coroutine[Any, Any, Any]) -> object:
        """A task of this life."""
        ...

    @property
    def disk_free_bytes(self) -> int:
        """Room that the node's disk has."""
        ...


class Eyes:
    """One life's view of the site. ``disabled`` are the reasons by name of what people took out of use."""

    def __init__(
        self,
        sim: Simulation,
        checks: Checks,
        owner: Owner,
        deciders: Deciders,
        signers: Mapping[str, Checked],
        authorities: Mapping[str, Checked],
    ) -> None:
        self._sim = sim
        self._checks = checks
        self._owner = owner
        self._deciders = deciders
        self._signers = signers
        self._authorities = authorities
        self._rule_stream = f"node-{owner.name}"
        self._modes: dict[str, modes.SiteMode] = {}
        self.disabled: Mapping[str, str] = {}

    @property
    def mode(self) -> modes.SiteMode:
        """How this node works now."""
        by_hand = self._modes.get(modes.STREAM, modes.SiteMode())
        return by_hand if by_hand.held else self._modes.get(self._rule_stream, modes.SiteMode())

    async def start(self) -> None:
        """Take up the record: the modes, and what people took out of use."""
        store = self._owner.store
        for stream in (modes.STREAM, self._rule_stream):
            row = await store.stream(StreamKey(SITE_TENANT, modes.KIND, stream))
            if row is not None:
                self._modes[stream] = self._deciders.decode_state(modes.KIND, row.state)
        disabled: dict[str, str] = {}
        for item in await store.streams(SITE_TENANT, providers.KIND, label="disabled"):
            state: providers.Provider = self._deciders.decode_state(providers.KIND, item.row.state)
            disabled[item.id] = state.disabled_reason
        self._switch(disabled)

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            try:
                await self._look()
            except OutlastError as error:
                self._sim.note(f"{self._owner.worker_name} sees nothing: {error.code}")
            await Sleep(self._sim, self._owner.pause_ms(LOOK_MS))

    def refusal(self) -> OutlastError | None:
        """Why new work is not let in; None: it is."""
        owner = self._owner
        forked = owner.publisher is not None and owner.publisher.failure is not None
        return modes.refusal("read-only" if forked else self.mode.label, "accept")

    def denied(self, provider: str) -> str:
        """Why policy forbids a provider in this mode, or an empty string."""
        if self.mode.label != "isolated" or provider in LOCAL:
            return ""
        self._checks.reachable("isolated: a remote provider passed over")
        return "the site is isolated"

    def committed(self, write: WriteSet) -> None:
        """A flush of this node changed the mode, perhaps."""
        for key, row in write.streams.items():
            if key.kind == modes.KIND:
                self._modes[key.id] = self._deciders.decode_state(key.kind, row.state)

    async def _look(self) -> None:
        await self.start()
        self._start_checks()
        assess = modes.AssessMode(
            at_ms=self._owner.clock.now_ms(),
            observed=self._observed(),
            limits=LIMITS,
            actor=self._owner.worker_name,
        )
        asked = modes.assess(assess.observed, LIMITS, self.mode.label)
        if asked.mode != self.mode.label and not self.mode.held:
            await self._owner.door.submit(
                Submission(
                    tenant=SITE_TENANT,
                    actor=self._owner.worker_name,
                    kind=modes.KIND,
                    stream=self._rule_stream,
                    command=assess,
                )
            )
            self._checks.reachable("mode entered by rule")

    def _start_checks(self) -> None:
        """Ask ejected providers whether they are well: in isolated mode no call would ever find out."""
        owner = self._owner
        sides: tuple[tuple[Router, Mapping[str, Checked]], ...] = (
            (owner.signers, self._signers),
            (owner.stampers, self._authorities),
        )
        for router, parts in sides:
            for name in router.checks_due():
                call = router.check_started(name)
                if call is not None:
                    owner.run(self._check(router, call, parts[name]))

    async def _check(self, router: Router, call: Call, part: Checked) -> None:
        try:
            await Sleep(self._sim, self._sim.between(1, 30))
            await part.check()
            router.finished(call, OK)
            self._checks.reachable("ejected provider answered a check")
        except OutlastError as error:
            router.finished(call, outcome_of(error))

    def _observed(self) -> modes.Observed:
        owner = self._owner
        states = (*owner.signers.snapshot(), *owner.stampers.snapshot())
        ejected, disabled = out_of_use(states)
        out = {*ejected, *disabled}
        remote = [state.provider for state in states if state.provider not in LOCAL]
        failure = None if owner.publisher is None else owner.publisher.failure
        return modes.Observed(
            ejected=ejected,
            disabled=disabled,
            remote_configured=len(remote),
            remote_reachable=sum(name not in out for name in remote),
            disk_free_bytes=owner.disk_free_bytes,
            log_damage=failure.message if failure else "",
        )

    def _switch(self, disabled: Mapping[str, str]) -> None:
        owner = self._owner
        for name in sorted({*disabled, *self.disabled}):
            router = owner.stampers if name.startswith("tsa") else owner.signers
            if name in disabled:
                router.disable(name, disabled[name])
            else:
                router.enable(name)
        self.disabled = disabled
