"""The order in which things break, and what is done when its turn comes.

Each fault has its place on the way from the first acknowledged request to the last, so it is reached however fast the
machine is; and some seconds to itself, so that it is felt however few requests there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from outlast.core.clock import Clock

LOOK_EVERY_S = 0.02


class Fault(msgspec.Struct, frozen=True):
    """``act`` when the share ``at`` of all requests has been acknowledged, ``gap_s`` after the one before at the
    earliest."""

    at: float
    gap_s: float
    act: Callable[[], Awaitable[None]]


async def play(faults: Sequence[Fault], progress: Callable[[], float], clock: Clock) -> None:
    """Let them happen, one after the other. ``progress`` is the share of requests acknowledged, 0 to 1."""
    last_s = clock.monotonic_s()
    for fault in faults:
        # what it waits for is counted elsewhere, and time: there is no event to wait for
        while progress() < fault.at or clock.monotonic_s() < last_s + fault.gap_s:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_EVERY_S)
        await fault.act()
        last_s = clock.monotonic_s()
