"""A whole site on PostgreSQL: it signs, restarts, and keeps its keys; a second node must be of the same site."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from outlast.core.errors import OutlastError
from outlast.core.store.postgres.engine import PostgresStore
from outlast.signing.model.key import KIND as KEY_KIND
from outlast.wiring.config import Config, SiteSection, StoreSection, check, load_config
from outlast.wiring.nodes import Nodes
from outlast.wiring.site import DEFAULT_TENANT, open_site, run_site

pytestmark = pytest.mark.anyio


def at(data: Path, dsn: str) -> Config:
    """A configuration with the database's address in a secret file."""
    data.parent.mkdir(parents=True, exist_ok=True)
    secret = data.parent / f"{data.name}.dsn"
    secret.touch(mode=0o600)
    secret.write_text(f"{dsn}\n")
    return check(Config(site=SiteSection(data=str(data)), store=StoreSection(dsn_file=str(secret))))


@asynccontextmanager
async def running(config: Config):  # type: ignore[no-untyped-def]  # a test's own
    """A site with its loops."""
    async with open_site(config) as site:
        loops = asyncio.create_task(run_site(site))
        try:
            yield site
        finally:
            loops.cancel()
            await asyncio.wait([loops])


async def refusal(config: Config) -> str:
    """The code with which opening the site is refused."""
    with pytest.raises(OutlastError) as caught:
        async with open_site(config):
            pass
    return caught.value.code


async def test_a_site_runs_on_postgresql(tmp_path: Path, database: str) -> None:
    """It starts, enrols its own key, publishes its log, and finds all of it again; no SQLite file is made."""
    config = at(tmp_path / "data", database)
    async with running(config) as site:
        assert isinstance(site.store, PostgresStore)
        assert await site.publisher.wait_for(0, 10.0)
        size = (await site.store.head()).size
    assert not (tmp_path / "data" / "site.db").exists()
    async with open_site(config) as site:
        assert (await site.store.head()).size == size
        assert len(await site.store.streams(DEFAULT_TENANT, KEY_KIND)) == 1


async def test_a_second_node_publishes_what_the_first_wrote(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a copy of the first one's secrets a node joins, and its own tiles follow the shared log."""

    async def unchecked(_self: Nodes) -> None:
        """No documents here: that each node would have its own folder of them does not matter."""

    monkeypatch.setattr(Nodes, "check", unchecked)
    first, second = at(tmp_path / "a", database), at(tmp_path / "b", database)
    async with running(first) as one:
        for folder in ("secrets", "keys", "pki"):
            shutil.copytree(tmp_path / "a" / folder, tmp_path / "b" / folder)
        async with running(second) as other:
            size = (await one.store.head()).size
            await one.access.create(by="test", tenant="t", scopes=("admin",))
            assert (await other.store.head()).size == size + 1
            assert await other.publisher.wait_for(size, 5.0)


async def test_a_node_with_other_keys_is_refused(tmp_path: Path, database: str) -> None:
    """It would write what the others cannot read: without keys, or with keys of its own, it does not start."""
    async with open_site(at(tmp_path / "a", database)):
        pass
    assert await refusal(at(tmp_path / "b", database)) == "root-key-lost"
    (tmp_path / "b" / "secrets").mkdir(parents=True, mode=0o700)
    shutil.copy(tmp_path / "a/secrets/log.key", tmp_path / "b/secrets/log.key")
    (tmp_path / "b/secrets/root.key").touch(mode=0o600)
    (tmp_path / "b/secrets/root.key").write_text("ab" * 32)
    assert await refusal(at(tmp_path / "b", database)) == "site-differs"


async def test_the_address_must_be_a_private_file(tmp_path: Path, database: str) -> None:
    """The file has a password in it: missing, or readable by others, it is refused; its path may be relative."""
    config = at(tmp_path / "data", database)
    secret = tmp_path / "data.dsn"
    secret.chmod(0o644)
    assert await refusal(config) == "secret-exposed"
    secret.unlink()
    assert await refusal(config) == "secret-unreadable"
    (tmp_path / "outlast.toml").write_text('[store]\ndsn_file = "secrets/dsn"\n')
    loaded = load_config(tmp_path / "outlast.toml")
    assert loaded.store.dsn_file == str(tmp_path / "secrets" / "dsn")
