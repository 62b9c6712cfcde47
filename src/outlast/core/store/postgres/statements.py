"""The two statements of a flush, put together from the parts of ``flush.sql`` that this flush needs.

Few combinations come up again and again, so each is prepared once per session: `Statements` remembers their text, and
asyncpg what it prepared. What is rare (subject keys, counters, jobs that are done no longer) is in or out together,
which bounds the combinations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from outlast.core.store.port import Needs, Snapshot, WriteSet
from outlast.core.store.postgres.rows import load_columns, write_columns

_PARAMETER = re.compile(r"\$(\d+)")

LOADS = ("streams", "idempotency", "jobs", "counters", "claims")
"""What a load may ask for, in the order of its answer."""
WRITES = {
    "entries": 3,
    "new_streams": 8,
    "streams": 8,
    "idempotency": 4,
    "bodies": 8,
    "new_leases": 9,
    "leases": 8,
    "done": 7,
    "undone": 1,
    "counters": 2,
    "subject_keys": 2,
}
"""What a write may consist of beside the head, and how many columns each part has."""
TOGETHER = (
    ("entries", "new_streams", "idempotency"),
    ("bodies", "new_leases"),
    ("undone", "counters", "subject_keys"),
)
"""Parts that are in the statement when one of them is needed."""


Place = tuple[int, int]
"""Where a row's version is in its table (``ctid``)."""


class HeadVersion(NamedTuple):
    """The version of the head's row that was loaded: which flush wrote it, and where it is."""

    flush: int
    place: Place


class Statements:
    """Texts and arguments for one store."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._parts = parts
        self.lock = parts["lock"]
        self._loads: dict[tuple[bool, tuple[str, ...]], str] = {}
        self._writes: dict[tuple[str, ...], str] = {}

    def load(
        self, needs: Needs, floors: tuple[int, int], place: Place | None
    ) -> tuple[str, tuple[str, ...], list[object]]:
        """The statement, the parts that its answer has beyond the head's columns, the arguments. Claims look from
        ``floors`` on (`Floors.of`). With a ``place``, no row is the answer where the head has moved on."""
        columns = load_columns(needs, floors)
        parts = tuple(columns)
        arguments = [argument for part in columns.values() for argument in part]
        if place is not None:
            arguments.append(place)
        return self._load_text(parts, is_here=place is not None), parts, arguments

    def write(
        self, write: WriteSet, snapshot: Snapshot, version: HeadVersion
    ) -> tuple[str, list[object]]:
        """The statement and its arguments; it returns the head's new place, none where ``version`` is not its newest."""
        columns = write_columns(write, snapshot)
        for group in TOGETHER:
            if any(name in columns for name in group):
                for name in group:
                    columns.setdefault(name, [()] * WRITES[name])
        head = write.head
        arguments: list[object] = [head.size, head.edge, head.hlc, head.next_job, *version]
        parts = tuple(name for name in WRITES if name in columns)
        for name in parts:
            arguments += columns[name]
        return self._write_text(parts), arguments

    def all(self) -> list[str]:
        """Each statement with all its parts, to be checked against the tables there are."""
        return [
            self._load_text(LOADS, is_here=False),
            self._load_text(LOADS, is_here=True),
            self._write_text(tuple(WRITES)),
        ]

    def _load_text(self, parts: tuple[str, ...], *, is_here: bool) -> str:
        text = self._loads.get((is_here, parts))
        if text is None:
            found = self._parts["head_here" if is_here else "head_anywhere"]
            wanted = [self._parts["load_head"], *(self._parts[f"load_{name}"] for name in parts)]
            *chosen, found = renumbered([*wanted, found])
            text = f"SELECT {', '.join(chosen)} FROM head h WHERE {found}"  # noqa: S608 - of our own files
            self._loads[is_here, parts] = text
        return text

    def _write_text(self, parts: tuple[str, ...]) -> str:
        text = self._writes.get(parts)
        if text is None:
            chosen = [self._parts["write_head"], *(self._parts[f"write_{name}"] for name in parts)]
            text = f"WITH {', '.join(renumbered(chosen))} SELECT place FROM held"  # noqa: S608 - the same
            self._writes[parts] = text
        return text


def renumbered(parts: Sequence[str]) -> list[str]:
    """The parts with their parameters numbered on, from one part to the next, and without their comments."""
    texts: list[str] = []
    offset = 0
    for part in parts:
        text = "\n".join(line for line in part.splitlines() if not line.startswith("--"))
        numbers = [int(number) for number in _PARAMETER.findall(text)]
        texts.append(_PARAMETER.sub(partial(_moved, offset), text))
        offset += max(numbers, default=0)
    return texts


def _moved(by: int, found: re.Match[str]) -> str:
    return f"${int(found.group(1)) + by}"
