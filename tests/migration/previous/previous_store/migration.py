"""Numbered migrations, and which programs may use a schema that has had them.

A migration is *pre* or *post*. **Pre** only adds, so that the previous release's code works on; every start runs those
that are pending. **Post** takes away or changes what older code needs, and only a person runs it (`outlast migrate
post`), once no older program is left. From then on a program that does not know that migration is refused: the number
of the newest post migration that was run is the oldest program schema that may use the database. A newer schema that
has had pre migrations only is accepted.

So a pre migration must work whether or not earlier post ones have run, and a release that brings a post migration must
work with and without it. `assess` is the rule, and pure; the engines keep what was applied in ``schema_migration``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Literal

import msgspec

from outlast.core.errors import Refused

Phase = Literal["pre", "post"]

_FILE = re.compile(r"^(\d{4})_(pre|post)_(\w+)\.sql$")


class Migration(msgspec.Struct, frozen=True):
    """One step. ``name`` is its file's, without number and phase."""

    number: int
    phase: Phase
    name: str
    sql: str

    @property
    def title(self) -> str:
        """As its file is called: ``0002_pre_trace``."""
        return f"{self.number:04}_{self.phase}_{self.name}"


class SchemaState(msgspec.Struct, frozen=True):
    """A database's schema as a program sees it.

    ``program`` is the newest migration the program knows, ``newest`` the newest one applied (0: none), ``oldest`` the
    oldest program schema that may use the database (0: any). ``pending`` are those the program knows and the database
    has not had, in order.
    """

    program: int
    newest: int
    oldest: int
    pending: tuple[Migration, ...]

    def of(self, phase: Phase) -> tuple[Migration, ...]:
        """The pending ones of a phase."""
        return tuple(one for one in self.pending if one.phase == phase)


def load_migrations(package: str) -> list[Migration]:
    """A package's migrations, in order."""
    found = []
    for item in files(package).iterdir():
        if match := _FILE.match(item.name):
            phase: Phase = "pre" if match[2] == "pre" else "post"
            found.append(Migration(int(match[1]), phase, match[3], item.read_text()))
    return sorted(found, key=lambda one: one.number)


def assess(migrations: Sequence[Migration], applied: Mapping[int, str]) -> SchemaState:
    """What is pending of ``migrations``, where ``applied`` (number to phase) have been run.

    Raises Refused ``schema-newer`` where a post migration has been run that the program does not know.
    """
    program = max((one.number for one in migrations), default=0)
    oldest = max((number for number, phase in applied.items() if phase == "post"), default=0)
    if oldest > program:
        raise schema_newer(oldest, program)
    return SchemaState(
        program=program,
        newest=max(applied, default=0),
        oldest=oldest,
        pending=tuple(one for one in migrations if one.number not in applied),
    )


def schema_newer(oldest: int, program: int) -> Refused:
    """The database has been changed for newer programs only."""
    return Refused(
        "schema-newer",
        f"the database is for programs of schema {oldest} and newer, this one is of schema {program}",
        hint="Run the newer outlast that migrated it; there is no way back from `outlast migrate post`.",
        scope="site",
    )
