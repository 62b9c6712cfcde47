"""Time, read in one place.

The wall clock of a machine steps back; ours never does: ``now_ms`` never falls.
``monotonic_s`` measures intervals. ``HybridClock`` orders events of many sites (hybrid logical clock, Kulkarni
et al. 2014): 48 bits of milliseconds and a 16-bit counter, so it stays within the skew of real time and always
exceeds every timestamp it has been shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from outlast.core.errors import Refused

_COUNTER_BITS = 16
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1

MAX_DRIFT_MS = 60_000
"""A remote timestamp further ahead of ours than this is refused: it would drag our clock along."""


MAX_RESUME_MS = 24 * 3_600_000
"""How far ahead of the machine's clock a record may be that a restarted process still follows."""


class Clock(Protocol):
    """What everything above takes its time from."""

    def now_ms(self) -> int:
        """Unix time in milliseconds; never less than an earlier answer."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start, for measuring intervals."""
        ...


class SystemClock:
    """The machine's clocks. When the wall clock is set back, ours goes on from its largest value at half speed
    until real time has caught up: it neither falls nor stands still, so leases still run out and retries still
    come due."""

    def __init__(
        self,
        wall_ns: Callable[[], int] = time.time_ns,
        steady_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._wall_ns = wall_ns
        self._steady_ns = steady_ns
        self._last_ms = 0
        self._slewing: tuple[int, int] | None = None
        """What we said and the steady clock's reading when the wall clock was found behind."""

    def now_ms(self) -> int:
        wall_ms = self._wall_ns() // 1_000_000
        if wall_ms >= self._last_ms:
            self._slewing = None
            self._last_ms = wall_ms
            return wall_ms
        since = self._slewing
        if since is None:
            self._slewing = since = (self._last_ms, self._steady_ns())
        slewed_ms = since[0] + (self._steady_ns() - since[1]) // (2 * 1_000_000)
        self._last_ms = max(self._last_ms, slewed_ms)
        return self._last_ms

    def resume(self, floor_ms: int) -> bool:
        """Say nothing earlier than this, the time of what is already on record.

        False, and nothing is changed, where that is more than MAX_RESUME_MS ahead of the machine's clock: the record
        was then dated by a clock that was wrong, and to follow it would make every certificate expired.
        """
        if floor_ms - self._wall_ns() // 1_000_000 > MAX_RESUME_MS:
            return False
        self._last_ms = max(self._last_ms, floor_ms)
        return True

    def stepped_back_ms(self) -> int:
        """By how many milliseconds the machine's wall clock is now behind what it once said; 0 if not."""
        return max(0, self._last_ms - self._wall_ns() // 1_000_000)

    def monotonic_s(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that a test or the simulator moves by hand."""

    def __init__(self, start_ms: int = 1_800_000_000_000) -> None:
        self._ms = start_ms
        self._start_ms = start_ms

    def now_ms(self) -> int:
        return self._ms

    def monotonic_s(self) -> float:
        return (self._ms - self._start_ms) / 1000

    def advance(self, ms: int) -> None:
        """Move forward by ``ms`` milliseconds."""
        self._ms += ms


class HybridClock:
    """Hands out strictly growing hybrid timestamps.

    A timestamp is one integer, ``ms << 16 | counter``. Written form: 16 lower-case hex digits, so that text
    order is time order.
    """

    def __init__(self, clock: Clock, last: int = 0) -> None:
        self._clock = clock
        self._last = last

    def tick(self) -> int:
        """The next timestamp, greater than all before it."""
        self._last = max(self._last + 1, self._clock.now_ms() << _COUNTER_BITS)
        return self._last

    def observe(self, remote: int) -> None:
        """Take note of another site's timestamp; raises Refused ``clock-drift`` beyond MAX_DRIFT_MS."""
        ahead_ms = (remote >> _COUNTER_BITS) - self._clock.now_ms()
        if ahead_ms > MAX_DRIFT_MS:
            raise Refused(
                "clock-drift",
                f"a remote timestamp is {ahead_ms} ms ahead of this site's clock",
                hint="Check time synchronisation (NTP) on both machines.",
            )
        self._last = max(self._last, remote)

    def resume(self, own: int) -> None:
        """Go on from where this site's own log stands.

        Not bounded as ``observe`` is: a machine whose clock was set back, or whose neighbour's ran ahead, must
        still be able to write to its log; timestamps then grow by their counter until real time catches up.
        """
        self._last = max(self._last, own)


def hlc_text(timestamp: int) -> str:
    """A hybrid timestamp as 16 hex digits."""
    return f"{timestamp:016x}"


def hlc_ms(timestamp: int) -> int:
    """The milliseconds part of a hybrid timestamp."""
    return timestamp >> _COUNTER_BITS


def to_datetime(ms: int) -> datetime:
    """Unix milliseconds as an aware UTC datetime."""
    return datetime.fromtimestamp(ms / 1000, tz=UTC)


def iso(ms: int) -> str:
    """Unix milliseconds as RFC 3339 text in UTC with milliseconds."""
    return to_datetime(ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
