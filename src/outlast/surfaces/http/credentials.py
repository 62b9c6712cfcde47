"""API keys, for administrators: made, listed, revoked."""

from __future__ import annotations

from starlette.responses import Response

from outlast.core.access import KeyItem
from outlast.core.clock import iso
from outlast.core.errors import Refused
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.wire import Accepted, ApiKeyAsk, ApiKeyMade, ApiKeyPage, ApiKeyView

MAX_PAGE = 200
"""API keys in one page."""


async def create(call: Call) -> Response:
    """POST /v1/api-keys"""
    ask, raw = await call.read(ApiKeyAsk)
    now_ms = call.ctx.site.clock.now_ms()
    made = await call.ctx.site.access.create(
        by=call.caller.actor,
        tenant=ask.tenant or call.caller.tenant,
        scopes=ask.scopes,
        title=ask.title,
        expires_ms=now_ms + ask.expires_in_s * 1000 if ask.expires_in_s else 0,
        per_s=ask.per_s,
        idempotency=call.idempotency(raw),
    )
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, made.receipt, prefer)
    headers = as_text(receipt_headers(made.receipt, shown, prefer))
    return json_answer(ApiKeyMade(id=made.id, token=made.token, receipt=shown), 201, headers)


async def list_(call: Call) -> Response:
    """GET /v1/api-keys"""
    cursor, limit = call.query.get("cursor"), call.number("limit", 100, MAX_PAGE)
    if cursor is not None and not (cursor.isalnum() and cursor.isascii() and len(cursor) <= 32):
        raise Refused("cursor-invalid", "this cursor was not given out here", hint="Start anew.")
    items = await call.ctx.site.access.list(before=cursor, limit=limit)
    now_ms = call.ctx.site.clock.now_ms()
    views = tuple(_view(item, now_ms) for item in items)
    more = items[-1].id if len(items) == limit else None
    return json_answer(ApiKeyPage(items=views, next=more))


async def revoke(call: Call) -> Response:
    """DELETE /v1/api-keys/{id}: repeating it changes nothing."""
    key_id = call.params["id"]
    receipt = await call.ctx.site.access.revoke(by=call.caller.actor, key_id=key_id)
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=key_id, url="/v1/api-keys", version=receipt.version, receipt=shown)
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


def _view(item: KeyItem, now_ms: int) -> ApiKeyView:
    key = item.key
    expired = bool(key.expires_ms) and now_ms >= key.expires_ms
    return ApiKeyView(
        id=item.id,
        status="revoked" if key.label == "revoked" else "expired" if expired else "active",
        tenant=key.tenant,
        scopes=key.scopes,
        title=key.title,
        created=iso(key.created_ms),
        created_by=key.created_by,
        expires=iso(key.expires_ms) if key.expires_ms else None,
        revoked=iso(key.revoked_ms) if key.revoked_ms else None,
        per_s=key.per_s,
    )
