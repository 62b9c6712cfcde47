"""Large documents that must be in memory whole: a few at a time, however many jobs there are."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from outlast.core.blobref import BlobRef
from outlast.signing.api import PlaceAsk
from outlast.signing.source import IN_MEMORY_BYTES
from outlast.testing.desk import Desk
from outlast.testing.pdfs import build_pdf, page_objects

pytestmark = pytest.mark.anyio


def large_pdf() -> bytes:
    """A PDF that is not held in memory by itself."""
    padding = b"<< /Length %d >>\nstream\n%s\nendstream" % (
        IN_MEMORY_BYTES + 1,
        b"x" * (IN_MEMORY_BYTES + 1),
    )
    objects = page_objects()
    objects[max(objects) + 1] = padding
    return build_pdf(objects)


class Turns:
    """Counts who holds a turn, and notes large reads made without one."""

    def __init__(self, desk: Desk) -> None:
        self.holders = 0
        self.most = 0
        self.unbidden: list[int] = []
        self._semaphore = asyncio.Semaphore(1)
        self._read = desk.bodies.read

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        async with self._semaphore:
            self.holders += 1
            self.most = max(self.most, self.holders)
            try:
                yield
            finally:
                self.holders -= 1

    async def read(self, tenant: str, ref: BlobRef, *, max_bytes: int = 1 << 30) -> bytes:
        if ref.size > IN_MEMORY_BYTES and not self.holders:
            self.unbidden.append(ref.size)
        return await self._read(tenant, ref, max_bytes=max_bytes)


@pytest.mark.parametrize("wish", [{}, {"level": "B-T", "owe_timestamp": True}])
async def test_whole_large_documents_take_turns(tmp_path: Path, wish: dict[str, object]) -> None:
    """64 jobs that each read 60 MiB at once would end the process, and find it so again after every restart."""
    desk = Desk(tmp_path, **wish)
    await desk.enrol()
    turns = Turns(desk)
    object.__setattr__(desk.world, "large", turns.turn)
    desk.bodies.read = turns.read  # type: ignore[method-assign]  # watched
    for authority in desk.authorities.values():
        authority.down = True
    places = (PlaceAsk(), PlaceAsk(field="Second"))
    documents = [await desk.upload(large_pdf()) for _ in range(3)]
    asked = [await desk.ask(document, signatures=places) for document in documents]
    for i in range(60):
        rows = await desk.claim()
        await asyncio.gather(*(desk.run(row) for row in rows))
        desk.clock.advance(1_000)
        for authority in desk.authorities.values():
            authority.down = i < 20
    for request_id in asked:
        assert (await desk.request(request_id)).label == "completed"
    assert turns.unbidden == []
    assert turns.most == 1
