"""The record: what was done to a disk, in order, and what was to fail."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

Kind = Literal[
    "make", "write", "truncate", "sync", "failed-sync", "sync-directory", "rename",
    "link", "remove", "note",
]  # fmt: skip

ROOT = "."
"""The name of the directory that the names of steps are relative to."""


class PowerCutError(BaseException):
    """The machine stops here. Not an Exception: nothing may catch it and go on."""


class Step(msgspec.Struct, frozen=True):
    """One thing that happened to ``name``. ``offset`` is of a write, or the new size of a truncation; ``target`` is of
    a rename or link. ``make`` makes a directory. A note's text is its ``name``."""

    kind: Kind
    name: str
    offset: int = 0
    data: bytes = b""
    target: str = ""


class Fault(msgspec.Struct, frozen=True):
    """What the disk does wrong: from the ``at``-th step on that ``hits`` (counted from 0), ``lasts`` of them fail.

    ``number`` is the errno. ``half``: a write that fails has written its first half.
    """

    at: int
    hits: Literal["write", "sync"]
    number: int = errno.EIO
    lasts: int = 1
    half: bool = False


class Recorder:
    """All steps of a run. Steps that ``deaf`` to are not written down: syncs that somebody forgot."""

    def __init__(
        self, fault: Fault | None = None, deaf: Callable[[Step], bool] = lambda _: False
    ) -> None:
        self.steps: list[Step] = []
        self.failed = 0
        self._fault = fault
        self._deaf = deaf
        self._counts = {"write": 0, "sync": 0}
        self._lock = threading.Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """The process that was recorded is gone: what it seems to do from here on, it does not."""
        self._is_stopped = True

    def go_on(self) -> None:
        """The next process."""
        self._is_stopped = False

    def note(self, text: str) -> None:
        """Something the test wants to know the moment of."""
        self.add(Step("note", text))

    def add(self, step: Step) -> None:
        """Remember a step that has been done."""
        with self._lock:
            if not self._is_stopped and not self._deaf(step):
                self.steps.append(step)

    def failure(self, hits: Literal["write", "sync"]) -> Fault | None:
        """Called before a write or sync: the fault that it meets, if it does."""
        fault = self._fault
        with self._lock:
            if self._is_stopped:
                return None
            count = self._counts[hits]
            self._counts[hits] += 1
            if fault is None or fault.hits != hits:
                return None
            if not fault.at <= count < fault.at + fault.lasts:
                return None
            self.failed += 1
            return fault

    def count(self, hits: Literal["write", "sync"]) -> int:
        """How many there were."""
        return self._counts[hits]


def noted(steps: Sequence[Step], point: int) -> list[str]:
    """What had been noted before ``point``."""
    return [step.name for step in steps[:point] if step.kind == "note"]
