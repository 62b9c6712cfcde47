"""Scrub: a walk over every copy of every blob, in steps that are each one job. Pure.

    BeginScrub     -> ScrubBegun       the first step's job (refused while one runs; one whose job is dead is stopped)
    NoteStep       -> ScrubStepped     what one step found; the next step's job, or that of the last part
    NoteReferences -> ScrubEnded       what the log refers to and nobody has, and what nobody refers to
    PauseScrub     -> ScrubPaused      no further step
    ResumeScrub    -> ScrubResumed     the next step's job
    StopScrub      -> ScrubStopped     for good

A site has one scrub, under the stream ``STREAM``. A step repeated (its process died before it could say so) looks at
the same blobs again and changes nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event, NewJob
from outlast.core.errors import Conflict, Refused
from outlast.core.replicas.judge import Problem

KIND = "blobs.scrub"
STREAM = "site"
STEP_JOB = "blobs.scrub"
"""One step over the stores."""
REFERENCES_JOB = "blobs.references"
"""The last part: the log's references against what the stores have."""
MAX_KEPT = 100
"""Names of blobs kept of each sort of finding; the counts go on."""
MIN_ORPHAN_AGE_S = 3_600
"""Nothing younger than this is ever taken for unreferenced: its document may still be on its way in."""

Outcome = Literal["mended", "dead", "open"]
"""``dead``: nothing to mend it from. ``open``: not mended (nobody asked to, or a store failed)."""


class Finding(msgspec.Struct, frozen=True):
    """A copy that is not as it should be."""

    blob: str
    store: str
    problem: Problem
    outcome: Outcome


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Counts. ``read_bytes`` over all stores; ``unasked`` are copies that could not be looked at."""

    blobs: int = 0
    read_bytes: int = 0
    missing: int = 0
    corrupt: int = 0
    mended: int = 0
    dead: int = 0
    unasked: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum."""
        return Tally(
            **{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__}
        )


class ScrubOptions(msgspec.Struct, frozen=True, kw_only=True):
    """``mend`` false: look only. ``delete_orphans_s``: delete unreferenced blobs older than this (0: none)."""

    mend: bool = True
    delete_orphans_s: int = 0


class References(msgspec.Struct, frozen=True, kw_only=True):
    """What the log refers to against what the stores have. ``lost`` are referred to and in no store, ``orphans`` the
    other way round; of both the first MAX_KEPT names. ``deleted`` counts orphans that were."""

    referenced: int = 0
    lost_count: int = 0
    lost: tuple[str, ...] = ()
    orphan_count: int = 0
    orphans: tuple[str, ...] = ()
    deleted: int = 0


class StepJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job's payload: which scrub, and after which name to go on."""

    run: int
    after: str = ""


class ScrubBegun(Event, frozen=True, kw_only=True):
    """A scrub has begun."""

    name: ClassVar[str] = "blobs.scrub_begun"
    run: int
    options: ScrubOptions
    actor: str
    at_ms: int


class ScrubStepped(Event, frozen=True, kw_only=True):
    """Blobs up to the name ``after`` were looked at. ``last``: that was all of them."""

    name: ClassVar[str] = "blobs.scrub_stepped"
    run: int
    after: str
    last: bool
    tally: Tally
    findings: tuple[Finding, ...] = ()
    at_ms: int


class ScrubEnded(Event, frozen=True, kw_only=True):
    """A scrub has come to its end."""

    name: ClassVar[str] = "blobs.scrub_ended"
    run: int
    references: References
    at_ms: int


class ScrubPaused(Event, frozen=True, kw_only=True):
    """No further step until it is resumed."""

    name: ClassVar[str] = "blobs.scrub_paused"
    run: int
    actor: str
    at_ms: int


class ScrubResumed(Event, frozen=True, kw_only=True):
    """It goes on where it was."""

    name: ClassVar[str] = "blobs.scrub_resumed"
    run: int
    actor: str
    at_ms: int


class ScrubStopped(Event, frozen=True, kw_only=True):
    """It was given up before its end."""

    name: ClassVar[str] = "blobs.scrub_stopped"
    run: int
    actor: str
    at_ms: int


class BeginScrub(Command, frozen=True, kw_only=True):
    """Begin a scrub. ``idle_since_ms``: only if none has begun since then (what a timer asks for). ``failed_run``: that
    one has no job that could go on, and is begun anew (0: none)."""

    actor: str
    options: ScrubOptions = ScrubOptions()
    idle_since_ms: int | None = None
    failed_run: int = 0


class NoteStep(Command, frozen=True, kw_only=True):
    """A step is done."""

    run: int
    before: str
    after: str
    last: bool
    tally: Tally
    findings: tuple[Finding, ...] = ()


class NoteReferences(Command, frozen=True, kw_only=True):
    """The last part is done."""

    run: int
    references: References


class PauseScrub(Command, frozen=True, kw_only=True):
    """Let it rest."""

    actor: str


class ResumeScrub(Command, frozen=True, kw_only=True):
    """Let it go on."""

    actor: str


class StopScrub(Command, frozen=True, kw_only=True):
    """Give it up."""

    actor: str


class Scrub(msgspec.Struct, frozen=True, kw_only=True):
    """The newest scrub. ``part`` says what comes next; ``findings`` are the last MAX_KEPT that are not mended."""

    label: Literal["idle", "running", "paused"] = "idle"
    run: int = 0
    part: Literal["copies", "references"] = "copies"
    after: str = ""
    options: ScrubOptions = ScrubOptions()
    begun_ms: int = 0
    ended_ms: int = 0
    complete: bool = False
    tally: Tally = Tally()
    findings: tuple[Finding, ...] = ()
    references: References = References()


