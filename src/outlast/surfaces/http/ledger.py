"""The log over HTTP: receipts with proofs, and the tiles as C2SP tlog-tiles names them."""

from __future__ import annotations

import anyio.to_thread
from starlette.responses import Response

from outlast.core.errors import Refused
from outlast.core.log.entry import decode_entry
from outlast.core.log.proof import SUFFIX, format_proof, make_proof
from outlast.core.log.tiles import Tile, parse_path
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.wire import ProofView

IMMUTABLE = "max-age=31536000, immutable"
"""Tiles never change (tlog-tiles). Whether a shared cache may keep them depends on who may read the log."""
PROOF_TYPE = "text/plain; charset=utf-8"


async def receipt(call: Call) -> Response:
    """GET /v1/receipts/{index}: JSON, or the .tlog-proof file with ``Accept: text/plain``."""
    index = call.integer("index", "receipt")
    entry = await _entry(call, index)
    site, prefer = call.ctx.site, header.prefer(call.headers)
    if not await site.publisher.wait_for(index, prefer.wait_s):
        raise Refused(
            "not-published-yet",
            f"entry {index} is durable, but not yet under a signed checkpoint",
            hint="Ask again in a moment, or send Prefer: wait=10.",
            retry="later",
            retry_after_s=1.0,
            scope="log",
        )
    proof = await anyio.to_thread.run_sync(_proof, call, index)
    if call.headers.get(b"accept", b"").startswith(b"text/plain"):
        disposition = f'attachment; filename="{index}{SUFFIX}"'
        headers = {"content-type": PROOF_TYPE, "content-disposition": disposition}
        return Response(proof, headers=headers)
    view = ProofView(
        index=index,
        entry=entry.decode(),
        proof=proof.decode(),
        log_keys=site.log_vkeys,
    )
    return json_answer(view)


async def _entry(call: Call, index: int) -> bytes:
    leaves = await call.ctx.site.store.entries(index, 1)
    if not leaves or decode_entry(leaves[0]).tenant != call.caller.tenant:
        raise Refused("receipt-not-found", f"this tenant has no log entry {index}")
    return leaves[0]


def _proof(call: Call, index: int) -> bytes:
    """Reads tiles: not on the event loop."""
    archive = call.ctx.site.archive
    note, published = archive.read_checkpoint(), archive.published()
    if note is None or published is None:
        raise Refused("not-published-yet", "this log has no checkpoint yet", retry="later")
    reader = archive.node_reader(published.size)
    return format_proof(make_proof(index, note, reader))


async def checkpoint(call: Call) -> Response:
    """GET /log/checkpoint"""
    note = await anyio.to_thread.run_sync(call.ctx.site.archive.read_checkpoint)
    if note is None:
        raise Refused("checkpoint-not-found", "this log has no checkpoint yet", retry="later")
    return Response(
        note, headers={"content-type": "text/plain; charset=utf-8", "cache-control": "no-cache"}
    )


async def tile(call: Call) -> Response:
    """GET /log/tile/<L>/<N>[.p/<W>] and /log/tile/entries/<N>[.p/<W>]"""
    name: Tile = parse_path(f"tile/{call.params['path']}")
    data = await anyio.to_thread.run_sync(call.ctx.site.archive.read_tile, name)
    # "public" would let a proxy hand them to callers without a key (RFC 9111, 3.5)
    readers = "public" if call.ctx.options.public_log else "private"
    cached = f"{readers}, {IMMUTABLE}"
    return Response(
        data, headers={"content-type": "application/octet-stream", "cache-control": cached}
    )
