"""Bytes kept under the digest of their content.

A ``BlobStore`` knows nothing of tenants or encryption: it is given ciphertext by ``core.envelope`` and keeps it.
A blob is immutable; writing the same name twice with the same bytes is one write.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol


class BlobStore(Protocol):
    """Errors: Refused ``blob-not-found``, Unavailable (disk full: code ``storage-full``; not reached), Corrupt."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store durably under ``name`` (1-128 of ``[a-z0-9._-]``) and return the size in bytes.

        When it returns, the bytes survive a power cut. When it raises, nothing is visible under the name.
        """
        ...

    def get(self, name: str) -> AsyncIterator[bytes]:
        """The bytes, in chunks."""
        ...

    async def size(self, name: str) -> int:
        """Size in bytes; raises Refused ``blob-not-found``."""
        ...

    async def delete(self, name: str) -> None:
        """Forget the blob; no error when it is not there."""
        ...

    async def free_bytes(self) -> int | None:
        """Room left, or None where the store cannot tell."""
        ...
