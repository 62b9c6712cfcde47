"""What a seed switches on, and how hard: swarm testing (Groce et al. 2012).

A run with every kind of trouble at once finds less than many runs with some kinds each, because one kind hides
another: a site that crashes every second never gets as far as an expired lease. So each seed draws its own set.
"""

from __future__ import annotations

import msgspec

from outlast.core.ids import Random


class Swarm(msgspec.Struct, frozen=True, kw_only=True):
    """The trouble of one seed. Probabilities are per occasion; times in simulated milliseconds."""

    nodes: int
    providers: int
    authorities: int
    requests: int
    concurrency: int
    lease_ms: int
    trouble_ms: int
    """Until here there is trouble; afterwards everything heals and the site must come to rest."""
    slow_disk_ms: float
    crash_every_ms: float
    crash_untold: float
    """Of flushes: the process dies between commit and acknowledgement."""
    stall_every_ms: float
    stall_asking: float
    """Of calls to providers: the whole process stalls while it waits."""
    jump_every_ms: float
    outage_every_ms: float
    flush_fails: float
    flush_lies: float
    """Written, but said to be unknown."""
    disk_full_every_ms: float
    provider_fails: float
    provider_lies: float
    provider_hangs: float
    authority_fails: float
    answer_lost: float
    """Between a node and its client."""
    repeats: float
    """Of clients that send again although they were answered."""
    cancels: float
    rotate_every_ms: float
    short_deadlines: bool
    few_attempts: bool


NEVER = float("inf")


def draw(rng: Random) -> Swarm:
    """The swarm of a seed."""

    def maybe(value: float, otherwise: float = 0.0, often: float = 0.5) -> float:
        return value if rng.random() < often else otherwise

    return Swarm(
        nodes=rng.choice((1, 2, 2, 3)),
        providers=rng.choice((1, 2, 2, 3)),
        authorities=rng.choice((1, 2)),
        requests=rng.choice((2, 4, 6)),
        concurrency=rng.choice((1, 2, 8)),
        lease_ms=rng.choice((600, 600, 1_500, 4_000)),
        trouble_ms=rng.choice((4_000, 8_000, 15_000)),
        slow_disk_ms=rng.choice((0.5, 5.0, 60.0)),
        crash_every_ms=maybe(rng.uniform(700, 5_000), NEVER),
        crash_untold=maybe(rng.uniform(0.01, 0.08), often=0.4),
        stall_asking=maybe(rng.uniform(0.1, 0.6), often=0.5),
        stall_every_ms=maybe(rng.uniform(1_000, 6_000), NEVER),
        jump_every_ms=maybe(rng.uniform(1_500, 6_000), NEVER, 0.3),
        outage_every_ms=maybe(rng.uniform(1_000, 6_000), NEVER),
        flush_fails=maybe(rng.uniform(0.02, 0.25), often=0.4),
        flush_lies=maybe(rng.uniform(0.02, 0.2), often=0.4),
        disk_full_every_ms=maybe(rng.uniform(1_500, 6_000), NEVER, 0.25),
        provider_fails=maybe(rng.uniform(0.05, 0.6)),
        provider_lies=maybe(rng.uniform(0.05, 0.4), often=0.4),
        provider_hangs=maybe(rng.uniform(0.05, 0.4)),
        authority_fails=maybe(rng.uniform(0.2, 1.0)),
        answer_lost=maybe(rng.uniform(0.05, 0.3)),
        repeats=maybe(0.3),
        cancels=maybe(0.3, often=0.4),
        rotate_every_ms=maybe(rng.uniform(500, 3_000), NEVER, 0.3),
        short_deadlines=rng.random() < 0.5,
        few_attempts=rng.random() < 0.3,
    )
