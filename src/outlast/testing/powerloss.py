"""A disk that remembers what was really synced: SQLite runs on it, and afterwards the power is cut at any point.

`RecordingDisk` is an APSW VFS over the real one. It writes down every write, truncation, sync and deletion, in
order, with whatever the test notes in between (an acknowledgement). `materialise` then builds the files as they
would be found if the power had gone after the first ``point`` of these: what was synced is there; of what was not,
nothing, or any of it, torn at any sector, in any order of files.

What is assumed: a sync that returned is durable for that file, with its name; sectors of 512 bytes are written whole.
"""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Sequence
from typing import Any, Literal

import apsw
import msgspec

from outlast.core.ids import Random

SECTOR_BYTES = 512

Kind = Literal["write", "truncate", "sync", "delete", "note"]


class Step(msgspec.Struct, frozen=True):
    """One thing that happened. ``size`` is of a truncation; ``data`` of a write; a note's text is its ``name``."""

    kind: Kind
    name: str
    offset: int = 0
    data: bytes = b""


class RecordingDisk(apsw.VFS):
    """The default VFS of this process until `end`; remembers what happens below ``folder``."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.steps: list[Step] = []
        self._folder = str(folder)
        self._lock = threading.Lock()
        self.base = apsw.vfs_names()[0]
        super().__init__("outlast-recording", self.base, makedefault=True)

    def end(self) -> None:
        """Give the place of the default back; files already open go on."""
        self.unregister()

    def note(self, text: str) -> None:
        """Something the test wants to know the moment of."""
        self.add(Step("note", text))

    def add(self, step: Step) -> None:
        """Remember a step."""
        with self._lock:
            self.steps.append(step)

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not path.startswith(self._folder):
            return apsw.VFSFile(self.base, name, flags)
        return _RecordedFile(self, path, name, flags)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(name, sync_directory)
        self.add(Step("delete", pathlib.Path(name).name))


class _RecordedFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: RecordingDisk, path: str, name: Any, flags: Any) -> None:
        self._disk = disk
        self._name = pathlib.Path(path).name
        super().__init__(disk.base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        super().xWrite(data, offset)
        self._disk.add(Step("write", self._name, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        self._disk.add(Step("truncate", self._name, size))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        super().xSync(flags)
        self._disk.add(Step("sync", self._name))


def materialise(
    steps: Sequence[Step], point: int, folder: pathlib.Path, rng: Random | None = None
) -> None:
    """Make ``folder`` with the files after a power cut at ``point``. Without ``rng`` nothing that was not synced is there."""
    folder.mkdir()
    done = [step for step in steps[:point] if step.kind != "note"]
    for name in {step.name for step in done}:
        own = [step for step in done if step.name == name]
        content = _content(own, rng)
        if content is not None:
            (folder / name).write_bytes(content)


def noted(steps: Sequence[Step], point: int) -> list[str]:
    """What had been noted before ``point``."""
    return [step.name for step in steps[:point] if step.kind == "note"]


def _content(steps: Sequence[Step], rng: Random | None) -> bytes | None:
    last_sync = max((at for at, step in enumerate(steps) if step.kind == "sync"), default=-1)
    content: bytearray | None = None
    for at, step in enumerate(steps):
        if step.kind == "delete":
            content = None
        elif at < last_sync:
            content = _apply(content, step)
        elif rng is not None and rng.random() < 0.5:
            content = _apply(content, _torn(step, rng))
    return None if content is None else bytes(content)


def _apply(content: bytearray | None, step: Step) -> bytearray:
    content = bytearray() if content is None else content
    if step.kind == "truncate":
        del content[step.offset :]
    elif step.kind == "write":
        missing = step.offset - len(content)
        content.extend(bytes(max(0, missing)))
        content[step.offset : step.offset + len(step.data)] = step.data
    return content


def _torn(step: Step, rng: Random) -> Step:
    """A write of which only the first sectors arrived, or all."""
    if step.kind != "write" or rng.random() < 0.5:
        return step
    kept = rng.randrange(0, len(step.data) + 1, SECTOR_BYTES)
    return Step(step.kind, step.name, step.offset, step.data[:kept])
