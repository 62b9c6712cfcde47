"""Carries a store over, with a bar for each table, and says what comes next."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.store.transfer import Progress as Step
from outlast.surfaces.cli.invocation import Invocation
from outlast.surfaces.cli.tables import print_facts
from outlast.wiring.pointing import point_store_to
from outlast.wiring.storemove import Moved, StoreMove, cancel_move, move_store


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A move that is done. ``root`` is empty where an earlier run had verified it; ``configured``: the file was changed."""

    source: str
    target: str
    rows: dict[str, int]
    size: int
    root: str
    published: int
    seconds: float
    configured: bool


class Cancelled(msgspec.Struct, frozen=True):
    """A move that was undone: the site is where it was."""

    source: str


def move(cli: Invocation, to: Path | None, *, start_over: bool, is_configuring: bool) -> None:
    """Move, verify, and point the configuration to where the store is now, or say how."""
    if is_configuring and cli.config_path is None:
        raise Refused(
            "config-missing",
            "there is no configuration file to change",
            hint="`outlast init` writes one; or leave --configure out, and the command says what to configure.",
        )
    wish = _wish(cli, to, start_over=start_over)
    clock = SystemClock()
    began = clock.monotonic_s()
    with _bars(cli) as step:
        moved = asyncio.run(move_store(cli.config, wish, step))
    if is_configuring and cli.config_path is not None:
        point_store_to(cli.config_path, to)
    answer = _answer(moved, clock.monotonic_s() - began, is_configuring)
    cli.show(answer, lambda console: _print(console, answer, to))


def cancel(cli: Invocation, to: Path | None) -> None:
    """Undo a move."""
    source = asyncio.run(cancel_move(cli.config, _wish(cli, to, start_over=False)))
    cli.show(
        Cancelled(source),
        lambda console: console.print(f"Undone: the site is in {source}, as before.", markup=False),
    )


def _wish(cli: Invocation, to: Path | None, *, start_over: bool) -> StoreMove:
    if to is not None:
        return StoreMove(str(to.absolute()), start_over=start_over)
    if not cli.config.store.dsn_file:
        raise Refused(
            "store-not-found",
            "the configuration names no PostgreSQL database that could be moved back",
            hint="[store] dsn_file must name it until it has been moved.",
        )
    return StoreMove(cli.config.store.dsn_file, back=True, start_over=start_over)


def _answer(moved: Moved, seconds: float, is_configured: bool) -> Answer:
    verified = moved.verified
    return Answer(
        source=moved.source,
        target=moved.target,
        rows=verified.rows if verified else {},
        size=verified.size if verified else 0,
        root=verified.root if verified else "",
        published=verified.published if verified else 0,
        seconds=round(seconds, 3),
        configured=is_configured,
    )


def _print(console: Console, answer: Answer, to: Path | None) -> None:
    root = f"{answer.root} at {answer.size} entries, recomputed from the target"
    rows = ", ".join(f"{count} {name}" for name, count in answer.rows.items())
    facts = (
        ("moved from", answer.source),
        ("to", answer.target),
        ("rows", rows),
        ("log root", root if answer.root else "verified by an earlier run"),
        ("checkpoint", f"of {answer.published} entries, of this log" if answer.root else ""),
        ("seconds", answer.seconds),
    )
    print_facts(console, facts)
    console.print(_next(answer, to), markup=False)


def _next(answer: Answer, to: Path | None) -> str:
    if answer.configured:
        return "The configuration is changed: `outlast serve` starts the site there."
    if to is None:
        return "Now take dsn_file out of [store] in the configuration; then `outlast serve`."
    return (
        f'Now put this into the configuration, then `outlast serve`:\n\n[store]\ndsn_file = "{to}"'
    )


@contextmanager
def _bars(cli: Invocation) -> Iterator[Step]:
    """A bar for each table, on standard error; none where nobody looks."""
    bars = Progress(
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=cli.notes,
        disable=cli.json or not cli.notes.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def step(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done)

    with bars:
        yield step
