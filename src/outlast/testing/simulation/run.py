"""One seed: a site is built, gets into trouble, heals, comes to rest; and then everything must be as promised."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.clock import HybridClock
from outlast.core.commit import Planner, Submission, needs_of
from outlast.core.decider import Command, Deciders
from outlast.core.errors import OutlastError
from outlast.core.store.port import Needs, Plan, Snapshot, WriteSet
from outlast.core.work.job import JobDecider
from outlast.signing.classes import DocumentClass
from outlast.signing.model.document import KIND as DOCUMENT
from outlast.signing.model.document import AddDocument, DocumentDecider
from outlast.signing.model.key import KIND as KEY
from outlast.signing.model.key import EnrolKey, KeyDecider
from outlast.signing.model.request import RequestDecider
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.clients import TENANTS, Crowd, Plea
from outlast.testing.simulation.engine import Simulation, run_now
from outlast.testing.simulation.node import Node, Site
from outlast.testing.simulation.parts import Provider, Shelf, SimClock, StampAuthority, binding_of
from outlast.testing.simulation.swarm import NEVER, Swarm, draw
from outlast.testing.simulation.verdict import judge_site
from outlast.testing.store import MemoryStore

KEYS = ("key-0", "key-1")
RESERVE_BYTES = 3_000
JUMPS_MS = (50, 2_000, 2_000, 60_000, 600_000)
"""By how much a wall clock is set forwards or back."""
REST_MS = 2 * 3_600_000
"""How long a healed site may take to come to rest, in simulated time."""

DECIDERS = Deciders([RequestDecider(), DocumentDecider(), KeyDecider(), JobDecider()])


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed came to. ``failure`` is empty when all promises were kept."""

    seed: int
    failure: str
    trace_hash: str
    events: int
    simulated_ms: float
    reached: dict[str, int]
    entries: int
    signed: int
    trace: tuple[str, ...] = ()


class WatchedStore(MemoryStore):
    """The store of dictionaries, with an eye on every write: what is finished stays finished."""

    def __init__(self, checks: Checks) -> None:
        super().__init__()
        self._checks = checks

    async def flush(self, needs: Needs, plan: Plan) -> None:
        """Look at what is about to be written."""

        def watched(snapshot: Snapshot) -> WriteSet:
            write = plan(snapshot)
            self._watch(write)
            return write

        await super().flush(needs, watched)

    def _watch(self, write: WriteSet) -> None:
        always, disk = self._checks.always, self.disk
        for job in write.jobs.values():
            before = disk.jobs.get(job.id)
            if before is None:
                continue
            always(before.state != "done", f"job {job.id} was done and is {job.state} again")
            always(job.lease >= before.lease, f"job {job.id}: lease fell to {job.lease}")
            if before.state == "leased" and job.state == "leased" and job.lease != before.lease:
                always(job.lease == before.lease + 1, f"job {job.id}: lease {job.lease}")
        always(write.head.size >= disk.head.size, "the log shrank")
        always(write.head.hlc >= disk.head.hlc, "the log's clock stepped back")


