"""The two statements of a flush, put together from the parts of ``flush.sql`` that this flush needs.

Few combinations come up again and again, so each is prepared once per session: `Statements` remembers their text, and
asyncpg what it prepared. What is rare (subject keys, counters, jobs that are done no longer) is in or out together,
which bounds the combinations.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from previous_store.port import Needs, Snapshot, WriteSet
from previous_store.postgres.rows import load_columns, write_columns

_PARAMETER = re.compile(r"\$(\d+)")

LOADS = ("streams", "idempotency", "jobs", "counters", "claims")
"""What a load may ask for, in the order of its answer."""
WRITES = {
    "entries": 3,
    "new_streams": 8,
    "streams": 8,
    "idempotency": 4,
    "bodies": 7,
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


class Statements:
    """Texts and arguments for one store."""

    def __init__(self, parts: Mapping[str, str]) -> None:
        self._parts = parts
        self.lock = parts["lock"]
        self._loads: dict[tuple[str, ...], str] = {}
        self._writes: dict[tuple[str, ...], str] = {}

    def load(self, needs: Needs) -> tuple[str, tuple[str, ...], list[object]]:
        """The statement, the parts that its answer has beyond the head's columns, the arguments."""
        columns = load_columns(needs)
        parts = tuple(columns)
        arguments = [argument for part in columns.values() for argument in part]
        return self._load_text(parts), parts, arguments

    def write(self, write: WriteSet, snapshot: Snapshot, flush: int) -> tuple[str, list[object]]:
        """The statement and its arguments; it returns 1, or 0 where ``flush`` is not the head's newest."""
        columns = write_columns(write, snapshot)
        for group in TOGETHER:
            if any(name in columns for name in group):
                for name in group:
                    columns.setdefault(name, [()] * WRITES[name])
        head = write.head
        arguments: list[object] = [head.size, head.edge, head.hlc, head.next_job, flush]
        parts = tuple(name for name in WRITES if name in columns)
        for name in parts:
            arguments += columns[name]
        return self._write_text(parts), arguments

    def all(self) -> list[str]:
        """Each statement with all its parts, to be checked against the tables there are."""
        return [self._load_text(LOADS), self._write_text(tuple(WRITES))]

    def _load_text(self, parts: tuple[str, ...]) -> str:
        text = self._loads.get(parts)
        if text is None:
            chosen = [self._parts["load_head"], *(self._parts[f"load_{name}"] for name in parts)]
            wanted = ", ".join(renumbered(chosen))
            text = f"SELECT {wanted} FROM head h WHERE h.one = 1"  # noqa: S608 - of our own files
            self._loads[parts] = text
        return text

    def _write_text(self, parts: tuple[str, ...]) -> str:
        text = self._writes.get(parts)
        if text is None:
            chosen = [self._parts["write_head"], *(self._parts[f"write_{name}"] for name in parts)]
            text = f"WITH {', '.join(renumbered(chosen))} SELECT count(*) FROM held"  # noqa: S608 - the same
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
