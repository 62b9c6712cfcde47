"""Journal: what another system puts on record here, in its own words and order.

    RecordEntries -> JournalRecorded, one for each line     the batch is in the log whole, or not at all

A journal's name is its caller's choice; the state only counts. What a line says is nobody's business but its
writer's: it is a JSON object, checked before it comes here (`operations.lines`), and goes into the log byte by byte.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused

KIND = "operations.journal"


class JournalRecorded(Event, frozen=True, kw_only=True):
    """Another system's entry. ``data`` are the bytes of the JSON object as they came."""

    name: ClassVar[str] = "journal.recorded"
    data: msgspec.Raw


class RecordEntries(Command, frozen=True, kw_only=True):
    """Put lines on record, in order. Each is one JSON object, already checked."""

    lines: tuple[bytes, ...]


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """``entries`` counts all that were recorded."""

    label: str = "open"
    entries: int = 0


class JournalDecider:
    """`Decider` of journals."""

    kind = KIND
    state = Journal
    events = (JournalRecorded,)

    def decide(self, command: Any, state: Journal | None) -> Decision[JournalRecorded]:
        """A journal takes whatever comes."""
        if not isinstance(command, RecordEntries):
            raise Refused("unknown-command", f"a journal knows no {type(command).__name__}")
        raw = msgspec.Raw
        return Decision(events=tuple([JournalRecorded(data=raw(line)) for line in command.lines]))

    def evolve(self, state: Journal | None, event: Event) -> Journal:
        """One more."""
        return Journal(entries=(state.entries if state else 0) + 1)
