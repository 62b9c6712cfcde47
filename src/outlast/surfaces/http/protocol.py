"""HTTP/1.1 connections with limits that uvicorn leaves to a proxy: header size, number of connections, and time.

Guarantees: a connection that sends nothing, or too slowly, is closed; headers are refused (431) before they fill
memory; what cannot be parsed gets problem details and nothing else. Waiting because *we* do not read counts against
nobody.

Nothing is armed per request: one sweep looks at all connections every ``SWEEP_S``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from outlast.surfaces.http.problems import MEDIA_TYPE, TYPE, Problem

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


WriteWhole = Callable[[int, bytes, bytes], bool]
"""``(status, headers, body)``: a whole answer in one write; False: not possible now, send it as ASGI messages.
``headers`` are lines as they go over the wire, without Content-Length."""

TakeWhole = Callable[[], bytes | None]
"""The request's body, if all of it is there already."""

EXTENSION = "outlast.answer"
"""Where an application finds a pair of `WriteWhole` and `TakeWhole` in a scope's extensions."""

_ASGI = {"version": "3.0", "spec_version": "2.3"}


class HeadersTooLarge(Exception):
    """Raised inside the parser to make it stop."""


class LimitedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unparsed_bytes = 0
        self._too_large = False
        self._in_headers = True
        self._since_s = self.loop.time()
        self._body_bytes = 0
        self._idle_since_s = self._since_s

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._in_headers:
            self._unparsed_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._unparsed_bytes > MAX_HEADER_BYTES:
                self._too_large = True
                self.send_400_response("")
        else:
            super().data_received(data)

    def on_message_begin(self) -> None:
        self._in_headers = True
        self._since_s = self.loop.time()
        self.url = b""
        self.expect_100_continue = False
        self.headers = []
        self.scope = {
            "type": "http",
            "asgi": _ASGI,  # type: ignore[typeddict-item]  # shared: nobody changes it
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme or "http",
            "root_path": "",
            "headers": self.headers,
        }

    def on_headers_complete(self) -> None:
        if self._unparsed_bytes > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self._check_headers()  # much came at once: it may have been body
        self._in_headers = False
        self._unparsed_bytes = 0
        self._since_s = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()
        cycle = (
            self.cycle
        )  # of this request; with pipelining, self.cycle moves on before it is answered
        extension: Any = (partial(_write_whole, cycle), partial(_take_whole, cycle))
        self.scope["extensions"] = {EXTENSION: extension}

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_headers = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for its timer: the sweep finds idle connections, and arming and cancelling a timer for
        each request cost more than answering some."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._idle_since_s = self.loop.time()
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)

    def send_400_response(self, msg: str) -> None:
        """Problem details in place of uvicorn's text."""
        status = 431 if self._too_large else 400
        code, detail, hint = _PROBLEMS[status]
        problem = Problem(
            type=TYPE + code,
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
        if not self.transport.is_closing():
            self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self.transport.close()

    def sweep(self, now_s: float) -> None:
        """Close the connection if it is too slow."""
        cycle = self.cycle
        if not self._in_headers:  # also when it is answered already and what is left is thrown away
            if self.flow.read_paused or (cycle is not None and cycle.waiting_for_100_continue):
                self._since_s, self._body_bytes = now_s, 0  # it is us who keep it waiting
            elif now_s - self._since_s > BODY_WINDOW_S:
                if self._body_bytes < MIN_BODY_BYTES:
                    self.transport.abort()
                self._since_s, self._body_bytes = now_s, 0
            return
        if cycle is not None and not cycle.response_complete:
            return
        # between two requests, or in the headers of the next
        answered = cycle is not None and not self._unparsed_bytes
        since_s, limit_s = (
            (self._idle_since_s, self.timeout_keep_alive)
            if answered
            else (self._since_s, HEADER_TIMEOUT_S)
        )
        if now_s - since_s > limit_s:
            self.transport.close() if answered else self.transport.abort()

    def _check_headers(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEADER_BYTES or len(self.headers) > MAX_HEADERS:
            self._too_large = True
            raise HeadersTooLarge


def _take_whole(cycle: RequestResponseCycle) -> bytes | None:
    """The body at once, where it came with the headers as most do: no message, no waiting."""
    if cycle.more_body or cycle.disconnected or cycle.waiting_for_100_continue:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    return body


def _write_whole(cycle: RequestResponseCycle, status: int, headers: bytes, body: bytes) -> bool:
    """Answer in one write, without uvicorn's checks of each header: they are all ours. Saves a fifth of what HTTP
    costs an accept."""
    if cycle.flow.write_paused or cycle.response_started or cycle.waiting_for_100_continue:
        return False
    if cycle.disconnected:
        return True
    default = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
    length = b"content-length: %d\r\n\r\n" % len(body)
    close = b"" if cycle.keep_alive else b"connection: close\r\n"
    cycle.response_started = cycle.response_complete = True
    cycle.transport.write(b"".join((STATUS_LINE[status], default, headers, close, length, body)))
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True
