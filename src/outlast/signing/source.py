"""The bytes a signature goes on: the document as intake locked it, or the revision signed before.

Small documents are held in memory; larger ones are read twice, once to hash and once to copy, so that memory does
not grow with them. Where one must be in memory whole (to prepare another revision), a few at a time are. Every reading is compared with the SHA-256 on record.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.errors import Corrupt
from outlast.signing.model.request import Request, Revision
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.revision import DocumentHash, Prepared
from outlast.signing.world import World

IN_MEMORY_BYTES = 1024 * 1024
"""Documents up to this size are held while they are signed."""


class Source(msgspec.Struct, frozen=True):
    """An original, hashed; its bytes when it is small; and the revision to fill (PDF only)."""

    tenant: str
    ref: BlobRef
    hashed: DocumentHash
    body: bytes | None
    prepared: Prepared | None


async def load_source(world: World, tenant: str, request: Request, place: int) -> Source:
    """What the signature at ``place`` goes on. Raises Corrupt ``document-changed``, Refused from preparing."""
    document = await world.document(tenant, request.document)
    if document.blob.sha256 != request.document_sha256:
        raise Corrupt(
            "document-changed", "the document is not the one that was requested to be signed"
        )
    pdf = request.format == "pades"
    before = request.signatures[place - 1].revision if pdf and place > 0 else None
    ref = before.blob if before is not None else document.blob
    body = await world.bodies.read(tenant, ref) if ref.size <= IN_MEMORY_BYTES else None
    hashed = DocumentHash([body] if body is not None else [])
    if body is None:
        async for chunk in world.bodies.stream(tenant, ref):
            hashed.update(chunk)
    prepared = None
    if pdf:
        options = PrepareOptions(
            field_name=request.signatures[place].field,
            reserve_bytes=world.class_of(request.class_name).reserve_bytes,
        )
        usual = PrepareOptions(reserve_bytes=options.reserve_bytes)
        if document.prepared is not None and before is None and options == usual:
            prepared = Prepared.from_bytes(await world.bodies.read(tenant, document.prepared))
        if prepared is None or prepared.reserved_bytes != options.reserve_bytes:
            prepared = await _prepared(world, tenant, ref, body, options)
    return Source(tenant, ref, hashed, body, prepared)


async def _prepared(
    world: World, tenant: str, ref: BlobRef, body: bytes | None, options: PrepareOptions
) -> Prepared:
    if body is not None:
        return await world.prepare(body, options)
    async with whole(world, ref):
        return await world.prepare(await world.bodies.read(tenant, ref), options)


def whole(world: World, ref: BlobRef) -> AbstractAsyncContextManager[None]:
    """To be held around a document that is in memory whole."""
    return world.large() if ref.size > IN_MEMORY_BYTES else nullcontext()


async def store_with(world: World, source: Source, appended: bytes) -> BlobRef:
    """Store the original with bytes appended."""
    if source.body is not None:
        return await world.bodies.put_bytes(source.tenant, source.body + appended)
    return await world.bodies.put(source.tenant, _followed(world, source, appended))


async def _followed(world: World, source: Source, appended: bytes) -> AsyncIterator[bytes]:
    async for chunk in world.bodies.stream(source.tenant, source.ref):
        yield chunk
    yield appended


def revision_of(blob: BlobRef, source: Source) -> Revision:
    """What to put on record of a signed file."""
    if source.prepared is None:
        return Revision(blob=blob)
    return Revision(
        blob=blob,
        contents_offset=source.prepared.original_length + source.prepared.contents_offset,
        reserved_bytes=source.prepared.reserved_bytes,
        length=blob.size,
    )
