"""Debts are settled and copies are mended by jobs that can die anywhere; what cannot be mended is said."""

from __future__ import annotations

import asyncio
import hashlib
import pathlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from outlast.core.clock import HybridClock, SystemClock
from outlast.core.commit import Committer, Planner
from outlast.core.decider import Deciders
from outlast.core.errors import Conflict, Refused, Unavailable
from outlast.core.ids import Ids, system_random
from outlast.core.replicas import references, scrub
from outlast.core.replicas.debts import DebtLedger, Settler
from outlast.core.replicas.health import StoreHealth
from outlast.core.replicas.judge import Copy, judge
from outlast.core.replicas.model import CopiesDecider
from outlast.core.replicas.references import Names, referred
from outlast.core.replicas.scrub import Scrubber
from outlast.core.replicas.scrubmodel import Scrub, ScrubDecider, ScrubOptions
from outlast.core.replicas.store import ReplicatedBlobs
from outlast.core.store.port import WriteSet
from outlast.core.store.sqlite.engine import SqliteStore
from outlast.core.work.job import JobDecider
from outlast.core.work.runner import Limits, Runner
from outlast.operations.model.journal import JournalRecorded
from outlast.testing.blob import MemoryBlobs
from outlast.testing.suites.blob import body, pieces, read

pytestmark = pytest.mark.anyio

DOWN = Unavailable("unreachable", "told to be")
ONE, TWO = "1" * 64, "2" * 64


class Part:
    """The replicated blobs of a site with a real database and runner, and nothing else of it."""

    def __init__(self, store: SqliteStore, stores: dict[str, MemoryBlobs]) -> None:
        clock = SystemClock()
        self.clock, self.store, self.stores = clock, store, stores
        self.ids = Ids(clock)
        deciders = Deciders([CopiesDecider(), ScrubDecider(), JobDecider()])
        self.health = StoreHealth(list(stores), clock)
        self.committer = Committer(
            store, Planner(deciders, HybridClock(clock), "test"), clock, self._committed
        )
        self.ledger = DebtLedger(self.committer, store, deciders, clock, "test")
        self.blobs = ReplicatedBlobs(stores, self.health, self.ledger)
        settler = Settler(stores, self.health, self.ledger, 4)
        self.scrubber = Scrubber(
            stores, self.health, self.ledger, self.committer, store, store, deciders, clock,
            "test", 10**9,
        )  # fmt: skip
        self.runner = Runner(
            self.committer,
            store,
            clock,
            {**settler.kinds(), **self.scrubber.kinds()},
            worker=self.ids.new(),
            rng=system_random(),
            limits=Limits(concurrency=4),
        )

    def _committed(self, write: WriteSet) -> None:
        if write.new_jobs:
            self.runner.wake()

    async def put(self, size: int) -> str:
        """A fresh blob."""
        name = self.ids.new()
        await self.blobs.put(name, pieces(body(size)))
        return name

    async def scrubbed(self, options: ScrubOptions | None = None) -> Scrub:
        """A whole scrub."""
        await self.scrubber.begin("test", options or ScrubOptions())
        return await self.ended()

    async def ended(self) -> Scrub:
        """The scrub at its end."""
        async with asyncio.timeout(20):
            while (now := await self.scrubber.state()).label != "idle":
                await asyncio.sleep(0.01)
        return now

    async def settled(self) -> None:
        """Wait until nothing is owed."""
        async with asyncio.timeout(20):
            while await self.ledger.debts():
                await self.checked()
                await asyncio.sleep(0.02)

    async def checked(self) -> None:
        """What the site's watch does for stores that are out of use."""
        for provider in self.health.router.checks_due():
            call = self.health.router.check_started(provider)
            try:
                await self.stores[provider.removeprefix("blobs.")].check()
                self.health.finished(call)
            except Unavailable as error:
                self.health.finished(call, error)


@asynccontextmanager
async def opened(folder: pathlib.Path, *, run: bool = True) -> AsyncIterator[Part]:
    """Two stores in memory over a database in ``folder``."""
    store = await SqliteStore.open(folder / "site.db")
    part = Part(store, {"a": MemoryBlobs(), "b": MemoryBlobs()})
    running = asyncio.create_task(part.runner.run()) if run else None
    try:
        yield part
    finally:
        if running is not None:
            running.cancel()
            await asyncio.wait([running])
        await store.close()


