"""Job kind: whether jobs of one kind are started at this site.

    PauseJobKind  -> JobKindPaused     by hand; holds on every node, until resumed
    ResumeJobKind -> JobKindResumed

What runs goes on; what is ready waits. Saying again what holds already changes nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused
from outlast.operations.model.reason import stated

KIND = "operations.job_kind"


class JobKindPaused(Event, frozen=True, kw_only=True):
    """A person had no more jobs of the kind started."""

    name: ClassVar[str] = "operations.job_kind_paused"
    kind: str
    reason: str
    actor: str
    at_ms: int


class JobKindResumed(Event, frozen=True, kw_only=True):
    """A person had them started again."""

    name: ClassVar[str] = "operations.job_kind_resumed"
    kind: str
    reason: str
    actor: str
    at_ms: int


class PauseJobKind(Command, frozen=True, kw_only=True):
    """Start no more jobs of a kind, and say why."""

    kind: str
    reason: str
    actor: str


class ResumeJobKind(Command, frozen=True, kw_only=True):
    """Start jobs of a kind again, and say why."""

    kind: str
    reason: str
    actor: str


class JobKind(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of job: how it was switched last, by whom, when and why."""

    label: Literal["running", "paused"] = "running"
    reason: str = ""
    actor: str = ""
    at_ms: int = 0


class JobKindDecider:
    """`Decider` of kinds of job."""

    kind = KIND
    state = JobKind
    events = (JobKindPaused, JobKindResumed)

    def decide(
        self, command: Any, state: JobKind | None
    ) -> Decision[JobKindPaused | JobKindResumed]:
        """Raises Refused ``reason-missing``."""
        now = state or JobKind()
        if isinstance(command, PauseJobKind):
            reason = stated(command.reason)
            if now.label == "paused" and now.reason == reason:
                return Decision()
            paused = JobKindPaused(
                kind=command.kind, reason=reason, actor=command.actor, at_ms=command.at_ms
            )
            return Decision(events=(paused,))
        if isinstance(command, ResumeJobKind):
            reason = stated(command.reason)
            if now.label == "running":
                return Decision()
            resumed = JobKindResumed(
                kind=command.kind, reason=reason, actor=command.actor, at_ms=command.at_ms
            )
            return Decision(events=(resumed,))
        raise Refused("unknown-command", f"a kind of job knows no {type(command).__name__}")

    def evolve(self, state: JobKind | None, event: Event) -> JobKind:
        """The kind after ``event``."""
        assert isinstance(event, JobKindPaused | JobKindResumed)
        label: Literal["running", "paused"] = (
            "paused" if isinstance(event, JobKindPaused) else "running"
        )
        return JobKind(label=label, reason=event.reason, actor=event.actor, at_ms=event.at_ms)
