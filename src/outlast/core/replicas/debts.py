"""Debts on record, and the jobs that settle them.

`DebtLedger` is the `Ledger` of `ReplicatedBlobs`. Its jobs bring one store to what is wanted of one blob, whatever
that is by then, so running one twice, late, or after a scrub has done its work changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec

from outlast.core.backoff import BackoffPolicy
from outlast.core.clock import Clock
from outlast.core.commit import Finish, Receipt, Submission
from outlast.core.decider import Command, Deciders
from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.core.replicas.health import StoreHealth
from outlast.core.replicas.mend import copy, look
from outlast.core.replicas.model import (
    CHECK_JOB,
    KIND,
    OWED,
    CheckJob,
    CloseSuspicion,
    Copies,
    OweCopies,
    OweDeletion,
    SettleCopy,
    SettleJob,
    SuspectCopies,
    job_kind,
)
from outlast.core.replicas.store import CALL_S, One
from outlast.core.routing.outcome import PROVIDER_REFUSALS
from outlast.core.store.port import StreamItem, StreamKey, StreamRow
from outlast.core.work.runner import Job, Kind

TENANT = "-"
"""The tenant of the site's own streams: a store knows of no other."""
ROUNDS = 3
"""How often a job starts over because what is wanted has changed under it."""
SETTLE_BACKOFF = BackoffPolicy(initial_ms=500, max_ms=10_000, attempts=1_000_000)
"""A debt is never given up: its store is coming back, or a person takes it out of the configuration."""

_settle_job = msgspec.json.Decoder(SettleJob)
_check_job = msgspec.json.Decoder(CheckJob)


class Door(Protocol):
    """`outlast.core.commit.Committer`, as far as it is needed here."""

    async def submit(self, work: Submission) -> Receipt:
        """Decide, write durably, answer."""
        ...


class Streams(Protocol):
    """`outlast.core.store.port.Store`, as far as it is needed here."""

    async def stream(self, key: StreamKey) -> StreamRow | None: ...

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]: ...


