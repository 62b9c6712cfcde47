"""HTTP/1.1 connections with limits that uvicorn leaves to a proxy: header size, number of connections, and time.

Guarantees: a connection that sends nothing, or too slowly, is closed; headers are refused (431) before they fill
memory; what cannot be parsed gets problem details and nothing else. Waiting because *we* do not read counts against
nobody.

Nothing is armed per request: one sweep looks at all connections every ``SWEEP_S``.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from outlast.surfaces.http.problems import MEDIA_TYPE, Problem

MAX_CONNECTIONS = 4_096
"""Connections of one process; more are closed at once."""
MAX_HEADER_BYTES = 32 * 1024
"""Request line and headers together."""
MAX_HEADERS = 100
SWEEP_S = 1.0
HEADER_TIMEOUT_S = 10.0
"""From the first byte of a request, or the opening of a connection, to the end of its headers."""
BODY_WINDOW_S = 15.0
MIN_BODY_BYTES = 4 * 1024
"""A body brings at least so much in each window, or its connection is closed."""

_PROBLEMS = {
    400: ("request-malformed", "this is not HTTP/1.1", "Correct the request."),
    431: ("headers-too-large", f"headers may have {MAX_HEADER_BYTES} bytes", "Send fewer."),
}


class HeadersTooLarge(Exception):
    """Raised inside the parser to make it stop."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._too_large = False
        self._in_headers = True
        self._since_s = self.loop.time()
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def on_message_begin(self) -> None:
        self._header_bytes = 0
        self._in_headers = True
        self._since_s = self.loop.time()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)
        if len(self.headers) > MAX_HEADERS:
            self._count(MAX_HEADER_BYTES)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._since_s = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """Problem details in place of uvicorn's text."""
        status = 431 if self._too_large else 400
        code, detail, hint = _PROBLEMS[status]
        problem = Problem(
            type=f"/errors/{code}",
            title="The request is malformed",
            status=status,
            detail=detail,
            code=code,
            retry="never",
            hint=hint,
        )
        body = msgspec.json.encode(problem)
        head = (
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def sweep(self, now_s: float) -> None:
        """Close the connection if it is too slow."""
        cycle = self.cycle
        busy = cycle is not None and not cycle.response_complete
        if self._in_headers:
            idle = self.timeout_keep_alive_task is not None
            if not busy and not idle and now_s - self._since_s > HEADER_TIMEOUT_S:
                self.transport.abort()
        elif busy and cycle.more_body:
            if self.flow.read_paused:
                self._since_s, self._body_bytes = now_s, 0
            elif now_s - self._since_s > BODY_WINDOW_S:
                if self._body_bytes < MIN_BODY_BYTES:
                    self.transport.abort()
                self._since_s, self._body_bytes = now_s, 0

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES:
            self._too_large = True
            raise HeadersTooLarge
