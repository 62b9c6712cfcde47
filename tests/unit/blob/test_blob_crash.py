"""Blobs on a disk that loses what was not synced, tears writes, fills up and fails.

Puts and deletes of small (packed) and large blobs are recorded, SQLite's writes and our own in one record; then the
power is cut at each point. After an acknowledgement the blob is there whole, or gone if it was deleted; one that was
not acknowledged is there whole or not at all; the store works on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import pathlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import pytest

from outlast.adapters.blob import filesystem
from outlast.adapters.blob.filesystem import FilesystemBlobs, disk, files, packed
from outlast.core import durable
from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.testing.powerloss import (
    Cut,
    Fault,
    Recorder,
    RecordingOs,
    RecordingVfs,
    Step,
    VolatileDisk,
    cuts,
    noted,
    write_tree,
)

pytestmark = [
    pytest.mark.anyio,
    # APSW reports an error of a VFS here, too, where it cannot raise it: in the closing of a connection
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SAMPLES = int(os.environ.get("POWERLOSS_SAMPLES", "1"))
STRIDE = int(os.environ.get("POWERLOSS_STRIDE", "9"))
SEED = int(os.environ.get("POWERLOSS_SEED", "5"))
FOLDER = "site/blobs"
SMALL, LARGE = 900, 3_000
BODIES = {
    **{name: name.encode() * SMALL for name in ("a", "b", "c", "d")},
    **{name: name.encode() * LARGE for name in ("x", "y", "z")},
}


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of a few sectors, so that many disks can be looked at."""
    monkeypatch.setattr(filesystem, "SMALL_BYTES", 1_000)
    monkeypatch.setattr(filesystem, "WRITE_BYTES", 1_000)
    monkeypatch.setattr(files, "SYNC_BYTES", 2_000)
    monkeypatch.setattr(files, "FAN_OUT", 256)


class Drive:
    """The disk that a store works on, recorded."""

    def __init__(self, folder: pathlib.Path, recorder: Recorder) -> None:
        self.folder = folder
        self.recorder = recorder
        self._vfs = RecordingVfs(folder, recorder)
        self._patch = pytest.MonkeyPatch()
        system = RecordingOs(folder, recorder)

        class Temporary:
            """`tempfile`, recorded."""

            @staticmethod
            def mkstemp(dir: pathlib.Path) -> tuple[int, str]:
                descriptor, path = tempfile.mkstemp(dir=dir)
                system.opened(descriptor, path)
                return descriptor, path

        for module in (disk, durable, files):
            self._patch.setattr(module, "os", system)
        self._patch.setattr(files, "tempfile", Temporary)

    def open(self) -> FilesystemBlobs:
        """The store."""
        return FilesystemBlobs(self.folder / FOLDER, min_free_bytes=0)

    def end(self) -> None:
        """Nothing is recorded any more."""
        self._patch.undo()
        self._vfs.end()


async def body(name: str) -> AsyncIterator[bytes]:
    """A blob's bytes, in pieces."""
    for at in range(0, len(BODIES[name]), 700):
        yield BODIES[name][at : at + 700]


async def put(blobs: FilesystemBlobs, recorder: Recorder, name: str) -> None:
    """Put, and note the acknowledgement."""
    await blobs.put(name, body(name))
    recorder.note(f"put {name}")


async def delete(blobs: FilesystemBlobs, recorder: Recorder, name: str) -> None:
    """Delete; noted when it begins, since from then on either is right, and when it is done."""
    recorder.note(f"deleting {name}")
    await blobs.delete(name)
    recorder.note(f"deleted {name}")


WORK: Sequence[tuple[Callable[..., Any], str]] = (
    (put, "a"), (put, "x"), (put, "b"), (put, "x"), (delete, "a"), (put, "y"), (delete, "x"),
    (put, "c"), (put, "z"), (put, "d"),
)  # fmt: skip


