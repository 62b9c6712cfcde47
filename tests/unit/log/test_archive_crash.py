"""The archive when the process or the power goes, at every file operation of a log's growth.

Whatever happens, a visible checkpoint is followed by a clean fsck, is no older than the last one acknowledged, and the
log can be grown on from it. The disk is `outlast.testing.powerloss`'s: of what was not synced, contents and names, any
subset survives, in any order, torn at any sector. `make powerloss` looks at more subsets (POWERLOSS_SAMPLES) and at
larger ones exhaustively (POWERLOSS_BITS).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from outlast.core.errors import Corrupt, OutlastError, Refused, Unavailable
from outlast.core.log import archive as archive_module
from outlast.core.log.archive import TileArchive
from outlast.core.log.files import DiskFiles, Files
from outlast.core.log.fsck import verify_log
from outlast.core.log.logkey import LogKey
from outlast.core.log.merkle import EMPTY_ROOT
from outlast.testing.powerloss import (
    Cut,
    Fault,
    MemoryFiles,
    PowerCutError,
    Recorder,
    Step,
    cuts,
    noted,
)

Entries = Callable[[int, int], list[bytes]]
Publish = Callable[[TileArchive, int], bytes]

SIZES = (3, 200, 256, 530, 531)
"""Published sizes: within a tile, filling one exactly, over several, by one."""
FINAL_SIZE = 700
DISK = Path("/disk")
LOG = DISK / "log"
SAMPLES = int(os.environ.get("POWERLOSS_SAMPLES", "1"))
BITS = int(os.environ.get("POWERLOSS_BITS", "7"))
SEED = int(os.environ.get("POWERLOSS_SEED", "4"))


def grow(files: MemoryFiles, publish: Publish, sizes: Sequence[int] = SIZES) -> list[Step]:
    """Publish these sizes, each acknowledged with a note; the steps."""
    archive = TileArchive(LOG, files)
    for size in sizes:
        publish(archive, size)
        files.recorder.note(str(size))
    return files.recorder.steps


def fault_after(cut: Cut, steps: Sequence[Step], key: LogKey, publish: Publish) -> str:
    """What is wrong after a cut; nothing, and the log has been grown to FINAL_SIZE."""
    files = MemoryFiles(DISK, cut.tree)
    done = max([int(size) for size in noted(steps, cut.point)], default=0)
    try:
        check_and_go_on(files, LOG, done, key, publish)
    except (AssertionError, OutlastError) as error:
        return f"after {cut.point} steps: {error}"
    return ""


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


def faults(
    steps: Sequence[Step], key: LogKey, publish: Publish, samples: int = SAMPLES, bits: int = 4
) -> Iterator[str]:
    """What is wrong, cut by cut."""
    for cut in cuts(steps, samples, SEED, exhaustive_bits=bits):
        if wrong := fault_after(cut, steps, key, publish):
            yield wrong


@pytest.mark.slow
def test_power_cut_at_every_step(key: LogKey, publish: Publish) -> None:
    """Writes, names and syncs of a log's growth, cut anywhere, unsynced ones reordered and torn: the log is whole."""
    steps = grow(MemoryFiles(DISK), publish)
    assert [*faults(steps, key, publish)] == []


@pytest.mark.slow
def test_every_subset_of_what_was_not_synced(key: LogKey, publish: Publish) -> None:
    """The first two checkpoints, and one that fills a tile: not drawn subsets but all of them, to 2^BITS a point."""
    for sizes in ((1, 2), (255, 256)):
        steps = grow(MemoryFiles(DISK), publish, sizes)
        assert [*faults(steps, key, publish, samples=0, bits=BITS)] == []


def of_tiles(name: str) -> bool:
    """A tile's content is synced under its staging name, a number."""
    return name.startswith("log/.staging/") and name[-1].isdigit()


FORGOTTEN: dict[str, Callable[[Step], bool]] = {
    "a tile's content": lambda step: step.kind == "sync" and of_tiles(step.name),
    "the checkpoint's content": lambda step: (
        (step.kind, step.name) == ("sync", "log/.staging/checkpoint")
    ),
    "a tile's name": lambda step: (
        step.kind == "sync-directory" and step.name.startswith("log/tile/0/")
    ),
    "a new directory's name": lambda step: (step.kind, step.name) == ("sync-directory", "log/tile"),
    "the checkpoint's name": lambda step: (step.kind, step.name) == ("sync-directory", "log"),
    "the log's own name": lambda step: (step.kind, step.name) == ("sync-directory", "."),
}


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_forgotten_sync_is_found(what: str, key: LogKey, publish: Publish) -> None:
    """Planted: one sync of each kind is left out."""
    steps = grow(MemoryFiles(DISK, recorder=Recorder(deaf=FORGOTTEN[what])), publish)
    assert next(faults(steps, key, publish, samples=4), None)


class NamesFirst(MemoryFiles):
    """Planted: a file gets its final name before its content is synced."""

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        """Written, named, and then synced."""
        for staged, target, data in files:
            self._write(self._name(staged), data)
            self.rename(staged, target)
            self._sync(Step("sync", self._name(target)))


def test_a_name_before_its_content_is_found(key: LogKey, publish: Publish) -> None:
    """Planted: rename, then sync."""
    steps = grow(NamesFirst(DISK), publish)
    assert next(faults(steps, key, publish, samples=4), None)


