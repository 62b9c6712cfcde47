"""What routing noticed goes on record, also when the disk was full at that moment."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from outlast.core.commit import Receipt, Submission
from outlast.core.errors import Unavailable
from outlast.core.routing.choose import Pick
from outlast.core.routing.outcome import TIMED_OUT
from outlast.core.store.port import StreamKey
from outlast.operations.model.provider import KIND
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import open_site
from outlast.wiring.watch import SITE_TENANT

pytestmark = pytest.mark.anyio


async def test_an_ejection_is_recorded_once_the_disk_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each change is handed out by routing once: one that could not be written must be kept."""
    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        router = site.world.signer_router
        for _ in range(3):
            call = router.started(Pick("local", "preferred", ""))
            assert call is not None
            router.finished(call, TIMED_OUT)

        async def full(work: Submission) -> Receipt:
            raise Unavailable("storage-full", "no room")

        async with asyncio.TaskGroup() as group:
            with monkeypatch.context() as disk:
                disk.setattr(site.committer, "submit", full)
                with pytest.raises(Unavailable):
                    await site.watch._look(group, recount=False)
            await site.watch._look(group, recount=False)
        row = await site.store.stream(StreamKey(SITE_TENANT, KIND, "local"))
        assert row is not None
        assert row.label == "ejected"


async def test_a_full_disk_is_said_though_the_mode_cannot_be_recorded(tmp_path: Path) -> None:
    """Whoever asks whether to send work is told no, from the moment that the disk is seen to be full."""
    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        assert site.watch.stopped_by() == ()
        site.watch.disk_free = 0
        assert site.watch.mode.label == "normal"
        assert "disk-low" in site.watch.stopped_by()[0]
        assert (await site.watch.status()).verdict == "outage"