@pytest.fixture(autouse=True)
def old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs made a moment ago are looked at."""
    monkeypatch.setattr(scrub, "YOUNG_S", 0.0)
    monkeypatch.setattr(scrub, "MIN_ORPHAN_AGE_S", 0)


@pytest.mark.parametrize(
    ("copies", "good", "bad"),
    [
        ({"a": (ONE, ONE), "b": (ONE, ONE)}, "ab", {}),
        ({"a": (ONE, ONE), "b": None}, "a", {"b": "missing"}),
        ({"a": (ONE, ONE), "b": (TWO, ONE)}, "a", {"b": "corrupt"}),
        ({"a": (ONE, ONE), "b": ("", ONE)}, "a", {"b": "corrupt"}),
        ({"a": (ONE, ONE), "b": (ONE, None)}, "ab", {}),
        ({"a": (ONE, ONE), "b": (TWO, None)}, "a", {"b": "corrupt"}),
        ({"a": (ONE, None), "b": (ONE, None)}, "ab", {}),
        ({"a": (ONE, None), "b": (TWO, None)}, "", {"a": "corrupt", "b": "corrupt"}),
        ({"a": (TWO, ONE), "b": (ONE, None)}, "b", {"a": "corrupt"}),
        ({"a": ("", ONE), "b": (ONE, None)}, "b", {"a": "corrupt"}),
        ({"a": (TWO, ONE), "b": (ONE, TWO)}, "", {"a": "disputed", "b": "disputed"}),
        ({"a": (TWO, ONE), "b": None}, "", {"a": "corrupt", "b": "missing"}),
        ({"a": (ONE, ONE), "b": (TWO, TWO)}, "", {"a": "disputed", "b": "disputed"}),
    ],
)
def test_a_copy_is_judged_by_its_own_digest(
    copies: dict[str, tuple[str, str | None] | None], good: str, bad: dict[str, str]
) -> None:
    """Proven copies win; without proof only agreement counts; a dispute is nobody's to overwrite."""
    judgement = judge(
        {
            store: Copy(found=False) if c is None else Copy(found=True, actual=c[0], noted=c[1])
            for store, c in copies.items()
        }
    )
    assert judgement.good == tuple(good)
    assert judgement.bad == bad
    assert judgement.dead == (bool(bad) and not good)


async def test_a_debt_is_settled_when_its_store_is_back(tmp_path: pathlib.Path) -> None:
    """The copy is written by a job; nothing is tried while the store is known to be out of use."""
    async with opened(tmp_path) as part:
        part.stores["b"].down = DOWN
        names = [await part.put(1_000) for _ in range(6)]
        debts = await part.ledger.debts()
        assert {debt.blob for debt in debts} == set(names)
        assert all(debt.stores == ("b",) for debt in debts)
        part.stores["b"].down = None
        await part.settled()
        assert part.stores["a"].stored == part.stores["b"].stored


async def test_debts_outlive_the_process(tmp_path: pathlib.Path) -> None:
    """A process that ends with a debt leaves it on record: the next one settles it, and it may do so twice."""
    async with opened(tmp_path, run=False) as part:
        part.stores["b"].down = DOWN
        name = await part.put(100)
        kept = part.stores["a"].stored[name]
    async with opened(tmp_path) as part:
        await part.stores["a"].put(name, pieces(kept))
        await part.stores["b"].put(name, pieces(kept))  # the job died after its effect
        await part.settled()
        assert part.stores["b"].stored[name] == kept


async def test_a_deletion_beats_the_copy_that_was_owed(tmp_path: pathlib.Path) -> None:
    """A blob deleted while a copy is owed does not come back."""
    async with opened(tmp_path) as part:
        part.stores["b"].down = DOWN
        name = await part.put(100)
        await part.blobs.delete(name)
        (debt,) = await part.ledger.debts()
        assert debt.want == "deleted"
        part.stores["b"].down = None
        await part.settled()
        assert not part.stores["a"].stored
        assert not part.stores["b"].stored


async def test_a_scrub_mends_and_says_what_it_could_not(tmp_path: pathlib.Path) -> None:
    """Missing and wrong copies are replaced; a blob damaged everywhere is named; counts and events tell."""
    async with opened(tmp_path) as part:
        names = [await part.put(size) for size in (10, 1_000, 300_000, 70, 80)]
        a, b = part.stores["a"], part.stores["b"]
        del b.stored[names[0]]
        a.stored[names[1]] = b"x" * 1_000
        b.stored[names[2]] = b.stored[names[2]][:-1]
        a.stored[names[3]], b.stored[names[3]] = b"bad", b"worse"
        now = await part.scrubbed()
        assert (now.tally.blobs, now.tally.missing, now.tally.corrupt) == (5, 1, 4)
        assert (now.tally.mended, now.tally.dead) == (3, 1)
        assert {f.blob for f in now.findings} == {names[3]}
        assert all(f.outcome == "dead" for f in now.findings)
        for name in (names[0], names[1], names[2], names[4]):
            assert a.stored[name] == b.stored[name]
            assert hashlib.sha256(a.stored[name]).hexdigest() == a.digests[name]
        leaves = await part.store.entries(0, 1_000)
        assert (
            sum(b'"problem":"corrupt"' in leaf for leaf in leaves) == 1
        )  # one event, all findings
        again = await part.scrubbed()
        assert (again.tally.missing, again.tally.corrupt, again.tally.dead) == (0, 2, 1)


