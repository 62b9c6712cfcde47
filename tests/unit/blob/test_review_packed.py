"""Puts that are cancelled by asyncio itself, while the write they wait for is under way."""

from __future__ import annotations

import asyncio
import os
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


async def test_a_cancelled_large_put_closes_its_file_after_its_last_write(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A descriptor closed under a thread that goes on writing to it may be somebody else's file by then."""
    blobs = FilesystemBlobs(tmp_path / "blobs")
    inside, leave = threading.Event(), threading.Event()
    order: list[str] = []
    write, close = os.write, os.close

    def slow_write(descriptor: int, data: memoryview) -> int:
        inside.set()
        assert leave.wait(10)
        order.append("write")
        return write(descriptor, data)

    def noted_close(descriptor: int) -> None:
        order.append("close")
        close(descriptor)

    monkeypatch.setattr(os, "write", slow_write)
    try:
        putting = asyncio.create_task(blobs.put("large", chunks(bytes(2_000_000))))
        await asyncio.to_thread(inside.wait, 10)
        monkeypatch.setattr(os, "close", noted_close)
        putting.cancel()
        await asyncio.sleep(0.1)
        assert order == []
        leave.set()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert order[:2] == ["write", "close"]
    finally:
        leave.set()
        monkeypatch.undo()
        blobs.close()
