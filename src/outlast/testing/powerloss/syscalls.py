"""The way to the recorder of code that calls the system itself: a stand-in for its module ``os``."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

from outlast.testing.powerloss.steps import Recorder, Step


class RecordingOs:
    """What ``os`` is, but that files below ``folder`` are recorded. Put it in the place of ``os`` in one module.

    ``opened`` must be told of descriptors that came about elsewhere (``tempfile.mkstemp``).
    """

    def __init__(self, folder: pathlib.Path, recorder: Recorder) -> None:
        self._folder = folder
        self._recorder = recorder
        self._files: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _name(self, path: str | os.PathLike[str]) -> str:
        return pathlib.Path(path).relative_to(self._folder).as_posix()

    def opened(self, descriptor: int, path: str | os.PathLike[str]) -> None:
        """A new file is open."""
        self._files[descriptor] = self._name(path)
        self._recorder.add(Step("write", self._name(path)))  # of no bytes: it makes the name

    def open(self, path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        """See os.open; only directories are opened so."""
        descriptor = os.open(path, flags, mode)
        self._files[descriptor] = self._name(path)
        return descriptor

    def write(self, descriptor: int, data: Any) -> int:
        """See os.write."""
        fault = self._recorder.failure("write")
        if fault is not None:
            raise OSError(fault.number, os.strerror(fault.number))
        offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        done = os.write(descriptor, data)
        step = Step("write", self._files[descriptor], offset, bytes(data[:done]))
        self._recorder.add(step)
        return done

    def fsync(self, descriptor: int) -> None:
        """See os.fsync."""
        self._sync(descriptor, os.fsync)

    def fdatasync(self, descriptor: int) -> None:
        """See os.fdatasync."""
        self._sync(descriptor, os.fdatasync)

    def _sync(self, descriptor: int, really: Callable[[int], None]) -> None:
        name = self._files[descriptor]
        is_directory = os.path.isdir(f"/proc/self/fd/{descriptor}")
        fault = self._recorder.failure("sync")
        if fault is not None:
            if not is_directory:
                self._recorder.add(Step("failed-sync", name))
            raise OSError(fault.number, os.strerror(fault.number))
        really(descriptor)
        self._recorder.add(Step("sync-directory" if is_directory else "sync", name))

    def makedirs(
        self, path: str | os.PathLike[str], mode: int = 0o777, exist_ok: bool = False
    ) -> None:
        """See os.makedirs."""
        whole = pathlib.Path(path)
        missing = [one for one in (whole, *whole.parents) if not one.exists()]
        os.makedirs(path, mode, exist_ok=exist_ok)
        for one in reversed(missing):
            self._recorder.add(Step("make", self._name(one)))

    def unlink(self, path: str | os.PathLike[str]) -> None:
        """See os.unlink."""
        os.unlink(path)
        self._recorder.add(Step("remove", self._name(path)))

    def rmdir(self, path: str | os.PathLike[str]) -> None:
        """See os.rmdir."""
        os.rmdir(path)
        self._recorder.add(Step("remove", self._name(path)))

    def link(self, source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
        """See os.link."""
        os.link(source, target)
        self._recorder.add(Step("link", self._name(source), target=self._name(target)))

    def close(self, descriptor: int) -> None:
        """See os.close."""
        self._files.pop(descriptor, None)
        os.close(descriptor)
