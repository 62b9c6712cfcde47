"""An older copy of the store is put in the newer one's place, by mistake: somebody restored a backup.

A node whose archive has published more than that store holds must notice it before it does anything, sign nothing,
ask no provider, take no new work. Then the newer store is put back, and everything must go on as if nothing had been.

Only what a node can know is asked of it: where the older store holds all that some node has published, that node cannot
tell (docs/howto/simulate.md), so the mistake waits until every archive is ahead.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from outlast.testing.simulation.node import Node
from outlast.testing.simulation.site import Site
from outlast.testing.store import MemoryDisk

NOTICED_MS = 4_000.0
"""How long the older store stays in place."""


class RestoredStore:
    """The mistake of one seed: `back_up`, later `put_back_older`, later `put_back_newer`."""

    def __init__(self, site: Site, nodes: Sequence[Node]) -> None:
        self._site = site
        self._nodes = nodes
        self._older: MemoryDisk | None = None
        self._newer: MemoryDisk | None = None
        self._asked = 0

    def back_up(self) -> None:
        """Keep a copy of the store as it is now."""
        disk = self._site.store.disk
        older = copy.copy(disk)
        for name in ("entries", "streams", "idempotency", "jobs", "unfinished", "counters"):
            setattr(older, name, copy.copy(getattr(disk, name)))
        older.subject_keys = dict(disk.subject_keys)
        self._older = older

    def put_back_older(self) -> bool:
        """Stop everything, put the copy in place, start everything; False where not every node would know."""
        older = self._older
        if older is None or self._site.healed:
            return False
        if any(node.published <= older.head.size for node in self._nodes):
            return False
        self._site.sim.note(f"an older store is put in place, of {older.head.size} entries")
        self._newer = self._site.store.disk
        self._site.away = True
        self._exchange(older)
        for node in self._nodes:
            node.pen.capped = True
        self._asked = self._calls()
        return True

    def put_back_newer(self) -> None:
        """Look whether everybody kept still; then the newer store comes back."""
        newer, always = self._newer, self._site.checks.always
        if newer is None:
            return
        for node in self._nodes:
            if node.serving:
                always(node.held, f"{node.name} works on a store that is older than its log")
                self._site.checks.reachable("fork noticed: nothing is signed")
        always(self._calls() == self._asked, "a provider was asked on behalf of an older store")
        for node in self._nodes:
            node.pen.capped = False
        self._newer = self._older = None
        self._site.away = False
        self._exchange(newer)
        self._site.sim.note("the newer store is back")
        self._site.checks.reachable("fork healed: the newer store came back")

    def _calls(self) -> int:
        return sum(provider.calls for provider in self._site.providers.values())

    def _exchange(self, disk: MemoryDisk) -> None:
        for node in self._nodes:
            if node.up:
                node.store.cut()
                node.crash()
        self._site.store.replace(disk)
        for node in self._nodes:
            self._site.sim.after(self._site.sim.between(20, 300), node.start_again)
