"""Many rows in one statement.

Every step of a statement gives up the interpreter's lock and has to win it back from a busy event loop: a row at a
time that costs more than the SQL. So a query marks the group of parameters of one row, ``/*rows*/ (?, ?)``, and is
repeated here for as many rows as there are, in a few fixed sizes that stay in the statement cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import apsw

SIZES = (128, 32, 8, 1)
"""Rows of one statement: the largest that fit are taken first."""

_GROUP = re.compile(r"/\*rows\*/ (\([?, ]+\))")


def execute_rows(db: apsw.Connection, query: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Run a query with a marked group over all rows; what it returns, in one list. In no order across rows."""
    found: list[Any] = []
    for part in _parts(rows):
        found += db.execute(_repeated(query, len(part)), tuple(chain.from_iterable(part)))
    return found


def _parts(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    at = 0
    for size in SIZES:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


@lru_cache(maxsize=256)
def _repeated(query: str, count: int) -> str:
    text, groups = _GROUP.subn(lambda match: ", ".join([match.group(1)] * count), query)
    if groups != 1:
        raise ValueError(f"a query over rows marks one group, this one {groups}")
    return text
