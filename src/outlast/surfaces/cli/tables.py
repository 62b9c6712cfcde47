"""Plain tables for answers: no frames and nothing folded, so that they can be cut and searched with a shell's tools."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape


def print_table(
    console: Console, headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str
) -> None:
    """Rows under headings, or the sentence ``empty``. A terminal that is too narrow breaks the lines itself."""
    text = table_text(headings, rows)
    console.print(text if text else empty, soft_wrap=True)


def table_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as Rich markup; nothing for no rows."""
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        return ""
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *cells)
    ]
    return "\n".join([f"[bold]{escape(lines[0])}[/]", *map(escape, lines[1:])])


def print_facts(console: Console, facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, str(value)) for name, value in facts if value not in (None, "", ())]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        console.print(f"{name:<{width}}  {value}", markup=False, soft_wrap=True)


def short_time(text: str | None) -> str:
    """An RFC 3339 time as people read it."""
    return "" if text is None else text[:19].replace("T", " ")
