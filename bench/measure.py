"""Numbers of a run: rounds, medians, ratios, and the machine they were made on.

A measurement goes through all variants in turn, round after round, so that slow drift of the machine falls on all
alike. A ratio is taken within each round and the median of those is reported, with the least and the greatest.
Absolute numbers hold for one machine only; ratios carry over.
"""

from __future__ import annotations

import os
import pathlib
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata

import msgspec

DISK_PROBES = 200


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured quantity: a value per round."""

    name: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the rounds."""
        return statistics.median(self.rounds)

    def text(self) -> str:
        """Median and range, for people."""
        if len(self.rounds) == 1:
            return f"{number(self.median)} {self.unit}".strip()
        span = f"{number(min(self.rounds))}-{number(max(self.rounds))}"
        return f"{number(self.median)} [{span}] {self.unit}".strip()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and what came out. ``at_least``: more is better, otherwise less is. ``goal`` None: nobody set one."""

    what: str
    value: float
    goal: float | None
    at_least: bool
    unit: str = "x"
    aim: float | None = None
    spread: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the goal is reached, or there is none."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.at_least else self.value <= self.goal


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a case has to say: figures, verdicts, and in words how it was measured and what limits it."""

    case: str
    title: str
    method: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run took place."""

    cpu: str
    cores: int
    memory_gib: int
    kernel: str
    python: str
    filesystem: str
    sync_us: int
    load_before: float
    versions: dict[str, str]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """A whole run, as kept in bench/results/latest.json."""

    made: str
    commit: str
    quick: bool
    machine: Machine
    outcomes: tuple[Outcome, ...]


def number(value: float) -> str:
    """A number with as many digits as mean something."""
    if value >= 1000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def ratio(
    what: str, over: Figure, under: Figure, *, goal: float | None, aim: float | None = None
) -> Verdict:
    """How many times ``over`` exceeds ``under``, round by round."""
    each = sorted(a / b for a, b in zip(over.rounds, under.rounds, strict=True))
    return Verdict(
        what=what,
        value=statistics.median(each),
        goal=goal,
        at_least=True,
        aim=aim,
        spread=(each[0], each[-1]),
    )


def describe_machine(packages: Sequence[str]) -> Machine:
    """This machine, and what one durable write costs in the folder the benchmark uses."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(pages / 2**30),
        kernel=platform.release(),
        python=platform.python_version(),
        filesystem=_filesystem(pathlib.Path(tempfile.gettempdir())),
        sync_us=_sync_us(),
        load_before=os.getloadavg()[0],
        versions={name: metadata.version(name) for name in packages},
    )


def _filesystem(folder: pathlib.Path) -> str:
    """The type of the file system that holds ``folder``."""
    best, kind = "", "unknown"
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, mount, fs, *_ = line.split()
        inside = folder.resolve().is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, kind = mount, fs
    return kind


def _sync_us() -> int:
    """Median microseconds of appending 1 KiB and making it durable."""
    block, took = os.urandom(1024), []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(DISK_PROBES):
            start = time.perf_counter()
            os.write(file.fileno(), block)
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - start)
    return round(statistics.median(took) * 1e6)
