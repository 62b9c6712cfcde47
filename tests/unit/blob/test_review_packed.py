"""Puts that are cancelled by asyncio itself, while the write they wait for is under way."""

from __future__ import annotations

import asyncio
import os
import pathlib
import threading

import apsw
import pytest

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.adapters.blob.filesystem.disk import Room
from outlast.adapters.blob.filesystem.packed import PackedFile
from outlast.core.errors import Unavailable
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


@pytest.mark.parametrize(("cause", "lasts"), [("write", False), ("fsync", True)])
async def test_a_disk_that_was_full_for_a_moment_is_written_to_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, cause: str, lasts: bool
) -> None:
    """SQLite says "disk I/O error" of some writes that found no room: only a failed sync is for ever."""
    blobs = FilesystemBlobs(tmp_path / "blobs", min_free_bytes=0)
    codes = {"write": apsw.SQLITE_IOERR_WRITE, "fsync": apsw.SQLITE_IOERR_FSYNC}
    error = apsw.exception_for(codes[cause])

    def fails(self: PackedFile, batch: object) -> None:
        raise error

    try:
        with monkeypatch.context() as full:
            full.setattr(PackedFile, "_add", fails)
            full.setattr(Room, "is_exhausted", lambda self: True)
            with pytest.raises(Unavailable):
                await blobs.put("first", chunks(b"1"))
        if lasts:
            with pytest.raises(Unavailable, match="storage-failed"):
                await blobs.put("second", chunks(b"2"))
        else:
            assert await blobs.put("second", chunks(b"2")) == 1
    finally:
        blobs.close()
