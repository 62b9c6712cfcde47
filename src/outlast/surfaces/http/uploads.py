"""How many large bodies are taken in at once: each holds memory, and a document a sandbox's attention and disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outlast.core.errors import Unavailable

MAX_WAITING = 1_000
"""Uploads that may wait for their turn; they cost a connection each, their bytes stay with the sender."""
MAX_WAIT_S = 30.0
"""How long an upload waits for its turn before it is sent away."""


class Uploads:
    """Turns at uploading."""

    def __init__(self, at_once: int) -> None:
        self._turns = asyncio.Semaphore(at_once)
        self.waiting = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A turn; raises Unavailable ``overloaded`` when there is none in time."""
        if self.waiting >= MAX_WAITING:
            raise _overloaded()
        self.waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._turns.release()


def _overloaded() -> Unavailable:
    return Unavailable(
        "overloaded",
        "too many large bodies are being taken in at once",
        hint="Nothing was stored. Upload fewer at once, or come back after the given time.",
        retry_after_s=5.0,
        scope="site",
    )
