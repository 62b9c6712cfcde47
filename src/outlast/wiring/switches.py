"""What people switch at a site, and what holds: its mode by hand, providers in use, kinds of job that are started.

Every switch is an event with its actor and reason, outlives a restart and holds on every node: this process takes up
its own commits at once (`committed`), those of other nodes when it hears of them (`refresh`). What holds is taken from
the record only, never from the call that asked, so a repeated call cannot undo what came after it.

The mode has two sources. A person's word is about the whole site. The rule is about one process: one node's full disk
is no reason for another to stop. Where nodes share a site each keeps the rule's verdict in a stream by its own name, so
that two nodes which see the world differently do not overrule each other for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from outlast.core.access import SITE_TENANT
from outlast.core.commit import Idempotency, Receipt, Submission
from outlast.core.decider import Command, Deciders
from outlast.core.errors import Refused
from outlast.core.routing.router import Router
from outlast.core.store.port import Store, StreamKey, StreamRow, WriteSet
from outlast.core.work.runner import Runner
from outlast.operations.model import jobkind as kinds
from outlast.operations.model import mode as modes
from outlast.operations.model import provider as providers
from outlast.operations.model.mode import Limits, Observed, SiteMode
from outlast.signing.world import World

MAX_SWITCHES = 1_000
"""Switches of one sort taken up at start; there are as many as providers, or kinds of job."""
_KINDS = frozenset({modes.KIND, providers.KIND, kinds.KIND})


class Hand(msgspec.Struct, frozen=True, kw_only=True):
    """Who switches and why. ``expected_version``: only where the record is at this version."""

    actor: str
    reason: str
    idempotency: Idempotency | None = None
    expected_version: int | None = None


class Switches:
    """The switches of one site, as this process knows them. ``node`` is empty where no other node shares the site."""

    def __init__(
        self,
        *,
        node: str,
        world: World,
        store: Store,
        deciders: Deciders,
        runner: Runner,
        others: Mapping[str, Router] | None = None,
    ) -> None:
        """``others``: what can be disabled beside signers and authorities, by name (blob stores)."""
        self._others = others or {}
        self._world = world
        self._store = store
        self._deciders = deciders
        self._runner = runner
        self._versions: dict[StreamKey, int] = {}
        self._modes: dict[str, SiteMode] = {}
        self.mode = SiteMode()
        """How this process works now. Looked at twice for each accept, so it is kept."""
        self.job_kinds: dict[str, kinds.JobKind] = {}
        """Kinds of job that were ever switched."""
        self.rule_stream = node or modes.STREAM
        """Where the rule's verdict on this process goes."""
        self._shared = bool(node)

    # -- what holds -------------------------------------------------------------------------------------------

    @property
    def by_hand(self) -> SiteMode:
        """What a person last said; it holds while ``held``."""
        return self._modes.get(modes.STREAM, SiteMode())

    @property
    def by_rule(self) -> SiteMode:
        """What the rule last said of this process."""
        return self._modes.get(self.rule_stream, SiteMode())

    async def start(self) -> None:
        """Take up the record."""
        for stream in {modes.STREAM, self.rule_stream}:
            await self.refresh([StreamKey(SITE_TENANT, modes.KIND, stream)])
        for kind, label in ((providers.KIND, "disabled"), (kinds.KIND, "paused")):
            found = await self._store.streams(SITE_TENANT, kind, label=label, limit=MAX_SWITCHES)
            for item in found:
                self._apply(StreamKey(SITE_TENANT, kind, item.id), item.row)

    def committed(self, write: WriteSet) -> None:
        """Take up what this process wrote."""
        for key, row in write.streams.items():
            if key.kind in _KINDS:
                self._apply(key, row)

    async def refresh(self, streams: Iterable[StreamKey]) -> None:
        """Take up those of these streams that are switches, as the store has them now."""
        for key in streams:
            if key.kind in _KINDS and key.tenant == SITE_TENANT:
                row = await self._store.stream(key)
                if row is not None:
                    self._apply(key, row)

    def _apply(self, key: StreamKey, row: StreamRow) -> None:
        if key.tenant != SITE_TENANT or row.version <= self._versions.get(key, 0):
            return  # we know of something newer
        self._versions[key] = row.version
        state = self._deciders.decode_state(key.kind, row.state)
        if key.kind == modes.KIND:
            self._modes[key.id] = state
            self.mode = self.by_hand if self.by_hand.held else self.by_rule
        elif key.kind == kinds.KIND:
            self.job_kinds[key.id] = state
            switch = self._runner.pause if state.label == "paused" else self._runner.resume
            switch(key.id)
        else:
            self._switch_provider(key.id, state)

    def _switch_provider(self, name: str, state: providers.Provider) -> None:
        router = self._router_of(name)
        if router is None:
            return  # another node's configuration, or an earlier one
        if state.disabled_reason:
            router.disable(name, state.disabled_reason)
        else:
            router.enable(name)

    # -- switching --------------------------------------------------------------------------------------------

    async def mode_on_record(self) -> tuple[SiteMode, int]:
        """The mode now, and the version of what a person last said, asked of the store."""
        key = StreamKey(SITE_TENANT, modes.KIND, modes.STREAM)
        await self.refresh([key])
        return self.mode, self._versions.get(key, 0)

    async def set_mode(self, hand: Hand, mode: modes.Mode) -> Receipt:
        """A person sets the mode of the site; it holds until released."""
        command = modes.SetMode(
            at_ms=self._world.clock.now_ms(), mode=mode, reason=hand.reason, actor=hand.actor
        )
        return await self._submit(hand, modes.KIND, modes.STREAM, command)

    async def release_mode(self, hand: Hand, observed: Observed, limits: Limits) -> Receipt:
        """A person hands the mode back to the rule. Raises Refused ``mode-not-held``."""
        command = modes.ReleaseMode(
            at_ms=self._world.clock.now_ms(),
            reason=hand.reason,
            actor=hand.actor,
            observed=None if self._shared else observed,
            limits=limits,
        )
        return await self._submit(hand, modes.KIND, modes.STREAM, command)

    async def disable_provider(self, hand: Hand, provider: str) -> Receipt:
        """A person takes a provider or authority out of use. Raises Refused ``unknown-provider``."""
        self._check_provider(provider)
        command = providers.DisableProvider(
            at_ms=self._world.clock.now_ms(),
            provider=provider,
            reason=hand.reason,
            actor=hand.actor,
        )
        return await self._submit(hand, providers.KIND, provider, command)

    async def enable_provider(self, hand: Hand, provider: str) -> Receipt:
        """A person puts it back to use. Raises Refused ``unknown-provider``."""
        self._check_provider(provider)
        command = providers.EnableProvider(
            at_ms=self._world.clock.now_ms(),
            provider=provider,
            reason=hand.reason,
            actor=hand.actor,
        )
        return await self._submit(hand, providers.KIND, provider, command)

    async def pause_job_kind(self, hand: Hand, kind: str) -> Receipt:
        """A person has no more jobs of a kind started. Raises Refused ``unknown-job-kind``."""
        self._check_kind(kind)
        command = kinds.PauseJobKind(
            at_ms=self._world.clock.now_ms(), kind=kind, reason=hand.reason, actor=hand.actor
        )
        return await self._submit(hand, kinds.KIND, kind, command)

    async def resume_job_kind(self, hand: Hand, kind: str) -> Receipt:
        """A person has them started again. Raises Refused ``unknown-job-kind``."""
        self._check_kind(kind)
        command = kinds.ResumeJobKind(
            at_ms=self._world.clock.now_ms(), kind=kind, reason=hand.reason, actor=hand.actor
        )
        return await self._submit(hand, kinds.KIND, kind, command)

    async def _submit(self, hand: Hand, kind: str, stream: str, command: Command) -> Receipt:
        idempotency = hand.idempotency
        if idempotency is not None:
            # the stream is the site's, the key its caller's: others may have chosen the same
            idempotency = Idempotency(f"{hand.actor}/{idempotency.key}", idempotency.body)
        return await self._world.door.submit(
            Submission(
                tenant=SITE_TENANT,
                actor=hand.actor,
                kind=kind,
                stream=stream,
                command=command,
                idempotency=idempotency,
                expected_version=hand.expected_version,
            )
        )

    def _router_of(self, provider: str) -> Router | None:
        if provider in self._world.signers:
            return self._world.signer_router
        if provider in self._world.authorities:
            return self._world.authority_router
        return self._others.get(provider)

    def _check_provider(self, provider: str) -> None:
        if self._router_of(provider) is None:
            raise Refused(
                "unknown-provider",
                f"no provider or authority is called {provider!r}",
                hint="See `outlast providers list`.",
            )

    def _check_kind(self, kind: str) -> None:
        if kind not in self._runner.kinds:
            raise Refused(
                "unknown-job-kind",
                f"no kind of job is called {kind[:80]!r}",
                hint=f"There are: {', '.join(self._runner.kinds)}.",
            )
