"""The reference page names every command and every option of its own."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator
from typing import Any

import typer

from outlast.surfaces.cli.main import COMMANDS, app

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "reference" / "cli.md"
SHARED = {"--config", "--data", "--url", "--json", "--help", "-h"}


def commands() -> Iterator[tuple[str, Any]]:
    """Every command by the words that call it."""
    root: Any = typer.main.get_command(app)
    for name in COMMANDS:
        found = root.get_command(None, name)
        inner = getattr(found, "commands", None)
        if inner:
            yield from ((f"{name} {sub}", command) for sub, command in inner.items())
        else:
            yield name, found


def test_every_command_and_option_is_in_the_reference() -> None:
    """Each has a place in a table; its options stand in the same row."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    missing = []
    for words, command in commands():
        row = next((r for r in rows if re.search(rf"`{words}`", r)), "")
        options = {o for p in command.params for o in p.opts if o.startswith("--")} - SHARED
        missing += [f"{words} {o}" for o in sorted(options) if f"`{o}`" not in row]
        if not row:
            missing.append(words)
    assert missing == []
