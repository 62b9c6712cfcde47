"""Copies: what one blob still owes to which stores. Pure.

    OweCopies     -> CopyOwed        stores did not take the blob; a job for each
    OweDeletion   -> DeletionOwed    stores did not forget the blob; a job for each. Copies are not owed any more
    SettleCopy    -> CopySettled     one store is as it should be
    SuspectCopies -> CopySuspected   a reader met a bad or missing copy; a job looks at all of them
    CloseSuspicion -> SuspicionClosed  what that job found and mended

A blob whose stores all took it has no stream here. The stream's id is the blob's name.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event, NewJob
from outlast.core.errors import Refused

KIND = "blobs.copies"
JOB_PREFIX = "blobs.settle."
"""Jobs are of a kind per store, so that those of a store that is out of use wait without being tried."""
CHECK_JOB = "blobs.check"
OWED = "owed"

Want = Literal["kept", "deleted"]


def job_kind(store: str) -> str:
    """The kind of the jobs that bring ``store`` up to date."""
    return JOB_PREFIX + store


class SettleJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job's payload: which store, and which blob."""

    blob: str
    store: str


class CheckJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job's payload: the blob whose copies are to be looked at."""

    blob: str


class CopyOwed(Event, frozen=True, kw_only=True):
    """``stores`` have no copy yet, ``held`` have one. ``reasons`` are stable codes, in the order of ``stores``."""

    name: ClassVar[str] = "blobs.copy_owed"
    blob: str
    stores: tuple[str, ...]
    held: tuple[str, ...]
    reasons: tuple[str, ...]
    at_ms: int


class DeletionOwed(Event, frozen=True, kw_only=True):
    """The blob shall be gone; ``stores`` have not confirmed that it is."""

    name: ClassVar[str] = "blobs.deletion_owed"
    blob: str
    stores: tuple[str, ...]
    at_ms: int


class CopySettled(Event, frozen=True, kw_only=True):
    """``store`` is as it should be: it has the blob (``kept``), or has it no more (``deleted``)."""

    name: ClassVar[str] = "blobs.copy_settled"
    blob: str
    store: str
    want: Want
    at_ms: int


class CopySuspected(Event, frozen=True, kw_only=True):
    """A reader met a copy that is not what was put, or is missing without being owed."""

    name: ClassVar[str] = "blobs.copy_suspected"
    blob: str
    at_ms: int


class SuspicionClosed(Event, frozen=True, kw_only=True):
    """All copies were looked at: ``bad`` were wrong or missing, ``mended`` were replaced by a good one."""

    name: ClassVar[str] = "blobs.suspicion_closed"
    blob: str
    bad: tuple[str, ...]
    mended: tuple[str, ...]
    at_ms: int


class SuspectCopies(Command, frozen=True, kw_only=True):
    """Have all copies of a blob looked at, unless ``missing`` names all that is wrong and each of those is owed."""

    blob: str
    missing: tuple[str, ...] = ()


class CloseSuspicion(Command, frozen=True, kw_only=True):
    """They have been."""

    blob: str
    bad: tuple[str, ...]
    mended: tuple[str, ...]


class OweCopies(Command, frozen=True, kw_only=True):
    """Put on record that stores lack a copy."""

    blob: str
    stores: tuple[str, ...]
    held: tuple[str, ...]
    reasons: tuple[str, ...]


class OweDeletion(Command, frozen=True, kw_only=True):
    """Put on record that the blob shall be gone, and which stores have not confirmed it (possibly none)."""

    blob: str
    stores: tuple[str, ...]


class SettleCopy(Command, frozen=True, kw_only=True):
    """A store was brought up to date; ``want`` is what it was brought to."""

    blob: str
    store: str
    want: Want


class Copies(msgspec.Struct, frozen=True, kw_only=True):
    """What is owed now. ``want`` is what shall become of the blob everywhere."""

    label: Literal["owed", "settled"] = "settled"
    want: Want = "kept"
    owed: tuple[str, ...] = ()
    since_ms: int = 0
    reasons: tuple[str, ...] = ()
    suspected: bool = False


CopiesEvent = CopyOwed | DeletionOwed | CopySettled | CopySuspected | SuspicionClosed


