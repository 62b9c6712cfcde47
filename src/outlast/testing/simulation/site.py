"""What the nodes of a simulated site share, and what they are made from."""

from __future__ import annotations

from collections.abc import Mapping

from outlast.core.decider import Deciders
from outlast.signing.classes import DocumentClass
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.database import Database
from outlast.testing.simulation.engine import Simulation
from outlast.testing.simulation.faults import FaultPoints
from outlast.testing.simulation.parts import Provider, Shelf, StampAuthority
from outlast.testing.simulation.publishing import Reader
from outlast.testing.simulation.swarm import NEVER, SKEW_BOUND_MS, Swarm

KEPT_MS = 30_000
"""How long idempotency records are kept after the trouble; clients of a seed are answered long before."""
FOR_EVER_MS = 10**12
JOBS_KEPT_MS = 1_000
PATIENCE = 20
"""Polls in a healing site are no further apart than the time since, divided by this."""


class Site:
    """One seed's site. ``healed``: all trouble is over. ``away``: an older store is in the newer one's place."""

    def __init__(
        self,
        sim: Simulation,
        swarm: Swarm,
        checks: Checks,
        faults: FaultPoints,
        store: Database,
        shelf: Shelf,
        deciders: Deciders,
        classes: Mapping[str, DocumentClass],
        providers: Mapping[str, Provider],
        authorities: Mapping[str, StampAuthority],
    ) -> None:
        self.sim = sim
        self.swarm = swarm
        self.checks = checks
        self.faults = faults
        self.store = store
        self.shelf = shelf
        self.deciders = deciders
        self.classes = classes
        self.providers = providers
        self.authorities = authorities
        self.reader = Reader(checks, store.disk)
        self.away = False
        self.healed_at_ms = 0.0

    @property
    def healed(self) -> bool:
        """All trouble is over."""
        return self.faults.healed

    def pause_ms(self, usual_ms: float) -> float:
        """How long whoever has nothing to do sleeps: as usual; of a site that has been healing for long, longer, for
        hours may pass until a job comes due, and nothing else happens."""
        if not self.healed:
            return usual_ms
        return max(usual_ms, (self.sim.now_ms - self.healed_at_ms) / PATIENCE)

    @property
    def watched(self) -> bool:
        """Whether nodes look for modes and switches: only where something may change them."""
        swarm = self.swarm
        causes = (swarm.mode_every_ms, swarm.switch_every_ms, swarm.disk_full_every_ms)
        return swarm.restored or any(cause != NEVER for cause in causes)

    @property
    def idempotency_kept_ms(self) -> int:
        """How long a key is remembered: longer than any client asks, by the most wrong of the clocks."""
        if self.swarm.skew == "beyond":
            return FOR_EVER_MS
        return self.swarm.trouble_ms + KEPT_MS + 2 * SKEW_BOUND_MS
