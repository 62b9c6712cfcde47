"""From where on claims look for due jobs.

A claimed job leaves a dead entry in the index that claims read, at its beginning. Nobody can remove such entries while
somebody holds a snapshot, and every claim would walk over all of them: after a minute of that they were most of a
flush's cost. So a claim begins where the one before found its first job, less a margin, and once in SWEEP_S at the very
beginning.

What it may cost: a job that another node makes due further back than the margin (one that was replayed, say) is seen
SWEEP_S later. What this node writes there is seen at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from outlast.core.store.port import ClaimAsk, JobRow
from outlast.core.store.postgres.skew import MAX_SKEW_MS

SWEEP_S = 1.0
"""How long claims may leave out what lies before the floors."""
MARGIN_MS = 2 * MAX_SKEW_MS + 1_000
"""How far behind this node's time another one may make a job due now."""
LOWEST = -(1 << 63)
"""Of bigint."""
LOWEST_LEASE = 1
"""Leases that were given back end at 0; those are always looked for."""


class Floors:
    """One node's floors: no job of ``kinds`` is due, and no lease ends, before them. Times in milliseconds."""

    def __init__(self) -> None:
        self._kinds: tuple[str, ...] | None = None
        self._due = LOWEST
        self._lease = LOWEST_LEASE
        self._until_s = 0.0

    def of(self, asks: Sequence[ClaimAsk], now_s: float) -> tuple[int, int]:
        """Where due times and ends of leases begin to be looked at; ``now_s`` is monotonic."""
        if now_s >= self._until_s or any(ask.kinds != self._kinds for ask in asks):
            self.forget()
        return self._due, self._lease

    def learn(
        self, asks: Sequence[ClaimAsk], answers: Sequence[Sequence[JobRow]], now_s: float
    ) -> None:
        """What the database answered to ``asks``, with floors as `of` gave them."""
        if self._kinds is not None or len({ask.kinds for ask in asks}) != 1:
            return  # looked at from the floors, or for several sets of kinds
        rows = [row for answer in answers for row in answer]
        now_ms = min(ask.now_ms for ask in asks)
        due = min([now_ms, *(row.run_at_ms for row in rows if row.state == "ready")])
        lease = min([now_ms, *(row.lease_until_ms for row in rows if row.state == "leased")])
        self._due = due - MARGIN_MS
        self._lease = max(LOWEST_LEASE, lease - MARGIN_MS)
        self._kinds, self._until_s = asks[0].kinds, now_s + SWEEP_S

    def wrote(self, jobs: Iterable[JobRow]) -> None:
        """This node is writing these."""
        for job in jobs:
            if (job.state == "ready" and job.run_at_ms < self._due) or (
                job.state == "leased" and job.lease_until_ms < self._lease
            ):
                self.forget()

    def forget(self) -> None:
        """Begin at the beginning again."""
        self._kinds, self._due, self._lease = None, LOWEST, LOWEST_LEASE
