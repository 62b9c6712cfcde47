"""``outlast demo``: the main job on real documents while everything around it fails.

`run_demo` returns 0 only if nothing was lost, nothing was done twice, every owed timestamp is settled and everything
verifies. Nothing it started runs on afterwards, however it ends.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path

import anyio
import msgspec
from rich.console import Console

from outlast.core.clock import Clock, SystemClock
from outlast.core.errors import Refused
from outlast.gameday.checks import check_all
from outlast.gameday.day import GameDay
from outlast.gameday.folder import Folder
from outlast.gameday.ledger import Ledger
from outlast.gameday.look import lay_open
from outlast.gameday.record import Record
from outlast.gameday.report import Summary, show, summarise
from outlast.gameday.screen import shown
from outlast.gameday.verdict import judge
from outlast.gameday.view import Actor, View

MIN_REQUESTS, MAX_REQUESTS = 20, 10_000
PLAIN_COLUMNS = 100
"""Width of the table where there is no terminal to ask."""
EXIT_NOT_PROVEN = 1
EXIT_STOPPED = 130
"""As shells have it for Ctrl-C."""


class DemoOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is run. ``examples`` is a folder of PDFs (default: ``examples/`` here or in the project's folder);
    ``per_s`` the pace of the client, 0: as many as it takes to be through in 20 s, at least 4."""

    requests: int = 200
    data: Path = Path("demo-data")
    json: bool = False
    examples: Path | None = None
    per_s: float = 0.0


PACE_S = 20.0
LEAST_PER_S = 4.0


def run_demo(options: DemoOptions) -> int:
    """Run it; the exit status. Raises Refused for a folder that is not ours, for wrong options and where there are
    no example documents; Unavailable where a process does not start."""
    if not MIN_REQUESTS <= options.requests <= MAX_REQUESTS:
        raise Refused(
            "demo-requests",
            f"a demo has {MIN_REQUESTS} to {MAX_REQUESTS} requests, not {options.requests}",
        )
    documents = find_examples(options.examples)
    folder = Folder(options.data)
    folder.prepare()
    console = _console(options.json)
    try:
        with asyncio.Runner() as runner:
            summary = runner.run(_stoppable(_run(options, folder, documents, console)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print(f"Stopped. Nothing is left running; {folder.root} has what there is.")
        return EXIT_STOPPED
    folder.summary.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
    if options.json:
        sys.stdout.write(msgspec.json.encode(summary).decode() + "\n")
    return 0 if summary.ok else EXIT_NOT_PROVEN


def _console(is_json: bool) -> Console:
    """Standard output; standard error where that one is for programs."""
    console = Console(stderr=is_json, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = PLAIN_COLUMNS
    return console


async def _stoppable(work: Coroutine[None, None, Summary]) -> Summary:
    """SIGTERM ends it as Ctrl-C does: in order."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


async def _run(
    options: DemoOptions, folder: Folder, documents: list[Path], console: Console
) -> Summary:
    clock: Clock = SystemClock()
    ledger = Ledger(folder.ledger)
    names = ("site", "appliance", "local", "tsa-1", "tsa-2")
    view = View(
        clock=clock,
        wanted=options.requests,
        ledger=ledger,
        record=Record(),
        actors={name: Actor(name) for name in names},
    )
    per_s = options.per_s or max(LEAST_PER_S, options.requests / PACE_S)
    day = GameDay(folder, view, documents, per_s, clock)
    try:
        async with shown(view, console):
            await day.run()
            view.phase = "verifying every document, every bundle and the whole log, offline"

            def progress(done: int, total: int) -> None:
                view.verified, view.to_verify = done, total

            checked = await check_all(folder, progress)
    finally:
        ledger.close()
    verdict = judge(options.requests, ledger.promises, view.record, day.delivered, checked)
    look = None
    if day.delivered:
        owed = [
            d for d in day.delivered if view.record.requests[ledger.by_key()[d.key].request].owed
        ]
        name = Path((owed or day.delivered)[0].name).stem
        look = await anyio.to_thread.run_sync(lay_open, folder, name)
    summary = summarise(verdict, view, day.moments, folder, look)
    show(summary, view, console)
    return summary


def find_examples(given: Path | None) -> list[Path]:
    """The PDFs to sign, by name. Raises Refused ``no-examples``."""
    here = Path(__file__).resolve()
    places = (
        [given]
        if given is not None
        else [Path("examples"), *(p / "examples" for p in here.parents[2:4])]
    )
    for place in places:
        found = sorted(place.glob("*.pdf")) if place.is_dir() else []
        if found:
            return found
    raise Refused(
        "no-examples",
        f"no PDFs in {', '.join(map(str, places))}",
        hint="Run it in a clone of the project, or name a folder of PDFs with --examples.",
    )
