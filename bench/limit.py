"""A share of a core for a process, enforced by the kernel (cgroup v1, cpu controller; Linux, as root).

So that several nodes on one small machine are each as slow as a node of a small machine of its own, and what they share,
the database, is not what limits them.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path("/sys/fs/cgroup/cpu")
PERIOD_US = 5_000
"""Within each such period a process may run for its share of it: short, so that it is slow rather than on and off."""


def why_not() -> str:
    """Why shares cannot be enforced here; empty where they can."""
    if not (ROOT / "cpu.cfs_quota_us").exists():
        return f"there is no cpu controller of cgroup v1 at {ROOT}"
    if not os.access(ROOT, os.W_OK):
        return f"{ROOT} cannot be written to (are you root?)"
    return ""


@contextlib.contextmanager
def share_of_core(pid: int, share: float, name: str) -> Iterator[pathlib.Path]:
    """Limit ``pid`` and the processes it starts from now on to ``share`` of one core in sum."""
    group = ROOT / f"outlast-bench-{os.getpid()}-{name}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD_US * share)))
        (group / "cgroup.procs").write_text(str(pid))
        yield group
    finally:
        for left in (group / "cgroup.procs").read_text().split():
            (ROOT / "cgroup.procs").write_text(left)
        group.rmdir()
