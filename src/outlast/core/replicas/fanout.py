"""One stream of bytes into several stores at once.

Each store has a lane: WINDOW_PIECES pieces that its put reads from. The source is read as fast as the slowest lane in
time takes it; a lane that keeps the others waiting for LATE_S is given up. At the end the others have GRACE_S after
enough of them are done. So memory is bounded by the windows, and the time that one store can cost the others by
LATE_S and GRACE_S.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol

import anyio

from outlast.core.errors import OutlastError, Unavailable, Unknown

WINDOW_PIECES = 8
"""Pieces that a lane may lag behind; what `core.envelope` gives is 64 KiB each."""
LATE_S = 2.0
"""How long a full lane may hold up the others."""
GRACE_S = 2.0
"""How long the others may take once enough stores have everything durably."""
ANSWER_S = 30.0
"""How long is waited for any store at all once it has everything."""
ABORT_S = 5.0
"""How long a put that is broken off may take to clean up."""


class Sink(Protocol):
    """What is needed of a store here; `outlast.ports.blob.BlobStore` satisfies it."""

    async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
        """Store durably, or raise and leave nothing."""
        ...


class Lane:
    """One store's side of a put. ``error`` says why it has no copy; ``done`` that it has one, durably."""

    def __init__(self, store: str, sink: Sink, name: str, ended: Callable[[Lane], None]) -> None:
        self._ended = ended
        self.store = store
        self.done = False
        self.error: OutlastError | None = None
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue(WINDOW_PIECES)
        self.task = asyncio.create_task(self._run(sink, name), name=f"blob-put-{store}")

    def room(self, piece: bytes | None) -> bool:
        """Take a piece, if there is room; a lane that has ended takes everything."""
        if self.task.done():
            return True
        try:
            self._queue.put_nowait(piece)
        except asyncio.QueueFull:
            return False
        return True

    async def take(self, piece: bytes | None) -> None:
        """Take a piece as soon as there is room, or the lane has ended."""
        putting: asyncio.Future[None] = asyncio.ensure_future(self._queue.put(piece))
        try:
            await asyncio.wait({putting, self.task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    def give_up(self, why: str) -> None:
        """Wait for it no longer; its store cleans up behind itself."""
        if not self.task.done():
            self.error = Unknown("blob-put-late", why)
            _ending.add(self.task)
            self.task.add_done_callback(_ending.discard)
            self.task.cancel()

    async def _run(self, sink: Sink, name: str) -> None:
        try:
            await sink.put(name, self._pieces())
            self.done, self.error = True, None
        except OutlastError as error:
            self.error = error
        except Exception as error:
            self.error = Unavailable("blob-store-raised", f"{self.store}: {type(error).__name__}")
        self._ended(self)

    async def _pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self._queue.get()) is not None:
            yield piece


_ending: set[asyncio.Task[None]] = set()
"""Puts given up that still clean up; the event loop alone would forget them."""


class Fanout:
    """A put of one blob under way to several stores."""

    def __init__(self, name: str, sinks: Mapping[str, Sink], ended: Callable[[Lane], None]) -> None:
        """``ended`` is told of each lane when it has ended by itself, which may be long before the others."""
        self.lanes = tuple(Lane(store, sink, name, ended) for store, sink in sinks.items())

    async def run(
        self, chunks: AsyncIterator[bytes], wanted: int, handed: Callable[[], None]
    ) -> None:
        """Give everything to every lane; return when ``wanted`` stores have it and the others had their time.

        ``handed`` is called when the source has ended: from then on the stores owe an answer. Raises what the source
        raises, and nothing else: the lanes say what became of them.
        """
        try:
            async for piece in chunks:
                if piece:
                    await self._feed(piece)
                if not self._open():
                    return
            await self._feed(None)
            handed()
            await self._settle(wanted)
        except BaseException:
            await self._clean_up()
            raise

    def _open(self) -> list[Lane]:
        return [lane for lane in self.lanes if not lane.task.done()]

    async def _feed(self, piece: bytes | None) -> None:
        full = [lane for lane in self.lanes if not lane.room(piece)]
        if not full:
            return
        takes = {asyncio.ensure_future(lane.take(piece)): lane for lane in full}
        try:
            waiting = set(takes)
            if len(full) == len(self._open()):  # nobody waits but the source
                _, waiting = await asyncio.wait(
                    waiting, timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED
                )
            if waiting:
                _, waiting = await asyncio.wait(waiting, timeout=LATE_S)
            for late in waiting:
                takes[late].give_up(f"it held up the others for {LATE_S} s")
        finally:
            for take in takes:
                take.cancel()

    async def _settle(self, wanted: int) -> None:
        waiting = {lane.task for lane in self.lanes if not lane.task.done()}
        clock = asyncio.get_running_loop()
        until = clock.time() + ANSWER_S
        while waiting and sum(lane.done for lane in self.lanes) < wanted:
            done, waiting = await asyncio.wait(
                waiting,
                timeout=max(0.0, until - clock.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
        if waiting:
            await asyncio.wait(waiting, timeout=GRACE_S)
        for lane in self._open():
            lane.give_up(f"it had not answered {GRACE_S} s after the others")

    async def _clean_up(self) -> None:
        left = self._open()
        for lane in left:
            lane.give_up("the source of the blob broke off")
        if left:
            with anyio.CancelScope(shield=True):
                await asyncio.wait([lane.task for lane in left], timeout=ABORT_S)
