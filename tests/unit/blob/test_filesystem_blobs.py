"""The filesystem store when the disk fails, the process dies, or somebody else comes along."""

from __future__ import annotations

import errno
import os
import pathlib
import shutil
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import apsw
import pytest

from outlast.adapters.blob.filesystem import SMALL_BYTES, FilesystemBlobs, files
from outlast.core.blobs import Blobs
from outlast.core.clock import SystemClock
from outlast.core.envelope import Envelope, LocalRootKey, RootKeys
from outlast.core.errors import Refused, Unavailable
from outlast.core.ids import Ids
from outlast.testing.suites.blob import body, pieces, read

pytestmark = pytest.mark.anyio

LARGE = 3_000_000


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[FilesystemBlobs]:
    """An empty store in ``tmp_path``."""
    blobs = FilesystemBlobs(tmp_path, min_free_bytes=0)
    yield blobs
    blobs.close()


def drafts(root: pathlib.Path) -> list[pathlib.Path]:
    """Files that are being written."""
    return list((root / "drafts").iterdir())


def failing(code: int) -> Callable[..., int]:
    """A system call that fails with this errno."""

    def call(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    return call


@pytest.mark.parametrize("call", ["write", "fsync", "link", "fdatasync"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, "storage-full"),
        (errno.EDQUOT, "storage-full"),
        (errno.EIO, "storage-failed"),
    ],
    ids=["no space", "quota", "I/O error"],
)
async def test_a_failing_disk_leaves_nothing(
    store: FilesystemBlobs,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    expected: str,
) -> None:
    """Whichever system call of a large put fails: Unavailable, no blob, no draft; afterwards it works."""
    size = files.SYNC_BYTES + LARGE if call == "fdatasync" else LARGE
    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, failing(code))
        with pytest.raises(Unavailable) as caught:
            await store.put("big", pieces(body(size), 500_000))
    assert caught.value.code == expected
    assert drafts(tmp_path) == []
    with pytest.raises(Refused, match="no blob"):
        await store.size("big")
    assert await store.put("big", pieces(body(size), 500_000)) == size


