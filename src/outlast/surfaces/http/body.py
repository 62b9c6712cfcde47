"""A request's body, bounded before it is read and while it is.

Guarantees: a declared length above the limit is refused without reading; an undeclared one as soon as it is passed;
never more than the limit (or, streaming, one piece) in memory. Time is bounded by the connection (`protocol`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from starlette.types import Receive

from outlast.core.errors import Unavailable
from outlast.surfaces.http.headers import RawHeaders
from outlast.surfaces.http.problems import malformed, too_large
from outlast.surfaces.http.protocol import TakeWhole

LINGER_S = 5.0
"""How long a refused body is read on and thrown away, so that the caller gets to see the refusal."""


class CallerGone(Unavailable):
    """The caller hung up: nobody is left to answer."""


class Body:
    """The body of one request."""

    __slots__ = ("_length", "_receive", "_take", "finished")

    def __init__(
        self, receive: Receive, headers: RawHeaders, take: TakeWhole | None = None
    ) -> None:
        self._receive = receive
        self._take = take
        self._length = headers.get(b"content-length")
        self.finished = self._length is None and b"transfer-encoding" not in headers

    def check_length(self, limit: int) -> None:
        """Refuse by what is declared; raises Refused ``body-too-large``, ``request-malformed``."""
        if self._length is not None:
            if not self._length.isdigit():
                raise malformed("Content-Length is not a number")
            if int(self._length) > limit:
                raise too_large(limit)

    async def whole(self, limit: int) -> bytes:
        """All of it."""
        if self.finished:
            return b""
        self.check_length(limit)
        if self._take is not None and (taken := self._take()) is not None:
            self.finished = True
            if len(taken) > limit:
                raise too_large(limit)
            return taken
        first, more = await self._next()
        if not more:
            if len(first) > limit:
                raise too_large(limit)
            return first
        size, pieces = len(first), [first]
        while more and size <= limit:
            piece, more = await self._next()
            pieces.append(piece)
            size += len(piece)
        if size > limit:
            raise too_large(limit)
        return b"".join(pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Piece by piece as it arrives; the taker bounds the sum."""
        while not self.finished:
            piece, _ = await self._next()
            if piece:
                yield piece

    async def linger(self) -> None:
        """Read on a little after an early answer: a connection closed on unread bytes is reset, and the answer
        may be lost with it."""
        try:
            async with asyncio.timeout(LINGER_S):
                while not self.finished:
                    await self._next()
        except (CallerGone, TimeoutError):
            return

    async def gone(self) -> None:
        """Return when the caller has hung up."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def _next(self) -> tuple[bytes, bool]:
        message: Any = await self._receive()
        if message["type"] == "http.disconnect":
            self.finished = True
            raise CallerGone("caller-gone", "the caller hung up before the body was complete")
        more = message.get("more_body", False)
        self.finished = not more
        return message.get("body", b""), more
