"""The archive when the process or the power goes, at every file operation of a log's growth.

Whatever happens, a visible checkpoint is followed by a clean fsck, is no older than the last one acknowledged, and the
log can be grown on from it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from outlast.core.errors import Corrupt, Refused, Unavailable
from outlast.core.log.archive import TileArchive
from outlast.core.log.files import DiskFiles, Files
from outlast.core.log.fsck import verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import EMPTY_ROOT

Entries = Callable[[int, int], list[bytes]]
Publish = Callable[[TileArchive, int], bytes]

SIZES = (3, 200, 256, 530, 531)
"""Published sizes: within a tile, filling one exactly, over several, by one."""

FINAL_SIZE = 700


class PowerCutError(BaseException):
    """The machine stops here. Not an Exception: nothing may catch it and go on."""


class FailingFiles(DiskFiles):
    """Real files that stop at mutation number ``at``, before it or after it."""

    def __init__(self, at: int | None = None, after: bool = False) -> None:
        self.at = at
        self.after = after
        self.count = 0

    def _step(self, act: Callable[[], None]) -> None:
        here = self.count == self.at
        self.count += 1
        if here and not self.after:
            raise PowerCutError
        act()
        if here:
            raise PowerCutError

    def make_directory(self, path: Path) -> None:
        self._step(lambda: super(FailingFiles, self).make_directory(path))

    def write(self, path: Path, data: bytes) -> None:
        if self.count == self.at and self.after:
            data = data[: len(data) // 2]  # a kill in the middle of writing
        self._step(lambda: super(FailingFiles, self).write(path, data))

    def sync(self, path: Path) -> None:
        self._step(lambda: super(FailingFiles, self).sync(path))

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: super(FailingFiles, self).rename(source, target))

    def remove_tree(self, path: Path) -> None:
        self._step(lambda: super(FailingFiles, self).remove_tree(path))


class _Content:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.synced = b""


class VolatileFiles:
    """Files in memory that know what a power loss may take: unsynced contents and unsynced names.

    Stops at mutation number ``at``. ``power_loss`` gives what is on the disk afterwards: for each name and each
    content that was not synced, ``keep()`` says whether it happened to be written all the same.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.names: dict[Path, _Content | None] = {Path("/"): None, Path("/disk"): None}
        self.durable = dict(self.names)

    def _step(self) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            raise PowerCutError

    def make_directory(self, path: Path) -> None:
        self._step()
        for one in (*reversed(path.parents), path):
            self.names.setdefault(one, None)

    def write(self, path: Path, data: bytes) -> None:
        self._step()
        content = self.names.setdefault(path, _Content(b""))
        assert content is not None
        content.data = data

    def sync(self, path: Path) -> None:
        self._step()
        content = self.names[path]
        if content is not None:
            content.synced = content.data
            return
        for name in {**self.durable, **self.names}:
            if name.parent == path and name != path:
                if name in self.names:
                    self.durable[name] = self.names[name]
                else:
                    del self.durable[name]

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        assert target.parent in self.names
        self.names[target] = self.names.pop(source)

    def remove_tree(self, path: Path) -> None:
        self._step()
        for name in [one for one in self.names if one.is_relative_to(path)]:
            del self.names[name]

    def read(self, path: Path, limit: int) -> bytes | None:
        content = self.names.get(path)
        return None if content is None else content.data[:limit]

    def power_loss(self, keep: Callable[[], bool]) -> VolatileFiles:
        survivors = VolatileFiles()
        for name in sorted({**self.durable, **self.names}):
            before, now = name in self.durable, name in self.names
            if name.parent not in survivors.names:
                continue
            if before != now and not keep():
                continue
            which = self.names if now and (not before or keep()) else self.durable
            content = which.get(name)
            if content is not None:
                kept = content.data if content.synced == content.data or keep() else content.synced
                content = _Content(kept)
                content.synced = kept
            survivors.names[name] = survivors.durable[name] = content
        return survivors


def losing_all() -> bool:
    """Nothing unsynced was written."""
    return False


def keeping_all() -> bool:
    """Everything happened to be written."""
    return True


def losing_some(seed: int) -> Callable[[], bool]:
    """Some of it was written."""
    numbers = count()
    return lambda: sha256(b"%d/%d" % (seed, next(numbers))).digest()[0] < 128


def run(archive: TileArchive, publish: Publish) -> int:
    """Publish SIZES until the files stop; returns the last size acknowledged."""
    done = 0
    try:
        for size in SIZES:
            publish(archive, size)
            done = size
    except PowerCutError:
        pass
    return done


def check_and_go_on(
    files: Files, directory: Path, done: int, key: LogKey, publish: Publish
) -> None:
    """What must hold after a restart on these files."""
    archive = TileArchive(directory, files)
    if archive.read_checkpoint() is not None:
        report = verify_log(archive, key.verifiers)
        assert report.ok, report.findings
    assert archive.size >= done
    publish(archive, FINAL_SIZE)
    report = verify_log(archive, key.verifiers)
    assert report.ok, report.findings
    assert report.size == FINAL_SIZE
    assert [*archive.entries(0, 5)]