async def test_a_failing_directory_sync_takes_the_name_back(
    store: FilesystemBlobs, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last sync fails the caller hears of failure, so the name must be free again."""
    with monkeypatch.context() as patch:
        patch.setattr(files, "sync_directory", failing(errno.EIO))
        with pytest.raises(Unavailable):
            await store.put("big", pieces(body(LARGE)))
    with pytest.raises(Refused, match="no blob"):
        await store.size("big")
    assert drafts(tmp_path) == []


async def test_a_full_database_rolls_back_and_recovers(tmp_path: pathlib.Path) -> None:
    """SQLite's own "disk full" is storage-full for the whole batch, leaves nothing, and heals with room."""
    store = FilesystemBlobs(tmp_path, min_free_bytes=0)
    await store.put("first", pieces(body(1000)))
    writer = store._small._writer
    pages = writer.execute("PRAGMA page_count").get
    writer.execute(f"PRAGMA max_page_count = {pages}")
    for name in ("a", "b"):
        with pytest.raises(Unavailable) as caught:
            await store.put(name, pieces(body(SMALL_BYTES)))
        assert caught.value.code == "storage-full"
    writer.execute("PRAGMA max_page_count = 100000")
    with pytest.raises(Refused, match="no blob"):
        await store.size("a")
    assert await store.put("a", pieces(body(SMALL_BYTES))) == SMALL_BYTES
    assert await read(store, "first") == body(1000)
    store.close()


async def test_after_a_failed_database_nothing_more_is_written(
    store: FilesystemBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an I/O error in the packed file every later put is Unavailable, because its state is not known."""

    def broken(batch: object) -> None:
        raise apsw.IOError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(store._small, "_add", broken)
        with pytest.raises(Unavailable) as caught:
            await store.put("a", pieces(b"x"))
        assert caught.value.code == "storage-failed"
    with pytest.raises(Unavailable):
        await store.put("b", pieces(b"x"))


async def test_reopening_finds_everything_and_removes_drafts(tmp_path: pathlib.Path) -> None:
    """A second start finds every blob and clears away what a crash left half written."""
    store = FilesystemBlobs(tmp_path, min_free_bytes=0)
    await store.put("small", pieces(body(10)))
    await store.put("large", pieces(body(LARGE)))
    store.close()
    (tmp_path / "drafts" / "tmpleft").write_bytes(b"half")
    again = FilesystemBlobs(tmp_path, min_free_bytes=0)
    assert drafts(tmp_path) == []
    assert await read(again, "small") == body(10)
    assert await read(again, "large") == body(LARGE)
    again.close()


async def test_cancelled_while_uploading_leaves_nothing(
    store: FilesystemBlobs, tmp_path: pathlib.Path
) -> None:
    """A caller that goes away in the middle of an upload leaves neither blob nor draft."""

    async def endless() -> AsyncIterator[bytes]:
        yield body(LARGE)
        await anyio.sleep_forever()

    with anyio.move_on_after(0.1):
        await store.put("big", endless())
    assert drafts(tmp_path) == []
    with pytest.raises(Refused, match="no blob"):
        await store.size("big")


async def test_cancelled_while_waiting_never_appears(store: FilesystemBlobs) -> None:
    """A small put cancelled before its turn is taken out of the queue."""
    async with anyio.create_task_group() as group, store._small._turn:
        group.start_soon(store.put, "late", pieces(b"x"))
        await anyio.sleep(0.05)
        group.cancel_scope.cancel()
    await store.put("other", pieces(b"y"))
    with pytest.raises(Refused, match="no blob"):
        await store.size("late")


HOLDER = """
import sys, time
from outlast.adapters.blob.filesystem import FilesystemBlobs
store = FilesystemBlobs(sys.argv[1])
print("open", flush=True)
time.sleep(60)
"""


def test_one_process_per_directory(tmp_path: pathlib.Path, process: Any) -> None:
    """A second process is refused while the first lives, and let in once it was killed."""
    root = tmp_path / "blobs"
    holder = process.start([sys.executable, "-c", HOLDER, root])
    deadline = time.monotonic() + 20
    while "open" not in process.log(holder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with pytest.raises(Refused) as caught:
        FilesystemBlobs(root)
    assert caught.value.code == "storage-in-use"
    process.kill(holder)
    FilesystemBlobs(root).close()


WRITER = """
import itertools, sys, anyio
from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.testing.suites.blob import body, pieces

async def main():
    store = FilesystemBlobs(sys.argv[1], min_free_bytes=0)
    numbers = itertools.count()

    async def write():
        for number in numbers:
            await store.put(f"n{number}", pieces(body(2000 if number % 4 else 300_000, number)))
            print(number, flush=True)

    async with anyio.create_task_group() as group:
        for _ in range(16):
            group.start_soon(write)

anyio.run(main)
"""


@pytest.mark.slow
async def test_every_put_that_returned_survives_a_kill(
    tmp_path: pathlib.Path, process: Any
) -> None:
    """SIGKILL while sixteen callers write: whatever was reported as stored is there and whole, nothing half."""
    root = tmp_path / "blobs"
    reported: set[int] = set()
    for _ in range(3):
        writer = process.start([sys.executable, "-c", WRITER, root])
        await anyio.sleep(1.5)
        process.kill(writer)
        reported = {int(line) for line in process.log(writer).split("\n")[:-1]}
        store = FilesystemBlobs(root, min_free_bytes=0)
        assert len(reported) > 20
        for number in reported:
            assert await read(store, f"n{number}") == body(2000 if number % 4 else 300_000, number)
        assert drafts(root) == []
        store.close()
        shutil.rmtree(root)


async def test_memory_does_not_grow_with_the_blob(tmp_path: pathlib.Path) -> None:
    """A body of 64 MiB goes in encrypted and comes out with a few MiB in memory."""
    store = FilesystemBlobs(tmp_path, min_free_bytes=0)
    envelope = Envelope(RootKeys(LocalRootKey("root-1", b"k" * 32)))
    blobs = Blobs(store, envelope, Ids(SystemClock()))
    block = body(1 << 20)

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield block

    tracemalloc.start()
    ref = await blobs.put("acme", upload())
    size = 0
    async for piece in blobs.stream("acme", ref):
        size += len(piece)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 64 << 20
    assert peak < 12 << 20
    store.close()


async def test_an_unusable_directory_is_unavailable(tmp_path: pathlib.Path) -> None:
    """A file in the way of the directory, or of the database, is a clear failure at start."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        FilesystemBlobs(tmp_path / "file")
    (tmp_path / "blobs" / "small.db").mkdir(parents=True)
    with pytest.raises(Unavailable):
        FilesystemBlobs(tmp_path / "blobs")
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "small.db").write_bytes(b"noise" * 1000)
    with pytest.raises(Unavailable):
        FilesystemBlobs(tmp_path / "noise")


async def test_deleted_bytes_leave_the_file(tmp_path: pathlib.Path) -> None:
    """A deleted small blob is not left readable in the database's free pages."""
    store = FilesystemBlobs(tmp_path, min_free_bytes=0)
    marker = b"do-not-keep-this" * 100
    await store.put("secret", pieces(marker))
    await store.delete("secret")
    store.close()  # the last connection folds the write-ahead log back
    assert b"do-not-keep-this" not in (tmp_path / "small.db").read_bytes()
    assert not (tmp_path / "small.db-wal").exists()


async def test_free_bytes_leaves_out_the_reserve(tmp_path: pathlib.Path) -> None:
    """The room reported is what puts may use."""
    plain = FilesystemBlobs(tmp_path, min_free_bytes=0)
    reserved = FilesystemBlobs(tmp_path, min_free_bytes=1 << 30)
    with_reserve, without = await reserved.free_bytes(), await plain.free_bytes()
    assert with_reserve is not None
    assert without is not None
    assert abs(without - with_reserve - (1 << 30)) < 1 << 28
    plain.close()
    reserved.close()
