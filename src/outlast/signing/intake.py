"""Taking a document in: bounded, encrypted as it arrives, examined in a sandbox, locked under its hash.

Whatever its size, only a window of the document is in memory: it streams into the encrypted blob store; PDFs above
IN_MEMORY_BYTES are examined from an unnamed temporary file that vanishes with the process.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Protocol

import anyio.to_thread
import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.blobs import body_too_large
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
        head, whole = await _head(chunks, media_type, document_class.max_bytes)
        if whole:
            return await self._take_small(tenant, head, media_type, document_class)
        copy = _Copy(_joined(head, chunks), media_type, self._spool)
        try:
            blob = await self._bodies.put(tenant, copy.stream(), max_bytes=document_class.max_bytes)
            try:
                if media_type != PDF:
                    return TakenIn(blob, media_type)
                facts, prepared = await self._inspect(copy.whole(), document_class)
                ref = await self._bodies.put_bytes(tenant, prepared.to_bytes())
                return TakenIn(blob, PDF, ref, facts)
            except OutlastError:
                await self._bodies.delete(blob)
                raise
        finally:
            copy.close()

    async def _take_small(
        self, tenant: str, body: bytes, media_type: str, document_class: DocumentClass
    ) -> TakenIn:
        """A document in memory is looked at first and stored, with what was prepared, in one sync."""
        if not body:
            raise Refused("document-empty", "the upload has no bytes")
        if media_type != PDF:
            return TakenIn(await self._bodies.put_bytes(tenant, body), media_type)
        facts, prepared = await self._inspect(body, document_class)
        blob, ref = await asyncio.gather(
            self._bodies.put_bytes(tenant, body),
            self._bodies.put_bytes(tenant, prepared.to_bytes()),
            return_exceptions=True,
        )
        if isinstance(blob, BlobRef) and isinstance(ref, BlobRef):
            return TakenIn(blob, PDF, ref, facts)
        for stored in (blob, ref):
            if isinstance(stored, BlobRef):
                await self._bodies.delete(stored)
        raise next(error for error in (blob, ref) if isinstance(error, BaseException))

    async def _inspect(
        self, source: bytes | Path, document_class: DocumentClass
    ) -> tuple[PdfFacts, Prepared]:
        limits = Limits(max_bytes=document_class.max_bytes, max_pages=document_class.max_pages)
        return await self._examine(
            source, limits, PrepareOptions(reserve_bytes=document_class.reserve)
        )

    async def forget(self, taken: TakenIn) -> None:
        """Delete the blobs of a document that did not come to be (a repeated upload)."""
        for ref in (taken.blob, taken.prepared):
            if ref is not None:
                await self._bodies.delete(ref)


class _Copy:
    """A second copy of a large upload for the examination, in an unnamed file; of a PDF only."""

    def __init__(self, chunks: AsyncIterator[bytes], media_type: str, spool: Path) -> None:
        self._chunks = chunks
        self._fd = _unnamed(spool) if media_type == PDF else -1

    async def stream(self) -> AsyncIterator[bytes]:
        """The upload, passed on chunk by chunk."""
        async for chunk in self._chunks:
            if self._fd >= 0:
                await anyio.to_thread.run_sync(_write_all, self._fd, chunk)
            yield chunk

    def whole(self) -> Path:
        """All of it, as the sandbox takes it."""
        return Path(f"/proc/{os.getpid()}/fd/{self._fd}")

    def close(self) -> None:
        """Drop the copy."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def _head(
    chunks: AsyncIterator[bytes], media_type: str, max_bytes: int
) -> tuple[bytes, bool]:
    """The upload's beginning, and whether that is all of it. What cannot be a PDF is refused by its first bytes."""
    head, checked = bytearray(), media_type != PDF
    async for chunk in chunks:
        head += chunk
        if not checked and len(head) >= len(PDF_HEADER):
            _check_header(head)
            checked = True
        if len(head) > max_bytes:
            raise body_too_large(max_bytes)
        if len(head) > IN_MEMORY_BYTES:
            return bytes(head), False
    if not checked and head:
        _check_header(head)
    return bytes(head), True


async def _joined(head: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield head
    async for chunk in rest:
        yield chunk


def _check_header(head: bytes | bytearray) -> None:
    if not head.startswith(PDF_HEADER):
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