def steps(publish: Publish) -> int:
    """How many file operations the whole run has."""
    files = VolatileFiles()
    run(TileArchive(Path("/disk/log"), files), publish)
    return files.count


@pytest.mark.parametrize("keep", ["none", "all", "some"])
def test_power_loss_at_every_operation(keep: str, key: LogKey, publish: Publish) -> None:
    """After a power loss that takes none, all or some of what was not synced, the log is whole and goes on."""
    for at in range(steps(publish)):
        files = VolatileFiles(at)
        done = run(TileArchive(Path("/disk/log"), files), publish)
        choose = {"none": losing_all, "all": keeping_all, "some": losing_some(at)}[keep]
        survivors = files.power_loss(choose)
        check_and_go_on(survivors, Path("/disk/log"), done, key, publish)


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_kill_at_every_operation_on_a_real_disk(
    after: bool, tmp_path: Path, key: LogKey, publish: Publish
) -> None:
    """A process killed before or in the middle of any file operation leaves a log that can be read and grown."""
    counter = FailingFiles()
    run(TileArchive(tmp_path / "count", counter), publish)
    for at in range(counter.count):
        directory = tmp_path / str(at)
        done = run(TileArchive(directory, FailingFiles(at, after)), publish)
        check_and_go_on(DiskFiles(), directory, done, key, publish)


def test_a_checkpoint_without_its_syncs_would_be_caught(key: LogKey, publish: Publish) -> None:
    """The power-loss files do lose things: without syncs a published log does not survive."""

    class Unsynced(VolatileFiles):
        def sync(self, path: Path) -> None:
            if path.name == "checkpoint" or path == Path("/disk/log"):
                super().sync(path)

    files = Unsynced()
    files.make_directory(Path("/disk/log"))
    files.durable[Path("/disk/log")] = None
    publish(TileArchive(Path("/disk/log"), files), 300)
    survivor = TileArchive(Path("/disk/log"), files.power_loss(losing_all))
    assert survivor.size == 300
    assert not verify_log(survivor, key.verifiers).ok


class SickFiles(DiskFiles):
    """Real files on which one kind of operation fails as an operating system would let it."""

    def __init__(self, operation: str, error: Exception) -> None:
        self.operation = operation
        self.error = error

    def write(self, path: Path, data: bytes) -> None:
        if self.operation == "write":
            super().write(path, data[:1])
            raise self.error
        super().write(path, data)

    def sync(self, path: Path) -> None:
        if self.operation == "sync":
            raise self.error
        super().sync(path)


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_the_same_archive_goes_on_after_an_error(
    operation: str, tmp_path: Path, key: LogKey, entries: Entries, publish: Publish
) -> None:
    """A full disk fails the growth and changes nothing; once there is room the same object goes on."""
    files = SickFiles("", Unavailable("archive-io", "no space left"))
    archive = TileArchive(tmp_path, files)
    publish(archive, 300)
    files.operation = operation
    with pytest.raises(Unavailable):
        archive.grow(300, entries(300, 600))
    assert archive.size == 300
    assert verify_log(tmp_path, key.verifiers).ok
    files.operation = ""
    publish(archive, 600)
    assert verify_log(tmp_path, key.verifiers).ok


def test_system_errors_become_ours(tmp_path: Path) -> None:
    """An operating system error is Unavailable, a failed sync Corrupt: after that nobody knows the disk."""
    files = DiskFiles()
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(Unavailable) as caught:
        files.write(tmp_path / "file" / "below", b"")
    assert caught.value.code == "archive-io"
    with pytest.raises(Unavailable):
        files.rename(tmp_path / "missing", tmp_path / "there")
    with pytest.raises(Unavailable):
        files.make_directory(tmp_path / "file" / "below")
    with pytest.raises(Unavailable):
        files.read(tmp_path, 1)
    with pytest.raises(Corrupt) as failed:
        files.sync(tmp_path / "missing")
    assert failed.value.code == "archive-sync"
    files.remove_tree(tmp_path / "missing")


def test_nothing_is_written_by_reading(tmp_path: Path, key: LogKey) -> None:
    """Looking at a directory that holds no log reports that, and makes nothing."""
    report = verify_log(tmp_path / "none", key.verifiers)
    assert not report.ok
    assert report.findings[0].code == "checkpoint-missing"
    assert report.root == EMPTY_ROOT
    archive = TileArchive(tmp_path / "none")
    assert (archive.size, archive.read_checkpoint()) == (0, None)
    with pytest.raises(Refused):
        archive.entries(0, 1)
    assert not list(tmp_path.iterdir())
