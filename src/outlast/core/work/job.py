"""What a person did about a job, on record: burial as a dead letter, replay, parking, discarding.

The job itself lives in the store's job table; this aggregate is its history in the log. It refuses nothing that
the table allows: the commit checks the job's state and lease in the same transaction.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event

KIND = "work.job"


class JobBuried(Event, frozen=True, kw_only=True):
    """A job became a dead letter: it will not run again until a person says so."""

    name: ClassVar[str] = "work.job_buried"
    kind: str
    attempts: int
    reason: str


class JobMoved(Event, frozen=True, kw_only=True):
    """A person replayed, parked or discarded a job."""

    name: ClassVar[str] = "work.job_moved"
    kind: str
    action: Literal["replay", "park", "discard"]
    reason: str


class BuryJob(Command, frozen=True, kw_only=True):
    """Record a dead letter."""

    kind: str
    attempts: int
    reason: str


class MoveJob(Command, frozen=True, kw_only=True):
    """Record what a person decided."""

    kind: str
    action: Literal["replay", "park", "discard"]
    reason: str


class JobHistory(msgspec.Struct, frozen=True):
    """How often a job was buried and moved, and the last reason given."""

    label: str
    buried: int = 0
    moved: int = 0
    reason: str = ""


class JobDecider:
    """`Decider` of job histories."""

    kind = KIND
    state = JobHistory
    events = (JobBuried, JobMoved)

    def decide(self, command: Any, state: JobHistory | None) -> Decision[JobBuried | JobMoved]:
        """One event per command."""
        if isinstance(command, BuryJob):
            return Decision(
                events=(
                    JobBuried(kind=command.kind, attempts=command.attempts, reason=command.reason),
                )
            )
        move: MoveJob = command
        return Decision(events=(JobMoved(kind=move.kind, action=move.action, reason=move.reason),))

    def evolve(self, state: JobHistory | None, event: Event) -> JobHistory:
        """Counts."""
        state = state or JobHistory("dead")
        if isinstance(event, JobBuried):
            return JobHistory("dead", state.buried + 1, state.moved, event.reason)
        assert isinstance(event, JobMoved)
        labels = {"replay": "ready", "park": "parked", "discard": "done"}
        return JobHistory(labels[event.action], state.buried, state.moved + 1, event.reason)