def test_a_checkpoint_before_its_tiles_is_found(
    key: LogKey, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: the checkpoint is put in place before the tiles' names are synced."""
    writing = archive_module._Writing
    make_durable, replace = writing.make_names_durable, writing.replace_checkpoint

    def too_early(self: archive_module._Writing, checkpoint: bytes) -> None:
        replace(self, checkpoint)
        make_durable(self)

    with monkeypatch.context() as planted:
        planted.setattr(writing, "make_names_durable", lambda self: None)
        planted.setattr(writing, "replace_checkpoint", too_early)
        steps = grow(MemoryFiles(DISK), publish)
    assert next(faults(steps, key, publish, samples=4), None)


def test_an_announcement_before_the_sync_is_found(key: LogKey, publish: Publish) -> None:
    """Planted: the size is noted when the publication begins."""
    files = MemoryFiles(DISK)
    archive = TileArchive(LOG, files)
    for size in SIZES:
        files.recorder.note(str(size))
        publish(archive, size)
    assert next(faults(files.recorder.steps, key, publish, samples=0), None)


def count_steps(publish: Publish, hits: str) -> int:
    """How many writes or syncs the whole run has."""
    files = MemoryFiles(DISK)
    grow(files, publish)
    return files.recorder.count("write" if hits == "write" else "sync")


@pytest.mark.slow
@pytest.mark.parametrize("hits", ["write", "sync"])
def test_a_disk_that_says_no(hits: str, key: LogKey, publish: Publish) -> None:
    """Each write or sync fails once, a write half done: after another try the log is whole, also after a cut."""
    for at in range(count_steps(publish, hits)):
        fault = Fault(at, "write" if hits == "write" else "sync", half=True)
        files = MemoryFiles(DISK, recorder=Recorder(fault))
        archive = TileArchive(LOG, files)
        for size in SIZES:
            try:
                publish(archive, size)
            except Unavailable:  # a full disk: the same archive tries again
                publish(archive, size)
            except Corrupt:  # a failed sync: another process does
                archive = TileArchive(LOG, files)
                publish(archive, size)
            files.recorder.note(str(size))
        steps = files.recorder.steps
        last = {len(steps), len(steps) * 2 // 3}
        for cut in cuts(steps, 1, SEED, last.__contains__):
            assert not fault_after(cut, steps, key, publish)


class FailingFiles(DiskFiles):
    """Real files that stop at mutation number ``at``, before it or in the middle of it."""

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

    def write_durably(self, files: Sequence[tuple[Path, bytes]]) -> None:
        if self.count == self.at and self.after:  # a kill in the middle of writing
            files = [(path, data[: len(data) // 2]) for path, data in files[: len(files) // 2 + 1]]
        self._step(lambda: super(FailingFiles, self).write_durably(files))

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        if self.count == self.at and self.after:  # some have their names, one is cut
            *whole, (staged, _, data) = files[: len(files) // 2 + 1]
            super().install(whole)
            staged.write_bytes(data[: len(data) // 2])
            raise PowerCutError
        self._step(lambda: super(FailingFiles, self).install(files))

    def rename(self, source: Path, target: Path) -> None:
        self._step(lambda: super(FailingFiles, self).rename(source, target))

    def sync_directories(self, paths: Sequence[Path]) -> None:
        self._step(lambda: super(FailingFiles, self).sync_directories(paths))

    def remove_tree(self, path: Path) -> None:
        self._step(lambda: super(FailingFiles, self).remove_tree(path))


def killed_run(archive: TileArchive, publish: Publish) -> int:
    """Publish SIZES until the files stop; returns the last size acknowledged."""
    done = 0
    try:
        for size in SIZES:
            publish(archive, size)
            done = size
    except PowerCutError:
        pass
    return done


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
def test_kill_at_every_operation_on_a_real_disk(
    after: bool, tmp_path: Path, key: LogKey, publish: Publish
) -> None:
    """A process killed before or in the middle of any file operation leaves a log that can be read and grown."""
    counter = FailingFiles()
    killed_run(TileArchive(tmp_path / "count", counter), publish)
    for at in range(counter.count):
        directory = tmp_path / str(at)
        done = killed_run(TileArchive(directory, FailingFiles(at, after)), publish)
        check_and_go_on(DiskFiles(), directory, done, key, publish)


class SickFiles(DiskFiles):
    """Real files on which one kind of operation fails as an operating system would let it."""

    def __init__(self, operation: str, error: Exception) -> None:
        self.operation = operation
        self.error = error

    def write_durably(self, files: Sequence[tuple[Path, bytes]]) -> None:
        if self.operation == "write":
            super().write_durably([(path, data[:1]) for path, data in files[:1]])
            raise self.error
        super().write_durably(files)

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        if self.operation == "write":
            super().install(files[:1])
            raise self.error
        super().install(files)

    def sync_directories(self, paths: Sequence[Path]) -> None:
        if self.operation == "sync":
            raise self.error
        super().sync_directories(paths)


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
        publish(archive, 600)
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
        files.write_durably([(tmp_path / "file" / "below", b"")])
    assert caught.value.code == "archive-io"
    with pytest.raises(Unavailable):
        files.rename(tmp_path / "missing", tmp_path / "there")
    with pytest.raises(Unavailable):
        files.make_directory(tmp_path / "file" / "below")
    with pytest.raises(Unavailable):
        files.read(tmp_path, 1)
    with pytest.raises(Corrupt) as failed:
        files.write_durably([(Path("/dev/null"), b""), (tmp_path / "file" / "below", b"")])
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
