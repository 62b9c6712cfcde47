"""GET /v1/events: the tenant's log entries as they are written, as server-sent events (WHATWG HTML, 9.2).

Each event's id is its log index; Last-Event-ID resumes after it, however long ago that was. Whoever cannot keep up
is told so with a last event and may resume; whoever does not read at all is cut off. Neither costs this process
memory: see `core.feed`.
"""

from __future__ import annotations

import asyncio

from starlette.types import Send

from outlast.core.errors import Refused, Unavailable
from outlast.core.feed import Piece
from outlast.surfaces.http.call import Call

HEARTBEAT_S = 15.0
"""A comment this often keeps proxies from closing a quiet stream."""
SEND_TIMEOUT_S = 20.0
"""A client that takes nothing for so long is cut off."""
RETRY_MS = 2_000
"""When a client is told to come back after a stream ended."""
MAX_STREAM_S = 3_600.0
"""A stream ends after this; a client that reconnects proves that its key is still good."""


async def follow(call: Call) -> None:
    """Stream until the client leaves, falls behind, or its hour is over."""
    ctx = call.ctx
    start = await _start(call)
    if ctx.feed.followers >= ctx.options.followers:
        raise Unavailable(
            "overloaded",
            f"{ctx.options.followers} event streams are open already",
            hint="Come back later; nothing is missed with Last-Event-ID.",
            retry_after_s=10.0,
            scope="site",
        )
    ctx.feed.followers += 1
    try:
        await call.send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await _send(call.send, b"retry: %d\n\n" % RETRY_MS)
        last = await _stream(call, start)
        await asyncio.wait_for(
            call.send({"type": "http.response.body", "body": last}), SEND_TIMEOUT_S
        )
    finally:
        ctx.feed.followers -= 1


_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


async def _start(call: Call) -> int:
    given, end = call.headers.get(b"last-event-id"), await call.ctx.feed.end()
    if given is not None:
        start = _number(given.decode("latin-1")) + 1
    elif "from" in call.query:
        start = _number(call.query["from"])
    else:
        return end
    if start > end:
        raise _bad_cursor()
    return start


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise _bad_cursor()
    return int(text)


def _bad_cursor() -> Refused:
    return Refused(
        "cursor-invalid",
        "this is not the id of an event of this log",
        hint="Send no Last-Event-ID to start from now, or ?from=0 to start from the first entry.",
    )


async def _stream(call: Call, start: int) -> bytes:
    """Send what there is until it is time to stop; returns the last event."""
    feed, clock, tenant = call.ctx.feed, call.ctx.site.clock, call.caller.tenant
    ends_s = clock.monotonic_s() + MAX_STREAM_S
    over = asyncio.create_task(_over(call))
    live, fresh = False, False
    try:
        while clock.monotonic_s() < ends_s and not over.done():
            moved = feed.listen()
            if live and feed.behind(start):
                return _last(b"too-slow", start, b"you fell behind; reconnect to go on from here")
            piece = await feed.read(tenant, start, fresh=fresh)
            fresh = False
            if piece.entries:
                await _send(call.send, _frames(piece))
            if piece.end > start:
                start = piece.end
                continue
            live = True
            if await _idle(moved, over):
                fresh = True
                await _send(call.send, b": still here\n\n")
        return _last(b"bye", start, b"reconnect to go on from here")
    finally:
        over.cancel()


async def _idle(moved: asyncio.Event, over: asyncio.Task[None]) -> bool:
    """Wait for something new; True when there was nothing for HEARTBEAT_S."""
    waiting = asyncio.create_task(moved.wait())
    try:
        done, _ = await asyncio.wait(
            (waiting, over), timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
        )
        return not done
    finally:
        waiting.cancel()


async def _over(call: Call) -> None:
    """Ends when the client has hung up, or this process is about to end."""
    tasks = [asyncio.create_task(call.body.gone()), asyncio.create_task(call.ctx.closing.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _frames(piece: Piece) -> bytes:
    # an entry is one line of JSON: no newline can break a frame
    return b"".join(
        b"id: %d\nevent: %s\ndata: %s\n\n" % (e.index, e.type.encode(), e.leaf)
        for e in piece.entries
    )


def _last(event: bytes, start: int, text: bytes) -> bytes:
    where = b"id: %d\n" % (start - 1) if start else b""
    return where + b'event: outlast.%s\ndata: {"hint":"%s"}\n\n' % (event, text)


async def _send(send: Send, data: bytes) -> None:
    await asyncio.wait_for(
        send({"type": "http.response.body", "body": data, "more_body": True}), SEND_TIMEOUT_S
    )
