"""The tile archive's way to the recorder: its `Files` in memory."""

from __future__ import annotations

from collections.abc import Sequence
from errno import ENOSPC
from pathlib import Path, PurePath

from outlast.core.errors import Corrupt, Unavailable
from outlast.testing.powerloss.disk import Tree
from outlast.testing.powerloss.steps import ROOT, Recorder, Step


class MemoryFiles:
    """`outlast.core.log.files.Files` below ``root``, beginning with ``tree``."""

    def __init__(
        self, root: Path, tree: Tree | None = None, recorder: Recorder | None = None
    ) -> None:
        self.tree: Tree = {ROOT: None, **(tree or {})}
        self.recorder = recorder or Recorder()
        self._root = root

    def path(self, name: PurePath) -> Path:
        """The path of a name."""
        return self._root / name

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def make_directory(self, path: Path) -> None:
        """See Files."""
        for one in (*reversed(path.parents), path):
            if one.is_relative_to(self._root) and self._name(one) not in self.tree:
                self.tree[self._name(one)] = None
                self.recorder.add(Step("make", self._name(one)))

    def write_durably(self, files: Sequence[tuple[Path, bytes]]) -> None:
        """See Files. All are written, then synced from the last to the first: they come to the disk in no order."""
        for path, data in files:
            self._write(self._name(path), data)
        for path, _ in reversed(files):
            self._sync(Step("sync", self._name(path)))

    def _write(self, name: str, data: bytes) -> None:
        fault = self.recorder.failure("write")
        if fault is not None:
            data = data[: len(data) // 2] if fault.half else b""
        if name in self.tree:
            self.recorder.add(Step("truncate", name))
        self.tree[name] = data
        self.recorder.add(Step("write", name, data=data))
        if fault is not None:
            raise Unavailable("archive-io", "full" if fault.number == ENOSPC else "failed")

    def _sync(self, step: Step) -> None:
        if self.recorder.failure("sync") is not None:
            if step.kind == "sync":
                self.recorder.add(Step("failed-sync", step.name))
            raise Corrupt("archive-sync", "could not be made durable")
        self.recorder.add(step)

    def rename(self, source: Path, target: Path) -> None:
        """See Files."""
        assert self._name(target.parent) in self.tree, f"no directory for {target}"
        self.tree[self._name(target)] = self.tree.pop(self._name(source))
        self.recorder.add(Step("rename", self._name(source), target=self._name(target)))

    def existing(self, paths: Sequence[Path]) -> list[Path]:
        """See Files."""
        return [path for path in paths if self._name(path) in self.tree]

    def install(self, files: Sequence[tuple[Path, Path, bytes]]) -> None:
        """See Files. All are written before the first is synced, and the last is synced and named first."""
        for staged, _, data in files:
            self._write(self._name(staged), data)
        for staged, target, _ in reversed(files):
            self._sync(Step("sync", self._name(staged)))
            self.rename(staged, target)

    def sync_directories(self, paths: Sequence[Path]) -> None:
        """See Files."""
        for path in paths:
            assert self._name(path) in self.tree, f"no directory {path}"
            self._sync(Step("sync-directory", self._name(path)))

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        name = self._name(path)
        gone = [one for one in self.tree if one == name or one.startswith(f"{name}/")]
        for one in sorted(gone, reverse=True):
            del self.tree[one]
            self.recorder.add(Step("remove", one))

    def read(self, path: Path, limit: int) -> bytes | None:
        """See Files."""
        content = self.tree.get(self._name(path))
        return None if content is None else content[:limit]
