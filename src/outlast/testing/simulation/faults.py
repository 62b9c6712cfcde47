"""Fault points: places in the simulated site where something may go wrong, as FoundationDB's BUGGIFY has them.

Each point is switched on for a seed or not (``enabled`` is how often), and one that is on fires at some of the visits
to it, at a rate drawn for the seed between ``low`` and ``high``. So no seed has all the trouble, and one kind does not
hide another: a site that crashes every second never gets as far as an expired lease (swarm testing, Groce et al. 2012).

Every point draws from a stream of random numbers of its own: adding one leaves the rates of the others as they are.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from outlast.core.ids import Random


class Point(msgspec.Struct, frozen=True):
    """How often a point is on in a seed, and how often it then fires per visit."""

    enabled: float
    low: float
    high: float


POINTS = {
    # the process
    "dies at an event": Point(0.3, 0.000_3, 0.004),
    "dies with its COMMIT under way": Point(0.4, 0.01, 0.08),
    "dies between commit and answer": Point(0.4, 0.01, 0.08),
    "stalls while a provider is asked": Point(0.5, 0.1, 0.6),
    "stalls with the head's lock": Point(0.15, 0.01, 0.05),
    "wake-up lost": Point(0.3, 0.1, 1.0),
    # the store
    "unavailable before the commit": Point(0.4, 0.02, 0.25),
    "commit answered unknown, done": Point(0.4, 0.02, 0.2),
    "commit answered unknown, not done": Point(0.4, 0.02, 0.2),
    "commit answered conflict": Point(0.25, 0.02, 0.2),
    "read unavailable": Point(0.3, 0.01, 0.1),
    # log and archive
    "archive cannot be written": Point(0.3, 0.05, 0.4),
    # providers and authorities
    "provider fails": Point(0.5, 0.05, 0.6),
    "provider lies": Point(0.4, 0.05, 0.4),
    "provider hangs or is late": Point(0.5, 0.05, 0.4),
    "authority fails": Point(0.5, 0.2, 1.0),
    # clients and their network
    "answer lost on the way": Point(0.5, 0.05, 0.3),
    "client repeats itself": Point(0.5, 0.3, 0.3),
    "client changes its mind": Point(0.4, 0.3, 0.3),
}
"""Every fault point there is. A run of enough seeds must have seen each fire."""


class FaultPoints:
    """The fault points of one seed. ``rates`` are 0.0 for those that are off; ``fired`` counts."""

    def __init__(self, seed: str) -> None:
        self.healed = False
        self.rates = {
            name: _rate(Random(f"{seed}/{name}"), point) for name, point in POINTS.items()
        }
        self.fired: Counter[str] = Counter()
        self._rng = Random(f"{seed}/visits")
        self._random = self._rng.random

    def fires(self, name: str) -> bool:
        """Whether the point does its worst at this visit; never once everything has healed."""
        rate = self.rates[name]
        if not rate or self.healed or self._random() >= rate:
            return False
        self.fired[f"fault: {name}"] += 1
        return True

    def note(self, name: str) -> None:
        """It fired, as `visits_until` said."""
        self.fired[f"fault: {name}"] += 1

    def visits_until(self, name: str) -> int:
        """For points visited too often to be asked each time: how many visits pass before it fires next; 0: never."""
        rate = self.rates[name]
        if not rate or self.healed:
            return 0
        return 1 + int(self._rng.expovariate(rate))


def _rate(rng: Random, point: Point) -> float:
    on = rng.random() < point.enabled
    return rng.uniform(point.low, point.high) if on else 0.0