async def record(
    folder: pathlib.Path, deaf: Callable[[Step], bool] = lambda _: False
) -> list[Step]:
    """Everything in WORK, two at once, with a restart in the middle."""
    recorder = Recorder(deaf=deaf)
    drive = Drive(folder, recorder)
    try:
        for half in (WORK[:6], WORK[6:]):
            blobs = drive.open()
            for first, second in zip(half[::2], half[1::2], strict=True):
                await asyncio.gather(*[act(blobs, recorder, name) for act, name in (first, second)])
            blobs.close()
        return recorder.steps
    finally:
        drive.end()


async def wrong_after(cut: Cut, promised: list[str], folder: pathlib.Path) -> list[str]:
    """What is wrong with the store that is left."""
    write_tree(cut.tree, folder)
    try:
        blobs = FilesystemBlobs(folder / FOLDER, min_free_bytes=0)
    except OutlastError as error:
        return [f"it does not open: {error}"]
    wrong = []
    try:
        for name, bytes_put in BODIES.items():
            found = await content(blobs, name)
            if found not in (None, bytes_put):
                wrong.append(f"{name} is there with other bytes")
            wanted = [text.split()[0] for text in promised if text.endswith(f" {name}")]
            if wanted and wanted[-1] != "deleting" and (found is None) != (wanted[-1] == "deleted"):
                wrong.append(f"{wanted[-1]} {name}, and it is {'not ' * (found is None)}there")
        await blobs.put("more", body("a"))
        await blobs.put("much-more", body("x"))
    except OutlastError as error:
        wrong.append(str(error))
    finally:
        blobs.close()
    return wrong


async def content(blobs: FilesystemBlobs, name: str) -> bytes | None:
    """A blob's bytes, or None."""
    try:
        return b"".join([piece async for piece in blobs.get(name)])
    except Refused:
        return None


async def damage(
    steps: list[Step],
    ruins: pathlib.Path,
    samples: int = SAMPLES,
    points: Callable[[int], bool] = lambda _: True,
    stop_at_first: bool = False,
) -> dict[int, list[str]]:
    """What is wrong, by the point of the cut."""
    wrong = {}
    for count, cut in enumerate(cuts(steps, samples, SEED, points, exhaustive_bits=3)):
        if found := await wrong_after(cut, noted(steps, cut.point), ruins / str(count)):
            wrong[cut.point] = found
            if stop_at_first:
                break
        shutil.rmtree(ruins / str(count))
    return wrong


def after_setup(steps: list[Step]) -> Callable[[int], bool]:
    """Points after the 256 directories were made, each; before, some."""
    start = next(at for at, step in enumerate(steps) if step.name.endswith("small.db"))
    return lambda point: point >= start or not point % 50


@pytest.mark.slow
async def test_power_cut_at_every_point(tmp_path: pathlib.Path, ruins: pathlib.Path) -> None:
    """An acknowledged blob is there whole, a deleted one gone; others are whole or absent; the store works on."""
    steps = await record(tmp_path / "disk")
    assert len(noted(steps, len(steps))) == len(WORK) + 2
    assert await damage(steps, ruins, points=after_setup(steps)) == {}


FORGOTTEN: dict[str, Callable[[Step], bool]] = {
    "the packed file's log": lambda step: (
        step.kind == "sync" and step.name.endswith("small.db-wal")
    ),
    "the packed file": lambda step: step.kind == "sync" and step.name.endswith("small.db"),
    "a large blob's content": lambda step: step.kind == "sync" and "/drafts/" in step.name,
    "a large blob's name": lambda step: step.kind == "sync-directory" and "/large/" in step.name,
    "the directories": lambda step: step.kind == "sync-directory" and step.name.endswith("/large"),
    "the folder's own name": lambda step: (step.kind, step.name) == ("sync-directory", "site"),
}


