"""Turns what the log says into lines of the story: failovers, providers left and taken back, modes."""

from __future__ import annotations

from collections.abc import Sequence

from outlast.gameday.record import Failover, Note
from outlast.gameday.view import Tone, View

FAILOVERS_TOLD = 3
"""At once, one by one; those beyond are summed up."""


class Teller:
    """Tells what is new in the view's record."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._notes = 0
        self._failovers = 0
        self._owed = 0
        self._settled = 0
        self._interrupted = 0

    def tell(self) -> None:
        """Add the lines for what the record has more than last time."""
        view, record = self._view, self._view.record
        for note in record.notes[self._notes :]:
            view.say(*_line(note), at_ms=note.at_ms)
        self._notes = len(record.notes)
        self._tell_failovers(record.failovers[self._failovers :])
        self._failovers = len(record.failovers)
        interrupted = sum(r.interrupted for r in record.requests.values())
        if interrupted > self._interrupted:
            more = interrupted - self._interrupted
            view.say(f"{more} attempts that the site's death cut off are made again", "notable")
        self._interrupted = interrupted
        self._tell_debt()

    def _tell_failovers(self, failovers: Sequence[Failover]) -> None:
        for failover in failovers[:FAILOVERS_TOLD]:
            text = f"failover {failover.instead_of} → {failover.provider}, {failover.took_ms} ms"
            self._view.say(text, "notable", at_ms=failover.at_ms)
        more = failovers[FAILOVERS_TOLD:]
        if more:
            most_ms = max(failover.took_ms for failover in more)
            text = f"failover of {len(more)} more that came with them, {most_ms} ms at most"
            self._view.say(text, "notable", at_ms=more[-1].at_ms)

    def _tell_debt(self) -> None:
        view, record = self._view, self._view.record
        if record.owed and not self._owed:
            view.say("no authority answers: released now, the timestamp is owed", "notable")
        if record.settled and not self._settled:
            view.say("first owed timestamp settled", "good")
        if record.owed and record.settled == record.owed != self._settled:
            view.say(f"all {record.owed} owed timestamps settled", "good")
        self._owed, self._settled = record.owed, record.settled


def _line(note: Note) -> tuple[str, Tone]:
    if note.kind == "ejected":
        return f"{note.subject} is left alone: {note.text}", "notable"
    if note.kind == "restored":
        return f"{note.subject} is in use again, {note.text}", "good"
    return f"mode {note.text} → {note.subject}", "good" if note.subject == "normal" else "notable"
