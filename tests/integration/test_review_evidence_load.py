"""Making a bundle of a large document while others want to be served."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import pytest

from outlast.signing.api import Caller, SignatureAsk
from outlast.testing.desk import chunks
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import DEFAULT_TENANT, open_site, run_site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CALLER = Caller(DEFAULT_TENANT, "test")
SIZE = 24 * 1024 * 1024


async def test_a_bundle_does_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    """Hashing and compressing a large file takes a second of CPU, which is not the event loop's to spend."""
    async with open_site(check(Config(site=SiteSection(data=str(tmp_path / "data"))))) as site:
        loops = asyncio.create_task(run_site(site))
        added = await site.signing.add_document(
            CALLER, chunks(os.urandom(SIZE)), media_type="application/octet-stream"
        )
        asked = await site.signing.request(CALLER, SignatureAsk(document=added.stream))
        async with asyncio.timeout(30):
            while (await site.signing.get(CALLER, asked.stream)).status != "completed":
                await asyncio.sleep(0.05)
        now_s = asyncio.get_running_loop().time
        began_s, longest_s, last_s = now_s(), 0.0, now_s()
        making = asyncio.create_task(site.evidence.bundle(DEFAULT_TENANT, asked.stream))
        while not making.done():
            await asyncio.sleep(0.001)
            longest_s, last_s = max(longest_s, now_s() - last_s), now_s()
        assert len(await making) > SIZE
        assert longest_s < (now_s() - began_s) / 4
        loops.cancel()
        with suppress(asyncio.CancelledError):
            await loops
