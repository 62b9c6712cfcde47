"""Writes again what an earlier process may have left in the page cache and not on the disk.

After a failed sync the process leaves, and the next one reads the files. But Linux marks pages whose write failed as
clean: they can be read until memory runs short, and no later sync writes them. A commit that failed so would be found
in the write-ahead log, looked upon as done and built upon, and be missing after a power cut, with everything that was
acknowledged behind it (found by tests/integration/test_crash_disk_faults.py).

So whatever is found is written once more, the same bytes in the same place, which makes the pages dirty again, and
synced: the whole write-ahead log (at most `engine.WAL_LIMIT_PAGES`, usually a few MB), and the first page of the
database, without which SQLite would throw the log away. Other pages of the database need it not: until a checkpoint
has synced them they are in the log as well, and the next checkpoint writes them again.

If the power goes meanwhile, nothing has changed: every byte written was there.
"""

from __future__ import annotations

from pathlib import Path

import apsw

PIECE_BYTES = 64 * 1024
"""Read and written at once: SQLite's unix VFS takes less than 128 KiB."""
FIRST_PAGE_BYTES = 4096


def resync(path: Path) -> None:
    """Make durable what there is of the database at ``path``; nothing may have it open. Raises apsw.Error."""
    if not path.exists():
        return  # a log without its database is none
    wal = path.with_name(f"{path.name}-wal")
    if wal.exists():
        _write_again(wal, apsw.SQLITE_OPEN_WAL, None)
    _write_again(path, apsw.SQLITE_OPEN_MAIN_DB, FIRST_PAGE_BYTES)


def _write_again(path: Path, kind: int, limit: int | None) -> None:
    # through SQLite's own door to the disk, so that tests which stand in it see this too
    file = apsw.VFSFile("", str(path), [kind | apsw.SQLITE_OPEN_READWRITE, 0])
    try:
        size = file.xFileSize() if limit is None else min(limit, file.xFileSize())
        for at in range(0, size, PIECE_BYTES):
            file.xWrite(file.xRead(min(PIECE_BYTES, size - at), at), at)
        if size:
            file.xSync(apsw.SQLITE_SYNC_NORMAL)
    finally:
        file.xClose()
