"""The committer and its plan: groups, order, limits, failures, each on a store of dictionaries."""

from __future__ import annotations

import asyncio
import pathlib

import msgspec
import pytest

from outlast.core import commit
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Claim, Committer, Finish, Planner, Receipt, Settle, Submission
from outlast.core.decider import Command
from outlast.core.errors import Conflict, Corrupt, Refused, Unavailable, Unknown
from outlast.core.store.port import Head, WriteSet
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.testing.audit import audit
from outlast.testing.ledger import JOB, Deposit, Explode, Look, Mumble, Withdraw, ledger_deciders
from outlast.testing.store import MemoryDisk, MemoryStore
from outlast.testing.suites.store import deposit, work

pytestmark = pytest.mark.anyio

DECIDERS = ledger_deciders()


class Site:
    """A committer on a store of dictionaries whose flushes wait at a gate while it is shut."""

    def __init__(self, disk: MemoryDisk | None = None, clock: ManualClock | None = None) -> None:
        self.clock = clock or ManualClock()
        self.gate = asyncio.Event()
        self.gate.set()
        self.at_gate = asyncio.Event()
        self.store = MemoryStore(disk, before_flush=self._wait)
        self.written: list[WriteSet] = []
        planner = Planner(DECIDERS, HybridClock(self.clock), "site-a")
        self.committer = Committer(self.store, planner, self.clock, self.written.append)

    async def _wait(self) -> None:
        self.at_gate.set()
        await self.gate.wait()

    def later(self, submission: Submission) -> asyncio.Task[Receipt]:
        """Submit in a task of its own."""
        return asyncio.create_task(self.committer.submit(submission))

    async def hold(self) -> asyncio.Task[Receipt]:
        """Shut the gate and wait until a flush stands before it."""
        self.gate.clear()
        self.at_gate.clear()
        first = self.later(work("held"))
        await self.at_gate.wait()
        return first


def wants(stream: str, command: Command, **fields: object) -> Submission:
    """A submission with some of its rarer fields."""
    return msgspec.structs.replace(work(stream, command), **fields)


async def test_receipt_says_where_the_events_are() -> None:
    """Index, count, version and timestamp of a receipt are those of its entries."""
    site = Site()
    await site.committer.submit(work("other"))
    receipt = await site.committer.submit(work("a", Deposit(at_ms=0, amount=2, parts=3)))
    log = (await audit(site.store, DECIDERS)).entries
    assert (receipt.index, receipt.count, receipt.version) == (1, 3, 3)
    assert [entry.stream for entry in log[1:4]] == ["ledger.account/a"] * 3
    assert receipt.hlc == log[3].hlc
    assert msgspec.json.decode(receipt.reply) == {"balance": 6}
    look = await site.committer.submit(work("a", Look(at_ms=0)))
    assert (look.count, look.version, look.index) == (0, 3, 3)
    nothing = await site.committer.submit(work("none", Look(at_ms=0)))
    assert (nothing.count, nothing.version, nothing.index) == (0, 0, -1)


async def test_entry_says_who_and_why() -> None:
    """Actor, cause, flags, site, vector and epoch stand in the entry."""
    site = Site()
    await site.committer.submit(wants("a", deposit(), cause="job/7", flags=("degraded_auth",)))
    (entry,) = (await audit(site.store, DECIDERS)).entries
    assert (entry.actor, entry.cause, entry.flags) == ("tester", "job/7", ("degraded_auth",))
    assert (entry.site, entry.vec, entry.epoch) == ("site-a", {"site-a": 1}, 1)
    assert entry.type == "ledger.deposited"


async def test_what_arrives_during_a_flush_is_the_next_flush() -> None:
    """Natural group commit: ten commands behind a slow flush are one flush, answered in order."""
    site = Site()
    first = await site.hold()
    rest = [site.later(work("a")) for _ in range(10)]
    await asyncio.sleep(0)
    assert site.committer.waiting == 10
    site.gate.set()
    receipts = await asyncio.gather(first, *rest)
    assert (site.committer.flushes, site.committer.committed) == (2, 11)
    assert [receipt.index for receipt in receipts] == list(range(11))