class Run:
    """A seed's site and its trouble."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.sim = Simulation(seed, keep_trace=keep_trace)
        self.checks = Checks()
        self.swarm = draw(self.sim.rng)
        self.tokens: dict[str, bytes] = {}
        self.site = self._site()
        self.nodes = [Node(self.site, f"n{at}") for at in range(self.swarm.nodes)]
        self.crowd = Crowd(self.site, self.nodes, self._pleas())

    def __call__(self) -> Result:
        """From the first event to the verdict."""
        failure, signed = "", 0
        try:
            self._through_trouble()
            self._to_rest()
            signed = judge_site(self.site, self.nodes, self.crowd.pleas, self.tokens)
        except (AssertionError, OutlastError) as error:
            failure = f"{type(error).__name__}: {error}"
        finally:
            self.sim.close()
        log = self.site.store.disk
        return Result(
            seed=self.seed,
            failure=failure,
            trace_hash=self.sim.trace_hash,
            events=self.sim.events,
            simulated_ms=self.sim.now_ms,
            reached=dict(self.checks.reached),
            entries=log.head.size,
            signed=signed,
            trace=tuple(self.sim.trace or ()),
        )

    # -- building ---------------------------------------------------------------------------------

    def _site(self) -> Site:
        sim, swarm, checks = self.sim, self.swarm, self.checks
        providers = [
            Provider(sim, f"hsm-{at}", swarm, checks, KEYS) for at in range(swarm.providers)
        ]
        stampers = [
            StampAuthority(sim, f"tsa-{at}", swarm, self.tokens) for at in range(swarm.authorities)
        ]
        return Site(
            sim,
            swarm,
            checks,
            WatchedStore(checks),
            Shelf(sim),
            DECIDERS,
            classes(swarm),
            {provider.name: provider for provider in providers},
            {stamper.name: stamper for stamper in stampers},
        )

    def _pleas(self) -> list[Plea]:
        """Documents and keys on record, and who will ask for what."""
        site, rng = self.site, self.sim.rng
        setup: list[Submission] = []
        pleas: list[Plea] = []
        for tenant in TENANTS:
            for name in KEYS:
                for provider in site.providers:
                    enrol = EnrolKey(at_ms=0, binding=binding_of(provider, name))
                    setup.append(_set_up(tenant, KEY, name, enrol))
        for at in range(self.swarm.requests):
            tenant, document = rng.choice(TENANTS), f"doc-{at}"
            body = b"%%document %d of seed %d\n" % (at, self.seed) * 3
            blob = _stored(site.shelf, body)
            add = AddDocument(at_ms=0, media_type="application/pdf", blob=blob)
            setup.append(_set_up(tenant, DOCUMENT, document, add))
            places = 2 if rng.random() < 0.25 else 1
            class_name = rng.choice(sorted(site.classes))
            pleas.append(Plea(f"k{at}", tenant, class_name, places, document, blob))
        _commit_at_once(site, setup)
        return pleas

    # -- trouble ----------------------------------------------------------------------------------

    def _through_trouble(self) -> None:
        sim, swarm = self.sim, self.swarm
        for node in self.nodes:
            node.start()
        self.crowd.start()
        for every_ms, trouble in (
            (swarm.crash_every_ms, self._crash),
            (swarm.stall_every_ms, self._stall),
            (swarm.jump_every_ms, self._jump),
            (swarm.outage_every_ms, self._outage),
            (swarm.disk_full_every_ms, self._fill),
            (swarm.rotate_every_ms, self._rotate),
        ):
            if every_ms != NEVER:
                self._again(every_ms, trouble)
        over: list[bool] = []
        sim.after(swarm.trouble_ms, over.append, True)
        sim.run(lambda: bool(over))

    def _again(self, every_ms: float, trouble: Callable[[], None]) -> None:
        def happens() -> None:
            if not self.site.healed:
                trouble()
                self._again(every_ms, trouble)

        self.sim.after(self.sim.rng.expovariate(1 / every_ms), happens)

    def _crash(self) -> None:
        node = self.sim.rng.choice(self.nodes)
        if node.up:
            node.crash()
            self.sim.after(self.sim.between(20, 3_000), node.start_again)

    def _stall(self) -> None:
        node = self.sim.rng.choice(self.nodes)
        node.stall(self.sim.between(50, 4 * self.swarm.lease_ms))

    def _jump(self) -> None:
        node = self.sim.rng.choice(self.nodes)
        node.skew_ms += self.sim.rng.choice((-1, 1)) * self.sim.rng.choice(JUMPS_MS)
        if node.up:
            node.clock.skew_ms = node.skew_ms
        self.checks.sometimes("clock jumped")
        self.sim.note(f"{node.name} clock is {node.skew_ms:.0f} ms off")

    def _outage(self) -> None:
        part = self.sim.rng.choice(self._parts())
        part.down = True
        self.sim.note(f"{part.name} is down")

        def back() -> None:
            part.down = False
            self.sim.note(f"{part.name} is back")

        self.sim.after(self.sim.between(100, 5_000), back)

    def _parts(self) -> list[Provider | StampAuthority]:
        return [*self.site.providers.values(), *self.site.authorities.values()]

    def _rotate(self) -> None:
        rng = self.sim.rng
        provider = rng.choice(sorted(self.site.providers))
        self.sim.spawn(self.crowd.rotate(rng.choice(TENANTS), rng.choice(KEYS), provider))

    def _fill(self) -> None:
        self.site.disk_full = self.site.shelf.full = True
        self.sim.note("the disk is full")
        self.sim.after(self.sim.between(100, 2_000), self._free)

    def _free(self) -> None:
        self.site.disk_full = self.site.shelf.full = False

    # -- rest -------------------------------------------------------------------------------------

    def _to_rest(self) -> None:
        """All trouble ends; what was asked must come to its end, by itself or with a person's replay."""
        site, sim = self.site, self.sim
        sim.note("everything heals")
        site.healed = True
        self._free()
        for part in self._parts():
            part.healed, part.down = True, False
        for node in self.nodes:
            node.stalled_until_ms = 0.0
            node.start_again()
        sim.spawn(self.crowd.operator())
        limit_ms = sim.now_ms + REST_MS
        sim.run(lambda: self._quiet() or sim.now_ms > limit_ms)
        unfinished = [site.store.disk.jobs[at] for at in sorted(site.store.disk.unfinished)]
        self.checks.always(not unfinished, f"jobs that never end: {unfinished}")
        waiting = [plea.key for plea in self.crowd.pleas if not plea.finished]
        self.checks.always(not waiting, f"clients that never get an answer: {waiting}")

    def _quiet(self) -> bool:
        disk = self.site.store.disk
        return (
            not disk.unfinished
            and all(plea.finished for plea in self.crowd.pleas)
            and not any(job.state == "dead" for job in disk.jobs.values())
        )


