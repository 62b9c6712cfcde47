"""A full disk stops new work with the first write that it refuses, and no longer than it is full."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outlast.core.errors import Unavailable
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import Site, open_site

pytestmark = pytest.mark.anyio


def refuse_one(site: Site) -> None:
    """A request whose write finds no room."""
    with pytest.raises(Unavailable, match="storage-full"), site.watch.admit("t"):
        raise Unavailable("storage-full", "no room")


async def test_the_first_refused_write_stops_new_work(tmp_path: Path) -> None:
    """From the first ``storage-full`` on nothing new is taken and readiness says so, without waiting for a look at the
    disk; the mode follows at once; when a look finds room, work is taken again."""
    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        watching = asyncio.create_task(site.watch.run())
        await asyncio.sleep(0.05)  # the first look, which counts, is over
        assert site.watch.refusal() is None
        refuse_one(site)
        with pytest.raises(Unavailable, match="read-only"), site.watch.admit("t"):
            pytest.fail("taken on a full disk")
        assert "disk-low" in site.watch.stopped_by()[0]
        await in_mode(site, "read-only")
        await site.watch.recount()
        await in_mode(site, "normal")
        assert site.watch.refusal() is None
        watching.cancel()
        await asyncio.wait([watching])


async def in_mode(site: Site, mode: str) -> None:
    """Wait until the site works in a mode."""
    async with asyncio.timeout(5):
        while site.watch.mode.label != mode:
            await asyncio.sleep(0.01)


async def test_only_while_nobody_decided_otherwise(tmp_path: Path) -> None:
    """Where a person holds the mode, a full disk refuses writes and nothing else."""
    from outlast.wiring.switches import Hand

    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        await site.switches.set_mode(Hand(actor="p", reason="I am looking"), "normal")
        refuse_one(site)
        assert site.watch.refusal() is None
