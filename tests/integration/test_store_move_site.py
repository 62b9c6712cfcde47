"""A real site is moved from SQLite to PostgreSQL with the command a person gives, and goes on there as if nothing had
been: receipts, proofs, evidence, waiting work, a dead letter, idempotency keys. And what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

import pytest

from outlast.core.clock import SystemClock
from outlast.core.commit import Claim, Finish, Idempotency, Receipt
from outlast.core.errors import Refused
from outlast.core.store import transfer
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.transfer import Mark, Side
from outlast.core.work.runner import burial
from outlast.signing.api import Caller, SignatureAsk
from outlast.surfaces.cli.main import main
from outlast.testing.desk import chunks
from outlast.testing.pdfs import plain_pdf
from outlast.testing.postgres import PostgresServer
from outlast.wiring import storemove
from outlast.wiring.config import Config, load_config
from outlast.wiring.pointing import point_store_to
from outlast.wiring.site import DEFAULT_TENANT, Site, open_site, run_site

pytestmark = pytest.mark.anyio

OUTLAST = pathlib.Path(sys.executable).with_name("outlast")
CALLER = Caller(DEFAULT_TENANT, "test")


def outlast(folder: pathlib.Path, *arguments: str, status: int = 0) -> Any:
    """What a command answers with --json, its failure where one is expected. In this process: another costs a second."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = main([*arguments, "--json"])
    said = (out.getvalue(), err.getvalue())
    assert code == status, (arguments, said)
    assert "test-only" not in f"{said}", "the password is told"
    return json.loads(said[bool(status)].splitlines()[-1])


