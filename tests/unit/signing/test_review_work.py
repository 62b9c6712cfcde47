"""Signing's jobs: waits that are too long, and ways out that were missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.testing.desk import Desk
from outlast.testing.keys import Fault
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio


async def wait_after_two_rounds(tmp_path: Path, one: Fault, two: Fault) -> int:
    """How long a job that failed twice waits, in milliseconds, with the providers' faults."""
    desk = Desk(tmp_path)
    await desk.enrol()
    desk.signers["one"].always(one)
    desk.signers["two"].always(two)
    await desk.ask(await desk.upload(plain_pdf()))
    wait_ms = 0
    for _ in range(2):
        desk.clock.advance(wait_ms)
        (row,) = await desk.claim()
        await desk.run(row)
        job = await desk.store.job(row.id)
        assert job is not None
        assert job.state == "ready"
        wait_ms = job.run_at_ms - desk.clock.now_ms()
    return wait_ms


async def test_one_throttling_provider_does_not_delay_the_retry_at_another(tmp_path: Path) -> None:
    """One asked to be left alone for ten minutes, the other fails for a moment: it is asked again within seconds."""
    throttle = Fault(kind="throttle", retry_after_s=600.0)
    assert await wait_after_two_rounds(tmp_path, throttle, Fault(kind="fail-before")) < 15_000


async def test_when_all_providers_throttle_the_shortest_wait_is_kept(tmp_path: Path) -> None:
    """Nobody is asked sooner than he said, and nobody much later."""
    one = Fault(kind="throttle", retry_after_s=600.0)
    two = Fault(kind="throttle", retry_after_s=30.0)
    assert 25_000 <= await wait_after_two_rounds(tmp_path, one, two) < 60_000
