"""What can go wrong with a PostgreSQL store, on a real server: cut connections, wrong addresses, missing rights, a
standby that does not answer, a node that freezes. Each is a clear error, nothing is half-written, and work resumes."""

from __future__ import annotations

import asyncio
import os
import pathlib
import pwd
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import asyncpg
import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner
from outlast.core.errors import Conflict, OutlastError, Refused, Unavailable, Unknown
from outlast.core.store.port import Head, Needs, Snapshot, WriteSet
from outlast.core.store.postgres import engine, session
from outlast.core.store.postgres.engine import PostgresStore
from outlast.core.store.postgres.failure import translate
from outlast.core.store.postgres.skew import skew_ms
from outlast.testing.audit import audit
from outlast.testing.ledger import Deposit, ledger_deciders
from outlast.testing.postgres import PostgresServer
from outlast.testing.servers import ServerFailed
from outlast.testing.suites.store import deposit, work

pytestmark = pytest.mark.anyio

DECIDERS = ledger_deciders()


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[PostgresStore]:
    """A store, closed at the end."""
    store = await PostgresStore.open(dsn)
    try:
        yield store
    finally:
        await store.close()


def committer_of(store: PostgresStore) -> Committer:
    """A committer over the test's aggregate."""
    clock = SystemClock()
    return Committer(store, Planner(DECIDERS, HybridClock(clock), "site"), clock)


def writer_pid(store: PostgresStore) -> int:
    """The server process of the writing session."""
    assert store._writer is not None
    return int(store._writer.get_server_pid())


# -- connections that end -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ahead", "kind", "code"),
    [(0, Unknown, "storage-answer-lost"), (9, Unavailable, "storage-unreachable")],
    ids=["alone", "in-turn"],
)
async def test_connection_killed_before_commit_writes_nothing(
    database: str, postgres_server: PostgresServer, ahead: int, kind: type[OutlastError], code: str
) -> None:
    """pg_terminate_backend while a flush is planning: no trace, and the next flush works. Where COMMIT is a message of
    its own, it is known that nothing happened."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a"))
        before = await store.head()

        def plan(snapshot: Snapshot) -> WriteSet:
            postgres_server.run(f"SELECT pg_terminate_backend({writer_pid(store)})")
            head = snapshot.head
            return WriteSet(Head(head.size, head.edge, head.hlc + 1, head.next_job + 1))

        store._in_turn = ahead
        with pytest.raises(kind, match=code) as caught:
            await store.flush(Needs(), plan)
        assert caught.value.retry_after_s
        assert await store.head() == before
        await committer.submit(work("a"))
        assert len((await audit(store, DECIDERS)).entries) == 2


@pytest.mark.slow
async def test_connections_killed_at_random_lose_nothing_acknowledged(
    database: str, postgres_server: PostgresServer
) -> None:
    """Sessions are cut again and again under load: what was acknowledged is there once, a retry with the
    same key ends well, and every error said whether it may have happened."""
    async with opened(database) as store:
        committer = committer_of(store)
        acked: dict[str, int] = {}
        kinds: set[str] = set()
        stop = asyncio.Event()

        async def cut() -> None:
            connection = await asyncpg.connect(postgres_server.dsn())
            for _ in range(30):
                await asyncio.sleep(0.1)
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'outlast'"
                )
            stop.set()
            await connection.close()

        async def client(number: int) -> None:
            step = 0
            while not stop.is_set():
                step += 1
                key = f"{number}-{step}"
                while key not in acked:
                    try:
                        receipt = await committer.submit(work(f"s{number}", deposit(), key=key))
                        acked[key] = receipt.index
                    except (Unavailable, Unknown) as error:
                        kinds.add(error.code)
                        await asyncio.sleep(0.01)

        cutting = asyncio.create_task(cut())
        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(client, number)
        await cutting
    async with opened(database) as store:
        found = await audit(store, DECIDERS)
        assert len(found.entries) == len(acked) > 100
        assert sorted(acked.values()) == list(range(len(acked)))
    assert kinds <= {"storage-unreachable", "storage-answer-lost"}
    assert kinds, "no session was cut in the middle of anything"


@pytest.mark.parametrize("ahead", [0, 9], ids=["alone", "in-turn"])
async def test_lost_answer_to_commit_is_unknown(
    database: str, monkeypatch: pytest.MonkeyPatch, ahead: int
) -> None:
    """What commits is sent and its answer never comes: Unknown; the same key then tells what happened."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a"))
        method = "execute" if ahead else "fetchval"
        real = getattr(asyncpg.Connection, method)

        async def loses(self: asyncpg.Connection, sql: str, *args: object) -> object:
            done = await real(self, sql, *args)
            if sql == "COMMIT" or method == "fetchval":
                raise ConnectionResetError
            return done

        store._in_turn = ahead
        with monkeypatch.context() as patched:
            patched.setattr(asyncpg.Connection, method, loses)
            with pytest.raises(Unknown, match="storage-answer-lost"):
                await committer.submit(work("a", key="k"))
        again = await committer.submit(work("a", key="k"))
        assert (again.replayed, again.index) == (True, 1)


