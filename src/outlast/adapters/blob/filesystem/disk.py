"""What files and packed blobs share: how much room there is, what an OSError means, whose directory it is."""

from __future__ import annotations

import errno
import fcntl
import os
import pathlib

from outlast.core.errors import OutlastError, Refused, Unavailable

FULL_RETRY_S = 30.0
"""Suggested wait after ``storage-full``: space comes back by people or by retention, not by itself."""

EXHAUSTED_BYTES = 256 * 1024
"""With less room than this, a failed write is taken for a full disk."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def storage_full() -> Unavailable:
    """The disk has no room for what was to be written; nothing was."""
    return Unavailable(
        "storage-full",
        "there is no room on the disk for a new blob",
        hint="Free space on the volume of the data folder, or lower storage.min_free_mb.",
        retry_after_s=FULL_RETRY_S,
        scope="site",
    )


def storage_failed(reason: str) -> Unavailable:
    """The disk did not do what it was told; ``reason`` is the system's words."""
    return Unavailable(
        "storage-failed",
        f"the blob volume failed: {reason}",
        hint="See the system log for disk errors; the site can go on elsewhere.",
        scope="site",
    )


def failure(error: OSError) -> OutlastError:
    """An OSError while writing as one of ours."""
    if error.errno in _FULL:
        return storage_full()
    return storage_failed(error.strerror or type(error).__name__)


class Room:
    """Free disk of the file system that holds ``root``, with a reserve nothing here may use."""

    def __init__(self, root: pathlib.Path, min_free_bytes: int) -> None:
        self._root = root
        self._min_free_bytes = min_free_bytes

    def left(self) -> int:
        """Bytes that may still be written, 0 or more."""
        state = os.statvfs(self._root)
        return max(0, state.f_bavail * state.f_frsize - self._min_free_bytes)

    def is_exhausted(self) -> bool:
        """Whether there is no room at all, the reserve included: a failed write is then no failing disk."""
        state = os.statvfs(self._root)
        return state.f_bavail * state.f_frsize < EXHAUSTED_BYTES

    def require(self, size: int) -> None:
        """Raise Unavailable ``storage-full`` unless ``size`` more bytes fit."""
        if self.left() < size:
            raise storage_full()


class Owner:
    """A lock on a file, held while this process lives and not inherited by processes it forks."""

    def __init__(self, path: pathlib.Path) -> None:
        """Raises Refused ``storage-in-use`` when another process holds it."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # POSIX record locks: a forked worker that outlives us must not keep the next start out
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise Refused(
                "storage-in-use",
                f"another process uses {path.parent}",
                hint="One process owns a blob directory: stop the other one, or name another directory.",
            ) from None

    def release(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