@pytest.mark.parametrize("what", FORGOTTEN)
async def test_a_forgotten_sync_is_found(
    what: str, tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Planted: one sync of each kind is left out."""
    steps = await record(tmp_path / "disk", FORGOTTEN[what])
    start = after_setup(steps)
    some = [point for point in range(len(steps) + 1) if start(point) and not point % 5]
    assert await damage(steps, ruins, 3, some.__contains__, stop_at_first=True)


async def test_a_name_before_its_content_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a large blob gets its name, and then its content is synced."""

    def name_first(self: files.Draft, name: str, sha256: str) -> int:
        target = self._files.path(name)
        files.os.link(self._path, target)
        durable.sync_directory(target.parent)
        files.os.fsync(self._descriptor)
        return self._size

    with monkeypatch.context() as planted:
        planted.setattr(files.Draft, "_publish", name_first)
        steps = await record_some(tmp_path / "disk", "y", "z")
    assert await damage(steps, ruins, 3, after_setup(steps), stop_at_first=True)


async def record_some(folder: pathlib.Path, *names: str) -> list[Step]:
    """Puts of these, one after the other."""
    recorder = Recorder()
    drive = Drive(folder, recorder)
    try:
        blobs = drive.open()
        for name in names:
            await put(blobs, recorder, name)
        blobs.close()
        return recorder.steps
    finally:
        drive.end()


async def test_an_answer_before_the_sync_is_found(
    tmp_path: pathlib.Path, ruins: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: whoever puts a small blob is answered when it is written, before the commit."""
    real = packed.PackedFile._add

    def too_early(self: packed.PackedFile, batch: list[Any]) -> None:
        real(self, batch)
        for entry in batch:
            drive.recorder.note(f"put {entry.name}")

    monkeypatch.setattr(packed.PackedFile, "_add", too_early)
    drive = Drive(tmp_path / "disk", Recorder())
    try:
        blobs = drive.open()
        await blobs.put("a", body("a"))
        blobs.close()
    finally:
        drive.end()
    monkeypatch.undo()
    steps = drive.recorder.steps
    assert await damage(steps, ruins, 0, after_setup(steps))


class Faulty:
    """A store on a disk with a fault; opened again after one that it does not get over."""

    def __init__(self, folder: pathlib.Path, fault: Fault) -> None:
        self.folder = folder
        self.recorder = Recorder(fault)
        self.refused = 0

    async def run(self) -> list[Step]:
        """Put everything, again and again where it fails, in as many processes as it takes."""
        left = ["a", "x", "b", "y", "c", "z", "d"]
        for life in range(4):
            folder = self.folder / str(life)
            seen = VolatileDisk()
            for step in self.recorder.steps:
                seen.do(step)
            write_tree(seen.live(), folder)
            self.recorder.go_on()
            drive = Drive(folder, self.recorder)
            try:
                await self._live(drive, left)
            except Unavailable:
                self.refused += 1
            finally:
                self.recorder.stop()
                drive.end()
        assert not left
        return self.recorder.steps

    async def _live(self, drive: Drive, left: list[str]) -> None:
        blobs = drive.open()
        try:
            while left:
                await put(blobs, self.recorder, left[0])
                left.pop(0)
        finally:
            self.recorder.stop()
            blobs.close()


def faults(folder: pathlib.Path, total: int, hits: str, number: int) -> Iterator[Faulty]:
    """A store for each write or sync that is to fail."""
    for at in range(number % STRIDE, total, STRIDE):
        kind = "write" if hits == "write" else "sync"
        yield Faulty(folder / f"{hits}-{number}-{at}", Fault(at, kind, number, half=True))  # type: ignore[arg-type]  # one of the two


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hits", "number"), [("write", errno.ENOSPC), ("write", errno.EIO), ("sync", errno.EIO)]
)
async def test_a_disk_that_says_no(
    hits: str, number: int, tmp_path: pathlib.Path, ruins: pathlib.Path
) -> None:
    """Each write or sync fails once: the put is refused, others are unharmed, and it works again, also after a cut."""
    whole = Faulty(tmp_path / "whole", Fault(1 << 30, "write"))
    await whole.run()
    total = whole.recorder.count("write" if hits == "write" else "sync")
    refused = 0
    for store in faults(tmp_path, total, hits, number):
        steps = await store.run()
        refused += store.refused
        points = {len(steps), len(steps) - len(steps) // 10}
        assert await damage(steps, ruins, 0, points.__contains__) == {}, store.folder
    assert refused
