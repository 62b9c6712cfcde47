"""RFC 3161 section 3.4 as an ASGI application: POST a timestamp-query, get a timestamp-reply.

A request that cannot be understood still gets a timestamp-reply, with the reason in it; HTTP errors are for what is
not such a request at all: 405, 408, 413, 415. ``GET`` anywhere says what this is, with 200, so that it can be probed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import anyio

from outlast.core.tsa import MAX_REQUEST_BYTES, LocalAuthority

BODY_TIMEOUT_S = 5.0
"""A request must be here whole within this time."""

Scope = MutableMapping[str, Any]  # ASGI defines its messages as dictionaries of anything
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_ABOUT = b"A local RFC 3161 time-stamping authority. It is not qualified.\n"


class _HttpError(Exception):
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class TsaApp:
    """Answers with what ``authority`` says."""

    def __init__(self, authority: LocalAuthority) -> None:
        self._authority = authority

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        if scope["type"] != "http":
            return
        try:
            if scope["method"] in {"GET", "HEAD"}:
                await _answer(send, 200, b"text/plain; charset=utf-8", _ABOUT)
                return
            body = await _query(scope, receive)
        except _HttpError as error:
            await _answer(
                send, error.status, b"text/plain; charset=utf-8", f"{error.text}\n".encode()
            )
            return
        await _answer(send, 200, b"application/timestamp-reply", self._authority.respond(body))


async def _query(scope: Scope, receive: Receive) -> bytes:
    if scope["method"] != "POST":
        raise _HttpError(405, "use POST")
    headers: dict[bytes, bytes] = dict(scope["headers"])
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/timestamp-query":
        raise _HttpError(415, "use Content-Type application/timestamp-query")
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise _HttpError(400, "the request ended early")
                body += message.get("body", b"")
                if len(body) > MAX_REQUEST_BYTES:
                    raise _HttpError(413, f"more than {MAX_REQUEST_BYTES} bytes")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise _HttpError(408, "the request took too long") from None


async def _answer(send: Send, status: int, media_type: bytes, body: bytes) -> None:
    headers = [
        (b"content-type", media_type),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
