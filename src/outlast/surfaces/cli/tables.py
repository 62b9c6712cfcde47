"""Plain tables for answers: no frames, so that they can be cut and searched with a shell's tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(
    console: Console, headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str
) -> None:
    """Rows under headings, or the sentence ``empty``."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table if table.row_count else empty)


def print_facts(console: Console, facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, str(value)) for name, value in facts if value not in (None, "", ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)


def short_time(text: str | None) -> str:
    """An RFC 3339 time as people read it."""
    return "" if text is None else text[:19].replace("T", " ")
