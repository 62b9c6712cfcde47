"""Named SQL from files: a query is the text between its ``-- name:`` line and the next."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)
_MIGRATION = re.compile(r"^(\d{4})_(pre|post)_\w+\.sql$")


def load_queries(package: str, file: str) -> dict[str, str]:
    """The queries of one file of a package, by name."""
    text = files(package).joinpath(file).read_text()
    parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def load_migrations(package: str) -> list[tuple[int, str]]:
    """A package's migrations as (number, SQL), in order."""
    names = {item.name: item for item in files(package).iterdir()}
    matches = {name: match for name in names if (match := _MIGRATION.match(name))}
    return sorted((int(m.group(1)), names[name].read_text()) for name, m in matches.items())
