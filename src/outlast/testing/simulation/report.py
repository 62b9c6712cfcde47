"""What a person sees: the sum of many seeds, or one seed's story."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from outlast.testing.simulation.checks import REACHABLE, SOMETIMES
from outlast.testing.simulation.faults import POINTS
from outlast.testing.simulation.seedfile import seed_name
from outlast.testing.simulation.swarm import NEVER

if TYPE_CHECKING:
    from outlast.testing.simulation.run import Result, Run
    from outlast.testing.simulation.sweep import Tally

COMMAND = "python -m outlast.testing.simulation"
SHOWN_FAILURES = 20
"""Failing seeds printed with their replay command; the others are counted."""
_STYLES = (
    ("crash", "red"),
    ("stalls", "red"),
    ("clock is", "red"),
    ("is full", "red"),
    ("older store", "bold red"),
    ("fails", "yellow"),
    ("commit committed", "dim"),
    ("has its answer", "green"),
    ("ends job", "green"),
    ("everything heals", "bold green"),
    ("somebody", "cyan"),
)
"""How a line of a trace is shown that has these words."""


def show_summary(out: Console, tally: Tally) -> None:
    """Rates, what was reached how often, and what failed."""
    seeds, took_s = tally.seeds, max(tally.took_s, 1e-9)
    stopped = f", {tally.stopped}" if tally.stopped else ""
    out.print(
        f"{seeds} seeds from {seed_name(tally.start)} on in {tally.took_s:.1f} s"
        f" ({seeds / took_s:.1f}/s on {tally.processes} processes){stopped}"
    )
    out.print(
        f"{tally.events} events, {tally.simulated_ms / 3_600_000:.1f} simulated hours,"
        f" {tally.entries} entries, {tally.signed} signatures;"
        f" longest rest {tally.longest_rest_ms / 1000:.0f} s"
    )
    for title, points in (
        ("sometimes", SOMETIMES),
        ("reachable", REACHABLE),
        ("fault points", tuple(f"fault: {name}" for name in POINTS)),
    ):
        out.print(_table(tally, title, points))
    if tally.never:
        out.print(f"declared and never seen: {', '.join(tally.never)}", style="bold red")
    if not tally.failures:
        out.print("every seed kept every promise", style="green")
        return
    out.print(f"{len(tally.failures)} seeds FAILED", style="bold red")
    for failure in tally.failures[:SHOWN_FAILURES]:
        out.print(Text(f"  {failure.what}"))
        out.print(Text(f"    {COMMAND} --seed {failure.seed}", style="bold"))
    if len(tally.failures) > SHOWN_FAILURES:
        out.print(f"  and {len(tally.failures) - SHOWN_FAILURES} more")


def _table(tally: Tally, title: str, points: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("times", justify="right")
    table.add_column("in seeds", justify="right")
    table.add_column(title)
    for point in points:
        times = tally.times.get(point, 0)
        style = "" if times else "yellow"
        in_seeds = tally.seeds_with.get(point, 0)
        table.add_row(str(times), str(in_seeds), point.removeprefix("fault: "), style=style)
    return table


def show_trace(out: Console, run: Run, result: Result) -> None:
    """A seed's site, its trouble, what happened when, and whether it kept its promises."""
    swarm = msgspec.structs.asdict(run.swarm)
    drawn = ", ".join(f"{name} {_short(value)}" for name, value in swarm.items() if value != NEVER)
    on = [f"{name} {rate:.2g}" for name, rate in run.faults.rates.items() if rate]
    out.print(Text(f"seed {seed_name(result.seed)}: {drawn}"))
    out.print(Text(f"faults: {'; '.join(on) or 'none'}\n"))
    for line in result.trace:
        out.print(Text(line, style=_style(line)))
    out.print(
        Text(f"\nseed {seed_name(result.seed)}: {result.failure or 'all promises kept'}", "bold")
    )
    out.print(
        Text(
            f"{result.events} events, {result.entries} entries, {result.signed} signatures,"
            f" at rest after {result.rest_ms / 1000:.1f} s; trace {result.trace_hash}"
        )
    )


def _short(value: object) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _style(line: str) -> str:
    return next((style for words, style in _STYLES if words in line), "")
