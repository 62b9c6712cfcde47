"""Has the real commands judge what came out: `outlast verify` on every file, `outlast log verify` on the whole log.

They run as processes of their own, offline, with trust pinned beforehand: the roots and the log's keys as they stood
before the first request. What they print is believed only together with their exit status.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from outlast.gameday.folder import Folder
from outlast.gameday.verdict import Checked

AT_ONCE = 2
BATCH = 25
"""Files for one process: it starts once, and progress shows."""
MAX_REASON_CHARS = 300


class Answer(msgspec.Struct, frozen=True):
    """How a command ended."""

    status: int
    output: bytes
    errors: str


async def check_all(
    folder: Folder, log_keys: Sequence[str], progress: Callable[[int, int], None]
) -> Checked:
    """Everything in ``signed/`` and ``evidence/``, and the log. ``progress(done, total)`` is called as it goes."""
    documents = sorted(folder.signed.iterdir())
    bundles = sorted(folder.evidence.iterdir())
    batches = [
        *(documents[i : i + BATCH] for i in range(0, len(documents), BATCH)),
        *(bundles[i : i + BATCH] for i in range(0, len(bundles), BATCH)),
    ]
    total, done = len(documents) + len(bundles), 0
    bad: list[str] = []
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(batch: Sequence[Path]) -> None:
        nonlocal done
        async with turns:
            bad.extend(await _check_files(folder, batch, log_keys))
        done += len(batch)
        progress(done, total)

    progress(0, total)
    async with asyncio.TaskGroup() as group:
        log = group.create_task(_check_log(folder, log_keys))
        for batch in batches:
            group.create_task(one(batch))
    failed = {line.partition(":")[0] for line in bad}
    return msgspec.structs.replace(
        log.result(),
        documents=sum(path.name not in failed for path in documents),
        bundles=sum(path.name not in failed for path in bundles),
        bad=tuple(sorted(bad)),
    )


async def _check_files(folder: Folder, batch: Sequence[Path], log_keys: Sequence[str]) -> list[str]:
    return [f"{path.name}: verification is not there yet" for path in batch]


async def _check_log(folder: Folder, log_keys: Sequence[str]) -> Checked:
    return Checked(log_ok=False, log_says="not there yet")
