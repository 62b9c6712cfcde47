"""The screen: a live picture on a terminal, plain lines elsewhere. Reads the view, changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from outlast.core.routing.health import ProviderSnapshot
from outlast.gameday.view import Actor, Happening, View

FRAMES_PER_S = 8
LINES_EVERY_S = 0.1
PROGRESS_EVERY_S = 3.0
"""Between two lines of progress where nothing is drawn."""
STORY_LINES = 14
"""Of the story, on a live screen at most; the whole of it is printed at the end."""
OTHER_LINES = 16
"""What the rest of the picture needs, and one that a terminal keeps for its cursor."""
WIDE = 100
"""Columns from which on there is room for long bars."""

_TONES = {"plain": "", "good": "green", "bad": "bold red", "notable": "yellow"}
_STATES = {"up": "green", "killed": "bold red", "blackholed": "bold red", "starting": "yellow"}
_MODES = {"normal": "green", "degraded": "yellow", "isolated": "bold red", "read-only": "bold red"}
_BREAKER = {"closed": "in use", "open": "left alone", "half-open": "being probed"}


@asynccontextmanager
async def shown(view: View, console: Console) -> AsyncIterator[None]:
    """Show the view while the context lasts."""
    draw = _live if console.is_terminal else _lines
    task = asyncio.create_task(draw(view, console), name="screen")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _live(view: View, console: Console) -> None:
    # nothing is drawn by a thread: the picture is made where the view is written
    with Live(picture(view, console), console=console, auto_refresh=False, transient=True) as live:
        try:
            while True:
                live.update(picture(view, console), refresh=True)
                await asyncio.sleep(1 / FRAMES_PER_S)
        finally:
            live.update(Text(""), refresh=True)


async def _lines(view: View, console: Console) -> None:
    told, next_s = 0, PROGRESS_EVERY_S
    phase = ""
    while True:
        try:
            if view.phase != phase:
                phase = view.phase
                console.print(f"-- {phase}", highlight=False)
            told = _tell(view, told, console)
            if view.start_ms and view.elapsed_s() >= next_s:
                console.print(f"{view.elapsed_s():6.1f} s  {progress_line(view)}", highlight=False)
                next_s = view.elapsed_s() + PROGRESS_EVERY_S
            await asyncio.sleep(LINES_EVERY_S)
        except asyncio.CancelledError:
            _tell(view, told, console)
            raise


def _tell(view: View, told: int, console: Console) -> int:
    for happening in view.happenings[told:]:
        console.print(story_line(happening), highlight=False)
    return len(view.happenings)


def progress_line(view: View) -> str:
    """Where it stands, in one line."""
    if view.to_verify:
        return f"verified {view.verified}/{view.to_verify}"
    record = view.record
    parts = [
        f"accepted {view.ledger.accepted}/{view.wanted}",
        f"signed {record.signed}",
        f"timestamped {_stamped(view)}",
        f"owed {record.owed - record.settled}",
        f"mode {view.mode or 'unknown'}",
    ]
    if view.trouble:
        parts.append(view.trouble)
    return ", ".join(parts)


def story_line(happening: Happening) -> Text:
    """``  12.3 s  what happened``"""
    line = Text(f"{happening.at_s:6.1f} s  ", style="dim")
    line.append(happening.text, style=_TONES[happening.tone])
    return line


def _one_line(happening: Happening) -> Text:
    line = story_line(happening)
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


def picture(view: View, console: Console) -> RenderableType:
    """The whole screen: as much of the story as there is room for."""
    title = Text(" Outlast ", style="bold")
    title.append(f"{view.elapsed_s():5.1f} s  ", style="dim")
    title.append(view.phase)
    parts: list[RenderableType] = [
        _bars(view, 40 if console.width >= WIDE else 24),
        Text(""),
        _stage(view),
    ]
    if view.happenings:
        lines = max(1, min(STORY_LINES, console.height - OTHER_LINES))
        story = sorted(view.happenings, key=lambda h: h.at_s)[-lines:]
        parts += [Text(""), *map(_one_line, story)]
    return Panel(
        Group(*parts), title=title, title_align="left", border_style="blue", padding=(0, 1)
    )


def _bars(view: View, width: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=12)
    table.add_column(width=width)
    table.add_column(justify="right", min_width=7)
    table.add_column(no_wrap=True, overflow="ellipsis")
    record, owed = view.record, view.record.owed - view.record.settled
    rows = [
        ("accepted", view.ledger.accepted, view.wanted, f"[yellow]{view.trouble}[/]"),
        ("signed", record.signed, view.wanted, _shares(record.by_provider())),
        ("timestamped", _stamped(view), view.wanted, f"[yellow]{owed} owed[/]" if owed else ""),
    ]
    if view.to_verify:
        rows.append(("verified", view.verified, view.to_verify, ""))
    for name, done, total, remark in rows:
        bar = ProgressBar(total=total, completed=done, width=width, finished_style="green")
        table.add_row(name, bar, f"{done}/{total}", remark)
    return table


def _stamped(view: View) -> int:
    return sum(bool(r.authority) for r in view.record.requests.values())


def _shares(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def _stage(view: View) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for heading in ("process", "is", "the site sees it as", "median", "calls", "failed"):
        table.add_column(
            heading, justify="right" if heading in ("median", "calls", "failed") else "left"
        )
    for actor in view.actors.values():
        table.add_row(*_actor_row(view, actor))
    return table


def _actor_row(view: View, actor: Actor) -> list[RenderableType]:
    state = f"{actor.state}, pid {actor.pid}" if actor.state == "up" and actor.pid else actor.state
    cells: list[RenderableType] = [actor.name, Text(state, style=_STATES.get(actor.state, "dim"))]
    if actor.name == "site":
        known = (
            f"mode {view.mode}" if view.status else "" if actor.state == "stopped" else "no answer"
        )
        return [*cells, Text(known, style=_MODES.get(view.mode, "dim")), "", "", ""]
    health = view.health(actor.name)
    if health is None:
        return [*cells, "", "", "", ""]
    median = f"{health.p50_ms:.1f} ms" if health.calls > health.failures else ""
    return [*cells, _seen(health), median, str(health.calls), str(health.failures)]


def _seen(health: ProviderSnapshot) -> Text:
    text, style = _BREAKER[health.state], "green" if health.state == "closed" else "red"
    if health.state == "open":
        text += f" for {health.open_ms / 1000:.1f} s"
    elif health.state == "half-open":
        style = "yellow"
    return Text(text, style=style)
