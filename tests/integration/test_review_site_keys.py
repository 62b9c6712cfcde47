"""A site whose keys are gone, or whose log would change its name, says so instead of going on under new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from outlast.core.errors import Refused
from outlast.wiring.config import Config, LogSection, SiteSection, check
from outlast.wiring.site import open_site

pytestmark = pytest.mark.anyio


def at(data: Path, name: str = "site", origin: str = "") -> Config:
    """A configuration with everything else left at its default."""
    return check(Config(site=SiteSection(data=str(data), name=name), log=LogSection(origin=origin)))


async def refusal(config: Config) -> str:
    """The code with which opening the site is refused."""
    with pytest.raises(Refused) as caught:
        async with open_site(config):
            pass
    return caught.value.code


@pytest.mark.parametrize(
    ("secret", "code"), [("root.key", "root-key-lost"), ("log.key", "log-key-lost")]
)
async def test_a_lost_key_is_not_replaced(tmp_path: Path, secret: str, code: str) -> None:
    """A backup without secrets/: stored documents would be unreadable, the log under a key nobody pinned."""
    config = at(tmp_path / "data")
    async with open_site(config):
        pass
    lost = tmp_path / "data" / "secrets" / secret
    kept = lost.rename(tmp_path / secret)
    assert await refusal(config) == code
    assert not lost.exists()
    kept.rename(lost)
    async with open_site(config):
        pass


async def test_a_lost_database_is_not_replaced(tmp_path: Path) -> None:
    """The log's folder without site.db: nothing is made beside it; with the log moved away a new site begins."""
    data = tmp_path / "data"
    async with open_site(at(data)) as site:
        await site.publisher.begin()
        await site.publisher.publish_once()
    site_files = [path for path in data.iterdir() if path.name.startswith("site.")]
    for path in site_files:
        path.unlink()
    assert await refusal(at(data)) == "database-lost"
    assert not (data / "site.db").exists()
    (data / "log" / "checkpoint").write_bytes(b"not a note")
    assert await refusal(at(data)) == "database-lost"
    (data / "log").rename(tmp_path / "log")
    async with open_site(at(data)):
        pass


async def test_a_log_keeps_its_name(tmp_path: Path) -> None:
    """Renamed, a site would sign checkpoints that no verifier of its log accepts; an origin may be kept."""
    async with open_site(at(tmp_path / "data")) as site:
        origin = site.config.origin
    assert await refusal(at(tmp_path / "data", name="other")) == "log-origin-changed"
    async with open_site(at(tmp_path / "data", name="other", origin=origin)):
        pass
