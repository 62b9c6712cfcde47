"""Short-lived links to one document, for people without an API key. `core.links` says what a link is.

A link is checked before anything else of its request is looked at, its use is on record before it has its effect, and
what comes in through one is encrypted as every document is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from starlette.responses import Response

from outlast.core.access import spend
from outlast.core.clock import iso
from outlast.core.errors import Refused
from outlast.core.links import Grant
from outlast.signing.api import Caller
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, encode, json_answer, send_json
from outlast.surfaces.http.documents import document_id, file_answer, started
from outlast.surfaces.http.linkwire import LinkAsk, LinkGiven, UploadLinkAsk
from outlast.surfaces.http.problems import too_large
from outlast.surfaces.http.requests import request_id
from outlast.surfaces.http.wire import DocumentAdded

PATH = "/v1/links"
_DOCUMENTS, _CONTENT = "/v1/documents/", "/content"
_REQUESTS, _FILE = "/v1/signature-requests/", "/file"


async def of_document(call: Call) -> Response:
    """POST /v1/documents/{id}/link"""
    ask, raw = await call.read(LinkAsk)
    id_ = document_id(call)
    await call.ctx.site.signing.document(call.caller, id_)
    grant = _reading(call, f"{_DOCUMENTS}{id_}{_CONTENT}", ask)
    return await _given(call, grant, ask.expires_in_s, raw)


async def of_file(call: Call) -> Response:
    """POST /v1/signature-requests/{id}/file-link"""
    ask, raw = await call.read(LinkAsk)
    id_ = request_id(call)
    await call.ctx.site.signing.get(call.caller, id_)
    grant = _reading(call, f"{_REQUESTS}{id_}{_FILE}", ask)
    return await _given(call, grant, ask.expires_in_s, raw)


async def for_upload(call: Call) -> Response:
    """POST /v1/upload-links"""
    ask, raw = await call.read(UploadLinkAsk)
    most = call.ctx.site.world.class_of(ask.class_name).max_bytes
    grant = Grant(
        id="",
        method="PUT",
        resource="/v1/documents",
        tenant=call.caller.tenant,
        expires_ms=0,
        uses=ask.uses,
        max_bytes=min(ask.max_bytes or most, most),
        media_type=ask.media_type.lower(),
        class_name=ask.class_name,
        title=ask.title,
    )
    return await _given(call, grant, ask.expires_in_s, raw)


async def drop(call: Call) -> Response:
    """DELETE /v1/links/{link}: by its id: it is worth nothing from now on."""
    receipt = await call.ctx.site.links.drop(
        call.caller.actor, call.caller.tenant, call.params["link"]
    )
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    return json_answer(shown, 200, as_text(receipt_headers(receipt, shown, prefer)))


async def download(call: Call) -> Response:
    """GET /v1/links/{link}"""
    grant = _granted(call, "GET")
    site, caller = call.ctx.site, _holder(grant)
    if grant.resource.startswith(_DOCUMENTS):
        id_ = grant.resource.removeprefix(_DOCUMENTS).removesuffix(_CONTENT)
        document, pieces = await site.signing.document_content(caller, id_)
        media_type, blob = document.media_type, document.blob
    else:
        id_ = grant.resource.removeprefix(_REQUESTS).removesuffix(_FILE)
        request, blob, pieces = await site.signing.signed_file(caller, id_)
        media_type = (
            "application/pdf" if request.format == "pades" else "application/pkcs7-signature"
        )
    extension = {"application/pdf": "pdf", "application/pkcs7-signature": "p7s"}.get(
        media_type, "bin"
    )
    first = await started(pieces)
    await site.links.use(grant)
    return file_answer(first, media_type, f"{id_}.{extension}", blob)


async def upload(call: Call) -> None:
    """PUT /v1/links/{link}: the body is the document itself."""
    grant = _granted(call, "PUT")
    media_type = header.media_type(call.headers)
    if media_type != grant.media_type:
        raise Refused(
            "link-other-type",
            f"this link takes {grant.media_type} only",
            hint=f"Send Content-Type: {grant.media_type}.",
        )
    call.body.check_length(grant.max_bytes)
    site, caller = call.ctx.site, _holder(grant)
    await site.links.use(grant)
    async with call.ctx.uploads.turn():
        receipt = await site.signing.add_document(
            caller,
            _bounded(call.body.pieces(), grant.max_bytes),
            media_type=media_type,
            class_name=grant.class_name,
            title=grant.title,
            idempotency_key=f"link:{grant.id}",
        )
    prefer = header.prefer(call.headers)
    view = await receipt_view(call, receipt, prefer)
    answer = DocumentAdded(
        id=receipt.stream,
        url=f"/v1/documents/{receipt.stream}",
        version=receipt.version,
        receipt=view,
        document=await site.signing.document(caller, receipt.stream),
    )
    await send_json(call, 201, encode(answer), receipt_headers(receipt, view, prefer))


def _granted(call: Call, method: str) -> Grant:
    grant = call.ctx.site.links.open(call.params["link"], method)
    if call.ctx.gate is not None:
        spend(call.ctx.gate, f"link:{grant.id}")
    return grant


def _holder(grant: Grant) -> Caller:
    return Caller(grant.tenant, f"link:{grant.id}")


def _reading(call: Call, resource: str, ask: LinkAsk) -> Grant:
    return Grant(
        id="",
        method="GET",
        resource=resource,
        tenant=call.caller.tenant,
        expires_ms=0,
        uses=ask.uses,
    )


async def _given(call: Call, ask: Grant, life_s: int, raw: bytes) -> Response:
    token, grant, receipt = await call.ctx.site.links.make(
        call.caller.actor, ask, life_s, call.idempotency(raw)
    )
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = LinkGiven(
        id=grant.id,
        url=f"{PATH}/{token}",
        method=grant.method,
        expires=iso(grant.expires_ms),
        uses=grant.uses,
        receipt=shown,
    )
    return json_answer(answer, 201, as_text(receipt_headers(receipt, shown, prefer)))


async def _bounded(pieces: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in pieces:
        size += len(piece)
        if size > most:
            raise too_large(most)
        yield piece
