"""The reference to a stored body, as events carry it; and a stored blob, as a store lists it."""

from __future__ import annotations

import msgspec


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """Where a body is and what it must be: the store's name for it, SHA-256 of the plaintext (64 hex digits),
    plaintext size in bytes."""

    name: str
    sha256: str
    size: int


class StoredBlob(msgspec.Struct, frozen=True):
    """A blob as its store lists it: name and size in bytes (of the ciphertext)."""

    name: str
    size: int
