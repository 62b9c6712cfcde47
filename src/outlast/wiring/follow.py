"""What the other nodes of a site write, heard through the log that all of them write.

Each commit of this process is told to its listeners at once. Those of other nodes are found by looking: every LOOK_S the
log's head is read, and where it has moved, the entries that this process did not write itself are read and told, in
order, each once (or twice, at the instant when this process is just writing one: listeners do not mind). So whatever
has an event reaches every node in LOOK_S plus a read, and a site of one process needs none of this.

``is_current`` says whether all that was written up to MAX_LAG_S ago has been told. It turns false while the database
cannot be read: whoever must not act on old knowledge, such as a revoked key, asks then for himself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

from outlast.core.clock import Clock
from outlast.core.errors import Corrupt, OutlastError
from outlast.core.news import News, news_of
from outlast.core.store.port import Store, WriteSet

log = logging.getLogger("outlast.follow")

LOOK_S = 0.1
"""How often the log's head is read."""
MAX_LAG_S = 1.0
"""What is older than this has been told, or `is_current` is false."""
READ_BATCH = 512
"""Entries read at once: bounds memory, and how long the event loop is held."""

Tell = Callable[[News], Awaitable[None]]
"""Given other nodes' entries, in order. Where it raises, they are told again."""


class Follower:
    """Follows the log of a site that other nodes write too. Give ``committed`` every flush of this process."""

    def __init__(self, store: Store, clock: Clock, tell: Tell) -> None:
        self._store = store
        self._clock = clock
        self._tell = tell
        self._seen = 0
        self._own: deque[tuple[int, int]] = deque()
        self._as_of_s = float("-inf")

    async def begin(self) -> None:
        """Follow from here: whoever reads the store from now on has what came before."""
        self._seen = (await self._store.head()).size

    def is_current(self) -> bool:
        """Whether everything older than MAX_LAG_S has been told."""
        return self._clock.monotonic_s() - self._as_of_s < MAX_LAG_S

    def committed(self, write: WriteSet) -> None:
        """This process wrote; its listeners know already."""
        if write.entries:
            self._own.append((write.entries[0].index, write.entries[-1].index + 1))
            self._skip_own()

    async def run(self) -> None:
        """Look until cancelled."""
        failing = False
        while True:
            try:
                await self.look()
                failing = False
            except OutlastError as error:
                if not failing:
                    log.warning("cannot see what other nodes write: %s", error)
                failing = True
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Tell all that there is. Raises what the store raises; nothing is missed then."""
        began_s = self._clock.monotonic_s()
        size = (await self._store.head()).size
        while self._seen < size:
            await self._tell_some()
        self._as_of_s = began_s

    async def _tell_some(self) -> None:
        start = self._seen
        leaves = await self._store.entries(start, READ_BATCH)
        if not leaves:
            raise Corrupt("log-gap", f"the store has no entry at {start}", scope="log")
        end = start + len(leaves)
        at = max(
            start, self._seen
        )  # what this process has meanwhile appended right there is its own
        while at < end:
            own = next(((a, b) for a, b in self._own if b > at), (end, end))
            upto = min(own[0], end)
            if at < upto:
                await self._tell(news_of(at, leaves[at - start : upto - start]))
            at = max(upto, min(own[1], end))
        self._seen = max(self._seen, end)
        self._skip_own()

    def _skip_own(self) -> None:
        while self._own and self._own[0][0] <= self._seen:
            self._seen = max(self._seen, self._own.popleft()[1])