async def test_a_scrub_fills_a_store_that_is_new(tmp_path: pathlib.Path) -> None:
    """A second store given later is brought up to the first, in many steps."""
    async with opened(tmp_path) as part:
        for number in range(250):
            await part.stores["a"].put(part.ids.new(), pieces(body(number)))
        now = await part.scrubbed()
        assert now.tally.mended == 250
        assert part.stores["a"].stored == part.stores["b"].stored


async def test_looking_only_changes_nothing(tmp_path: pathlib.Path) -> None:
    """Told not to mend, a scrub finds and leaves."""
    async with opened(tmp_path) as part:
        name = await part.put(10)
        del part.stores["b"].stored[name]
        now = await part.scrubbed(ScrubOptions(mend=False))
        assert [f.outcome for f in now.findings] == ["open"]
        assert not part.stores["b"].stored


async def test_a_scrub_rests_resumes_and_stops(tmp_path: pathlib.Path) -> None:
    """Paused it takes no step, resumed it goes on, one at a time; stopped it can begin anew."""
    async with opened(tmp_path, run=False) as part:
        for _ in range(3):
            await part.put(10)
        await part.scrubber.begin("test", ScrubOptions())
        with pytest.raises(Conflict, match="scrub-running"):
            await part.scrubber.begin("test", ScrubOptions())
        await part.scrubber.pause("test")
        running = asyncio.create_task(part.runner.run())
        await asyncio.sleep(0.2)
        assert (await part.scrubber.state()).label == "paused"
        assert (await part.scrubber.state()).tally.blobs == 0
        await part.scrubber.resume("test")
        assert (await part.ended()).tally.blobs == 3
        await part.scrubber.begin("test", ScrubOptions())
        await part.scrubber.stop("test")
        now = await part.scrubbed()
        assert now.complete
        running.cancel()
        await asyncio.wait([running])


async def test_a_scrub_whose_job_died_has_failed_and_makes_way(tmp_path: pathlib.Path) -> None:
    """A store refuses for good: the scrub has failed with that answer; one begun by hand or by the timer takes its place
    and ends the dead job."""
    async with opened(tmp_path) as part:
        await part.put(10)
        for again in ("by hand", "by timer"):
            part.stores["b"].down = Refused("bucket-not-found", "there is no bucket b")
            await part.scrubber.begin("test", ScrubOptions())
            async with asyncio.timeout(10):
                while (failed := await part.scrubber.failure()) is None:
                    await asyncio.sleep(0.01)
            assert failed.job is not None
            assert "no bucket b" in failed.error
            assert (await part.scrubber.state()).label == "running"
            await part.scrubber.begin_if_idle_since(0)
            assert (await part.scrubber.state()).run == failed.run, "none is due yet"
            part.stores["b"].down = None
            if again == "by hand":
                await part.scrubber.begin("test", ScrubOptions())
            else:
                await part.scrubber.begin_if_idle_since(part.clock.now_ms())
            ended = await part.ended()
            assert (ended.run, ended.complete) == (failed.run + 1, True)
            assert await part.store.jobs("-", state="dead") == []


async def test_a_blob_that_its_store_cannot_give_is_damaged(tmp_path: pathlib.Path) -> None:
    """A store that answers, and fails for one blob only, has a bad copy; one that answers nothing is waited for."""

    class Failing(MemoryBlobs):
        bad = ""

        async def get(self, name: str, offset: int = 0) -> AsyncIterator[bytes]:
            if name == self.bad:
                raise Unavailable("store-failed", "the object store answered 500")
            async for piece in super().get(name, offset):
                yield piece

        async def put(self, name: str, chunks: AsyncIterator[bytes]) -> int:
            self.bad = "" if name == self.bad else self.bad
            return await super().put(name, chunks)

    store = await SqliteStore.open(tmp_path / "site.db")
    failing = Failing()
    part = Part(store, {"a": failing, "b": MemoryBlobs()})
    name = await part.put(100)
    failing.bad = name
    tally, findings = await part.scrubber._one(name, True)
    assert (tally.corrupt, tally.mended) == (1, 1)
    assert [f.outcome for f in findings] == ["mended"]
    part.stores["b"].down = DOWN
    with pytest.raises(Unavailable):
        await part.scrubber._one(name, True)
    await store.close()


