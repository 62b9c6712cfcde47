"""The few file operations the tile archive is built from, so that tests can fail each of them.

Guarantees, of ``DiskFiles``: what ``sync`` returned for survives power loss; ``rename`` is atomic. An operating system
error becomes Unavailable ``archive-io``, but a failed ``sync`` is Corrupt ``archive-sync``: after it nobody knows
what the disk holds, so the process must end and start again from what is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from outlast.core.errors import Corrupt, Unavailable


class Files(Protocol):
    """What the archive does to a directory."""

    def make_directory(self, path: Path) -> None:
        """Make a directory and those above it, where missing."""
        ...

    def write(self, path: Path, data: bytes) -> None:
        """Write a file from its start; it need not be durable, nor whole after a crash."""
        ...

    def sync(self, path: Path) -> None:
        """Make a file's content, or a directory's names, durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name, replacing what had it."""
        ...

    def remove_tree(self, path: Path) -> None:
        """Remove a directory and everything in it; nothing happens where there is none."""
        ...

    def read(self, path: Path, limit: int) -> bytes | None:
        """A file's first ``limit`` bytes; None where there is none."""
        ...


class DiskFiles:
    """The operating system's files."""

    def make_directory(self, path: Path) -> None:
        """See Files."""
        with _translated(path):
            path.mkdir(parents=True, exist_ok=True)

    def write(self, path: Path, data: bytes) -> None:
        """See Files."""
        with _translated(path):
            path.write_bytes(data)

    def sync(self, path: Path) -> None:
        """See Files."""
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise Corrupt(
                "archive-sync",
                f"{path.name} could not be made durable: {error.strerror}",
                hint="Check the disk, then start the site again; the store has everything.",
            ) from error

    def rename(self, source: Path, target: Path) -> None:
        """See Files."""
        with _translated(target):
            source.replace(target)

    def remove_tree(self, path: Path) -> None:
        """See Files."""
        with _translated(path), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)

    def read(self, path: Path, limit: int) -> bytes | None:
        """See Files."""
        with _translated(path):
            try:
                with path.open("rb", buffering=0) as file:
                    return _read(file.fileno(), limit)
            except FileNotFoundError:
                return None


def _read(handle: int, limit: int) -> bytes:
    parts: list[bytes] = []
    while limit > 0 and (part := os.read(handle, limit)):
        parts.append(part)
        limit -= len(part)
    return b"".join(parts)


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(
            "archive-io",
            f"{path.name}: {error.strerror}",
            hint="Check the free space and rights of the log directory.",
            scope="log",
        ) from error
