"""A disk that remembers what was really synced: software runs on it, and afterwards the power is cut at any point.

Three ways in, one record (`Recorder`), so that one cut falls on all parts of a site at the same instant:

- `RecordingVfs`: SQLite's files, as an APSW VFS over the real ones;
- `MemoryFiles`: the tile archive's `Files` port, in memory;
- `RecordingOs`: a stand-in for the module ``os`` in code that calls it.

Each write, truncation, name, sync and note (an acknowledgement) is a `Step`. `VolatileDisk` replays them and says what
may be found after a power cut: what was synced is there; of what was not, any subset, in any order, writes torn at
any sector of 512 or 4096 bytes, names and contents independently of each other. A sync that failed makes nothing
durable, and what it should have written is never written by a later one (Linux marks such pages clean).

`Fault` lets a write or a sync fail on its way (ENOSPC, EIO). A recorder that is ``deaf`` to some syncs shows that a check
would find the bug of leaving them out.

What is assumed: a sector is written whole or not at all; a sync that returned did its work; with the first sync of a
journal, SQLite's unix VFS syncs its directory.
"""

from outlast.testing.powerloss.disk import Cut, Tree, VolatileDisk, cuts, write_tree
from outlast.testing.powerloss.memory import MemoryFiles
from outlast.testing.powerloss.steps import Fault, PowerCutError, Recorder, Step, noted
from outlast.testing.powerloss.syscalls import RecordingOs
from outlast.testing.powerloss.vfs import RecordingVfs

__all__ = [
    "Cut",
    "Fault",
    "MemoryFiles",
    "PowerCutError",
    "Recorder",
    "RecordingOs",
    "RecordingVfs",
    "Step",
    "Tree",
    "VolatileDisk",
    "cuts",
    "noted",
    "write_tree",
]
