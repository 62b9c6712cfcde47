"""Signature requests: accepted one by one or in bulk, followed, approved, withdrawn, and their results."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
from starlette.responses import Response

from outlast.core.commit import Idempotency, Receipt
from outlast.core.errors import OutlastError, Refused
from outlast.core.ids import is_uuid
from outlast.core.store.port import StreamKey
from outlast.signing.api import MAX_BULK, MAX_PAGE, BulkResult, SignatureAsk
from outlast.signing.model.request import KIND
from outlast.signing.views import STATUS_TEXT, RequestView
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import (
    MAX_JSON_BYTES,
    Call,
    decode,
    decode_with,
    encode,
    json_answer,
    require_json,
    send_json,
)
from outlast.surfaces.http.documents import file_answer, started
from outlast.surfaces.http.headers import NDJSON, Prefer
from outlast.surfaces.http.problems import malformed, problem_of
from outlast.surfaces.http.wire import (
    Accepted,
    BulkAnswer,
    BulkItem,
    CancelAsk,
    ReceiptView,
    RequestPage,
)

FINAL = frozenset({"completed", "failed", "cancelled"})
"""States that a request does not leave."""
PATH = "/v1/signature-requests"
MAX_BULK_BYTES = 4 * 1024 * 1024
"""Longest body of a bulk call, in bytes."""
BULK_AT_ONCE = 128
"""Items of a bulk call under way at once: they share flushes and leave room for other callers."""

_decode_ask = msgspec.json.Decoder(SignatureAsk)
_decode_raw_array = msgspec.json.Decoder(list[msgspec.Raw])


async def accept(call: Call) -> None:
    """POST /v1/signature-requests"""
    raw = await call.body.whole(MAX_JSON_BYTES)
    require_json(call.headers)
    ask = decode_with(_decode_ask, raw)
    prefer = header.prefer(call.headers)
    site = call.ctx.site
    receipt = await site.signing.request(call.caller, ask, call.idempotency(raw))
    id_ = receipt.stream
    location = f"{PATH}/{id_}"
    headers = [(b"location", location.encode())]
    if prefer.wait_s and not prefer.published:
        view = await _until(call, id_, prefer.wait_s, None)
        if view.status in FINAL:
            headers += [(b"etag", b'"%d"' % view.version), (b"preference-applied", b"wait")]
            if receipt.replayed:
                headers.append((b"idempotent-replayed", b"true"))
            await send_json(call, 200, encode(view), headers)
            return
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=id_, url=location, version=receipt.version, receipt=shown)
    headers += receipt_headers(receipt, shown, prefer)
    await send_json(call, 202, encode(answer), headers)


async def accept_many(call: Call) -> Response:
    """POST /v1/signature-requests:bulk, a JSON array or a line of JSON each; item i is idempotent by itself."""
    raw = await call.body.whole(MAX_BULK_BYTES)
    pieces = list(_pieces(call, raw))
    if not 0 < len(pieces) <= MAX_BULK:
        raise Refused("bulk-size", f"a bulk call has 1 to {MAX_BULK} requests", hint="Split it.")
    key = header.idempotency_key(call.headers)
    keys = [f"bulk:{key}/{i}" if key else "" for i in range(len(pieces))]
    results: list[BulkResult] = []
    for at in range(0, len(pieces), BULK_AT_ONCE):
        end = at + BULK_AT_ONCE
        batch = zip(pieces[at:end], keys[at:end], strict=True)
        results += await asyncio.gather(*(_one(call, piece, key) for piece, key in batch))
    items = tuple(_bulk_item(call, result) for result in results)
    accepted = sum(1 for item in items if item.accepted is not None)
    answer = BulkAnswer(items=items, accepted=accepted, refused=len(items) - accepted)
    return json_answer(answer, 207)


async def _one(call: Call, piece: bytes | msgspec.Raw, key: str) -> BulkResult:
    try:
        ask = decode_with(_decode_ask, piece)
        idempotency = Idempotency(key, encode(ask)) if key else None
        return BulkResult(
            receipt=await call.ctx.site.signing.request(call.caller, ask, idempotency)
        )
    except OutlastError as error:
        return BulkResult(error=error)


def _pieces(call: Call, raw: bytes) -> Iterator[bytes | msgspec.Raw]:
    given = header.media_type(call.headers)
    if given == NDJSON:
        yield from (line for line in raw.splitlines() if line.strip())
        return
    require_json(call.headers)
    yield from decode_with(_decode_raw_array, raw)


def _bulk_item(call: Call, result: BulkResult) -> BulkItem:
    if result.error is not None:
        problem = problem_of(result.error, call.request_id())
        return BulkItem(status=problem.status, problem=problem)
    receipt = result.receipt
    assert receipt is not None
    shown = ReceiptView(
        stage="accepted",
        index=receipt.index,
        count=receipt.count,
        hlc=receipt.hlc,
        proof=f"/v1/receipts/{receipt.index}" if receipt.count else None,
    )
    url = f"{PATH}/{receipt.stream}"
    accepted = Accepted(id=receipt.stream, url=url, version=receipt.version, receipt=shown)
    return BulkItem(status=202, accepted=accepted)


async def list_(call: Call) -> Response:
    """GET /v1/signature-requests"""
    status, cursor = call.query.get("status"), call.query.get("cursor")
    if status is not None and status not in STATUS_TEXT:
        raise malformed(
            f"no status is called {status[:40]!r}", f"One of: {', '.join(STATUS_TEXT)}."
        )
    if cursor is not None and not is_uuid(cursor):
        raise Refused("cursor-invalid", "this cursor was not given out here", hint="Start anew.")
    page = await call.ctx.site.signing.list(
        call.caller, status=status, before=cursor, limit=call.number("limit", 50, MAX_PAGE)
    )
    return json_answer(RequestPage(items=page.items, next=page.next))


async def get(call: Call) -> Response:
    """GET /v1/signature-requests/{id}

    ``Prefer: wait=N`` holds the answer back: with If-None-Match until the request has another version, without
    until it is in a final state.
    """
    id_ = request_id(call)
    prefer, known = header.prefer(call.headers), header.none_match(call.headers)
    if prefer.wait_s:
        view = await _until(call, id_, prefer.wait_s, known)
    else:
        view = await call.ctx.site.signing.get(call.caller, id_)
    headers = {"etag": f'"{view.version}"', "cache-control": "private, no-cache"}
    if known == view.version:
        return Response(status_code=304, headers=headers)
    return json_answer(view, headers=headers)


async def _until(call: Call, id_: str, wait_s: float, known: int | None) -> RequestView:
    """The request when it is final (or no longer at version ``known``), or as it stands after the time."""
    site, changes = call.ctx.site, call.ctx.changes
    key = StreamKey(call.caller.tenant, KIND, id_)
    end_s = site.clock.monotonic_s() + wait_s
    while True:
        changed = changes.listen(key)
        try:
            # most looks find nothing new: the whole view is made once, at the end
            row = await site.store.stream(key)
            done = row is None or (row.label in FINAL if known is None else row.version != known)
            left_s = end_s - site.clock.monotonic_s()
            if done or left_s <= 0 or call.ctx.closing.is_set():
                return await site.signing.get(call.caller, id_)
            async with asyncio.timeout(left_s):
                await changed.wait()
        except TimeoutError:
            return await site.signing.get(call.caller, id_)
        finally:
            changes.forget(key, changed)


async def file(call: Call) -> Response:
    """GET /v1/signature-requests/{id}/file: the signed PDF, or the detached signature."""
    id_ = request_id(call)
    request, blob, pieces = await call.ctx.site.signing.signed_file(call.caller, id_)
    pdf = request.format == "pades"
    media_type = "application/pdf" if pdf else "application/pkcs7-signature"
    name = f"{id_}.{'pdf' if pdf else 'p7s'}"
    return file_answer(await started(pieces), media_type, name, blob)


async def evidence(call: Call) -> Response:
    """GET /v1/signature-requests/{id}/evidence: a zip to check without this program."""
    id_ = request_id(call)
    bundle = await call.ctx.site.evidence.bundle(call.caller.tenant, id_)
    disposition = f'attachment; filename="{id_}-evidence.zip"'
    return Response(
        bundle, media_type="application/zip", headers={"content-disposition": disposition}
    )


async def approve(call: Call) -> Response:
    """POST /v1/signature-requests/{id}/approve"""
    raw = await call.body.whole(MAX_JSON_BYTES)
    receipt = await call.ctx.site.signing.approve(
        call.caller, request_id(call), call.idempotency(raw)
    )
    return await accepted(call, receipt.stream, receipt)


async def cancel(call: Call) -> Response:
    """POST /v1/signature-requests/{id}/cancel, optionally only If-Match"""
    raw = await call.body.whole(MAX_JSON_BYTES)
    require_json(call.headers)
    ask = decode(CancelAsk, raw) if raw else CancelAsk()
    id_ = request_id(call)
    receipt = await call.ctx.site.signing.cancel(
        call.caller, id_, ask.reason, header.if_match(call.headers), call.idempotency(raw)
    )
    return await accepted(call, id_, receipt)


async def accepted(call: Call, id_: str, receipt: Receipt) -> Response:
    """A command on a request was accepted."""
    prefer: Prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=id_, url=f"{PATH}/{id_}", version=receipt.version, receipt=shown)
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


def request_id(call: Call) -> str:
    """The path's request; what cannot be an id is not found."""
    id_ = call.params["id"]
    if not is_uuid(id_):
        raise Refused("request-not-found", "no such signature request")
    return id_
