"""What the log refers to, against what the stores have.

Every reference to a blob that was ever accepted is in the log, and the log forgets nothing; so its entries, whatever
domain wrote them, say what must be there. Names are kept as 64-bit hashes in sorted arrays (8 bytes a blob): two
names with one hash can hide an orphan, which costs a little space, but never make a referenced blob one.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from outlast.core.blobref import StoredBlob
from outlast.core.errors import Refused, Unavailable
from outlast.core.ids import is_uuid
from outlast.core.replicas.scrubmodel import MAX_KEPT, References
from outlast.core.replicas.store import CALL_S, MAX_LISTED, One

ENTRIES_AT_ONCE = 500
"""Log entries read at a time; the event loop runs between."""
MAX_DEPTH = 12
"""How deep into an entry references are looked for."""
FOREIGN = frozenset({"journal.recorded"})
"""Types of entries whose content other systems chose: what looks like a reference there is none of ours. Believed, it
would report documents lost that never were, or, with a name that no store takes, end every scrub."""


class Log(Protocol):
    """`outlast.core.store.port.Store`, as far as it is needed here."""

    async def entries(self, start: int, limit: int) -> list[bytes]: ...


class Names:
    """A set of names that may say "in it" wrongly, once in 2^64, and never "not in it"."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted = True

    def add(self, name: str) -> None:
        """Take a name in."""
        self._hashes.append(_hash(name))
        self._sorted = False

    def sort(self) -> None:
        """Be ready to be asked."""
        self._hashes = array("Q", sorted(set(self._hashes)))
        self._sorted = True

    def __contains__(self, name: str) -> bool:
        if not self._sorted:
            self.sort()
        wanted = _hash(name)
        at = bisect_left(self._hashes, wanted)
        return at < len(self._hashes) and self._hashes[at] == wanted

    def __len__(self) -> int:
        return len(self._hashes)


class Compared:
    """One comparison. Raises Unavailable where a store cannot be listed: then nothing is called lost or orphaned."""

    def __init__(self, log: Log, stores: Mapping[str, One], now_ms: int) -> None:
        self._log = log
        self._stores = stores
        self._now_ms = now_ms

    async def run(self, delete_older_s: int, least_age_s: int) -> References:
        """Compare everything; delete orphans older than ``delete_older_s`` (0: none)."""
        referenced = Names()
        read = await self._read(0, referenced.add)
        referenced.sort()
        present: list[Names] = []
        orphans, doomed = _Kept(), set[str]()
        for store in self._stores.values():
            present.append(here := Names())
            async for blob in listing(store):
                here.add(blob.name)
                age_s = age_of(blob.name, self._now_ms)
                if blob.name in referenced or age_s is None or age_s < least_age_s:
                    continue
                if not any(blob.name in names for names in present[:-1]):
                    orphans.add(blob.name)
                if delete_older_s and age_s >= delete_older_s:
                    doomed.add(blob.name)
            here.sort()
        lost = await self._lost(present)
        await self._read(read, doomed.discard)  # referred to meanwhile, however unlikely
        return References(
            referenced=len(referenced),
            lost_count=lost.count,
            lost=tuple(lost.names),
            orphan_count=orphans.count,
            orphans=tuple(orphans.names),
            deleted=await self._delete(doomed),
        )

    async def _read(self, start: int, found: Callable[[str], None]) -> int:
        """Tell of every reference from entry ``start`` on; the index after the last entry."""
        while leaves := await self._log.entries(start, ENTRIES_AT_ONCE):
            for leaf in leaves:
                for name in referred(leaf):
                    found(name)
            start += len(leaves)
            await asyncio.sleep(0)
        return start

    async def _lost(self, present: list[Names]) -> _Kept:
        """What the log refers to and no store has."""
        absent: set[str] = set()

        def look(name: str) -> None:
            if not any(name in names for names in present):
                absent.add(name)

        await self._read(0, look)
        lost = _Kept()
        for name in sorted(absent):  # stored since the listing, perhaps
            if not await self._is_somewhere(name):
                lost.add(name)
        return lost

    async def _is_somewhere(self, name: str) -> bool:
        for store in self._stores.values():
            try:
                async with asyncio.timeout(CALL_S):
                    await store.size(name)
                return True
            except TimeoutError:
                raise Unavailable("unreachable", "a store does not answer") from None
            except Refused as error:
                if error.code != "blob-not-found":
                    raise
        return False

    async def _delete(self, names: set[str]) -> int:
        for name in sorted(names):
            for store in self._stores.values():
                async with asyncio.timeout(CALL_S):
                    await store.delete(name)
        return len(names)


def age_of(name: str, now_ms: int) -> float | None:
    """How many seconds ago a blob was named: its name is a UUIDv7. None for other names, which we did not give."""
    if not is_uuid(name) or name[14] != "7":
        return None
    return (now_ms - int(name.replace("-", "")[:12], 16)) / 1000


class _Kept:
    """Counts names and keeps the first."""

    def __init__(self) -> None:
        self.count = 0
        self.names: list[str] = []

    def add(self, name: str) -> None:
        """One more."""
        self.count += 1
        if len(self.names) < MAX_KEPT:
            self.names.append(name)


async def listing(store: One) -> AsyncIterator[StoredBlob]:
    """Everything in a store, by name."""
    after = ""
    while True:
        page = await store.page(after, MAX_LISTED)
        for blob in page:
            yield blob
        if len(page) < MAX_LISTED:
            return
        after = page[-1].name
        await asyncio.sleep(0)


def referred(leaf: bytes) -> Iterator[str]:
    """Names of all blobs that a log entry refers to (`core.blobref.BlobRef`, wherever it stands)."""
    if b'"sha256"' not in leaf:
        return
    entry = msgspec.json.decode(leaf)
    if isinstance(entry, dict) and entry.get("type") not in FOREIGN:
        yield from _within(entry, 0)


def _within(value: Any, depth: int) -> Iterator[str]:
    if depth > MAX_DEPTH:
        return
    if isinstance(value, dict):
        if value.keys() == {"name", "sha256", "size"}:
            yield str(value["name"])
        for inner in value.values():
            yield from _within(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _within(inner, depth + 1)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
