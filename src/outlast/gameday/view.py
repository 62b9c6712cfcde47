"""What there is to see while a game day runs. Others write it; the screen only reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from outlast.core.clock import Clock
from outlast.core.routing.health import ProviderSnapshot
from outlast.gameday.ledger import Ledger
from outlast.gameday.record import Record
from outlast.operations.views import Status

Tone = Literal["plain", "good", "bad", "notable"]


@dataclass
class Actor:
    """A process on stage. ``state`` is what was done to it: up, killed, blackholed, starting, stopped."""

    name: str
    state: str = "starting"
    pid: int = 0


@dataclass(frozen=True)
class Happening:
    """A line of the story; ``at_s`` since the first request."""

    at_s: float
    text: str
    tone: Tone = "plain"


@dataclass
class View:
    """Everything on the screen. ``start_ms`` is the Unix time of the first request, 0 before it; ``troubles`` are the
    client's calls that are being made again, and why."""

    clock: Clock
    wanted: int
    ledger: Ledger
    record: Record
    actors: dict[str, Actor]
    phase: str = "setting the stage"
    start_ms: int = 0
    status: Status | None = None
    troubles: Mapping[int, str] = field(default_factory=dict)
    verified: int = 0
    to_verify: int = 0
    happenings: list[Happening] = field(default_factory=list)

    def elapsed_s(self, at_ms: int | None = None) -> float:
        """Seconds since the first request, 0 before it; at ``at_ms``, or now."""
        if not self.start_ms:
            return 0.0
        return ((self.clock.now_ms() if at_ms is None else at_ms) - self.start_ms) / 1000

    def say(self, text: str, tone: Tone = "plain", at_ms: int | None = None) -> None:
        """Add a line to the story."""
        self.happenings.append(Happening(self.elapsed_s(at_ms), text, tone))

    def health(self, name: str) -> ProviderSnapshot | None:
        """A provider or authority as the site sees it."""
        if self.status is None:
            return None
        parts = (*self.status.signers, *self.status.authorities)
        return next((part for part in parts if part.provider == name), None)

    @property
    def trouble(self) -> str:
        """What the client is struggling with; empty: nothing."""
        reasons = set(self.troubles.values())
        return f"{len(self.troubles)} asked again ({', '.join(sorted(reasons))})" if reasons else ""

    @property
    def mode(self) -> str:
        """The site's mode; empty while it does not answer."""
        return self.status.mode if self.status is not None else ""