async def test_no_flush_is_larger_than_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than MAX_FLUSH commands are several flushes."""
    monkeypatch.setattr(commit, "MAX_FLUSH", 4)
    site = Site()
    await asyncio.gather(*[site.committer.submit(work("a")) for _ in range(10)])
    assert site.committer.flushes == 3


async def test_each_command_of_a_flush_stands_alone() -> None:
    """Refused, fenced, mistaken and buggy commands fail alone; those beside them are in."""
    site = Site()
    outcomes = await asyncio.gather(
        site.committer.submit(work("a", deposit(5))),
        site.committer.submit(work("a", Withdraw(at_ms=0, amount=9))),
        site.committer.submit(work("a", Explode(at_ms=0))),
        site.committer.submit(work("a", Mumble(at_ms=0))),
        site.committer.submit(wants("a", deposit(), kind="no.such")),
        site.committer.submit(work("a", finish=Finish(job=4, lease=1))),
        site.committer.submit(wants("a", deposit(), expected_version=9)),
        site.committer.submit(work("a", Deposit(at_ms=0, amount=1, memo="x" * 70_000))),
        site.committer.submit(work("a", Deposit(at_ms=0, amount=1, jobs=1, job_bytes=17_000))),
        site.committer.submit(work("a", Withdraw(at_ms=0, amount=5))),
        return_exceptions=True,
    )
    assert site.committer.flushes == 1
    kinds = [getattr(outcome, "code", type(outcome).__name__) for outcome in outcomes]
    assert kinds == [
        "Receipt", "overdrawn", "RuntimeError", "TypeError", "unknown-kind", "job-not-found",
        "version-conflict", "entry-too-large", "job-too-large", "Receipt",
    ]  # fmt: skip
    assert len((await audit(site.store, DECIDERS)).entries) == 2


async def test_bug_in_a_reply_writes_nothing() -> None:
    """A decision whose reply cannot be encoded is no decision: no event, no number, no finished job."""
    site = Site()
    await site.committer.submit(work("a", deposit(jobs=1)))
    (job,) = await site.committer.claim(
        Claim(worker="w", kinds=(JOB,), limit=1, now_ms=site.clock.now_ms(), ttl_ms=10)
    )
    ending = work("a", Mumble(at_ms=0), finish=Finish(job=job.id, lease=job.lease), counters=("n",))
    with pytest.raises(TypeError):
        await site.committer.submit(ending)
    assert (await site.store.head()).size == 1
    assert await site.store.job(job.id) == job
    assert await site.store.counter("n") == 0


async def test_optimistic_version() -> None:
    """A command for a version is taken at that version only, within a flush too."""
    site = Site()
    outcomes = await asyncio.gather(
        *[
            site.committer.submit(wants("a", deposit(), expected_version=version))
            for version in (0, 0, 1, 2, 1)
        ],
        return_exceptions=True,
    )
    assert [isinstance(outcome, Receipt) for outcome in outcomes] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert all(isinstance(o, Receipt | Conflict) for o in outcomes)


async def test_retry_after_a_lost_answer_is_answered_as_it_was() -> None:
    """Written but not acknowledged: the same key gets the receipt that was lost, and nothing happens twice."""
    site = Site()
    site.store.plan("fail-after", "fail-before")
    again = work("a", deposit(3, jobs=1), key="k", body=b"b")
    with pytest.raises(Unknown):
        await site.committer.submit(again)
    with pytest.raises(Unavailable):
        await site.committer.submit(again)
    receipt = await site.committer.submit(again)
    assert (receipt.replayed, receipt.index, receipt.count) == (True, 0, 1)
    found = await audit(site.store, DECIDERS)
    assert (len(found.entries), len(found.jobs)) == (1, 1)


async def test_refused_commands_are_not_remembered() -> None:
    """A key is bound by success only: after a refusal the same key may succeed."""
    site = Site()
    later = work("a", Withdraw(at_ms=0, amount=1), key="k", body=b"b")
    with pytest.raises(Refused, match="overdrawn"):
        await site.committer.submit(later)
    await site.committer.submit(work("a", deposit(1)))
    assert not (await site.committer.submit(later)).replayed


async def test_same_key_twice_in_one_flush_with_other_bodies() -> None:
    """Within a flush the first of a key wins, another body is refused, the same body is the same answer."""
    site = Site()
    first, other, same = await asyncio.gather(
        site.committer.submit(work("a", key="k", body=b"1")),
        site.committer.submit(work("b", key="k", body=b"2")),
        site.committer.submit(work("a", key="k", body=b"1")),
        return_exceptions=True,
    )
    assert isinstance(first, Receipt)
    assert isinstance(other, Refused)
    assert other.code == "idempotency-key-reused"
    assert same == msgspec.structs.replace(first, replayed=True)


async def test_caller_that_gives_up_before_its_turn_is_not_committed() -> None:
    """Cancelled while waiting: not in. Cancelled while its flush is under way: in, without an answer."""
    site = Site()
    under_way = await site.hold()
    waiting = site.later(work("gone"))
    stays = site.later(work("stays"))
    await asyncio.sleep(0)
    waiting.cancel()
    under_way.cancel()
    await asyncio.sleep(0)
    site.gate.set()
    await stays
    streams = [entry.stream for entry in (await audit(site.store, DECIDERS)).entries]
    assert streams == ["ledger.account/held", "ledger.account/stays"]


async def test_too_many_waiting_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond MAX_WAITING a command is turned away at once, with a time to come back; nothing queued is lost."""
    monkeypatch.setattr(commit, "MAX_WAITING", 3)
    site = Site()
    first = await site.hold()
    rest = [site.later(work("a")) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await site.committer.submit(work("a"))
    assert (caught.value.code, caught.value.retry_after_s) == ("overloaded", 1.0)
    site.gate.set()
    await asyncio.gather(first, *rest)
    assert (await site.store.head()).size == 4
    await site.committer.submit(work("a"))


@pytest.mark.parametrize("fault", ["fail-before", "fail-after", "full"])
async def test_store_failure_is_everybodys(fault: str) -> None:
    """What the store cannot do it says to all of the flush, once; the next flush works."""
    site = Site()
    site.store.plan(fault)  # type: ignore[arg-type]  # one of FlushFault
    outcomes = await asyncio.gather(
        *[site.committer.submit(work("a")) for _ in range(3)], return_exceptions=True
    )
    expected = Unknown if fault == "fail-after" else Unavailable
    assert [type(outcome) for outcome in outcomes] == [expected] * 3
    assert site.committer.flushes == 0
    await site.committer.submit(work("a"))
    assert (await site.store.head()).size == (4 if fault == "fail-after" else 1)


@pytest.mark.parametrize("engine", ["memory", "sqlite"])
async def test_clash_that_no_plan_foresees_is_isolated(engine: str, tmp_path: pathlib.Path) -> None:
    """A second key for one subject fails alone; the commands that shared its flush are in."""
    clock = ManualClock()
    store = MemoryStore() if engine == "memory" else await SqliteStore.open(tmp_path / "site.db")
    committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "site-a"), clock)
    await committer.submit(work("a", subject_key=b"1"))
    before, clash, after = await asyncio.gather(
        committer.submit(work("b")),
        committer.submit(work("a", subject_key=b"2")),
        committer.submit(work("c")),
        return_exceptions=True,
    )
    assert isinstance(clash, Conflict)
    assert clash.code == "storage-conflict"
    assert [before.index, after.index] == [1, 2]  # type: ignore[union-attr]  # both are receipts
    assert await store.subject_key("a") == b"1"
    await audit(store, DECIDERS)
    await store.close()


