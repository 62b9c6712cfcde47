"""Directories whose names survive a power cut: a new name is durable once the directory it stands in is synced."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable_directory(path: Path, mode: int = 0o777) -> None:
    """Make a directory and those above it, where missing, with durable names; raises OSError.

    The parent is synced also where nothing is missing: a process that was killed here may have left that to us. Where a
    sync fails, what was made is removed again, so that the next attempt does not take it for durable.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    os.makedirs(path, mode, exist_ok=True)
    try:
        for one in missing or [path]:
            sync_directory(one.parent)
    except OSError:
        with contextlib.suppress(OSError):
            for one in missing:
                os.rmdir(one)
        raise
