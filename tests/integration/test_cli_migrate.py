"""``outlast migrate`` over a stopped site's file and over a PostgreSQL database."""

from __future__ import annotations

import asyncio
import json
import pathlib

import apsw
import pytest

from outlast.core.store.migration import Migration, load_migrations
from outlast.core.store.postgres import schema as postgres_schema
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.sqlite import schema as sqlite_schema
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.surfaces.cli.main import main

PRE = Migration(9_000, "pre", "later", "ALTER TABLE stream ADD COLUMN later integer")
POST = Migration(9_001, "post", "later", "ALTER TABLE stream DROP COLUMN later")


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """This program is of a later release: it has a pre and a post migration more."""

    def known(package: str) -> list[Migration]:
        return [*load_migrations(package), PRE, POST]

    for module in (postgres_schema, sqlite_schema):
        monkeypatch.setattr(module, "load_migrations", known)


def _told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, object]:
    assert main([*words, "--json"]) == 0
    answer: dict[str, object] = json.loads(capsys.readouterr().out)
    return answer


def _check(capsys: pytest.CaptureFixture[str], engine: str, *options: str) -> None:
    told = _told(capsys, *options, "migrate", "status")
    assert told["engine"] == engine
    assert (told["program"], told["oldest"]) == (9_001, 0)
    assert (told["pending_pre"], told["pending_post"]) == (["9000_pre_later"], ["9001_post_later"])
    dry = _told(capsys, *options, "migrate", "post", "--dry-run")
    assert (dry["pending_pre"], dry["ran"]) == (["9000_pre_later"], [])
    ran = _told(capsys, *options, "migrate", "pre")
    assert (ran["ran"], ran["pending_pre"], ran["newest"]) == (["9000_pre_later"], [], 9_000)
    ran = _told(capsys, *options, "migrate", "post")
    assert (ran["ran"], ran["pending_post"], ran["oldest"]) == (["9001_post_later"], [], 9_001)
    assert _told(capsys, *options, "migrate", "post")["ran"] == []
    assert main([*options, "migrate", "status"]) == 0
    assert "9001" in capsys.readouterr().out


def test_a_file(tmp_path: pathlib.Path, later: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Status, dry run, pre, post; while the site runs only status answers; without a database nothing is made."""
    options = ("--data", str(tmp_path))
    assert main([*options, "migrate", "status"]) == 2
    assert "database-missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

    async def during() -> None:
        store = await SqliteStore.open(tmp_path / "site.db")
        # before the later release: without what it brings
        store._writer.execute("ALTER TABLE stream DROP COLUMN later")
        store._writer.execute("DELETE FROM schema_migration WHERE number = 9000")
        assert await asyncio.to_thread(main, [*options, "migrate", "pre"]) == 2
        assert await asyncio.to_thread(main, [*options, "migrate", "status"]) == 0
        await store.close()

    asyncio.run(during())
    assert "site-in-use" in capsys.readouterr().err
    _check(capsys, "sqlite", *options)
    db = apsw.Connection(str(tmp_path / "site.db"))
    assert db.pragma("user_version") == 9_001
    db.close()


def test_a_database(
    tmp_path: pathlib.Path,
    database: str,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    """The same over PostgreSQL, beside a node that runs."""
    secret = tmp_path / "dsn"
    secret.touch(mode=0o600)
    secret.write_text(database)
    (tmp_path / "outlast.toml").write_text(f'[store]\ndsn_file = "{secret}"\n')

    async def made() -> None:
        await (await PostgresStore.open(database)).close()

    asyncio.run(made())
    request.getfixturevalue("later")
    _check(capsys, "postgresql", "--config", str(tmp_path / "outlast.toml"))
