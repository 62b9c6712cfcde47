"""Documents and other bodies: encrypted on the way into a blob store, checked on the way out.

Promises: a store sees ciphertext only; a body read back is byte for byte what was put, for the tenant that put it,
or Corrupt is raised; memory does not grow with the size of a streamed body.

A body's name is a fresh identifier, never a digest of its plaintext: equal documents of two tenants must not show.
The plaintext's digest travels in the BlobRef, which belongs into the tenant's own events. A ``put`` that is
repeated (a retried job) leaves an unreferenced blob behind; it is never wrong, only unused.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Protocol

from outlast.core.blobref import BlobRef
from outlast.core.envelope import Envelope
from outlast.core.errors import Corrupt, Refused, Unavailable, Unknown
from outlast.core.ids import Ids

MAX_BODY_BYTES = 1 << 30
"""Most plaintext bytes of one body unless the caller names a lower bound: 1 GiB."""


class Store(Protocol):
    """What is needed of a blob store; ``ports.blob.BlobStore`` satisfies it and documents it."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int: ...

    def get(self, name: str) -> AsyncIterator[bytes]: ...

    async def delete(self, name: str) -> None: ...


class Copies(Protocol):
    """Where a store has several copies: `core.replicas` does."""

    def copies(self, name: str) -> list[AsyncIterator[bytes]]:
        """Each copy alone, best first."""
        ...

    async def suspect(self, name: str) -> None:
        """A copy was found wrong: have all of them looked at."""
        ...


RECENT_BODY_BYTES = 256 * 1024
"""Largest body remembered after it was put."""
RECENT_BYTES = 16 * 1024 * 1024
"""Plaintext bytes remembered in all: what was taken in is usually read again at once, to be signed."""