@contextmanager
def serving(folder: pathlib.Path) -> Iterator[Any]:
    """A site as a process, and what it said when it was ready."""
    with (folder / "serve.err").open("w") as errors:
        site = subprocess.Popen(
            [OUTLAST, "serve", "--json", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert site.stdout is not None
        line = site.stdout.readline()
        assert line, (folder / "serve.err").read_text()
        yield json.loads(line)
        site.terminate()
        assert site.wait(30) == 0
    finally:
        site.kill()
        site.communicate()


def configured(folder: pathlib.Path, dsn: str) -> Config:
    """A configuration for SQLite, and beside it a private file with a database's address."""
    (folder / "outlast.toml").write_text('# mine\n[site]\ndata = "data"\n')
    secret = folder / "dsn"
    secret.touch(mode=0o600)
    secret.write_text(f"{dsn}\n")
    return load_config(folder / "outlast.toml")


async def asked(site: Site, number: int) -> Receipt:
    """A signature request under a key."""
    added = await site.signing.add_document(
        CALLER, chunks(plain_pdf()), idempotency_key=f"d{number}"
    )
    ask = SignatureAsk(document=added.stream, reference=str(number))
    return await site.signing.request(CALLER, ask, Idempotency(f"r{number}", b"same"))


async def until_completed(site: Site, *requests: Receipt) -> None:
    """Wait for them."""
    async with asyncio.timeout(20):
        for request in requests:
            while (await site.signing.get(CALLER, request.stream)).status != "completed":
                await asyncio.sleep(0.02)


async def begun(config: Config) -> list[Receipt]:
    """A site that has signed two documents, owes two more, and has given up on one of those."""
    async with open_site(config) as site:
        loops = asyncio.create_task(run_site(site))
        receipts = [await asked(site, number) for number in range(2)]
        await until_completed(site, *receipts)
        await site.publisher.wait_for((await site.store.head()).size - 1, 10)
        loops.cancel()
        with suppress(asyncio.CancelledError):
            await loops
    async with open_site(config) as site:
        receipts += [await asked(site, number) for number in (2, 3)]
        now_ms = SystemClock().now_ms()
        claim = Claim(worker="w", kinds=site.runner.kinds, limit=1, now_ms=now_ms, ttl_ms=60_000)
        (job,) = await site.committer.claim(claim)
        dead = Finish(job=job.id, lease=job.lease, state="dead", error="given up")
        await site.committer.submit(burial(job, dead, "given up", now_ms, "test"))
    return receipts


@pytest.mark.slow
async def test_a_site_goes_on_in_postgresql(tmp_path: pathlib.Path, database: str) -> None:
    """Moved by the command, started again by `outlast serve`: everything is there, and what waited gets done."""
    old = configured(tmp_path, database)
    receipts = await begun(old)
    moved = await asyncio.to_thread(
        outlast, tmp_path, "store", "move", "--to", "dsn", "--configure"
    )
    assert moved["rows"]["entry"] == moved["size"] > moved["published"] > 0
    assert len(moved["root"]) == 64
    assert (moved["rows"]["job"] > 0, moved["rows"]["subject_key"] > 0) == (True, True)
    with pytest.raises(Refused, match="store-moved"):
        async with open_site(old):
            pass
    text = (tmp_path / "outlast.toml").read_text()
    assert text == '# mine\n[site]\ndata = "data"\n\n[store]\ndsn_file = "dsn"\n'
    async with open_site(load_config(tmp_path / "outlast.toml")) as site:
        for number, receipt in enumerate(receipts):
            again = await asked(site, number)
            assert (again.replayed, again.index, again.hlc) == (True, receipt.index, receipt.hlc)
    await asyncio.to_thread(_goes_on, tmp_path, receipts)


def _goes_on(folder: pathlib.Path, receipts: list[Receipt]) -> None:
    with serving(folder) as site:
        (dead,) = outlast(folder, "jobs", "list", "--state", "dead")["items"]
        outlast(folder, "jobs", "replay", str(dead["id"]), "--reason", "again")
        pins = ("--trust", "data/pki/ca.pem", "--log-key", site["log_keys"][0])
        for number, receipt in enumerate(receipts):
            target = (f"{number}.pdf", "--evidence", f"{number}.zip", "--wait", "20")
            outlast(folder, "requests", "fetch", receipt.stream, "-o", *target)
            for file in (f"{number}.pdf", f"{number}.zip"):
                assert outlast(folder, "verify", file, *pins)["verdict"] == "valid"
        outlast(folder, "log", "prove", str(receipts[0].index), "-o", "first.tlog-proof")
        outlast(folder, "verify", "first.tlog-proof", "--log-key", site["log_keys"][0])
        outlast(folder, "log", "verify", "--log-key", site["log_keys"][0])
    outlast(folder, "log", "fsck")
    undone = outlast(folder, "store", "move", "--to", "dsn", "--cancel", status=2)
    assert undone["code"] == "store-moved", "it has been used since"


@pytest.mark.slow
async def test_it_comes_back(tmp_path: pathlib.Path, database: str) -> None:
    """Moved there and, with the old file out of the way, back: the site runs on SQLite again and not on PostgreSQL."""
    receipts = await begun(configured(tmp_path, database))
    move = ("store", "move")
    await asyncio.to_thread(outlast, tmp_path, *move, "--to", "dsn", "--configure")
    (tmp_path / "data" / "site.db").rename(tmp_path / "old.db")
    there = load_config(tmp_path / "outlast.toml")
    await asyncio.to_thread(outlast, tmp_path, *move, "--back", "--configure")
    with pytest.raises(Refused, match="store-moved"):
        async with open_site(there):
            pass
    async with open_site(load_config(tmp_path / "outlast.toml")) as site:
        assert not site.config.store.dsn_file
        assert (await asked(site, 0)).index == receipts[0].index


@pytest.mark.slow
async def test_what_cannot_be_moved_is_refused(
    tmp_path: pathlib.Path, database: str, postgres_server: PostgresServer
) -> None:
    """Running site, wrong addresses, a database in use by another site, missing keys: each says so, and the site still
    starts."""
    config = configured(tmp_path, database)

    async def refusal(status: int, *arguments: str) -> str:
        failed = await asyncio.to_thread(
            outlast, tmp_path, "store", "move", *arguments, status=status
        )
        code: str = failed["code"]
        return code

    to = ("--to", "dsn")
    assert await refusal(2, *to) in ("store-not-found", "root-key-lost", "log-key-lost")
    async with open_site(config):
        assert await refusal(2, *to) == "site-in-use"
    assert await refusal(2) == "usage"
    assert await refusal(2, *to, "--back") == "usage"
    assert await refusal(2, "--back") == "store-not-found"
    assert await refusal(2, "--to", "nowhere") == "secret-unreadable"
    assert await refusal(2, *to, "--cancel") == "store-move-none"
    secret = tmp_path / "dsn"
    secret.chmod(0o644)
    assert await refusal(2, *to) == "secret-exposed"
    secret.chmod(0o600)
    secret.write_text("postgresql://u:test-only@h:p/x")
    assert await refusal(2, *to) == "store-dsn-invalid"
    secret.write_text("postgresql://u:test-only@127.0.0.1:1/x")
    assert await refusal(3, *to) == "storage-unreachable"
    secret.write_text(postgres_server.dsn("nosuch"))
    assert await refusal(2, *to) == "storage-missing"
    secret.write_text(database)
    other = tmp_path / "other"
    other.mkdir()
    async with open_site(configured(other, database)):
        pass
    await asyncio.to_thread(outlast, other, "store", "move", "--to", "dsn")
    assert await refusal(2, *to) == "store-not-empty"
    (tmp_path / "data/secrets/root.key").rename(tmp_path / "root.key")
    assert await refusal(2, *to) == "root-key-lost"
    (tmp_path / "root.key").rename(tmp_path / "data/secrets/root.key")
    async with open_site(config) as site:
        assert await site.store.head()


@pytest.mark.slow
async def test_a_node_that_starts_during_the_first_look_is_noticed(
    tmp_path: pathlib.Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has read that its database was not being moved, and would go on writing to what is left behind."""
    config = configured(tmp_path, database)
    async with open_site(config):
        pass
    late: list[PostgresStore] = []

    async def begin_late(source: Side, target: Side, mark: Mark) -> bool:
        late.append(await PostgresStore.open(database, session_name="outlast/late/1"))
        return await transfer.begin(source, target, mark)

    monkeypatch.setattr(storemove, "begin", begin_late)
    wish = storemove.StoreMove(str(tmp_path / "dsn"))
    try:
        with pytest.raises(Refused, match="site-in-use"):
            await storemove.move_store(config, wish, lambda *_: None)
    finally:
        await late[0].close()
    monkeypatch.undo()
    moved = await storemove.move_store(config, wish, lambda *_: None)
    assert moved.verified is not None


@pytest.mark.slow
async def test_killed_by_the_system_in_the_middle(tmp_path: pathlib.Path, database: str) -> None:
    """The command itself is killed with SIGKILL at some moment: no site starts on either side, and it ends the second time."""
    config = configured(tmp_path, database)
    await begun(config)
    words = [sys.executable, "-c", DIES, "store", "move", "--to", "dsn", "--json"]
    killed = await asyncio.to_thread(
        subprocess.run, words, cwd=tmp_path, capture_output=True, timeout=60
    )
    assert killed.returncode == -9, killed
    for settings in ("", '\n[store]\ndsn_file = "dsn"\n'):
        file = tmp_path / "either.toml"
        file.write_text(f'[site]\ndata = "data"\n{settings}')
        with pytest.raises(Refused, match="store-move-unfinished"):
            async with open_site(load_config(file)):
                pass
    moved = await asyncio.to_thread(outlast, tmp_path, "store", "move", "--to", "dsn")
    assert moved["size"] > 0
    assert moved["configured"] is False


DIES = """
import os, signal, sys
from outlast.core.store import transfer
transfer.PAGE_ROWS = 5
real, left = transfer._flush, [3]
async def dying(*given):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    await real(*given)
transfer._flush = dying
from outlast.surfaces.cli.main import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '[store]\ndsn_file = "dsn"\n'),
        ("[site]\nname = 'a'\n", "[site]\nname = 'a'\n\n[store]\ndsn_file = \"dsn\"\n"),
        (
            "[store]  # here\n# dsn_file = 'x'\nallow_unsafe = true\n[http]\n",
            "[store]  # here\ndsn_file = \"dsn\"\n# dsn_file = 'x'\nallow_unsafe = true\n[http]\n",
        ),
        ("[store]\ndsn_file = 'old'\n", '[store]\ndsn_file = "dsn"\n'),
    ],
)
def test_the_configuration_changes_by_a_line(
    tmp_path: pathlib.Path, before: str, after: str
) -> None:
    """Whatever else is in the file stays; taken out again, the setting is a comment."""
    file = tmp_path / "outlast.toml"
    file.write_text(before)
    file.chmod(0o640)
    point_store_to(file, tmp_path / "dsn")
    assert file.read_text() == after
    assert file.stat().st_mode & 0o777 == 0o640
    point_store_to(file, None)
    assert '# dsn_file = "dsn"' in file.read_text()
    assert load_config(file).store.dsn_file == ""


def test_a_configuration_written_otherwise_is_left_alone(tmp_path: pathlib.Path) -> None:
    """An inline table cannot be changed by a line: refused, and the file is as it was."""
    file = tmp_path / "outlast.toml"
    file.write_text("store = { allow_unsafe = true }\n")
    with pytest.raises(Refused, match="config-unchanged"):
        point_store_to(file, tmp_path / "dsn")
    assert file.read_text() == "store = { allow_unsafe = true }\n"