@contextmanager
def missing_standby(server: PostgresServer) -> Iterator[None]:
    """Commits wait for a synchronous standby that is not there."""
    server.run("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    server.run("SELECT pg_reload_conf()")
    try:
        time.sleep(0.3)
        yield
    finally:
        server.run("ALTER SYSTEM RESET synchronous_standby_names")
        server.run("SELECT pg_reload_conf()")


async def test_commit_that_waits_for_its_standby_is_given_up_as_unknown(
    database: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer to COMMIT within the limit: Unknown. With the standby back, the same key tells that it happened."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a"))
        with missing_standby(postgres_server):
            with monkeypatch.context() as patched:
                patched.setattr(engine, "FLUSH_LIMIT_S", 0.5)
                with pytest.raises(Unknown, match="storage-answer-lost"):
                    await committer.submit(work("a", key="k"))
            assert (await store.head()).size == 1
        again = await committer.submit(work("a", key="k"))
        assert (again.replayed, again.index) == (True, 1)


async def test_commit_without_its_standby_is_not_acknowledged(
    database: str, postgres_server: PostgresServer
) -> None:
    """PostgreSQL reports success when the wait for a synchronous standby is cancelled; we do not."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a"))
        with missing_standby(postgres_server):
            waiting = asyncio.create_task(committer.submit(work("a", key="k")))
            for _ in range(200):
                await asyncio.sleep(0.02)
                event = postgres_server.run(
                    f"SELECT wait_event FROM pg_stat_activity WHERE pid = {writer_pid(store)}"
                )
                if event == "SyncRep":
                    break
            assert not waiting.done()
            assert (await store.head()).size == 1, "nobody sees it before the standby has it"
            postgres_server.run(f"SELECT pg_cancel_backend({writer_pid(store)})")
            with pytest.raises(Unknown, match="storage-answer-lost"):
                await waiting


async def test_server_restart_is_survived(
    tmp_path_factory: pytest.TempPathFactory, database: str, postgres_server: PostgresServer
) -> None:
    """The server crashes and comes back: requests meanwhile are Unavailable, afterwards all goes on as before."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a"))
        await asyncio.to_thread(postgres_server.kill)
        for call in (committer.submit(work("a")), store.head()):
            with pytest.raises(Unavailable, match="storage-unreachable"):
                await call
        await asyncio.to_thread(postgres_server.start)
        assert (await store.head()).size == 1
        await committer.submit(work("a"))
        assert len((await audit(store, DECIDERS)).entries) == 2


