"""Assertions of a simulation: what must hold always, and what must have happened at least once in many seeds.

A suite of seeds in which nobody was ever fenced says nothing about fencing: ``sometimes`` points are counted, and
whoever runs enough seeds asserts that every one was reached.
"""

from __future__ import annotations

from collections import Counter

SOMETIMES = (
    "answer lost, retried with its key",
    "answer replayed",
    "attempt failed over",
    "clock jumped",
    "crashed between commit and acknowledgement",
    "crashed while a provider was asked",
    "handler raised a conflict",
    "job buried",
    "job replayed by hand",
    "key reused with another body",
    "late answer after its attempt was closed",
    "lie caught",
    "node stalled beyond its lease",
    "provider ejected",
    "request cancelled",
    "request approved",
    "rescued after expiry",
    "second signature on the first's file",
    "signed with a rotated key",
    "storage full",
    "timestamp missed and settled late",
    "timestamp owed and settled",
    "written but not told",
    "zombie fenced",
)
"""Every point that the simulator must come to in a thousand seeds."""


class Violation(AssertionError):
    """An invariant does not hold."""


class Checks:
    """The assertions of one run."""

    def __init__(self) -> None:
        self.reached: Counter[str] = Counter()

    def always(self, holds: bool, what: str) -> None:
        """Fails the seed unless it holds."""
        if not holds:
            raise Violation(what)

    def sometimes(self, point: str) -> None:
        """This seed came to the point; it must be one of SOMETIMES."""
        assert point in _KNOWN, point
        self.reached[point] += 1


_KNOWN = frozenset(SOMETIMES)
