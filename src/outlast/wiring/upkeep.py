"""Forgetting what has been kept long enough, as fast as it comes: records of idempotency keys, finished jobs.

Each round goes on until nothing old is left, in steps short enough that commits pass between them. The log, and
therefore everything that was ever decided, is kept.
"""

from __future__ import annotations

import asyncio
import logging

from outlast.core.clock import Clock
from outlast.core.errors import OutlastError
from outlast.core.store.port import Store

log = logging.getLogger("outlast.upkeep")

PRUNE_EVERY_S = 60.0
PRUNE_PAUSE_S = 0.05
"""Between two steps of a round."""
IDEMPOTENCY_KEPT_MS = 48 * 3_600_000
"""How long an idempotency key is remembered."""
JOBS_KEPT_MS = 24 * 3_600_000
"""How long a finished job can be asked about; the log keeps what it did."""


async def keep_pruning(store: Store, clock: Clock) -> None:
    """A round every PRUNE_EVERY_S, until cancelled."""
    while True:
        await asyncio.sleep(PRUNE_EVERY_S)
        try:
            await prune(store, clock)
        except OutlastError as error:
            log.warning("cannot prune: %s", error)


async def prune(store: Store, clock: Clock) -> int:
    """One round: everything that is old now; returns how many rows went."""
    now_ms, gone = clock.now_ms(), 0
    while True:
        step = await store.prune(
            idempotency_before_ms=now_ms - IDEMPOTENCY_KEPT_MS,
            jobs_before_ms=now_ms - JOBS_KEPT_MS,
        )
        if not step:
            return gone
        gone += step
        await asyncio.sleep(PRUNE_PAUSE_S)
