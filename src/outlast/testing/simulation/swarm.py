"""What a seed is made of: how large the site is, which engine it has, what kinds of trouble come and how often.

A seed is a pair (version, number), written ``3:17``. The number draws everything; the version says by which rules.
Whoever changes what is drawn (a field here, a fault point's range, the model's own random decisions where a kept seed
depends on them) raises DRAW_VERSION: a number of an older version then means another schedule, and is refused rather
than believed. Rates of single faults are drawn in `faults`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from outlast.core.ids import Random

DRAW_VERSION = 2
"""The rules by which numbers become schedules. 1: before fault points, publishers and people's switches."""

Engine = Literal["embedded", "locked", "optimistic"]
"""``embedded``: one node, leases void when it opens (SQLite). ``locked``: flushes one after the other under the head's
lock (PostgreSQL). ``optimistic``: nobody waits, and who comes second to the commit gets Conflict."""

Skew = Literal["none", "within", "beyond"]
"""How wrong nodes' clocks get: not at all; at most SKEW_BOUND_MS; by anything."""

SKEW_BOUND_MS = 2_000
"""Within this, clocks may differ and nothing takes noticeably longer: a job made by the fastest clock is due this much
later on the slowest. Beyond it every promise holds too, but work waits as long as the clocks are apart."""

NEVER = float("inf")


class Swarm(msgspec.Struct, frozen=True, kw_only=True):
    """One seed's site and its trouble; times in simulated milliseconds."""

    engine: Engine
    nodes: int
    providers: int
    authorities: int
    requests: int
    concurrency: int
    lease_ms: int
    trouble_ms: int
    """Until here there is trouble; afterwards everything heals and the site must come to rest."""
    slow_disk_ms: float
    skew: Skew
    crash_every_ms: float
    stall_every_ms: float
    jump_every_ms: float
    outage_every_ms: float
    disk_full_every_ms: float
    rotate_every_ms: float
    mode_every_ms: float
    """People set the mode by hand."""
    switch_every_ms: float
    """People switch a provider or authority off, and on again."""
    prune_every_ms: float
    publish_every_ms: float
    """The publishers' cadence; NEVER: the seed publishes nothing."""
    restored: bool
    """An older copy of the store is put in place for a while, by mistake."""
    short_deadlines: bool
    few_attempts: bool


def draw(rng: Random) -> Swarm:
    """The swarm of a seed."""

    def maybe(often: float, low: float, high: float) -> float:
        on = rng.random() < often
        value = rng.uniform(low, high)
        return value if on else NEVER

    nodes = rng.choice((1, 2, 2, 3))
    shared: Engine = "optimistic" if rng.random() < 0.25 else "locked"
    skew: Skew = rng.choice(("none", "none", "within", "beyond"))
    publish_every_ms = maybe(0.6, 100, 1_500)
    restored = rng.random() < 0.3
    return Swarm(
        engine="embedded" if nodes == 1 else shared,
        nodes=nodes,
        providers=rng.choice((1, 2, 2, 3)),
        authorities=rng.choice((1, 2)),
        requests=rng.choice((2, 4, 6)),
        concurrency=rng.choice((1, 2, 8)),
        lease_ms=rng.choice((600, 600, 1_500, 4_000)),
        trouble_ms=rng.choice((4_000, 8_000, 15_000)),
        slow_disk_ms=rng.choice((0.5, 5.0, 60.0)),
        skew=skew,
        crash_every_ms=maybe(0.5, 700, 5_000),
        stall_every_ms=maybe(0.5, 1_000, 6_000),
        jump_every_ms=NEVER if skew == "none" else rng.uniform(1_500, 6_000),
        outage_every_ms=maybe(0.5, 1_000, 6_000),
        disk_full_every_ms=maybe(0.25, 1_500, 6_000),
        rotate_every_ms=maybe(0.3, 500, 3_000),
        mode_every_ms=maybe(0.25, 1_500, 6_000),
        switch_every_ms=maybe(0.3, 1_000, 5_000),
        prune_every_ms=maybe(0.4, 200, 2_000),
        publish_every_ms=publish_every_ms,
        restored=restored and publish_every_ms != NEVER,
        short_deadlines=rng.random() < 0.5,
        few_attempts=rng.random() < 0.3,
    )