class CopiesDecider:
    """`Decider` of what blobs owe."""

    kind = KIND
    state = Copies
    events = (CopyOwed, DeletionOwed, CopySettled, CopySuspected, SuspicionClosed)

    def decide(self, command: Any, state: Copies | None) -> Decision[CopiesEvent]:
        """Raises Refused ``copy-outdated`` when a store was brought to what is no longer wanted."""
        if isinstance(command, OweCopies):
            return _owe(command, state or Copies())
        if isinstance(command, OweDeletion):
            return _owe_deletion(command, state or Copies())
        if isinstance(command, SettleCopy):
            return _settle(command, state or Copies())
        if isinstance(command, SuspectCopies):
            return _suspect(command, state or Copies())
        if isinstance(command, CloseSuspicion):
            closed = SuspicionClosed(
                blob=command.blob, bad=command.bad, mended=command.mended, at_ms=command.at_ms
            )
            return Decision(events=(closed,))
        raise Refused("unknown-command", f"copies know no {type(command).__name__}")

    def evolve(self, state: Copies | None, event: Event) -> Copies:
        """What is owed after ``event``."""
        now = state or Copies()
        if isinstance(event, CopySuspected | SuspicionClosed):
            return msgspec.structs.replace(now, suspected=isinstance(event, CopySuspected))
        if isinstance(event, CopySettled):
            left = tuple(store for store in now.owed if store != event.store)
            return msgspec.structs.replace(now, owed=left, label="owed" if left else "settled")
        if isinstance(event, CopyOwed):
            want: Want = "kept"
            stores, reasons = tuple(sorted({*now.owed, *event.stores})), event.reasons
        else:
            assert isinstance(event, DeletionOwed)
            want, stores, reasons = "deleted", event.stores, ()
        return msgspec.structs.replace(
            now,
            label="owed" if stores else "settled",
            want=want,
            owed=stores,
            since_ms=event.at_ms,
            reasons=reasons,
        )


def _owe(command: OweCopies, now: Copies) -> Decision[CopiesEvent]:
    if now.want == "deleted":
        return Decision()  # deleted while it was being found missing: nobody shall have it
    fresh = tuple(store for store in command.stores if store not in now.owed)
    if not fresh:
        return Decision()
    event = CopyOwed(
        blob=command.blob,
        stores=fresh,
        held=command.held,
        reasons=tuple(
            reason
            for store, reason in zip(command.stores, command.reasons, strict=False)
            if store in fresh
        ),
        at_ms=command.at_ms,
    )
    return Decision(events=(event,), jobs=_jobs(command.blob, fresh))


def _owe_deletion(command: OweDeletion, now: Copies) -> Decision[CopiesEvent]:
    if now.want == "deleted" and now.owed == command.stores:
        return Decision()
    event = DeletionOwed(blob=command.blob, stores=command.stores, at_ms=command.at_ms)
    # also where a copy's job waits already: that one may have been given up for want of a source
    return Decision(events=(event,), jobs=_jobs(command.blob, command.stores))


def _suspect(command: SuspectCopies, now: Copies) -> Decision[CopiesEvent]:
    if now.suspected or now.want == "deleted":
        return Decision()
    if command.missing and set(command.missing) <= set(now.owed):
        return Decision()  # as is known: it will get there
    event = CopySuspected(blob=command.blob, at_ms=command.at_ms)
    job = NewJob(kind=CHECK_JOB, payload=CheckJob(blob=command.blob))
    return Decision(events=(event,), jobs=(job,))


def _settle(command: SettleCopy, now: Copies) -> Decision[CopiesEvent]:
    if command.store not in now.owed:
        # a deletion may have been confirmed while a copy was on its way
        if command.want != now.want and now.since_ms:
            raise _outdated(command)
        return Decision()
    if command.want != now.want:
        raise _outdated(command)
    event = CopySettled(
        blob=command.blob, store=command.store, want=command.want, at_ms=command.at_ms
    )
    return Decision(events=(event,))


def _outdated(command: SettleCopy) -> Refused:
    return Refused("copy-outdated", f"blob {command.blob} shall no longer be {command.want}")


def _jobs(blob: str, stores: tuple[str, ...]) -> tuple[NewJob, ...]:
    return tuple(
        NewJob(kind=job_kind(store), payload=SettleJob(blob=blob, store=store)) for store in stores
    )