async def test_damaged_head_is_said_once() -> None:
    """A tree edge that cannot be one is Corrupt for every command, and nothing is written on top of it."""
    site = Site()
    site.store.disk.head = Head(3, b"garbage", 0, 1)
    outcomes = await asyncio.gather(
        *[site.committer.submit(work("a")) for _ in range(2)], return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [Corrupt, Corrupt]
    assert site.store.flushes == 0


async def test_site_goes_on_after_its_clock_stepped_back() -> None:
    """Restarted with a clock an hour behind its own log, a site commits, and timestamps still grow."""
    site = Site()
    await site.committer.submit(work("a"))
    late = Site(site.store.crash(), ManualClock(site.clock.now_ms() - 3_600_000))
    await late.committer.submit(work("a"))
    first, second = (await audit(late.store, DECIDERS)).entries
    assert second.hlc > first.hlc


async def test_listener_is_told_what_was_written() -> None:
    """After each flush, what it wrote goes to the listener: entries to publish, jobs to wake workers."""
    site = Site()
    await site.committer.submit(work("a", deposit(jobs=2)))
    (written,) = site.written
    assert ([e.index for e in written.entries], sorted(written.new_jobs)) == ([0], [1, 2])


async def test_listener_that_raises_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A listener's bug is logged; the command it came after is answered, and later ones are flushed."""
    clock, store = ManualClock(), MemoryStore()

    def listener(_: WriteSet) -> None:
        raise RuntimeError("a bug")

    committer = Committer(store, Planner(DECIDERS, HybridClock(clock), "s"), clock, listener)
    async with asyncio.timeout(5):
        await asyncio.gather(*[committer.submit(work("a")) for _ in range(3)])
        await committer.submit(work("a"))
        await committer.drain()
    assert (await store.head()).size == 4
    assert "a bug" in caplog.text


async def test_drain_waits_for_everything() -> None:
    """After ``drain`` nothing is under way; on an idle committer it returns at once."""
    site = Site()
    await site.committer.drain()
    first = await site.hold()
    draining = asyncio.create_task(site.committer.drain())
    await asyncio.sleep(0.01)
    assert not draining.done()
    site.gate.set()
    await draining
    assert first.done()


async def test_settling_a_job_needs_no_event() -> None:
    """A job can end without an entry in the log; a second end is fenced."""
    site = Site()
    await site.committer.submit(work("a", deposit(jobs=1)))
    (job,) = await site.committer.claim(
        Claim(worker="w", kinds=(JOB,), limit=5, now_ms=site.clock.now_ms(), ttl_ms=10)
    )
    await site.committer.settle(Settle("t1", Finish(job=job.id, lease=job.lease)))
    with pytest.raises(Conflict, match="job-fenced"):
        await site.committer.settle(Settle("t1", Finish(job=job.id, lease=job.lease)))
    assert (await site.store.head()).size == 1


async def test_heavy_submissions_do_not_share_a_flush_with_hundreds() -> None:
    """A submission that leads to many events ends the flush it is in: what came after it forms the next."""
    site = Site()
    held = await site.hold()
    heavy = msgspec.structs.replace(work("heavy"), weight=commit.MAX_FLUSH_WEIGHT)
    waiting = [site.later(each) for each in (work("a"), heavy, work("b"), work("c"))]
    await asyncio.sleep(0)
    site.gate.set()
    await asyncio.gather(held, *waiting)
    assert [len(write.entries) for write in site.written] == [1, 2, 2]
