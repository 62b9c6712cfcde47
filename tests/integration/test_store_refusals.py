"""Blob stores that refuse the site, seen before anybody's document meets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.core.errors import Refused
from outlast.wiring.config import Config, FilesystemBlobStore, SiteSection, check
from outlast.wiring.site import open_site

pytestmark = pytest.mark.anyio


async def test_wrong_buckets_show_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every store answers that there is no such bucket: all are out, and the status is an outage that names them."""

    async def refuse(self: FilesystemBlobs) -> None:
        raise Refused("bucket-not-found", "there is no such bucket")

    monkeypatch.setattr(FilesystemBlobs, "check", refuse)
    blobs = {name: FilesystemBlobStore(directory=str(tmp_path / name)) for name in "ab"}
    config = check(Config(site=SiteSection(data=str(tmp_path / "data")), blobs=dict(blobs)))
    async with open_site(config) as site:
        assert (await site.watch.status()).verdict == "operational", "nobody has asked yet"
        await site.blobs.ask_all()
        status = await site.watch.status()
    assert status.verdict == "outage"
    assert status.reasons == ("provider-ejected: blobs.a", "provider-ejected: blobs.b")
    assert {s.last_failure for s in status.blob_stores} == {"bucket-not-found"}
