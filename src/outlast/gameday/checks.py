"""Has the real commands judge what came out: `outlast verify` on every file, `outlast log fsck` on the whole log.

They run as processes of their own, offline, with trust pinned beforehand: the roots and the log's keys as they stood
before the first request. What they print is believed only together with their exit status.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from outlast.gameday.folder import Folder
from outlast.gameday.stage import outlast_command
from outlast.gameday.verdict import Checked

AT_ONCE = max(2, os.cpu_count() or 1)
BATCH = 400
"""Files for one process at most: bounds its command line. Starting one costs as much as verifying ten."""
GOOD = "valid"
MAX_LINE_BYTES = 16 * 1024 * 1024
"""Of one report."""
MAX_COMPLAINT_CHARS = 500


class _Report(msgspec.Struct):
    """A line of `outlast verify --json`."""

    path: str
    verdict: str
    reason: str = ""


class _LogReport(msgspec.Struct):
    """What `outlast log fsck --json` prints."""

    size: int
    entries: int
    faults: int
    consistent_with: int | None = None


async def check_all(folder: Folder, progress: Callable[[int, int], None]) -> Checked:
    """Everything in ``signed/`` and ``evidence/``, and the log. ``progress(done, total)`` is called as it goes."""
    documents, bundles = sorted(folder.signed.iterdir()), sorted(folder.evidence.iterdir())
    batches = _batches([*documents, *bundles])
    reports: dict[str, _Report] = {}
    turns = asyncio.Semaphore(AT_ONCE)

    def one_more(line: bytes) -> None:
        report = msgspec.json.decode(line, type=_Report)
        reports[Path(report.path).name] = report
        progress(len(reports), len(documents) + len(bundles))

    async def one(batch: Sequence[Path]) -> str:
        async with turns:
            return await _run(verify_command(folder, *map(str, batch)), one_more)

    progress(0, len(documents) + len(bundles))
    async with asyncio.TaskGroup() as group:
        log = group.create_task(_check_log(folder))
        tasks = [group.create_task(one(batch)) for batch in batches]
    failed = [task.result() for task in tasks if task.result()]
    bad = [
        f"{path.name}: {report.verdict} {report.reason}".strip()
        if (report := reports.get(path.name))
        else f"{path.name}: nothing was said about it"
        for path in (*documents, *bundles)
        if path.name not in reports or reports[path.name].verdict != GOOD
    ]
    return msgspec.structs.replace(
        log.result(),
        documents=_good(documents, reports),
        bundles=_good(bundles, reports),
        bad=(*bad, *(failed if not bad else ())),
    )


def verify_command(folder: Folder, *files: str) -> tuple[str, ...]:
    """`outlast verify` with everything pinned: whatever is not beyond doubt counts as bad."""
    return outlast_command(
        "verify",
        *files,
        "--trust",
        str(folder.pki / "demo-ca.pem"),
        "--tsa-trust",
        str(folder.pki / "tsa-roots.pem"),
        "--log-key",
        str(folder.pki / "log-keys.txt"),
        "--strict",
        "--json",
    )


def fsck_arguments(folder: Folder) -> tuple[str, ...]:
    """`outlast log fsck` on the files of the log, which must also extend what was published before the site was
    killed."""
    since = ("--since", str(folder.checkpoint)) if folder.checkpoint.exists() else ()
    keys = str(folder.pki / "log-keys.txt")
    return ("log", "fsck", "--log", str(folder.log), "--log-key", keys, *since)


async def _check_log(folder: Folder) -> Checked:
    lines: list[bytes] = []
    command = outlast_command(*fsck_arguments(folder), "--json")
    failed = await _run(command, lines.append)
    if failed or not lines:
        return Checked(log_says=failed or "nothing was said about it")
    report = msgspec.json.decode(lines[-1], type=_LogReport)
    return Checked(
        log_ok=not report.faults and report.entries == report.size,
        log_entries=report.entries,
        log_extends=report.consistent_with,
        log_says=f"{report.faults} faults, {report.entries} of {report.size} entries",
    )


async def _run(command: Sequence[str], on_line: Callable[[bytes], None]) -> str:
    """Run a command to its end; empty where its exit status is 0, else what it complained of."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_LINE_BYTES,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.create_task(process.stderr.read())
    try:
        async for line in process.stdout:
            on_line(line)
        complaint = (await errors).decode(errors="replace").strip()
        status = await process.wait()
        if status == 0:
            return ""
        return f"{' '.join(command[1:3])}: exit status {status}: {complaint[-MAX_COMPLAINT_CHARS:]}"
    finally:
        errors.cancel()
        if process.returncode is None:
            process.kill()
            await process.wait()


def _batches(files: Sequence[Path]) -> list[Sequence[Path]]:
    """In turns, so that each batch has its share of the bundles, which take twice as long."""
    count = max(AT_ONCE, -(-len(files) // BATCH))
    return [batch for i in range(count) if (batch := files[i::count])]


def _good(files: Sequence[Path], reports: Mapping[str, _Report]) -> int:
    return sum(path.name in reports and reports[path.name].verdict == GOOD for path in files)