async def test_what_is_owed_is_no_finding(tmp_path: pathlib.Path) -> None:
    """A copy that is owed on record is the debt's affair."""
    async with opened(tmp_path, run=False) as part:
        part.stores["b"].down = DOWN
        await part.put(10)
        part.stores["b"].down = None
        tally, findings = await part.scrubber._one(next(iter(part.stores["a"].stored)), True)
        assert tally.missing == 0
        assert not findings


async def test_references_and_stores_are_compared(tmp_path: pathlib.Path) -> None:
    """What the log refers to and nobody has is lost; what nobody refers to is an orphan, deleted only when asked."""
    async with opened(tmp_path) as part:
        orphan, kept = await part.put(10), await part.put(20)
        lost = part.ids.new()

        class Log:
            async def entries(self, start: int, limit: int) -> list[bytes]:
                refs = [{"name": n, "sha256": ONE, "size": 1} for n in (kept, lost)]
                leaves = [msgspec.json.encode({"data": {"deep": [ref]}}) for ref in refs]
                return leaves[start : start + limit]

        compared = references.Compared(Log(), part.stores, part.clock.now_ms() + 7_200_000)
        found = await compared.run(0, 3_600)
        assert (found.lost, found.orphans, found.deleted) == ((lost,), (orphan,), 0)
        assert found.referenced == 2
        young = references.Compared(Log(), part.stores, part.clock.now_ms())
        assert (await young.run(3_600, 3_600)).orphan_count == 0
        assert (await compared.run(3_600, 3_600)).deleted == 1
        assert set(part.stores["a"].stored) == set(part.stores["b"].stored) == {kept}


async def test_what_other_systems_wrote_is_no_reference() -> None:
    """A journal's line that looks like a reference is neither a lost document nor the end of the scrub."""
    look = {"name": "../no blob's name", "sha256": ONE, "size": 1}
    leaf = msgspec.json.encode({"type": JournalRecorded.name, "data": {"data": look}})

    class Log:
        async def entries(self, start: int, limit: int) -> list[bytes]:
            return [leaf][start : start + limit]

    compared = references.Compared(Log(), {"a": MemoryBlobs()}, 0)
    found = await compared.run(0, 0)
    assert (found.referenced, found.lost_count) == (0, 0)


async def test_a_debt_waits_for_the_holder_that_is_disabled(tmp_path: pathlib.Path) -> None:
    """A copy that only a disabled store could give is not given up: that one may come back."""
    async with opened(tmp_path, run=False) as part:
        stores = {name: MemoryBlobs() for name in "abc"}
        await stores["a"].put("x", pieces(b"1"))
        health = StoreHealth(list(stores), part.clock)
        settler = Settler(stores, health, part.ledger, 1)
        health.router.disable("blobs.a", "maintenance")
        with pytest.raises(Unavailable):
            await settler._copy("x", "b")
        health.router.enable("blobs.a")
        await settler._copy("x", "b")
        assert stores["b"].stored == {"x": b"1"}


async def test_young_orphans_are_never_deleted(tmp_path: pathlib.Path) -> None:
    """Less than an hour is refused."""
    async with opened(tmp_path, run=False) as part:
        with pytest.raises(Refused, match="orphans-too-young"):
            await part.scrubber.begin("test", ScrubOptions(delete_orphans_s=60))


async def test_a_bad_copy_that_a_reader_meets_is_mended(tmp_path: pathlib.Path) -> None:
    """The reader gets the good copy, and a job replaces the bad one."""
    async with opened(tmp_path) as part:
        name = await part.put(500)
        part.stores["a"].stored[name] = b"bad"
        assert await read(part.blobs, name) == body(500)
        async with asyncio.timeout(10):
            while part.stores["a"].stored[name] != body(500):
                await asyncio.sleep(0.01)


def test_names_never_deny_a_member() -> None:
    """What was added is in it."""
    names = Names()
    for number in range(1_000):
        names.add(f"n{number}")
    assert all(f"n{number}" in names for number in range(1_000))
    assert not any(f"m{number}" in names for number in range(1_000))
    assert len(names) == 1_000


def test_references_are_found_wherever_they_stand() -> None:
    """At any depth, and nothing else is taken for one."""
    ref = {"name": "x", "sha256": ONE, "size": 1}
    leaf = msgspec.json.encode({"data": {"a": [{"b": ref}], "c": {**ref, "more": 1}}})
    assert list(referred(leaf)) == ["x"]
