"""Upkeep keeps pace with any rate of accepting."""

from __future__ import annotations

import pytest

from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Committer, Planner
from outlast.testing import store as stores
from outlast.testing.ledger import ledger_deciders
from outlast.testing.store import MemoryStore
from outlast.testing.suites.store import work
from outlast.wiring.upkeep import IDEMPOTENCY_KEPT_MS, prune

pytestmark = pytest.mark.anyio


async def test_a_round_forgets_all_that_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step a minute would forget 16 keys a second, and a busy site's table would grow for ever."""
    monkeypatch.setattr(stores, "PRUNE_IDEMPOTENCY", 3)
    clock, store = ManualClock(), MemoryStore()
    committer = Committer(store, Planner(ledger_deciders(), HybridClock(clock), "a"), clock)
    for i in range(10):
        await committer.submit(work("a", key=f"old-{i}", body=b""))
    clock.advance(IDEMPOTENCY_KEPT_MS + 1)
    await committer.submit(work("a", key="new", body=b""))
    assert await prune(store, clock) == 10
    assert len(store.disk.idempotency) == 1
