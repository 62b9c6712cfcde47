"""Hands the pieces of a large blob to its upload, which runs beside its caller.

The caller reads the blob's source itself, so whatever stops the caller (an error of the source, its own cancellation)
can be told to the upload, and an upload that has failed is noticed at the next piece. One piece waits at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


class BrokenOff(Exception):
    """The upload shall be aborted; nobody sees this."""


class Feed:
    """Between one caller and one upload."""

    def __init__(self) -> None:
        self._next: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._broken = False

    async def pieces(self) -> AsyncIterator[bytes]:
        """For the upload."""
        while True:
            piece = await self._next.get()
            if self._broken:
                raise BrokenOff
            if piece is None:
                return
            yield piece

    async def give(self, piece: bytes | None, upload: asyncio.Future[object]) -> None:
        """Wait until the piece before has been taken; raises what the upload failed with."""
        putting: asyncio.Future[object] = asyncio.ensure_future(self._next.put(piece))
        try:
            await asyncio.wait({putting, upload}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if upload.done():
            upload.result()

    async def finish(self, upload: asyncio.Future[object]) -> None:
        """Say that this was all, and wait for the upload."""
        await self.give(None, upload)
        await asyncio.shield(upload)

    def break_off(self) -> None:
        """Have the upload fail at its next look."""
        self._broken = True
        if self._next.empty():
            self._next.put_nowait(None)
