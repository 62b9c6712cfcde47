"""Large blobs, one file each. Blocking: runs in threads.

The life of a large blob, and what is true if the power goes right after each step:

1. a draft is written under a random name, synced every SYNC_BYTES: a leftover, removed at the next start
2. the draft is synced: still a leftover
3. it is linked under its name (a link never replaces what is there, a rename would): the blob may be there or not;
   if it is, it is whole
4. its digest is written beside it, unsynced: a blob may be there without one, which then reads as "not known"
5. the directory is synced: the blob is there
6. the draft's name is removed
"""

from __future__ import annotations

import filecmp
import hashlib
import heapq
import os
import pathlib
import re
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

from outlast.adapters.blob.filesystem.disk import Room, failure
from outlast.core.blobref import StoredBlob
from outlast.core.durable import sync_directory
from outlast.core.errors import Corrupt, Refused

SYNC_BYTES = 8 * 1024 * 1024
"""A draft is synced each time this much is new, so that one upload never leaves the disk a minute of work."""

FAN_OUT = 256
"""Directories that large blobs are spread over."""

_BLOB, _DIGEST = ".blob", ".sha256"
_DIGEST_TEXT = re.compile(r"[0-9a-f]{64}")


class LargeFiles:
    """All large blobs below ``root``."""

    def __init__(self, root: pathlib.Path, room: Room) -> None:
        self._room = room
        self._drafts = root / "drafts"
        self._large = root / "large"
        for directory in (self._drafts, self._large):
            os.makedirs(directory, exist_ok=True)
        for number in range(FAN_OUT):
            os.makedirs(self._large / f"{number:02x}", exist_ok=True)
        sync_directory(self._large)
        for leftover in self._drafts.iterdir():
            os.unlink(leftover)

    def path(self, name: str) -> pathlib.Path:
        """Where the blob of that name is; the suffix keeps ``.`` and ``..`` harmless."""
        return self._large / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}{_BLOB}"

    def exists(self, name: str) -> bool:
        """Whether there is a large blob of that name."""
        return self.path(name).exists()

    def draft(self) -> Draft:
        """A new blob without a name yet; raises Unavailable."""
        self._room.require(SYNC_BYTES)
        try:
            descriptor, path = tempfile.mkstemp(dir=self._drafts)
        except OSError as error:
            raise failure(error) from error
        return Draft(self, self._room, descriptor, pathlib.Path(path))

    def open(self, name: str, offset: int = 0) -> Reader:
        """Start reading at ``offset``; raises Refused ``blob-not-found``."""
        try:
            file = self.path(name).open("rb", buffering=0)
            file.seek(offset)
            return Reader(file)
        except FileNotFoundError:
            raise _not_found(name) from None
        except OSError as error:
            raise _unreadable(error) from error

    def digest(self, name: str) -> str | None:
        """SHA-256 of what was put, if that is known; raises Refused ``blob-not-found``."""
        path = self.path(name)
        if not path.exists():
            raise _not_found(name)
        try:
            text = _digest_path(path).read_text("ascii", "replace")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error) from error
        return text if _DIGEST_TEXT.fullmatch(text) else None

    def page(self, after: str, limit: int) -> list[StoredBlob]:
        """The first ``limit`` names after ``after``, in order. Reads all directories: a page costs as much as
        there are files."""

        def names() -> Iterator[str]:
            for folder in self._large.iterdir():
                for entry in os.scandir(folder):
                    name = entry.name.removesuffix(_BLOB)
                    if name != entry.name and name > after:
                        yield name

        found = []
        for name in heapq.nsmallest(limit, names()):
            try:
                found.append(StoredBlob(name, self.size(name)))
            except Refused:  # deleted meanwhile
                continue
        return found

    def size(self, name: str) -> int:
        """Bytes; raises Refused ``blob-not-found``."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            raise _not_found(name) from None

    def delete(self, name: str) -> None:
        """Remove durably, if there."""
        path = self.path(name)
        try:
            _digest_path(path).unlink(missing_ok=True)
            os.unlink(path)
            sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise failure(error) from error


class Reader:
    """An open blob."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, limit: int) -> bytes:
        """The next bytes, empty at the end; raises Corrupt ``blob-unreadable``."""
        try:
            return self._file.read(limit)
        except OSError as error:
            raise _unreadable(error) from error

    def close(self) -> None:
        """Stop reading."""
        self._file.close()


class Draft:
    """A blob being written. ``discard`` must be called at the end, whatever happened; it waits for what is under way.

    A caller cancelled by asyncio leaves its thread behind: a descriptor closed under it could be another file's by
    the time it writes.
    """

    def __init__(self, files: LargeFiles, room: Room, descriptor: int, path: pathlib.Path) -> None:
        self._files = files
        self._room = room
        self._descriptor = descriptor
        self._path = path
        self._size = 0
        self._unsynced = 0
        self._in_use = threading.Lock()

    def write(self, data: bytes | bytearray) -> None:
        """Append; raises Unavailable."""
        with self._in_use:
            self._append(data)

    def _append(self, data: bytes | bytearray) -> None:
        if self._descriptor < 0:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
            self._unsynced += len(data)
            if self._unsynced >= SYNC_BYTES:
                self._room.require(SYNC_BYTES)
                os.fdatasync(self._descriptor)
                self._unsynced = 0
        except OSError as error:
            raise failure(error) from error
        finally:
            view.release()
        self._size += len(data)

    def publish(self, name: str, sha256: str) -> int:
        """Make it the blob of that name, durably; its size. Raises Refused ``blob-differs``, Unavailable."""
        with self._in_use:
            return self._publish(name, sha256)

    def _publish(self, name: str, sha256: str) -> int:
        if self._descriptor < 0:
            return 0
        target = self._files.path(name)
        try:
            os.fsync(self._descriptor)
            try:
                os.link(self._path, target)
            except FileExistsError:
                return self._same_as(target, name, sha256)
            try:
                _digest_path(target).write_text(sha256)
                sync_directory(target.parent)
            except OSError:
                os.unlink(target)  # the caller is told that it failed, so it must not be there
                _digest_path(target).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise failure(error) from error
        return self._size

    def discard(self) -> None:
        """Close and drop the draft's own name; the published blob stays."""
        with self._in_use:
            os.close(self._descriptor)
            self._descriptor = -1
        self._path.unlink(missing_ok=True)

    def _same_as(self, target: pathlib.Path, name: str, sha256: str) -> int:
        if not filecmp.cmp(self._path, target, shallow=False):
            raise Refused("blob-differs", f"blob {name} exists with other bytes")
        _digest_path(target).write_text(sha256)
        sync_directory(target.parent)  # the other writer may not have come that far yet
        return self._size


def _digest_path(blob: pathlib.Path) -> pathlib.Path:
    return blob.with_name(blob.name.removesuffix(_BLOB) + _DIGEST)


def _not_found(name: str) -> Refused:
    return Refused("blob-not-found", f"there is no blob {name}")


def _unreadable(error: OSError) -> Corrupt:
    return Corrupt(
        "blob-unreadable",
        f"a blob cannot be read: {error.strerror}",
        hint="See the system log for disk errors, and restore the blob from a copy.",
    )