class Blobs:
    """Bodies of all tenants in one store. Errors are those of the store, and Corrupt ``blob-corrupt``, ``blob-missing``,
    ``envelope-corrupt`` or ``root-key-unknown``."""

    def __init__(
        self, store: Store, envelope: Envelope, ids: Ids, copies: Copies | None = None
    ) -> None:
        """``copies``: where to look when what ``store`` gave is wrong."""
        self._store = store
        self._copies = copies
        self._envelope = envelope
        self._ids = ids
        self._recent = _Recent()

    async def put(
        self, tenant: str, chunks: AsyncIterator[bytes], *, max_bytes: int = MAX_BODY_BYTES
    ) -> BlobRef:
        """Store a body durably; raises Refused ``body-too-large`` as soon as ``max_bytes`` is passed."""
        name = self._ids.new()
        measured = _Measured(chunks, max_bytes)
        copy = _Copy(measured.stream())
        await self._store.put(name, self._envelope.seal_stream(copy.stream(), tenant, name))
        ref = BlobRef(name=name, sha256=measured.sha256.hexdigest(), size=measured.size)
        self._recent.keep(tenant, ref, copy.body)
        return ref

    async def put_bytes(self, tenant: str, body: bytes) -> BlobRef:
        """Store a body that is in memory already."""
        name = self._ids.new()
        await self._store.put(name, _once(self._envelope.seal_object(body, tenant, name)))
        ref = BlobRef(name=name, sha256=hashlib.sha256(body).hexdigest(), size=len(body))
        self._recent.keep(tenant, ref, body if len(body) <= RECENT_BODY_BYTES else None)
        return ref

    async def stream(self, tenant: str, ref: BlobRef) -> AsyncIterator[bytes]:
        """The body in pieces. Each is authentic, but only the iterator's end says that it is the whole body and
        the right one: whoever acts on it must have seen the end."""
        given = 0
        try:
            async for piece in self._opened(tenant, ref, self._store.get(ref.name)):
                given += len(piece)
                yield piece
        except Corrupt as error:
            if self._copies is None:
                raise
            await self._copies.suspect(ref.name)
            async for piece in self._from_another(tenant, ref, given, error):
                yield piece

    async def _from_another(
        self, tenant: str, ref: BlobRef, given: int, error: Corrupt
    ) -> AsyncIterator[bytes]:
        """The body without its first ``given`` bytes, which were authentic, from any copy that has them."""
        assert self._copies is not None
        for sealed in self._copies.copies(ref.name):
            at = 0
            try:
                async for piece in self._opened(tenant, ref, sealed):
                    fresh = piece[max(0, given - at) :]
                    at += len(piece)
                    if fresh:
                        given += len(fresh)
                        yield fresh
                return
            except (Corrupt, Unavailable, Unknown):
                continue
        raise error

    async def _opened(
        self, tenant: str, ref: BlobRef, sealed: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        measured = _Measured(self._envelope.open_stream(sealed, tenant, ref.name), ref.size)
        try:
            async for piece in measured.stream():
                yield piece
        except Refused as error:
            if error.code == "blob-not-found":
                raise _missing(ref) from error
            if error.code != "body-too-large":
                raise
            raise _corrupt(ref) from error
        if measured.size != ref.size or not hmac.compare_digest(
            measured.sha256.hexdigest(), ref.sha256
        ):
            raise _corrupt(ref)

    async def read(self, tenant: str, ref: BlobRef, *, max_bytes: int = MAX_BODY_BYTES) -> bytes:
        """The whole body; raises Refused ``body-too-large`` before reading where it would exceed ``max_bytes``."""
        if ref.size > max_bytes:
            raise body_too_large(max_bytes)
        recent = self._recent.get(tenant, ref)
        if recent is not None:
            return recent
        return b"".join([piece async for piece in self.stream(tenant, ref)])

    async def delete(self, ref: BlobRef) -> None:
        """Forget the body; no error when it is gone already."""
        self._recent.drop(ref)
        await self._store.delete(ref.name)


class _Measured:
    """Counts and hashes what passes through."""

    def __init__(self, chunks: AsyncIterator[bytes], max_bytes: int) -> None:
        self._chunks = chunks
        self._max_bytes = max_bytes
        self.sha256 = hashlib.sha256()
        self.size = 0

    async def stream(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self.size += len(chunk)
            if self.size > self._max_bytes:
                raise body_too_large(self._max_bytes)
            self.sha256.update(chunk)
            yield chunk


class _Copy:
    """Keeps a small body as it passes through."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._parts: list[bytes] = []
        self._size = 0

    async def stream(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            self._size += len(chunk)
            if self._size <= RECENT_BODY_BYTES:
                self._parts.append(bytes(chunk))
            else:
                self._parts.clear()
            yield chunk

    @property
    def body(self) -> bytes | None:
        """All of it, or None when it was too large to keep."""
        return b"".join(self._parts) if self._size <= RECENT_BODY_BYTES else None


class _Recent:
    """Bodies put lately, the oldest forgotten first. A tenant finds its own only."""

    def __init__(self) -> None:
        self._bodies: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._size = 0

    def keep(self, tenant: str, ref: BlobRef, body: bytes | None) -> None:
        if body is None:
            return
        self._bodies[ref.name] = (tenant, body)
        self._size += len(body)
        while self._size > RECENT_BYTES:
            _, (_, forgotten) = self._bodies.popitem(last=False)
            self._size -= len(forgotten)

    def get(self, tenant: str, ref: BlobRef) -> bytes | None:
        owner, body = self._bodies.get(ref.name, ("", b""))
        if owner != tenant or len(body) != ref.size:
            return None
        return body if hashlib.sha256(body).hexdigest() == ref.sha256 else None

    def drop(self, ref: BlobRef) -> None:
        _, body = self._bodies.pop(ref.name, ("", b""))
        self._size -= len(body)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def body_too_large(max_bytes: int) -> Refused:
    """A body passed the bound that its caller named."""
    return Refused("body-too-large", f"the body has more than {max_bytes} bytes")


def _missing(ref: BlobRef) -> Corrupt:
    """What a reference names was stored before the reference was: that it is gone is damage, no refusal."""
    return Corrupt(
        "blob-missing",
        f"blob {ref.name} is on record and not in the store",
        hint="Is the blob volume mounted, and of the same backup as the database? Then replay the dead jobs.",
    )


def _corrupt(ref: BlobRef) -> Corrupt:
    return Corrupt(
        "blob-corrupt",
        f"blob {ref.name} is not the body that its reference names",
        hint="Restore the blob from a copy; the reference in the log says what it must hash to.",
    )
