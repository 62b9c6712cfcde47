"""Modes, providers, the status page, health and metrics."""

from __future__ import annotations

import msgspec
from starlette.responses import PlainTextResponse, Response

from outlast.core.clock import iso
from outlast.core.commit import Receipt
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
from outlast.wiring.switches import Hand


async def status(call: Call) -> Response:
    """GET /v1/status"""
    return json_answer(await call.ctx.site.watch.status())


async def get_mode(call: Call) -> Response:
    """GET /v1/mode"""
    view = await _mode(call)
    return json_answer(view, headers={"etag": f'"{view.version}"'})


async def put_mode(call: Call) -> Response:
    """PUT /v1/mode, optionally only If-Match"""
    ask, raw = await call.read(ModeAsk)
    switches, watch = call.ctx.site.switches, call.ctx.site.watch
    hand = msgspec.structs.replace(
        hand_of(call, ask.reason, raw), expected_version=header.if_match(call.headers)
    )
    if ask.mode is None:
        receipt = await switches.release_mode(hand, watch.observed(), watch.limits)
    else:
        receipt = await switches.set_mode(hand, ask.mode)
    return await switched(call, receipt, "/v1/mode")


async def _mode(call: Call) -> ModeView:
    mode, version = await call.ctx.site.switches.mode_on_record()
    return ModeView(
        mode=mode.label,
        version=version,
        since=iso(mode.since_ms) if mode.since_ms else None,
        by_hand=mode.held,
        reasons=mode.reasons,
        actor=mode.actor,
    )


async def providers(call: Call) -> Response:
    """GET /v1/providers"""
    site = call.ctx.site
    page = ProviderPage(
        signers=site.world.signer_router.snapshot(),
        authorities=site.world.authority_router.snapshot(),
        blob_stores=site.blobs.snapshots(),
    )
    return json_answer(page)


async def disable_provider(call: Call) -> Response:
    """POST /v1/providers/{name}:disable"""
    ask, raw = await call.read(ReasonAsk)
    receipt = await call.ctx.site.switches.disable_provider(
        hand_of(call, ask.reason, raw), call.params["name"]
    )
    return await switched(call, receipt, "/v1/providers")


async def enable_provider(call: Call) -> Response:
    """POST /v1/providers/{name}:enable"""
    ask, raw = await call.read(ReasonAsk)
    receipt = await call.ctx.site.switches.enable_provider(
        hand_of(call, ask.reason, raw), call.params["name"]
    )
    return await switched(call, receipt, "/v1/providers")


def hand_of(call: Call, reason: str, raw: bytes) -> Hand:
    """The caller, as whoever moves a switch."""
    return Hand(actor=call.caller.actor, reason=reason, idempotency=call.idempotency(raw))


async def switched(call: Call, receipt: Receipt, url: str) -> Response:
    """A switch was moved, and that is on record."""
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
    if site.nodes.is_stopping:
        reasons.append("stopping: this process is about to end")
    if failure is not None:
        reasons.append(f"log: {failure.code}")
    answer = Ready(ready=not reasons, mode=mode, reasons=tuple(reasons))
    return json_answer(answer, 503 if reasons else 200)


async def metrics(call: Call) -> Response:
    """GET /metrics"""
    accept = call.headers.get(b"accept", b"").decode("latin-1")
    rendered = call.ctx.metrics.render(await look(call.ctx), accept)
    return Response(rendered.body, headers={"content-type": rendered.content_type})
