"""Taking a document in: bounded, encrypted as it arrives, examined in a sandbox, locked under its hash.

Whatever its size, only a window of the document is in memory: it streams into the encrypted blob store; PDFs above
IN_MEMORY_BYTES are examined from an unnamed temporary file that vanishes with the process.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import anyio.to_thread
import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.errors import OutlastError, Refused
from outlast.signing.classes import DocumentClass
from outlast.signing.pdf.facts import Limits, PdfFacts, PrepareOptions
from outlast.signing.pdf.revision import Prepared
from outlast.signing.source import IN_MEMORY_BYTES

PDF = "application/pdf"
PDF_HEADER = b"%PDF-"

Examine = Callable[[bytes | Path, Limits, PrepareOptions], Awaitable[tuple[PdfFacts, Prepared]]]
"""Inspect a PDF and prepare its first revision, in a sandboxed process."""


class TakenIn(msgspec.Struct, frozen=True):
    """A document that passed. ``facts`` and ``prepared`` are of PDFs."""

    blob: BlobRef
    media_type: str
    prepared: BlobRef | None = None
    facts: PdfFacts | None = None


class BoundedBodies(Protocol):
    """`outlast.core.blobs.Blobs`, as far as intake needs it."""

    async def put(
        self, tenant: str, chunks: AsyncIterator[bytes], *, max_bytes: int = ...
    ) -> BlobRef:
        """Store a body; raises Refused ``body-too-large`` as soon as the bound is passed."""
        ...

    async def put_bytes(self, tenant: str, body: bytes) -> BlobRef:
        """Store a body that is in memory."""
        ...

    async def delete(self, ref: BlobRef) -> None:
        """Forget a body."""
        ...


class Intake:
    """Checks and stores documents; ``spool`` is a folder for unnamed temporary files."""

    def __init__(self, bodies: BoundedBodies, examine: Examine, spool: Path) -> None:
        self._bodies = bodies
        self._examine = examine
        self._spool = spool

    async def take(
        self,
        tenant: str,
        chunks: AsyncIterator[bytes],
        media_type: str,
        document_class: DocumentClass,
    ) -> TakenIn:
        """Store the document; raises Refused with the reason it cannot be signed, and keeps nothing then."""
        copy = _Copy(chunks, media_type, self._spool)
        try:
            blob = await self._bodies.put(tenant, copy.stream(), max_bytes=document_class.max_bytes)
            try:
                if blob.size == 0:
                    raise Refused("document-empty", "the upload has no bytes")
                if media_type != PDF:
                    return TakenIn(blob, media_type)
                return await self._examined(tenant, blob, copy, document_class)
            except OutlastError:
                await self._bodies.delete(blob)
                raise
        finally:
            copy.close()

    async def _examined(
        self, tenant: str, blob: BlobRef, copy: _Copy, document_class: DocumentClass
    ) -> TakenIn:
        limits = Limits(max_bytes=document_class.max_bytes, max_pages=document_class.max_pages)
        options = PrepareOptions(reserve_bytes=document_class.reserve_bytes)
        facts, prepared = await self._examine(copy.whole(), limits, options)
        ref = await self._bodies.put_bytes(tenant, prepared.to_bytes())
        return TakenIn(blob, PDF, ref, facts)

    async def forget(self, taken: TakenIn) -> None:
        """Delete the blobs of a document that did not come to be (a repeated upload)."""
        for ref in (taken.blob, taken.prepared):
            if ref is not None:
                await self._bodies.delete(ref)


class _Copy:
    """A second copy of an upload for the examination: in memory while small, then in an unnamed file."""

    def __init__(self, chunks: AsyncIterator[bytes], media_type: str, spool: Path) -> None:
        self._chunks = chunks
        self._pdf = media_type == PDF
        self._spool = spool
        self._memory = bytearray()
        self._fd = -1

    async def stream(self) -> AsyncIterator[bytes]:
        """The upload, passed on chunk by chunk."""
        first = True
        async for chunk in self._chunks:
            if self._pdf:
                await self._keep(chunk)
                # refuse a 500 MB video by its first bytes, not by its last
                if first and len(self._memory) >= len(PDF_HEADER):
                    first = False
                    self._check_header()
            yield chunk
        if self._pdf and first:
            self._check_header()

    def whole(self) -> bytes | Path:
        """All of it, as the sandbox takes it."""
        if self._fd < 0:
            return bytes(self._memory)
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def close(self) -> None:
        """Drop the copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _keep(self, chunk: bytes) -> None:
        if self._fd >= 0:
            await anyio.to_thread.run_sync(_write_all, self._fd, chunk)
            return
        self._memory += chunk
        if len(self._memory) > IN_MEMORY_BYTES:
            self._fd = _unnamed(self._spool)
            await anyio.to_thread.run_sync(_write_all, self._fd, bytes(self._memory))
            del self._memory[len(PDF_HEADER) :]

    def _check_header(self) -> None:
        if not self._memory.startswith(PDF_HEADER):
            raise Refused(
                "not-a-pdf",
                "the upload does not begin with %PDF-",
                hint="Upload the PDF itself, or name another Content-Type to have it signed as a"
                " detached CMS.",
            )


def _unnamed(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without O_TMPFILE: named for an instant
        fd, name = tempfile.mkstemp(dir=folder)
        os.unlink(name)
        return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
