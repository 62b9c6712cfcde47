"""The seeds that once failed: a TOML file that a person reads, and the tests always run.

    [[seed]]
    seed = "2:17"                draw version and number (see `swarm`)
    commit = "a7fc127"           where it failed: check that out to see the very schedule again
    failed = "…"                 the broken promise
    mended = "…"                 what was changed, by whoever mended it; empty until then

Any change of the simulated code may change what a seed leads to, and a change of the draw certainly does. So a kept seed
keeps a neighbourhood under watch, not one schedule; what must never come back gets a test of its own.
"""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from outlast.core.errors import Refused
from outlast.testing.simulation.swarm import DRAW_VERSION

SEED_FILE = Path("tests/simulation/seeds.toml")
"""Where the repository keeps them, from its root."""
MAX_FAILURE_CHARS = 300
"""Of a broken promise's text that is kept."""


class KeptSeed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A seed that failed once."""

    seed: str
    commit: str
    failed: str
    mended: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    seed: tuple[KeptSeed, ...] = ()


def seed_name(number: int) -> str:
    """A seed as it is written: version and number."""
    return f"{DRAW_VERSION}:{number}"


def parse_seed(text: str, *, any_version: bool = False) -> int:
    """The number of a seed, ``17`` or ``2:17``. Raises Refused ``seed-malformed``, ``seed-of-another-draw``."""
    version, _, number = text.rpartition(":")
    if not (number.isascii() and number.isdigit() and version in ("", version.strip())):
        raise Refused("seed-malformed", f"{text!r} is no seed", hint="17, or 2:17 with its version")
    if version and version != str(DRAW_VERSION) and not any_version:
        raise Refused(
            "seed-of-another-draw",
            f"{text} is a seed of draw version {version}, this is {DRAW_VERSION}",
            hint="Check out the commit that it failed at; here the number means another schedule.",
        )
    return int(number)


def read_seeds(path: Path) -> tuple[KeptSeed, ...]:
    """All that are kept. Raises Refused ``seed-file-malformed``, OSError."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text()), _File).seed
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise Refused("seed-file-malformed", f"{path}: {error}") from error


def keep_seeds(path: Path, failures: Sequence[tuple[str, str]]) -> int:
    """Append (seed, broken promise) pairs that are not there yet; returns how many were new."""
    known = {kept.seed for kept in read_seeds(path)}
    new = [(seed, failed) for seed, failed in failures if seed not in known]
    commit = _commit()
    with path.open("a") as file:
        for seed, failed in new:
            file.write(f'\n[[seed]]\nseed = "{seed}"\ncommit = "{commit}"\n')
            file.write(f"failed = {_quoted(failed[:MAX_FAILURE_CHARS])}\n")
            file.write('mended = ""\n')
    return len(new)


def _quoted(text: str) -> str:
    """A TOML basic string; JSON's escapes are among TOML's."""
    return msgspec.json.encode(text).decode().replace("\x7f", "\\u007f")


def _commit() -> str:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
