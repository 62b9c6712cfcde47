"""Assertions of a simulation: what must hold always, and what must be seen at least once in many seeds.

    always(condition, what)      the seed fails where it does not hold
    sometimes(condition, what)   asked every time; must have been true in some seed, or nothing was ever tested by it
    reachable(what)              some seed must come here

A suite of seeds in which nobody was ever fenced says nothing about fencing. So every ``sometimes`` and ``reachable``
is declared in the tables below, an undeclared one is an error, and a run of enough seeds fails when a declared one
never fired (`unreached`). The same holds for fault points, see `faults`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from outlast.testing.simulation.faults import POINTS

SOMETIMES = (
    "a checkpoint is behind the store",
    "a flush carries more than one piece of work",
    "a flush waits for another node's",
    "an attempt follows a failed one",
    "every node is down at once",
    "two nodes have published up to different entries",
)
"""Conditions that must be true in some seed of a thousand, and are asked about in all."""

REACHABLE = (
    "answer after its caller gave up",
    "answer lost, retried with its key",
    "answer replayed",
    "attempt failed over",
    "clock beyond its bound",
    "clock jumped",
    "commit happened after its node died",
    "crashed between commit and acknowledgement",
    "crashed while a provider was asked",
    "crashed while publishing",
    "ejected provider answered a check",
    "exhausted without an exception",
    "fork healed: the newer store came back",
    "fork noticed: nothing is signed",
    "handler raised a conflict",
    "head's lock outlasted by its waiters",
    "head's lock taken from a frozen node",
    "idempotency record pruned",
    "isolated: a remote provider passed over",
    "job buried",
    "job pruned",
    "job replayed by hand",
    "key reused with another body",
    "late answer after its attempt was closed",
    "lie caught",
    "mode entered by rule",
    "mode set by hand",
    "new work refused while read-only",
    "node stalled beyond its lease",
    "optimistic commit lost its race",
    "provider ejected",
    "provider switched off by hand",
    "provider switched on again",
    "published again after a crash",
    "reader verified a consistency proof",
    "request approved",
    "request cancelled",
    "rescued after expiry",
    "second signature on the first's file",
    "signed with a rotated key",
    "storage full",
    "timestamp missed and settled late",
    "timestamp owed and settled",
    "zombie fenced",
)
"""Places that some seed of a thousand must come to."""

_SOMETIMES = frozenset(SOMETIMES)
_REACHABLE = frozenset(REACHABLE)


class Violation(AssertionError):
    """An invariant does not hold."""


class Checks:
    """The assertions of one run. ``reached`` counts by point how often it was come to, or was true."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()

    def always(self, condition: bool, what: str) -> None:
        """Fails the seed unless it holds."""
        if not condition:
            raise Violation(what)

    def sometimes(self, condition: bool, what: str) -> None:
        """Whether it holds now is noted; in some seed it must. ``what`` is one of SOMETIMES."""
        assert what in _SOMETIMES, what
        if condition:
            self.reached[what] += 1

    def reachable(self, what: str) -> None:
        """This seed has come here. ``what`` is one of REACHABLE."""
        assert what in _REACHABLE, what
        self.reached[what] += 1


def declared() -> tuple[str, ...]:
    """Everything that a run of enough seeds must have seen: conditions, places, and fault points (``fault: …``)."""
    return (*SOMETIMES, *REACHABLE, *(f"fault: {name}" for name in POINTS))


def unreached(reached: Mapping[str, int]) -> list[str]:
    """What was declared and never happened in these seeds."""
    return [point for point in declared() if not reached.get(point)]
