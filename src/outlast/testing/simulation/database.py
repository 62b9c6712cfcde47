"""The store that the nodes of a simulated site share: a handful of dictionaries behind sessions, locks and a network.

It answers as the real engines may. A flush loads, plans, writes and commits, each a moment of its own, and a process or
the network may fail at each. ``locked``: under the head's lock from loading to the commit, as on PostgreSQL; who holds
it and freezes loses its session, who waits too long gives up. ``optimistic``: nobody waits, and who comes second to the
commit gets Conflict. ``embedded``: as locked, for one process; what it had under way when it died is decided then.

A COMMIT once sent is the database's: it happens or not whatever becomes of its sender, who may be told the truth, or
Unknown, or nothing. Everything committed passes `_watch`, which knows what may never be written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from outlast.core.errors import Conflict, OutlastError, Unavailable, Unknown
from outlast.core.store.port import Head, Needs, Plan, StreamItem, StreamKey, StreamRow, WriteSet
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.engine import Asked, Life, Reply, Simulation, Sleep
from outlast.testing.simulation.faults import FaultPoints
from outlast.testing.simulation.swarm import Swarm
from outlast.testing.store import MemoryDisk, MemoryStore

LOCK_WAIT_MS = 4_000
"""How long a flush waits for the head; 10 s in `core.store.postgres`, less than IDLE_LIMIT_MS here so that it happens."""
IDLE_LIMIT_MS = 5_000
"""How long a session may hold the head and say nothing, as in `core.store.postgres`."""
TRIP_MS = 1.5
"""Longest way between a node and the database."""


class Database(MemoryStore):
    """The store of dictionaries, shared. ``holder`` is the session that has the head's lock."""

    def __init__(self, sim: Simulation, swarm: Swarm, checks: Checks, faults: FaultPoints) -> None:
        super().__init__()
        self.sim = sim
        self.swarm = swarm
        self.checks = checks
        self.faults = faults
        self.full = False
        self.version = 0
        """Commits so far: what an optimistic transaction compares."""
        self.holder: Session | None = None
        self._waiting: deque[tuple[Session, Reply]] = deque()

    # -- what may be written ------------------------------------------------------------------------

    def write(self, write: WriteSet) -> None:
        """The moment of a commit: now, whole, or Conflict."""
        self._watch(write)
        self.disk.check(write)
        self.disk.apply(write)
        self.version += 1

    def _watch(self, write: WriteSet) -> None:
        """What is finished stays finished, leases grow one by one, the log and its clock only grow."""
        always, disk = self.checks.always, self.disk
        for job in write.jobs.values():
            before = disk.jobs.get(job.id)
            if before is None:
                always(job.id in write.new_jobs, f"job {job.id} comes back after it was pruned")
                continue
            always(before.state != "done", f"job {job.id} was done and is {job.state} again")
            always(job.lease >= before.lease, f"job {job.id}: lease fell to {job.lease}")
            if before.state == "leased" and job.state == "leased" and job.lease != before.lease:
                always(job.lease == before.lease + 1, f"job {job.id}: lease {job.lease}")
        always(write.head.size >= disk.head.size, "the log shrank")
        always(write.head.hlc >= disk.head.hlc, "the log's clock stepped back")

    async def pruned(self, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        """Forget what is old; what is not finished is kept, however old."""
        disk = self.disk
        kept = [job.id for job in disk.jobs.values() if job.state != "done"]
        jobs, keys = len(disk.jobs), len(disk.idempotency)
        gone = await self.prune(
            idempotency_before_ms=idempotency_before_ms, jobs_before_ms=jobs_before_ms
        )
        lost = [job_id for job_id in kept if job_id not in disk.jobs]
        self.checks.always(not lost, f"pruned although not finished: jobs {lost}")
        if len(disk.jobs) < jobs:
            self.checks.reachable("job pruned")
        if len(disk.idempotency) < keys:
            self.checks.reachable("idempotency record pruned")
        return gone

    # -- the head's lock ----------------------------------------------------------------------------

    def lock(self, session: Session, reply: Reply) -> None:
        """Answer when the session has the head."""
        self.checks.sometimes(self.holder is not None, "a flush waits for another node's")
        self._waiting.append((session, reply))
        self._grant()

    def release(self, session: Session) -> None:
        """The session's transaction has ended."""
        if self.holder is session and not session.committing:
            self.holder = None
            self._grant()

    def _grant(self) -> None:
        while self.holder is None and self._waiting:
            session, reply = self._waiting.popleft()
            if reply.given_up or session.closed:
                continue
            self.holder = session
            session.granted += 1
            self.sim.after(IDLE_LIMIT_MS, self._frozen, session, session.granted)
            self.sim.after(self.sim.between(0.01, TRIP_MS), reply, None, None, of=session.owner)

    def _frozen(self, session: Session, granted: int) -> None:
        if self.holder is session and session.granted == granted and not session.committing:
            self.checks.reachable("head's lock taken from a frozen node")
            self.sim.note(f"the database ends the session of {session.name}, which held the head")
            session.granted += 1  # whatever it sends now belongs to no transaction
            self.release(session)

    def replace(self, disk: MemoryDisk) -> None:
        """The database is taken away and another copy put in its place; there are no sessions left."""
        self.disk = disk
        self.holder = None
        self._waiting.clear()
        self.version += 1


class Session:
    """One life of a node's way to the database: what `core.store.port.Store` is to it."""

    def __init__(self, database: Database, owner: Life, name: str) -> None:
        self._database = database
        self._sim = database.sim
        self.owner = owner
        self.name = name
        self.closed = False
        self.granted = 0
        self.committing: Commit | None = None

    async def flush(self, needs: Needs, plan: Plan) -> None:
        """`Store.flush`."""
        db = self._database
        if db.faults.fires("unavailable before the commit"):
            await Sleep(self._sim, self._sim.between(0, 30))
            raise Unavailable("storage-error", "no connection to the database", scope="site")
        try:
            await self._flush(needs, plan)
        finally:
            db.release(self)

    async def _flush(self, needs: Needs, plan: Plan) -> None:
        db, sim = self._database, self._sim
        if db.swarm.engine != "optimistic":
            await self._lock()
        granted, version = self.granted, db.version
        snapshot = db._load(needs)
        write = plan(snapshot)
        if not write.changes(snapshot):
            return
        if db.full:
            db.checks.reachable("storage full")
            raise Unavailable("storage-full", "no room in the database", scope="site")
        if db.faults.fires("stalls with the head's lock"):
            self.owner.stall(sim.between(0.2, 2) * IDLE_LIMIT_MS)
        await Sleep(sim, sim.between(0.05, db.swarm.slow_disk_ms / 2))
        if self.granted != granted:
            raise Unavailable("storage-error", "the database has ended the session", scope="site")
        self.committing = Commit(self, write, version)
        await Asked(self.committing.send)

    async def _lock(self) -> None:
        def ask(reply: Reply) -> None:
            self._database.lock(self, reply)
            self._sim.after(LOCK_WAIT_MS, self._waited, reply, of=self.owner)

        await Asked(ask)

    def _waited(self, reply: Reply) -> None:
        if not reply.given_up:
            self._database.checks.reachable("head's lock outlasted by its waiters")
            reply(None, Unavailable("storage-busy", "the head is locked", scope="site"))

    def lost(self) -> None:
        """The process is gone. A COMMIT that was sent still happens; of an embedded store, now or never."""
        self.closed = True
        if self.committing is not None and self._database.swarm.engine == "embedded":
            self.committing.decide(arrived=self._sim.chance(0.5))
        self._database.release(self)

    def cut(self) -> None:
        """Database and process are gone: what was under way has not happened."""
        self.closed = True
        if self.committing is not None:
            self.committing.decide(arrived=False)

    # -- reading ------------------------------------------------------------------------------------

    async def _read(self) -> None:
        await Sleep(self._sim, self._sim.between(0, 1))
        if self._database.faults.fires("read unavailable"):
            raise Unavailable("storage-error", "no session for reading", scope="site")

    async def stream(self, key: StreamKey) -> StreamRow | None:
        """`Store.stream`: the newest state, by the time it is read."""
        await self._read()
        return await self._database.stream(key)

    async def streams(
        self,
        tenant: str,
        kind: str,
        *,
        label: str | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> list[StreamItem]:
        """`Store.streams`."""
        await self._read()
        return await self._database.streams(tenant, kind, label=label, before=before, limit=limit)

    async def head(self) -> Head:
        """`Store.head`."""
        await self._read()
        return await self._database.head()

    async def entries(self, start: int, limit: int) -> list[bytes]:
        """`Store.entries`."""
        await self._read()
        return await self._database.entries(start, limit)

    async def next_due_ms(self, kinds: Sequence[str]) -> int | None:
        """`Store.next_due_ms`."""
        return await self._database.next_due_ms(kinds)

    async def prune(self, *, idempotency_before_ms: int, jobs_before_ms: int) -> int:
        """`Store.prune`."""
        await self._read()
        return await self._database.pruned(idempotency_before_ms, jobs_before_ms)

    async def subject_key(self, subject: str) -> bytes | None:
        """No personal fields here."""
        raise Unavailable("none", "the simulation seals nothing")


class Commit:
    """A transaction whose COMMIT has been sent."""

    def __init__(self, session: Session, write: WriteSet, version: int) -> None:
        self._session = session
        self._db = session._database
        self._write = write
        self._version = version
        self._reply: Reply | None = None
        self._life = session.owner.life

    def send(self, reply: Reply) -> None:
        """Over the network, and to the disk."""
        self._reply = reply
        sim, session = self._db.sim, self._session
        sim.after(sim.between(0.05, self._db.swarm.slow_disk_ms / 2), self.decide)
        if self._db.faults.fires("dies with its COMMIT under way"):
            sim.after(0.0, session.owner.struck_down, of=session.owner)

    def decide(self, arrived: bool = True) -> None:
        """At the database: done, or not; the lock is free again, and the answer on its way."""
        db, session = self._db, self._session
        if session.committing is not self:
            return
        error = self._outcome() if arrived else Unknown("storage-answer-lost", "it went down")
        session.committing = None
        said = error.code if error else "committed"
        db.sim.note(f"{session.name} commit {said}: the log has {db.disk.head.size}")
        if error is None and session.owner.life != self._life:
            db.checks.reachable("commit happened after its node died")
        db.release(session)
        assert self._reply is not None
        db.sim.after(db.sim.between(0.01, TRIP_MS), self._reply, None, error, of=session.owner)

    def _outcome(self) -> OutlastError | None:
        db = self._db
        if db.faults.fires("commit answered unknown, not done"):
            return Unknown("storage-answer-lost", "connection lost during the commit")
        if db.faults.fires("commit answered conflict"):
            return Conflict("storage-conflict", "told to conflict", scope="site")
        if db.swarm.engine == "optimistic" and db.version != self._version:
            db.checks.reachable("optimistic commit lost its race")
            return Conflict("storage-conflict", "somebody was faster", scope="site")
        try:
            db.write(self._write)
        except Conflict as error:
            return error
        if db.faults.fires("commit answered unknown, done"):
            return Unknown("storage-answer-lost", "connection lost during the commit")
        return None
