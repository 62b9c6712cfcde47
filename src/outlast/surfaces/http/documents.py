"""Documents: taken in as a raw body, streamed; given back the same way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import Response, StreamingResponse

from outlast.core.errors import Refused
from outlast.core.ids import is_uuid
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, encode, json_answer, send_json
from outlast.surfaces.http.wire import DocumentAdded

FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


async def add(call: Call) -> None:
    """POST /v1/documents: the body is the document itself."""
    media_type = header.media_type(call.headers)
    if not media_type or media_type in FORMS:
        raise Refused(
            "content-type",
            "the body must be the document itself, with its own content type",
            hint="curl --data-binary @contract.pdf -H 'Content-Type: application/pdf' …",
        )
    prefer = header.prefer(call.headers)
    key = header.idempotency_key(call.headers)
    class_name = call.query.get("class", "default")
    signing = call.ctx.site.signing
    call.body.check_length(call.ctx.site.world.class_of(class_name).max_bytes)
    async with call.ctx.uploads.turn():
        receipt = await signing.add_document(
            call.caller,
            call.body.pieces(),
            media_type=media_type,
            class_name=class_name,
            title=call.query.get("title", ""),
            idempotency_key=key,
        )
    view = await receipt_view(call, receipt, prefer)
    url = f"/v1/documents/{receipt.stream}"
    answer = DocumentAdded(
        id=receipt.stream,
        url=url,
        version=receipt.version,
        receipt=view,
        document=await signing.document(call.caller, receipt.stream),
    )
    headers = receipt_headers(receipt, view, prefer)
    headers.append((b"location", url.encode()))
    await send_json(call, 201, encode(answer), headers)


async def get(call: Call) -> Response:
    """GET /v1/documents/{id}"""
    return json_answer(await call.ctx.site.signing.document(call.caller, document_id(call)))


async def content(call: Call) -> Response:
    """GET /v1/documents/{id}/content: the bytes as taken in."""
    id_ = document_id(call)
    document, pieces = await call.ctx.site.signing.document_content(call.caller, id_)
    extension = "pdf" if document.media_type == "application/pdf" else "bin"
    return file_answer(
        await started(pieces), document.media_type, f"{id_}.{extension}", document.blob
    )


def document_id(call: Call) -> str:
    """The path's document; what cannot be an id is not found."""
    id_ = call.params["id"]
    if not is_uuid(id_):
        raise Refused("document-not-found", "no such document")
    return id_


def file_answer(
    pieces: AsyncIterator[bytes], media_type: str, name: str, blob: Any
) -> StreamingResponse:
    """A stored file as an attachment, never to be rendered or run by a browser."""
    return StreamingResponse(
        pieces,
        media_type=media_type,
        headers={
            "content-length": str(blob.size),
            "content-disposition": f'attachment; filename="{name}"',
            "etag": f'"{blob.sha256}"',
            "cache-control": "private, no-cache",
        },
    )


async def started(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same pieces, the first of them read already: what fails at once still gets a proper answer."""
    first = await anext(pieces, b"")

    async def rest() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return rest()
