"""Bytes kept under a name, each with the SHA-256 it must have.

A ``BlobStore`` knows nothing of tenants or encryption: it is given ciphertext by ``core.envelope`` and keeps it.
A blob is immutable; writing the same name twice with the same bytes is one write. Beside each blob its store keeps
the digest of what was put, so that one copy can be judged without the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, Protocol

from outlast.core.blobref import StoredBlob

MAX_LISTED = 1_000
"""Most blobs in one answer of ``page``."""


class BlobStore(Protocol):
    """Errors: Refused ``blob-not-found``, ``bad-blob-name``, ``blob-differs`` (the name holds other bytes),
    ``credentials-refused``, ``bucket-not-found``; Unavailable (disk full: code ``storage-full``; not reached; slowed
    down, with ``retry_after_s``); Corrupt."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store durably under ``name`` (1-128 of ``[a-z0-9._-]``) and return the size in bytes.

        When it returns, the bytes survive a power cut. When it raises, nothing is visible under the name.
        """
        ...

    def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes from ``offset`` on, in chunks; none where it is at or beyond the end.

        A blob that its store keeps in one piece is compared with its digest before the first byte is given out
        (Corrupt ``blob-corrupt``); of larger ones the reader must notice.
        """
        ...

    async def size(self, name: str) -> int:
        """Size in bytes; raises Refused ``blob-not-found``."""
        ...

    async def digest(self, name: str) -> str | None:
        """SHA-256 of the bytes as put (64 hex digits), None where the store was never told; raises Refused
        ``blob-not-found``. Says nothing about the bytes as they are now."""
        ...

    async def page(self, after: str = "", limit: int = MAX_LISTED) -> tuple[StoredBlob, ...]:
        """Blobs whose names are greater than ``after``, in order of their names, at most ``limit``; fewer only where
        there are no more."""
        ...

    async def delete(self, name: str) -> None:
        """Forget the blob; no error when it is not there."""
        ...

    async def free_bytes(self) -> int | None:
        """Room left, or None where the store cannot tell."""
        ...

    async def check(self) -> None:
        """Whether the store can be used now; raises what stands in the way."""
        ...


class Presigner(Protocol):
    """A store that lets others read or write one blob without its credentials, for a while."""

    async def presign(self, name: str, method: Literal["GET", "PUT"], ttl_s: int) -> str:
        """A URL for that method and blob, valid for ``ttl_s`` seconds. What it gives or takes is ciphertext."""
        ...
