"""Named SQL from files: a query is the text between its ``-- name:`` line and the next."""

from __future__ import annotations

import re
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


def load_queries(package: str, file: str) -> dict[str, str]:
    """The queries of one file of a package, by name."""
    text = files(package).joinpath(file).read_text()
    parts = _NAME.split(text)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}
