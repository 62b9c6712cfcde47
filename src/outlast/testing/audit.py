"""Reads a whole store and checks that everything in it says the same thing.

Used after crashes, random schedules and simulations: whatever happened, the entries are an unbroken log under the
head's tree, each stream's state is the fold of its entries, and jobs belong to events that are there. Raises
AssertionError naming the first contradiction; suspends only where the store does.
"""

from __future__ import annotations

from collections import defaultdict

import msgspec

from outlast.core.clock import hlc_text
from outlast.core.decider import Deciders
from outlast.core.log.entry import Entry, decode_entry
from outlast.core.log.merkle import CompactRange, leaf_hash
from outlast.core.store.port import JobRow, Store, StreamKey

PAGE = 1_000
"""Rows read at once."""


class Audit(msgspec.Struct):
    """What the store holds: its log, and its jobs by number."""

    entries: list[Entry]
    jobs: dict[int, JobRow]

    def of_stream(self, tenant: str, stream: str) -> list[Entry]:
        """One stream's entries; ``stream`` is ``kind/id``."""
        return [e for e in self.entries if (e.tenant, e.stream) == (tenant, stream)]


async def audit(store: Store, deciders: Deciders) -> Audit:
    """Read everything, check it against itself, return it."""
    entries = await _check_log(store)
    await _check_streams(store, deciders, entries)
    jobs = await _check_jobs(store, entries)
    return Audit(entries, jobs)


async def _check_log(store: Store) -> list[Entry]:
    head = await store.head()
    tree, entries = CompactRange(), list[Entry]()
    while len(entries) < head.size:
        page = await store.entries(len(entries), PAGE)
        assert page, f"the head counts {head.size} entries, {len(entries)} are there"
        tree.extend(leaf_hash(leaf) for leaf in page)
        entries += [decode_entry(leaf) for leaf in page]
    assert len(entries) == head.size, f"{len(entries)} entries, the head counts {head.size}"
    assert tree.encode() == head.edge, "the head's tree is not over the entries"
    hlcs = [entry.hlc for entry in entries]
    assert hlcs == sorted(set(hlcs)), "hybrid timestamps do not grow strictly"
    assert not entries or hlcs[-1] == hlc_text(head.hlc), "the head's timestamp is not the last's"
    return entries


async def _check_streams(store: Store, deciders: Deciders, entries: list[Entry]) -> None:
    chains: dict[StreamKey, list[int]] = defaultdict(list)
    for index, entry in enumerate(entries):
        kind, _, stream = entry.stream.partition("/")
        chains[StreamKey(entry.tenant, kind, stream)].append(index)
    for key, indices in chains.items():
        chain = [entries[index] for index in indices]
        assert [entry.seq for entry in chain] == list(range(1, len(chain) + 1)), f"{key}: sequence"
        row = await store.stream(key)
        assert row is not None, f"{key}: entries without a state"
        assert (row.version, row.last_index) == (len(chain), indices[-1]), f"{key}: {row}"
        events = [deciders.decode_event(entry.type, bytes(entry.data)) for entry in chain]
        state = deciders.fold(key.kind, events)
        assert deciders.decode_state(key.kind, row.state) == state, f"{key}: state is not the fold"
        assert row.label == state.label, f"{key}: label {row.label}"
        kept = await store.stream_entries(key, len(chain) + 1)
        assert [index for index, _ in kept] == indices, f"{key}: chain of entries"
    for tenant, kind in {(key.tenant, key.kind) for key in chains}:
        listed = {item.id for item in await store.streams(tenant, kind, limit=1_000_000)}
        assert listed == {k.id for k in chains if (k.tenant, k.kind) == (tenant, kind)}, "listing"


async def _check_jobs(store: Store, entries: list[Entry]) -> dict[int, JobRow]:
    head, jobs = await store.head(), dict[int, JobRow]()
    for tenant in {entry.tenant for entry in entries}:
        last = 0
        while page := await store.jobs(tenant, after=last, limit=PAGE):
            jobs.update((job.id, job) for job in page)
            last = page[-1].id
    for job in jobs.values():
        assert 0 < job.id < head.next_job, f"job {job.id} beyond {head.next_job}"
        cause = entries[job.cause]
        assert (cause.tenant, cause.stream) == (job.tenant, job.stream), f"job {job.id}: cause"
        assert job.attempts <= job.lease, f"job {job.id}: {job}"
        assert job.state != "leased" or (job.lease and job.worker), f"job {job.id}: no holder"
    return jobs
