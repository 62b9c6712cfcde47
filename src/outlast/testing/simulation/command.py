"""`python -m outlast.testing.simulation`: many seeds, or one again with its trace. See docs/howto/simulate.md.

Exit status: 0 when every seed kept every promise and, given enough seeds, all that is declared happened; 1 when not; 2
for a wrong command line; 130 when interrupted with nothing found.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.testing.simulation.report import show_summary, show_trace
from outlast.testing.simulation.run import Result, Run
from outlast.testing.simulation.seedfile import SEED_FILE, keep_seeds, parse_seed, seed_name
from outlast.testing.simulation.sweep import Tally, be_quick, sweep

INTERRUPTED = 130
"""Exit status of a program that ctrl-C ended, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(argv)
    out = Console(highlight=False, soft_wrap=True)
    be_quick()
    try:
        if options.seed is not None:
            return _one(parse_seed(options.seed), out, as_json=options.json)
        return _many(options, out)
    except Refused as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m outlast.testing.simulation",
        description="Simulate a site in trouble, seed by seed, and check that it keeps its promises.",
    )
    parser.add_argument("--seeds", type=int, default=1_000, metavar="N", help="how many (1000)")
    parser.add_argument("--start", type=int, default=0, metavar="S", help="the first seed (0)")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="as many seeds as fit into this time instead"
    )
    parser.add_argument(
        "--seed", metavar="S", help="run only this one (17, or 2:17); print its trace"
    )
    parser.add_argument("--json", action="store_true", help="print the outcome as one JSON object")
    parser.add_argument(
        "--keep",
        type=Path,
        nargs="?",
        const=SEED_FILE,
        metavar="FILE",
        help=f"append failing seeds to a file that the tests run ({SEED_FILE})",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="all cores"
    )
    return parser


def _one(number: int, out: Console, *, as_json: bool) -> int:
    run = Run(number, keep_trace=True)
    result = run()
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        show_trace(out, run, result)
    return 1 if result.failure else 0


def _many(options: argparse.Namespace, out: Console) -> int:
    seeds = None if options.minutes is not None else options.seeds
    with _progress() as progress:
        task = progress.add_task("seeds", total=seeds, failed=0, rate=0.0)

        def on_result(tally: Tally, result: Result) -> None:
            took_s = progress.tasks[0].elapsed or 1.0
            failed = len(tally.failures)
            progress.update(task, completed=tally.seeds, failed=failed, rate=tally.seeds / took_s)
            if result.failure:
                progress.console.print(
                    f"seed {seed_name(result.seed)} FAILED: {result.failure}", markup=False
                )

        tally = sweep(
            start=options.start,
            seeds=seeds,
            processes=options.processes,
            clock=SystemClock(),
            limit_s=None if options.minutes is None else options.minutes * 60,
            on_result=on_result,
        )
    if options.json:
        print(msgspec.json.encode(tally).decode())
    else:
        show_summary(out, tally)
    if options.keep is not None and tally.failures:
        new = keep_seeds(options.keep, [(failure.seed, failure.what) for failure in tally.failures])
        print(f"{new} failing seeds were added to {options.keep}", file=sys.stderr)
    if tally.stopped == "interrupted" and tally.is_good:
        return INTERRUPTED
    return 0 if tally.is_good else 1


def _progress() -> Progress:
    """On standard error, and only where somebody looks at it."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f}/s, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
