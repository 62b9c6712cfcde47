"""Recent operations and their signatures, so that a repeated request gets the same answer.

Remembers the latest successes only, at most ``limit`` of them, in memory: signing twice does no harm (see
`ports.keys`), so this needs no disk. A repeat that arrives while the first is under way waits for it; after a
failure the repeat tries for itself. The same operation with other contents is refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio

from outlast.core.errors import Refused

REMEMBERED_OPERATIONS = 10_000
"""About 10 MB with RSA signatures."""


class _Entry:
    def __init__(self, fingerprint: bytes) -> None:
        self.fingerprint = fingerprint
        self.done = anyio.Event()
        self.signature: bytes | None = None


class RecentOperations:
    """``(client, operation)`` to signature, the oldest forgotten first."""

    def __init__(self, limit: int = REMEMBERED_OPERATIONS) -> None:
        self._limit = limit
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    async def once(
        self,
        client: str,
        operation: str,
        fingerprint: bytes,
        sign: Callable[[], Awaitable[bytes]],
    ) -> tuple[bytes, bool]:
        """The signature of this operation, and whether it is a repeated answer.

        ``fingerprint`` is a digest of everything that is asked. Raises Refused ``idempotency-key-reused``, and
        whatever ``sign`` raises.
        """
        key = (client, operation)
        while (entry := self._entries.get(key)) is not None:
            if entry.fingerprint != fingerprint:
                raise Refused(
                    "idempotency-key-reused",
                    f"operation {operation!r} was another request before",
                    hint="Give each request its own Idempotency-Key.",
                )
            await entry.done.wait()
            if entry.signature is not None:
                return entry.signature, True
        return await self._first(key, fingerprint, sign), False

    async def _first(
        self, key: tuple[str, str], fingerprint: bytes, sign: Callable[[], Awaitable[bytes]]
    ) -> bytes:
        entry = self._entries[key] = _Entry(fingerprint)
        try:
            entry.signature = await sign()
        finally:
            # a failure is forgotten before the waiting are woken, so that one of them becomes the first
            if entry.signature is None:
                self._entries.pop(key, None)
            entry.done.set()
        while len(self._entries) > self._limit:
            # under the limit there are fewer requests in flight than entries, so the oldest is finished
            self._entries.popitem(last=False)
        return entry.signature
