"""A run as text: the table on the terminal and the page docs/explain/performance.md."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table

from bench.measure import Machine, Outcome, Run, Verdict, number

BUSY = 0.25
"""Load average per core, before the run, from which a machine counts as busy with other work."""


def value_text(verdict: Verdict) -> str:
    """What came out, with its range: ``31x [28-33]``."""
    text = f"{number(verdict.value)}{_unit(verdict)}"
    if verdict.spread and verdict.spread[0] != verdict.spread[1]:
        text += f" [{number(verdict.spread[0])}-{number(verdict.spread[1])}]"
    return text


def goal_text(verdict: Verdict) -> str:
    """The goal, and the aim beyond it: ``at least 5x (aim 10x)``."""
    if verdict.goal is None:
        return "none set"
    unit = _unit(verdict)
    text = f"at {'least' if verdict.at_least else 'most'} {number(verdict.goal)}{unit}"
    return text + (f" (aim {number(verdict.aim)}{unit})" if verdict.aim else "")


def _unit(verdict: Verdict) -> str:
    return verdict.unit if verdict.unit in {"x", ""} else f" {verdict.unit}"


def warning(run: Run) -> str:
    """Why figures of this run should not be quoted; empty if nothing is known against them."""
    if run.quick:
        return "This was a quick run: too few rounds to quote."
    if run.machine.load_before > run.machine.cores * BUSY:
        return (
            f"The machine was busy with other work (load average {run.machine.load_before:.1f} on "
            f"{run.machine.cores} cores before the run). CPU times and memory hold; rates and latencies suffer, and "
            "what needs more than one core suffers more."
        )
    return ""


def show(run: Run, console: Console) -> None:
    """Print the ratios, then what they were made of."""
    table = Table(title="Outlast, measured")
    for heading in ("case", "what", "result", "goal", ""):
        table.add_column(heading)
    for outcome in run.outcomes:
        for verdict in outcome.verdicts:
            mark = "[green]met[/]" if verdict.met else "[red]not met[/]"
            if verdict.goal is None:
                mark = ""
            table.add_row(outcome.case, verdict.what, value_text(verdict), goal_text(verdict), mark)
    console.print(table)
    if warning(run):
        console.print(f"[yellow]{warning(run)}[/]", highlight=False)
    for outcome in run.outcomes:
        console.print(f"[bold]{outcome.title}[/]")
        for figure in outcome.figures:
            console.print(f"  {figure.name}: {figure.text()}", highlight=False)
        for note in outcome.notes:
            console.print(f"  {note}", highlight=False)


def page(run: Run) -> str:
    """The whole page in Markdown."""
    return "\n".join(_lines(run)) + "\n"


def _lines(run: Run) -> Iterator[str]:
    yield "# Performance"
    yield ""
    yield "Made by `make bench`; do not edit. Each figure is the **median [least-greatest]** of the rounds, and all"
    yield "variants of a case run in turn within each round. **Ratios carry over to other machines; absolute"
    yield "numbers do not.** Servers, database and load generator share the cores of one machine, over loopback."
    yield ""
    if warning(run):
        yield f"> {warning(run)}"
        yield ""
    yield "| case | what | result | goal | |"
    yield "|---|---|---|---|---|"
    for outcome in run.outcomes:
        for verdict in outcome.verdicts:
            met = "met" if verdict.met else "**not met**"
            if verdict.goal is None:
                met = ""
            yield (
                f"| {outcome.title} | {verdict.what} | **{value_text(verdict)}** | {goal_text(verdict)} | {met} |"
            )
    yield ""
    for outcome in run.outcomes:
        yield from _case(outcome)
    yield from _machine(run, run.machine)


def _case(outcome: Outcome) -> Iterator[str]:
    yield f"## {outcome.title}"
    yield ""
    if outcome.figures:
        yield outcome.method
        yield ""
        yield "| measured | median [range] |"
        yield "|---|---|"
        for figure in outcome.figures:
            yield f"| {figure.name} | {figure.text()} |"
        yield ""
    for note in outcome.notes:
        yield f"- {note}"
    if outcome.notes:
        yield ""


def _machine(run: Run, machine: Machine) -> Iterator[str]:
    yield "## The machine"
    yield ""
    yield f"{run.made}, commit {run.commit}. {machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, Linux"
    yield f"{machine.kernel}, Python {machine.python}. Data on {machine.filesystem}: appending 1 KiB and making it"
    yield f"durable takes {machine.sync_us} us. Load average before the run: {machine.load_before:.1f}."
    yield ""
    yield ", ".join(f"{name} {version}" for name, version in machine.versions.items()) + "."
