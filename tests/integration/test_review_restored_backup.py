"""A site started on an older copy of its database: what it owed then may have been done since."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from outlast.core.errors import Unavailable
from outlast.signing.api import Caller, SignatureAsk
from outlast.testing.desk import chunks
from outlast.testing.pdfs import plain_pdf
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import DEFAULT_TENANT, Site, open_site, run_site

pytestmark = pytest.mark.anyio

CALLER = Caller(DEFAULT_TENANT, "test")


@asynccontextmanager
async def at_work(data: Path) -> AsyncIterator[Site]:
    """A site with all of its loops."""
    async with open_site(check(Config(site=SiteSection(data=str(data))))) as site:
        loops = asyncio.create_task(run_site(site))
        try:
            yield site
        finally:
            loops.cancel()
            with suppress(asyncio.CancelledError):
                await loops


async def until_label(site: Site, request: str, label: str) -> None:
    """Wait until the request is in that state."""
    async with asyncio.timeout(20):
        while (await site.signing.get(CALLER, request)).status != label:
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_signs_nothing_twice_after_a_backup_was_restored(tmp_path: Path) -> None:
    """The published log is ahead of the restored database: no job may run, and nothing new is taken."""
    data = tmp_path / "data"
    async with open_site(check(Config(site=SiteSection(data=str(data))))) as site:
        added = await site.signing.add_document(CALLER, chunks(plain_pdf()))
        asked = await site.signing.request(CALLER, SignatureAsk(document=added.stream))
    backup = tmp_path / "backup.db"
    await asyncio.to_thread(shutil.copy, data / "site.db", backup)
    async with at_work(data) as site:
        await until_label(site, asked.stream, "completed")
        assert await site.publisher.wait_for((await site.store.head()).size - 1, 10)
    await asyncio.to_thread(shutil.copy, backup, data / "site.db")
    async with at_work(data) as site:
        await asyncio.sleep(1.5)
        assert site.publisher.failure is not None
        assert site.publisher.failure.code == "log-fork"
        assert (await site.signing.get(CALLER, asked.stream)).status == "queued"
        assert (await site.store.job_counts()).ready == 1
        with pytest.raises(Unavailable, match="read-only"):
            await site.signing.request(CALLER, SignatureAsk(document=added.stream))
        site.watch._switches._modes.clear()  # whatever mode is on record: a person may have set one by hand
        with pytest.raises(Unavailable, match="read-only"):
            await site.signing.request(CALLER, SignatureAsk(document=added.stream))