class Debt(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that owes something. ``want``: ``kept`` (a copy) or ``deleted``."""

    blob: str
    want: str
    stores: tuple[str, ...]
    since_ms: int
    reasons: tuple[str, ...] = ()


class DebtLedger:
    """See the module."""

    def __init__(
        self, door: Door, streams: Streams, deciders: Deciders, clock: Clock, actor: str
    ) -> None:
        self._door = door
        self._streams = streams
        self._deciders = deciders
        self._clock = clock
        self._actor = actor

    async def owe_copies(
        self, blob: str, stores: Sequence[str], held: Sequence[str], reasons: Sequence[str]
    ) -> None:
        """See `Ledger`."""
        command = OweCopies(
            at_ms=self._clock.now_ms(),
            blob=blob,
            stores=tuple(stores),
            held=tuple(held),
            reasons=tuple(reasons),
        )
        await self._submit(blob, command)

    async def owe_deletion(self, blob: str, stores: Sequence[str]) -> None:
        """See `Ledger`. A blob that never owed anything and is gone everywhere leaves no entry."""
        if not stores and await self.known(blob) is None:
            return
        command = OweDeletion(at_ms=self._clock.now_ms(), blob=blob, stores=tuple(stores))
        await self._submit(blob, command)

    async def suspect(self, blob: str, missing: tuple[str, ...] = ()) -> None:
        """See `Ledger`."""
        command = SuspectCopies(at_ms=self._clock.now_ms(), blob=blob, missing=missing)
        await self._submit(blob, command)

    async def settled(self, blob: str, store: str, want: str, finish: Finish | None = None) -> None:
        """``store`` is as wanted. Raises Refused ``copy-outdated`` when that is wanted no longer."""
        wanted = "deleted" if want == "deleted" else "kept"
        command = SettleCopy(
            at_ms=self._clock.now_ms(),
            blob=blob,
            store=store,
            want=wanted,  # type: ignore[arg-type]  # one of its two words
        )
        await self._submit(blob, command, finish)

    async def looked_at(
        self, blob: str, bad: Sequence[str], mended: Sequence[str], finish: Finish
    ) -> None:
        """A suspicion has been followed up."""
        command = CloseSuspicion(
            at_ms=self._clock.now_ms(), blob=blob, bad=tuple(bad), mended=tuple(mended)
        )
        await self._submit(blob, command, finish)

    async def known(self, blob: str) -> Copies | None:
        """What is on record of a blob; None: it never owed anything."""
        row = await self._streams.stream(StreamKey(TENANT, KIND, blob))
        if row is None:
            return None
        state: Copies = self._deciders.decode_state(KIND, row.state)
        return state

    async def debts(self, before: str | None = None, limit: int = 100) -> list[Debt]:
        """What is owed now, newest blob first."""
        items = await self._streams.streams(TENANT, KIND, label=OWED, before=before, limit=limit)
        found = []
        for item in items:
            state: Copies = self._deciders.decode_state(KIND, item.row.state)
            found.append(
                Debt(
                    blob=item.id,
                    want=state.want,
                    stores=state.owed,
                    since_ms=state.since_ms,
                    reasons=state.reasons,
                )
            )
        return found

    async def _submit(self, blob: str, command: Command, finish: Finish | None = None) -> None:
        await self._door.submit(
            Submission(
                tenant=TENANT,
                actor=self._actor,
                kind=KIND,
                stream=blob,
                command=command,
                finish=finish,
            )
        )


class Settler:
    """Handlers of the jobs. ``stores`` by name."""

    def __init__(
        self, stores: Mapping[str, One], health: StoreHealth, ledger: DebtLedger, concurrency: int
    ) -> None:
        self._stores = stores
        self._health = health
        self._ledger = ledger
        self._turns = asyncio.Semaphore(concurrency)

    def kinds(self) -> dict[str, Kind]:
        """For the runner. The jobs of a store that is out of use are not started."""
        kinds = {
            job_kind(name): Kind(self.settle, SETTLE_BACKOFF, lambda n=name: self._health.in_use(n))  # type: ignore[misc]  # a default binds the name
            for name in self._stores
        }
        kinds[CHECK_JOB] = Kind(self.check, SETTLE_BACKOFF)
        return kinds

    async def settle(self, job: Job) -> None:
        """Bring one store to what is wanted of one blob."""
        task = _settle_job.decode(job.row.payload)
        async with self._turns:
            for _ in range(ROUNDS):
                state = await self._ledger.known(task.blob) or Copies()
                if task.store not in state.owed:
                    return
                try:
                    await self._bring(task.blob, task.store, state.want)
                except Corrupt:
                    now = await self._ledger.known(task.blob) or Copies()
                    if now.want == state.want:
                        raise
                    continue  # deleted under us: that is why nobody had it
                finish = Finish(job=job.row.id, lease=job.row.lease)
                try:
                    await self._ledger.settled(task.blob, task.store, state.want, finish)
                except Refused as error:
                    if error.code != "copy-outdated":
                        raise
                    continue
                job.finished = True
                return
        raise Unavailable("copy-outdated", f"what is wanted of blob {task.blob} keeps changing")

    async def check(self, job: Job) -> None:
        """Look at all copies of one blob and mend them."""
        task = _check_job.decode(job.row.payload)
        async with self._turns:
            state = await self._ledger.known(task.blob) or Copies()
            if state.want == "deleted":
                return
            looked = await look(self._stores, task.blob, skip=state.owed)
            if looked.unasked:
                raise Unavailable("unreachable", f"no answer from {', '.join(looked.unasked)}")
            bad = [f"{store}: {what}" for store, what in looked.judgement.bad.items()]
            finish = Finish(job=job.row.id, lease=job.row.lease)
            await self._ledger.looked_at(task.blob, bad, looked.mended, finish)
            job.finished = True

    async def _bring(self, blob: str, store: str, want: str) -> None:
        try:
            if want == "deleted":
                async with asyncio.timeout(CALL_S):
                    await self._stores[store].delete(blob)
            else:
                await self._copy(blob, store)
        except (Unavailable, Unknown, TimeoutError) as error:
            await self._ask_how_it_is(store)
            if isinstance(error, TimeoutError):
                raise Unavailable("unreachable", f"store {store} does not answer") from None
            raise
        except Refused as error:
            if error.code not in PROVIDER_REFUSALS:
                raise
            # the store's or our settings' fault, not the blob's: the debt stays until somebody has mended that
            await self._ask_how_it_is(store)
            raise Unavailable(error.code, error.message, hint=error.hint) from error

    async def _copy(self, blob: str, store: str) -> None:
        sources = [name for name in self._health.order() if name != store]
        try:
            await copy(self._stores, sources, store, blob, digest="")
        except Refused as error:
            if error.code != "blob-not-found":
                raise
            if len(sources) < len(self._stores) - 1:  # one that is disabled may have it
                raise Unavailable(
                    "blob-no-source", f"no store in use has blob {blob} to give"
                ) from error
            raise Corrupt(
                "blob-missing",
                f"blob {blob} is in no store that could give store {store} its copy",
                hint="`outlast blobs scrub` lists what is damaged everywhere.",
            ) from error

    async def _ask_how_it_is(self, store: str) -> None:
        """A job alone would not get a store that is down again out of use."""
        with contextlib.suppress(OutlastError, TimeoutError):
            async with asyncio.timeout(CALL_S):
                await self._health.watched(store, self._stores[store].check())