ScrubEvent = ScrubBegun | ScrubStepped | ScrubEnded | ScrubPaused | ScrubResumed | ScrubStopped


class ScrubDecider:
    """`Decider` of the scrub."""

    kind = KIND
    state = Scrub
    events = (ScrubBegun, ScrubStepped, ScrubEnded, ScrubPaused, ScrubResumed, ScrubStopped)

    def decide(self, command: Any, state: Scrub | None) -> Decision[ScrubEvent]:
        """Raises Conflict ``scrub-running``, ``scrub-not-running``; Refused ``orphans-too-young``."""
        now = state or Scrub()
        if isinstance(command, BeginScrub):
            return _begin(command, now)
        if isinstance(command, NoteStep):
            return _stepped(command, now)
        if isinstance(command, NoteReferences):
            return _ended(command, now)
        if isinstance(command, PauseScrub):
            event = ScrubPaused(run=now.run, actor=command.actor, at_ms=command.at_ms)
            return Decision(events=(event,) if now.label == "running" else ())
        if isinstance(command, ResumeScrub):
            return _resume(command, now)
        if isinstance(command, StopScrub):
            stopped = ScrubStopped(run=now.run, actor=command.actor, at_ms=command.at_ms)
            return Decision(events=(stopped,) if now.label != "idle" else ())
        raise Refused("unknown-command", f"a scrub knows no {type(command).__name__}")

    def evolve(self, state: Scrub | None, event: Event) -> Scrub:
        """The scrub after ``event``."""
        now, replace = state or Scrub(), msgspec.structs.replace
        if isinstance(event, ScrubBegun):
            return Scrub(
                label="running", run=event.run, options=event.options, begun_ms=event.at_ms
            )
        if isinstance(event, ScrubStepped):
            unmended = tuple(f for f in event.findings if f.outcome != "mended")
            return replace(
                now,
                after=event.after,
                part="references" if event.last else "copies",
                tally=now.tally.plus(event.tally),
                findings=(*now.findings, *unmended)[-MAX_KEPT:],
            )
        if isinstance(event, ScrubEnded):
            return replace(
                now, label="idle", ended_ms=event.at_ms, complete=True, references=event.references
            )
        if isinstance(event, ScrubPaused):
            return replace(now, label="paused")
        if isinstance(event, ScrubResumed):
            return replace(now, label="running")
        assert isinstance(event, ScrubStopped)
        return replace(now, label="idle", ended_ms=event.at_ms)


def _begin(command: BeginScrub, now: Scrub) -> Decision[ScrubEvent]:
    has_failed = now.label == "running" and now.run == command.failed_run
    is_busy = now.label != "idle" and not has_failed
    if command.idle_since_ms is not None:
        if is_busy or now.begun_ms > command.idle_since_ms:
            return Decision()
    elif is_busy:
        raise Conflict(
            "scrub-running",
            f"a scrub is {now.label}",
            hint="`outlast blobs status` shows how far it is; --resume, --pause and --stop act on it.",
            retry="later",
        )
    if 0 < command.options.delete_orphans_s < MIN_ORPHAN_AGE_S:
        raise Refused(
            "orphans-too-young",
            f"unreferenced blobs are deleted when they are at least {MIN_ORPHAN_AGE_S} s old",
            hint="A document on its way in is unreferenced for a moment.",
        )
    run, at_ms = now.run + 1, command.at_ms
    begun = ScrubBegun(run=run, options=command.options, actor=command.actor, at_ms=at_ms)
    events: tuple[ScrubEvent, ...] = (begun,)
    if has_failed:
        events = (ScrubStopped(run=now.run, actor=command.actor, at_ms=at_ms), begun)
    return Decision(events=events, jobs=(NewJob(kind=STEP_JOB, payload=StepJob(run=run)),))


def _stepped(command: NoteStep, now: Scrub) -> Decision[ScrubEvent]:
    if command.run != now.run or now.label == "idle" or command.before != now.after:
        return Decision()  # a step of a scrub that was stopped, or one that was noted already
    event = ScrubStepped(
        run=command.run,
        after=command.after,
        last=command.last,
        tally=command.tally,
        findings=command.findings,
        at_ms=command.at_ms,
    )
    jobs = (_next(now.run, command.after, command.last),) if now.label == "running" else ()
    return Decision(events=(event,), jobs=jobs)


def _ended(command: NoteReferences, now: Scrub) -> Decision[ScrubEvent]:
    if command.run != now.run or now.label == "idle":
        return Decision()
    event = ScrubEnded(run=command.run, references=command.references, at_ms=command.at_ms)
    return Decision(events=(event,))


def _resume(command: ResumeScrub, now: Scrub) -> Decision[ScrubEvent]:
    if now.label == "idle":
        raise Conflict("scrub-not-running", "there is no scrub to resume", retry="never")
    if now.label == "running":
        return Decision()
    event = ScrubResumed(run=now.run, actor=command.actor, at_ms=command.at_ms)
    return Decision(events=(event,), jobs=(_next(now.run, now.after, now.part == "references"),))


def _next(run: int, after: str, last: bool) -> NewJob:
    return NewJob(kind=REFERENCES_JOB if last else STEP_JOB, payload=StepJob(run=run, after=after))