def classes(swarm: Swarm) -> dict[str, DocumentClass]:
    """Document classes of every kind that signing knows."""
    deadline_s = 1 if swarm.short_deadlines else 3_600
    stamped: dict[str, object] = {
        "level": "B-T",
        "timestamp_patience_ms": 500,
        "timestamp_deadline_s": deadline_s,
    }
    fields: dict[str, dict[str, object]] = {
        "cms": {},
        "cms-approved": {"manual_approval": True},
        "cms-stamped": stamped,
        "cms-owed": {**stamped, "owe_timestamp": True},
        "pades": {},
        "pades-owed": {**stamped, "owe_timestamp": True},
    }
    return {
        name: msgspec.convert({**rest, "name": name, "reserve_bytes": RESERVE_BYTES}, DocumentClass)
        for name, rest in fields.items()
    }


def _stored(shelf: Shelf, body: bytes) -> BlobRef:
    """A body that was there before the simulation began."""
    name = f"blob-{len(shelf.bodies)}"
    shelf.bodies[name] = body
    return BlobRef(name=name, sha256=sha256(body).hexdigest(), size=len(body))


def _set_up(tenant: str, kind: str, stream: str, command: Command) -> Submission:
    return Submission(tenant=tenant, actor="setup", kind=kind, stream=stream, command=command)


def _commit_at_once(site: Site, works: list[Submission]) -> None:
    """One flush before the simulation begins."""
    clock = SimClock(site.sim)
    planner = Planner(site.deciders, HybridClock(clock), "sim")

    def plan(snapshot: Snapshot) -> WriteSet:
        write, outcomes = planner.plan(works, snapshot, clock.now_ms())
        failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert not failed, failed
        return write

    run_now(site.store.flush(needs_of(works), plan))


def run_seed(seed: int, *, keep_trace: bool = False) -> Result:
    """Simulate one seed."""
    return Run(seed, keep_trace=keep_trace)()
