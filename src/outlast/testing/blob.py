"""A blob store in memory that can be full, and fail before or after it has stored.

It keeps the contract of ``ports.blob`` and never waits, so a simulator can drive it without an event loop.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from typing import Literal

from outlast.core.blobref import StoredBlob
from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable, Unknown
from outlast.ports.blob import MAX_LISTED

PIECE_BYTES = 64 * 1024
"""Largest piece that ``get`` gives."""

_NAME = re.compile(r"[a-z0-9._-]{1,128}")

When = Literal["before", "after"]


class MemoryBlobs:
    """A BlobStore of ``capacity_bytes``. ``stored`` is what it holds, for a test to read or to damage; while
    ``down`` is set every call raises it."""

    def __init__(self, capacity_bytes: int | None = None) -> None:
        self.capacity_bytes = capacity_bytes
        self.stored: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.down: OutlastError | None = None
        self._failures: list[tuple[When, OutlastError]] = []

    def fail_next(self, when: When, error: OutlastError | None = None) -> None:
        """Let the next put fail ``before`` anything is stored (default: Unavailable ``storage-failed``), or
        ``after`` it is, as when a process dies before it can say so (default: Unknown ``storage-unknown``).
        Calls queue up."""
        default: OutlastError = (
            Unavailable("storage-failed", "told to fail")
            if when == "before"
            else Unknown("storage-unknown", "told to fail after storing")
        )
        self._failures.append((when, error or default))

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """See BlobStore."""
        self._require_up()
        _check_name(name)
        data = b"".join([chunk async for chunk in chunks])
        when, error = self._failures.pop(0) if self._failures else (None, None)
        if error is not None and when == "before":
            raise error
        if self.stored.get(name, data) != data:
            raise Refused("blob-differs", f"blob {name} exists with other bytes")
        if name not in self.stored:
            self._require(len(data))
            self.stored[name] = data
            self.digests[name] = hashlib.sha256(data).hexdigest()
        if error is not None:
            raise error
        return len(data)

    async def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
        """See BlobStore."""
        data = self._find(name)
        if hashlib.sha256(data).hexdigest() != self.digests.get(name, ""):
            raise Corrupt("blob-corrupt", f"blob {name} is not what was put")
        for start in range(offset, len(data), PIECE_BYTES):
            self._require_up()
            yield data[start : start + PIECE_BYTES]

    async def size(self, name: str) -> int:
        """See BlobStore."""
        return len(self._find(name))

    async def digest(self, name: str) -> str | None:
        """See BlobStore."""
        self._find(name)
        return self.digests.get(name)

    async def page(self, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        """See BlobStore."""
        self._require_up()
        names = sorted(name for name in self.stored if name > after)[:limit]
        return tuple(StoredBlob(name, len(self.stored[name])) for name in names)

    async def delete(self, name: str) -> None:
        """See BlobStore."""
        self._require_up()
        _check_name(name)
        self.stored.pop(name, None)
        self.digests.pop(name, None)

    async def check(self) -> None:
        """See BlobStore."""
        self._require_up()

    async def free_bytes(self) -> int | None:
        """See BlobStore; None where no capacity is set."""
        if self.capacity_bytes is None:
            return None
        return max(0, self.capacity_bytes - sum(map(len, self.stored.values())))

    def _require(self, size: int) -> None:
        if self.capacity_bytes is None:
            return
        if sum(map(len, self.stored.values())) + size > self.capacity_bytes:
            raise Unavailable("storage-full", "there is no room for a new blob", scope="site")

    def _require_up(self) -> None:
        if self.down is not None:
            raise self.down

    def _find(self, name: str) -> bytes:
        self._require_up()
        _check_name(name)
        data = self.stored.get(name)
        if data is None:
            raise Refused("blob-not-found", f"there is no blob {name}")
        return data


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Refused("bad-blob-name", "a blob name is 1-128 of [a-z0-9._-]")