async def test_frozen_node_does_not_stop_the_others(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node stalls while it holds the head's lock: its session ends, its flush fails, the others go on."""
    monkeypatch.setitem(session.WRITER_SETTINGS, "idle_in_transaction_session_timeout", "300ms")
    async with opened(database) as frozen, opened(database) as other:
        committer = committer_of(other)

        def plan(snapshot: Snapshot) -> WriteSet:
            time.sleep(0.8)  # the whole process stands still
            head = snapshot.head
            return WriteSet(Head(head.size, head.edge, head.hlc + 1, head.next_job))

        frozen._in_turn = 9
        with pytest.raises(Unavailable, match="storage-unreachable"):
            await frozen.flush(Needs(), plan)
        await committer.submit(work("a"))
        await committer_of(frozen).submit(work("a"))
        assert (await other.head()).size == 2


async def test_lock_held_by_a_stranger_is_busy_not_for_ever(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds the head's row: Unavailable storage-busy after the lock's limit; then it works again."""
    monkeypatch.setitem(session.WRITER_SETTINGS, "lock_timeout", "200ms")
    async with opened(database) as store:
        stranger = await asyncpg.connect(database)
        await stranger.execute("BEGIN; SELECT 1 FROM head FOR UPDATE")
        with pytest.raises(Unavailable, match="storage-busy"):
            await committer_of(store).submit(work("a"))
        await stranger.close()
        await committer_of(store).submit(work("a"))


async def test_flush_gives_up_on_a_server_that_does_not_answer(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any answer a flush ends after its limit, as Unavailable: COMMIT had not been sent."""
    async with opened(database) as store:
        monkeypatch.setattr(engine, "FLUSH_LIMIT_S", 0.2)
        store._in_turn = 9
        stranger = await asyncpg.connect(database)
        await stranger.execute("BEGIN; SELECT 1 FROM head FOR UPDATE")
        with pytest.raises(Unavailable, match="storage-unreachable"):
            await store.flush(Needs(), lambda snapshot: WriteSet(snapshot.head))
        await stranger.close()
        monkeypatch.undo()
        await committer_of(store).submit(work("a"))


async def test_closed_store_says_so(database: str) -> None:
    """After close, neither reads nor writes come back to life."""
    async with opened(database) as store:
        await committer_of(store).submit(work("a"))
    with pytest.raises(Unavailable, match="storage-closed"):
        await committer_of(store).submit(work("a"))
    with pytest.raises(Unavailable, match="storage-closed"):
        await store.head()


async def test_exhausted_pool_is_busy(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All reading sessions taken: a read is Unavailable, not stuck; flushes have a session of their own."""
    monkeypatch.setattr(engine, "POOL_WAIT_S", 0.1)
    async with opened(database) as store:
        assert store._pool is not None
        taken = [await store._pool.acquire() for _ in range(engine.READERS)]
        with pytest.raises(Unavailable, match="storage-busy"):
            await store.head()
        await committer_of(store).submit(work("a"))
        for one in taken:
            await store._pool.release(one)
        assert (await store.head()).size == 1


async def test_cancelled_flush_leaves_the_session_whole(database: str) -> None:
    """A caller that is cancelled in the middle of a flush takes nothing with it."""
    async with opened(database) as store:
        for delay in (0.0, 0.001, 0.002, 0.004, 0.008):
            flush = asyncio.create_task(committer_of(store).submit(work("a")))
            await asyncio.sleep(delay)
            flush.cancel()
            await asyncio.wait([flush])
            task = asyncio.create_task(store.flush(Needs(), _next_hlc))
            await asyncio.sleep(delay)
            task.cancel()
            await asyncio.wait([task])
            await committer_of(store).submit(work("b"))
        row = await audit(store, ledger_deciders())
        assert sum(entry.stream.endswith("/b") for entry in row.entries) == 5


def _next_hlc(snapshot: Snapshot) -> WriteSet:
    return WriteSet(snapshot.head)


# -- servers and databases that cannot be used ----------------------------------------------------------------


async def _refusal(dsn: str, kind: type[OutlastError] = Refused) -> OutlastError:
    with pytest.raises(kind) as caught:
        await (await PostgresStore.open(dsn)).close()
    assert "test-only" not in f"{caught.value} {caught.value.hint}", "the password is told"
    return caught.value


async def test_wrong_addresses_say_what_is_wrong(
    postgres_server: PostgresServer, free_port: int
) -> None:
    """Each mistake in the address has its own code, and none repeats the password."""
    good = postgres_server.dsn("nosuch")
    lost = await _refusal(good)
    assert (lost.code, "nosuch" in lost.message) == ("storage-missing", True)
    odd = await _refusal(f"{good.replace('nosuch', 'postgres')}{'&' if '?' in good else '?'}foo=1")
    assert (odd.code, "'foo'" in odd.message) == ("store-dsn-invalid", True), odd
    wrong = good.replace("test-only", "wrong-word")
    assert (await _refusal(wrong)).code == "storage-login"
    assert (await _refusal(good.replace("postgresql://", "mysql://"))).code == "store-dsn-invalid"
    assert (await _refusal("postgresql://u:test-only@h:p/x")).code == "store-dsn-invalid"
    nobody = f"postgresql://u:test-only@127.0.0.1:{free_port}/x"
    assert (await _refusal(nobody, Unavailable)).code == "storage-unreachable"
    missing = "postgresql://u:test-only@no-such-host.invalid/x"
    assert (await _refusal(missing, Unavailable)).code == "storage-unreachable"


async def test_missing_rights_are_named(database: str, postgres_server: PostgresServer) -> None:
    """A user who may not create tables, or not write one, is refused at the start; what the how-to grants is
    enough."""
    postgres_server.run("CREATE ROLE weak LOGIN PASSWORD 'test-only'")
    weak = database.replace("postgres:", "weak:", 1).replace("ql://postgres", "ql://weak")
    assert weak.startswith("postgresql://weak:")
    assert (await _refusal(weak)).code == "storage-forbidden"
    await (await PostgresStore.open(database)).close()
    page = pathlib.Path(__file__).parents[2] / "docs" / "howto" / "postgresql.md"
    grants = [line.strip() for line in page.read_text().splitlines() if "    GRANT" in line]
    assert len(grants) == 7
    sql = "\n".join(grants).replace("TO outlast", "TO weak")
    postgres_server.run(f"{sql}; REVOKE INSERT ON entry FROM weak", database)
    refused = await _refusal(weak)
    assert (refused.code, "INSERT on entry" in refused.message) == ("storage-forbidden", True)
    postgres_server.run("GRANT INSERT ON entry TO weak", database)
    async with opened(weak) as store:
        await store.pin("x", "y")
        for number in range(2):
            one = work("a", deposit(jobs=1), key=f"k{number}", counters=("n",))
            await committer_of(store).submit(one)
        await committer_of(store).submit(work("b", subject_key=b"wrapped"))
        later = SystemClock().now_ms() + 60_000
        assert await store.prune(idempotency_before_ms=later, jobs_before_ms=later) == 2
    with pytest.raises(ServerFailed, match="permission denied"):
        postgres_server.run("UPDATE entry SET leaf = ''", weak)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE job_lease RENAME COLUMN attempts TO tries", "attempts"),
        ("ALTER TABLE job_body DROP COLUMN cause", "cause"),
        ("ALTER TABLE head ALTER COLUMN size TYPE text", "size"),
        ("DROP FUNCTION job_rows_forget", "job_rows_forget"),
        ("DROP TABLE job_done", "job_done"),
    ],
    ids=["renamed", "dropped", "another-type", "no-function", "no-table"],
)
async def test_drifted_schema_is_refused(
    database: str, postgres_server: PostgresServer, change: str, named: str
) -> None:
    """What was changed by hand is found at the start, not at the first write that needs it."""
    await (await PostgresStore.open(database)).close()
    postgres_server.run(change, database)
    refused = await _refusal(database)
    assert (refused.code, named in refused.message) == ("schema-drift", True)


async def test_a_server_that_is_too_old_is_refused(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is made in it."""
    monkeypatch.setattr(session, "MIN_SERVER", 990_000)
    refused = await _refusal(database)
    assert refused.code == "server-too-old"
    assert "99 is needed" in refused.message


async def test_column_added_by_a_newer_release_does_not_disturb(
    database: str, postgres_server: PostgresServer
) -> None:
    """A migration that only adds: this program goes on, also in the session that is open."""
    async with opened(database) as store:
        committer = committer_of(store)
        await committer.submit(work("a", deposit(jobs=1), key="1"))
        for table in (
            "head",
            "entry",
            "stream",
            "idempotency",
            "job_body",
            "job_lease",
            "job_done",
        ):
            postgres_server.run(f"ALTER TABLE {table} ADD COLUMN later text DEFAULT 'x'", database)
        await committer.submit(work("a", deposit(jobs=1), key="2"))
        assert len((await audit(store, DECIDERS)).jobs) == 2


async def test_unsafe_server_is_refused_unless_told_otherwise(
    database: str, postgres_server: PostgresServer
) -> None:
    """full_page_writes off: refused at the start; accepted where the configuration says that data may be lost."""
    postgres_server.run("ALTER SYSTEM SET full_page_writes = off")
    postgres_server.run("SELECT pg_reload_conf()")
    try:
        await asyncio.sleep(0.3)
        assert (await _refusal(database)).code == "unsafe-storage"
        await (await PostgresStore.open(database, allow_unsafe=True)).close()
    finally:
        postgres_server.run("ALTER SYSTEM RESET full_page_writes")
        postgres_server.run("SELECT pg_reload_conf()")


async def test_synchronous_commit_is_on_whatever_the_database_says(
    database: str, postgres_server: PostgresServer
) -> None:
    """A default of the database or the user does not weaken our sessions."""
    name = database.rsplit("/", 1)[1].partition("?")[0]
    postgres_server.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    postgres_server.run(
        f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
    )
    async with opened(database) as store:
        assert store._writer is not None
        assert await store._writer.fetchval("SHOW synchronous_commit") == "on"
        committer = committer_of(store)
        await asyncio.gather(*(committer.submit(work("a")) for _ in range(20)))


@pytest.mark.slow
async def test_standby_is_refused_and_used_once_promoted(
    database: str, postgres_server: PostgresServer
) -> None:
    """Where only standbys answer, starts and writes say so; after a promotion work resumes by itself."""
    async with opened(database) as store:
        await committer_of(store).submit(work("a"))
        await asyncio.to_thread(postgres_server.stop)
        (postgres_server.data / "standby.signal").touch()
        await asyncio.to_thread(postgres_server.start)
        assert (await _refusal(database, Unavailable)).code == "storage-read-only"
        with pytest.raises(Unavailable, match="storage-read-only"):
            await committer_of(store).submit(work("a"))
        with pytest.raises(Unavailable, match="storage-read-only"):
            await store.head()
        postgres_server.run("SELECT pg_promote()")
        await committer_of(store).submit(work("a"))
        assert (await store.head()).size == 2


class ShiftedClock:
    """A machine whose clock is wrong by ``shift_ms``."""

    def __init__(self, shift_ms: int = 0) -> None:
        self.shift_ms = shift_ms
        self._right = SystemClock()

    def now_ms(self) -> int:
        return self._right.now_ms() + self.shift_ms

    def monotonic_s(self) -> float:
        return self._right.monotonic_s()


async def test_a_clock_that_differs_from_the_servers_writes_nothing(database: str) -> None:
    """Beyond two seconds either way a node does not start, and a running one writes nothing and says by how much;
    within, and when the clocks agree again, it goes on by itself, in the same session."""
    clock = ShiftedClock()
    for shift_ms, words in ((2_500, "ahead of"), (-2_500, "behind")):
        with pytest.raises(Unavailable, match="clock-skew") as caught:
            await PostgresStore.open(database, clock=ShiftedClock(shift_ms))
        assert f"2.5 s {words} the database" in caught.value.message
        assert "NTP" in caught.value.hint
    store = await PostgresStore.open(database, clock=clock)
    committer = committer_of(store)
    await committer.submit(work("a"))
    pid, head = writer_pid(store), await store.head()
    for in_turn, shift_ms in ((0, 3_000), (9, -3_000)):
        store._in_turn, clock.shift_ms = in_turn, shift_ms
        with pytest.raises(Unavailable, match="clock-skew") as caught:
            await committer.submit(work("a"))
        assert caught.value.retry_after_s
        assert await store.head() == head
        clock.shift_ms = shift_ms // 2
        await committer.submit(work("a"))
        head = await store.head()
    assert writer_pid(store) == pid
    await store.close()


def test_the_answers_way_is_no_skew() -> None:
    """The server looked at its clock some time between question and answer: only what lies outside counts."""
    assert skew_ms(1_000, 1_000, 1_000) == 0
    assert skew_ms(1_000, 4_500, 9_000) == 0
    assert skew_ms(1_000, 900, 9_000) == 100
    assert skew_ms(1_000, 9_300, 9_000) == -300


async def test_nul_in_a_name_is_refused_alone(database: str) -> None:
    """PostgreSQL has no NUL in text: that command is refused, its neighbours in the flush are not."""
    async with opened(database) as store:
        committer = committer_of(store)
        results = await asyncio.gather(
            *(committer.submit(work(name)) for name in ("a", "b\x00", "c\ud800", "d")),
            return_exceptions=True,
        )
        codes = [getattr(result, "code", "ok") for result in results]
        assert codes == ["ok", "text-unstorable", "text-unstorable", "ok"]


@contextmanager
def small_disk(server: PostgresServer) -> Iterator[tuple[str, Callable[[], None]]]:
    """A database on a disk of 24 MiB of its own, and how to make that larger; where none can be mounted (no root), a
    database that says it is full."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-small-disk-"))
    nobody = pwd.getpwnam("nobody")
    options = f"size=24m,uid={nobody.pw_uid},gid={nobody.pw_gid},mode=700"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        dsn = server.create_database()
        yield dsn, lambda: server.run("DROP TRIGGER full_disk ON entry", dsn) and None
        return
    name = f"small_{folder.name[-8:].lower()}"
    server.run(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
    server.run(f"CREATE DATABASE {name} TABLESPACE {name}")

    def enlarge() -> None:
        subprocess.run(["mount", "-o", "remount,size=96m", str(folder)], check=True)

    try:
        yield server.dsn(name), enlarge
    finally:
        server.run(f"DROP DATABASE {name} WITH (FORCE)")
        server.run(f"DROP TABLESPACE {name}")
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


FULL = """
CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON entry EXECUTE FUNCTION full_disk();
"""


@pytest.mark.slow
async def test_full_disk_refuses_work_and_loses_none(postgres_server: PostgresServer) -> None:
    """The disk under the tables is full: Unavailable storage-full, what was acknowledged is there and can be read, and
    with room again work resumes by itself."""
    with small_disk(postgres_server) as (dsn, enlarge):
        async with opened(dsn) as store:
            committer = committer_of(store)
            acked = 0
            refused: list[OutlastError] = []
            if not dsn.partition("small_")[1]:
                await committer.submit(work("a"))
                acked = 1
                postgres_server.run(FULL, dsn)
            while not refused and acked < 20_000:
                batch = [
                    work(f"s{acked}-{i}", Deposit(at_ms=0, amount=1, memo=os.urandom(4_000).hex()))
                    for i in range(50)
                ]
                ends = await asyncio.gather(*map(committer.submit, batch), return_exceptions=True)
                refused = [end for end in ends if isinstance(end, OutlastError)]
                acked += len(ends) - len(refused)
            assert {(type(one), one.code) for one in refused} == {(Unavailable, "storage-full")}
            assert refused[0].retry_after_s
            assert (await store.head()).size == acked
            await asyncio.to_thread(enlarge)
            await committer.submit(work("b"))
            assert len((await audit(store, DECIDERS)).entries) == acked + 1


async def test_full_disk_and_contention_are_told_apart() -> None:
    """What cannot be provoked here in a second is at least translated: by SQLSTATE."""
    for error, kind, code in (
        (asyncpg.DiskFullError("x"), Unavailable, "storage-full"),
        (asyncpg.SerializationError("x"), Conflict, "storage-contended"),
        (asyncpg.DeadlockDetectedError("x"), Conflict, "storage-contended"),
        (asyncpg.TooManyConnectionsError("x"), Unavailable, "storage-busy"),
        (asyncpg.CannotConnectNowError("x"), Unavailable, "storage-unreachable"),
        (asyncpg.AdminShutdownError("x"), Unavailable, "storage-unreachable"),
        (asyncpg.ReadOnlySQLTransactionError("x"), Unavailable, "storage-read-only"),
    ):
        ours = translate(error)
        assert (type(ours), ours.code) == (kind, code)
    lost = translate(asyncpg.AdminShutdownError("x"), committing=True)
    assert (type(lost), lost.code) == (Unknown, "storage-answer-lost")
