"""SQLite's way to the recorder: a VFS over the real one."""

from __future__ import annotations

import errno
import pathlib
import posixpath
from typing import Any

import apsw

from outlast.testing.powerloss.steps import ROOT, Fault, Recorder, Step


class RecordingVfs(apsw.VFS):
    """The default VFS of this process until `end`; records what happens below ``folder``, which it makes."""

    def __init__(self, folder: pathlib.Path, recorder: Recorder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.recorder = recorder
        self._folder = folder
        self.base = apsw.vfs_names()[0]
        super().__init__("outlast-recording", self.base, makedefault=True)

    def end(self) -> None:
        """Give the place of the default back. Files already open go on, unrecorded: whose they were is gone."""
        self.recorder = Recorder()
        self.unregister()

    def name_of(self, path: str) -> str:
        """The name that steps have for a path."""
        return pathlib.Path(path).relative_to(self._folder).as_posix()

    def xOpen(self, name: Any, flags: Any) -> Any:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or not path.startswith(str(self._folder)):
            return apsw.VFSFile(self.base, name, flags)
        return _RecordedFile(self, self.name_of(path), name, flags)

    def xDelete(self, path: str, sync_directory: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(path, sync_directory)
        name = self.name_of(path)
        self.recorder.add(Step("remove", name))
        if sync_directory:
            self.recorder.add(Step("sync-directory", posixpath.dirname(name) or ROOT))


class _RecordedFile(apsw.VFSFile):
    """One open file."""

    def __init__(self, vfs: RecordingVfs, step_name: str, name: Any, flags: Any) -> None:
        self._vfs = vfs
        self._name = step_name
        wanted = flags[0] if isinstance(flags, list) else flags
        is_journal = wanted & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL)
        # SQLite's unix VFS makes the name of a journal durable with the first sync of its content (UNIXFILE_DIRSYNC)
        self._owes_name = bool(is_journal and wanted & apsw.SQLITE_OPEN_CREATE)
        super().__init__(vfs.base, name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        fault = self._vfs.recorder.failure("write")
        if fault is not None:
            data = data[: len(data) // 2] if fault.half else b""
        if data:
            super().xWrite(data, offset)
            self._vfs.recorder.add(Step("write", self._name, offset, bytes(data)))
        if fault is not None:
            raise _sqlite_error(fault)

    def xTruncate(self, size: int) -> None:  # noqa: N802 - SQLite's name
        super().xTruncate(size)
        self._vfs.recorder.add(Step("truncate", self._name, size))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        fault = self._vfs.recorder.failure("sync")
        if fault is not None:
            self._vfs.recorder.add(Step("failed-sync", self._name))
            raise _sqlite_error(fault)
        super().xSync(flags)
        self._vfs.recorder.add(Step("sync", self._name))
        if self._owes_name:
            self._owes_name = False
            self._vfs.recorder.add(Step("sync-directory", posixpath.dirname(self._name) or ROOT))


def _sqlite_error(fault: Fault) -> Exception:
    """What SQLite's unix VFS says of it."""
    if fault.hits == "sync":
        return apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
    full = fault.number == errno.ENOSPC
    return apsw.exception_for(apsw.SQLITE_FULL if full else apsw.SQLITE_IOERR_WRITE)
