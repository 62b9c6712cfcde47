"""How an accepted command is answered."""

from __future__ import annotations

from outlast.core.commit import Receipt
from outlast.surfaces.http.call import Call
from outlast.surfaces.http.headers import Prefer
from outlast.surfaces.http.wire import ReceiptView

PUBLISH_WAIT_S = 10.0
"""How long `Prefer: receipt=published` waits where the caller names no time."""

RawHeader = tuple[bytes, bytes]


async def receipt_view(call: Call, receipt: Receipt, prefer: Prefer) -> ReceiptView:
    """The receipt as far as the caller wants to wait for it."""
    stage = "accepted"
    publisher = call.ctx.site.publisher
    last = receipt.index + receipt.count - 1
    if receipt.count and prefer.published:
        wait_s = prefer.wait_s or PUBLISH_WAIT_S
        stage = "published" if await publisher.wait_for(last, wait_s) else stage
    return ReceiptView(
        stage="published" if stage == "published" else "accepted",
        index=receipt.index,
        count=receipt.count,
        hlc=receipt.hlc,
        proof=f"/v1/receipts/{last}" if receipt.count else None,
    )


def receipt_headers(receipt: Receipt, view: ReceiptView, prefer: Prefer) -> list[RawHeader]:
    """The headers of every accepted command."""
    headers = [
        (b"outlast-receipt", view.stage.encode()),
        (b"etag", b'"%d"' % receipt.version),
    ]
    if receipt.replayed:
        headers.append((b"idempotent-replayed", b"true"))
    if prefer.published and view.stage == "published":
        headers.append((b"preference-applied", b"receipt=published"))
    return headers


def as_text(headers: list[RawHeader]) -> dict[str, str]:
    """The same for a response object."""
    return {name.decode(): value.decode() for name, value in headers}
