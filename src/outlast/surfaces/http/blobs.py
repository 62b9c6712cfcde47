"""The stores that documents are kept in: their health, what they owe, and the scrub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.responses import Response

from outlast.core.clock import iso
from outlast.core.commit import Receipt
from outlast.core.errors import Refused
from outlast.core.replicas.scrub import Failed
from outlast.core.replicas.scrubmodel import STREAM, Scrub, ScrubOptions
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.blobwire import BlobsView, DebtPage, DebtView, ScrubAsk, ScrubView
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.wire import Accepted

MAX_PAGE = 200
"""Debts in one page."""
MAX_NAME_CHARS = 128
PATH = "/v1/blobs"


async def show(call: Call) -> Response:
    """GET /v1/blobs"""
    site = call.ctx.site
    scrubber = site.blobs.scrubber
    scrub, failed = await scrubber.state(), await scrubber.failure()
    answer = BlobsView(
        stores={name: s.__struct_config__.tag for name, s in site.config.blobs.items()},  # type: ignore[misc]  # tags are text here
        health=site.blobs.snapshots(),
        owed=max(0, site.blobs.owed),
        scrub=_view(scrub, failed if failed and failed.run == scrub.run else None),
    )
    return json_answer(answer)


async def debts(call: Call) -> Response:
    """GET /v1/blobs/debts"""
    cursor, limit = call.query.get("cursor"), call.number("limit", 100, MAX_PAGE)
    if cursor is not None and len(cursor) > MAX_NAME_CHARS:
        raise Refused("cursor-invalid", "this cursor was not given out here", hint="Start anew.")
    found = await call.ctx.site.blobs.ledger.debts(before=cursor, limit=limit)
    items = tuple(
        DebtView(
            blob=d.blob, want=d.want, stores=d.stores, since=iso(d.since_ms), reasons=d.reasons
        )
        for d in found
    )
    return json_answer(DebtPage(items=items, next=items[-1].blob if len(items) == limit else None))


async def begin(call: Call) -> Response:
    """POST /v1/blobs/scrub"""
    ask, raw = await call.read(ScrubAsk)
    options = ScrubOptions(mend=ask.mend, delete_orphans_s=ask.delete_orphans_older_than_s)
    scrubber = call.ctx.site.blobs.scrubber
    receipt = await scrubber.begin(call.caller.actor, options, call.idempotency(raw))
    return await _accepted(call, receipt)


async def pause(call: Call) -> Response:
    """POST /v1/blobs/scrub:pause"""
    return await _moved(call, call.ctx.site.blobs.scrubber.pause)


async def resume(call: Call) -> Response:
    """POST /v1/blobs/scrub:resume"""
    return await _moved(call, call.ctx.site.blobs.scrubber.resume)


async def stop(call: Call) -> Response:
    """POST /v1/blobs/scrub:stop"""
    return await _moved(call, call.ctx.site.blobs.scrubber.stop)


async def _moved(call: Call, move: Callable[..., Awaitable[Receipt]]) -> Response:
    return await _accepted(call, await move(call.caller.actor, call.idempotency()))


async def _accepted(call: Call, receipt: Receipt) -> Response:
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=STREAM, url=PATH, version=receipt.version, receipt=shown)
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


def _view(scrub: Scrub, failed: Failed | None) -> ScrubView:
    return ScrubView(
        status="failed" if failed else scrub.label,
        run=scrub.run,
        part=scrub.part,
        after=scrub.after,
        begun=iso(scrub.begun_ms) if scrub.begun_ms else None,
        ended=iso(scrub.ended_ms) if scrub.ended_ms else None,
        complete=scrub.complete,
        tally=scrub.tally,
        findings=scrub.findings,
        references=scrub.references,
        error=failed.error if failed else "",
    )
