"""Modes, providers, the status page, health and metrics."""

from __future__ import annotations

from starlette.responses import PlainTextResponse, Response

from outlast.core.clock import iso
from outlast.core.commit import Receipt
from outlast.core.errors import Conflict
from outlast.core.store.port import StreamKey
from outlast.operations.model.mode import KIND, STREAM, SiteMode
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.gauges import look
from outlast.surfaces.http.wire import (
    Accepted,
    ModeAsk,
    ModeView,
    ProviderPage,
    Ready,
    ReasonAsk,
)
from outlast.wiring.watch import SITE_TENANT


async def status(call: Call) -> Response:
    """GET /v1/status"""
    return json_answer(await call.ctx.site.watch.status())


async def get_mode(call: Call) -> Response:
    """GET /v1/mode"""
    view = await _mode(call)
    return json_answer(view, headers={"etag": f'"{view.version}"'})


async def put_mode(call: Call) -> Response:
    """PUT /v1/mode, optionally only If-Match"""
    ask, _ = await call.read(ModeAsk)
    version, expected = (await _mode(call)).version, header.if_match(call.headers)
    if expected is not None and expected != version:
        raise Conflict("version-conflict", f"the mode is at version {version}, not {expected}")
    watch, actor = call.ctx.site.watch, call.caller.actor
    if ask.mode is None:
        receipt = await watch.release_mode(actor, ask.reason)
    else:
        receipt = await watch.set_mode(actor, ask.mode, ask.reason)
    return await _accepted(call, receipt, "/v1/mode")


async def _mode(call: Call) -> ModeView:
    row = await call.ctx.site.store.stream(StreamKey(SITE_TENANT, KIND, STREAM))
    mode: SiteMode = call.ctx.site.watch.mode
    return ModeView(
        mode=mode.label,
        version=row.version if row else 0,
        since=iso(mode.since_ms) if mode.since_ms else None,
        by_hand=mode.held,
        reasons=mode.reasons,
        actor=mode.actor,
    )


async def providers(call: Call) -> Response:
    """GET /v1/providers"""
    world = call.ctx.site.world
    page = ProviderPage(
        signers=world.signer_router.snapshot(), authorities=world.authority_router.snapshot()
    )
    return json_answer(page)


async def disable_provider(call: Call) -> Response:
    """POST /v1/providers/{name}:disable"""
    ask, _ = await call.read(ReasonAsk)
    receipt = await call.ctx.site.watch.disable_provider(
        call.caller.actor, call.params["name"], ask.reason
    )
    return await _accepted(call, receipt, "/v1/providers")


async def enable_provider(call: Call) -> Response:
    """POST /v1/providers/{name}:enable"""
    ask, _ = await call.read(ReasonAsk)
    receipt = await call.ctx.site.watch.enable_provider(
        call.caller.actor, call.params["name"], ask.reason
    )
    return await _accepted(call, receipt, "/v1/providers")


async def _accepted(call: Call, receipt: Receipt, url: str) -> Response:
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(id=receipt.stream, url=url, version=receipt.version, receipt=shown)
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


async def livez(call: Call) -> Response:
    """GET /livez: the process answers. Nothing else is asked of it, so that no outage gets it restarted."""
    return PlainTextResponse("ok\n")


async def readyz(call: Call) -> Response:
    """GET /readyz: whether to send it new work."""
    site = call.ctx.site
    mode, failure = site.watch.mode.label, site.publisher.failure
    reasons: list[str] = []
    if mode == "read-only":
        reasons.append("read-only: no new work is taken")
    reasons.extend(site.watch.stopped_by())
    if failure is not None:
        reasons.append(f"log: {failure.code}")
    answer = Ready(ready=not reasons, mode=mode, reasons=tuple(reasons))
    return json_answer(answer, 503 if reasons else 200)


async def metrics(call: Call) -> Response:
    """GET /metrics"""
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    rendered = call.ctx.metrics.render(await look(call.ctx), accept)
    return Response(rendered.body, headers={"content-type": rendered.content_type})
