"""API keys of several administrators: whose idempotency key is whose."""

from __future__ import annotations

import pytest

from outlast.core.access import Access, ApiKeyDecider
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Committer, Idempotency, Planner
from outlast.core.decider import Deciders
from outlast.core.ids import Ids
from outlast.testing.store import MemoryStore

pytestmark = pytest.mark.anyio


async def test_two_administrators_may_use_one_idempotency_key() -> None:
    """API keys are the site's, so all tenants' administrators share a tenant: not each other's answers."""
    clock, store = ManualClock(), MemoryStore()
    deciders = Deciders([ApiKeyDecider()])
    committer = Committer(store, Planner(deciders, HybridClock(clock), "a"), clock)
    access = Access(committer, store, deciders, clock, Ids(clock))
    key = Idempotency("create-1", b"the same body")
    made = [
        await access.create(
            by=f"api-key:{tenant}", tenant=tenant, scopes=("operate",), idempotency=key
        )
        for tenant in ("one", "two", "one")
    ]
    assert made[0].id != made[1].id
    assert made[1].token is not None
    assert (made[2].id, made[2].token) == (made[0].id, None)
