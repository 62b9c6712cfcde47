"""Other systems' own entries, a batch of lines at a time, into the site's log."""

from __future__ import annotations

from outlast.core.errors import Refused
from outlast.operations.api import DEFAULT_JOURNAL
from outlast.operations.lines import MAX_BODY_BYTES
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, encode, send_json
from outlast.surfaces.http.headers import NDJSON
from outlast.surfaces.http.wire import Accepted


async def append(call: Call) -> None:
    """POST /v1/log/entries: a JSON object a line, all of them or none."""
    if header.media_type(call.headers) not in (NDJSON, ""):
        raise Refused(
            "content-type",
            "this takes lines of JSON",
            hint=f"Send Content-Type: {NDJSON}, a JSON object on each line.",
        )
    prefer = header.prefer(call.headers)
    journal = call.query.get("journal", DEFAULT_JOURNAL)
    caller = call.caller
    call.body.check_length(MAX_BODY_BYTES)
    async with call.ctx.appends.turn():
        raw = await call.body.whole(MAX_BODY_BYTES)
        receipt = await call.ctx.site.journals.append(
            caller.tenant, caller.actor, journal, raw, call.idempotency(raw)
        )
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(
        id=journal,
        url=f"/v1/events?from={receipt.index}",
        version=receipt.version,
        receipt=shown,
    )
    await send_json(call, 200, encode(answer), receipt_headers(receipt, shown, prefer))
