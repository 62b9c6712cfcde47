"""Puts that are cancelled by asyncio itself, while the write they wait for is under way."""

from __future__ import annotations

import asyncio
import pathlib
import threading

import pytest

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.adapters.blob.filesystem.disk import Room
from outlast.testing.desk import chunks

pytestmark = pytest.mark.anyio


async def test_a_cancelled_put_does_not_poison_those_after_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`task.cancel()` ends the wait, not the thread: the next transaction must not begin inside that one."""
    blobs = FilesystemBlobs(tmp_path / "blobs")
    inside, leave = threading.Event(), threading.Event()
    real = Room.require

    def slow(self: Room, size: int) -> None:
        inside.set()
        assert leave.wait(10)
        real(self, size)

    monkeypatch.setattr(Room, "require", slow)
    try:
        first = asyncio.create_task(blobs.put("first", chunks(b"1")))
        await asyncio.to_thread(inside.wait, 10)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(blobs.put("second", chunks(b"2")))
        await asyncio.sleep(0.05)
        leave.set()
        assert await second == 1
        assert await blobs.put("third", chunks(b"3")) == 1
        assert b"".join([piece async for piece in blobs.get("second")]) == b"2"
    finally:
        leave.set()
        blobs.close()
