"""One seed: a site is built, gets into trouble, heals, comes to rest; and then everything must be as promised."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.clock import HybridClock
from outlast.core.commit import Planner, Submission, needs_of
from outlast.core.decider import Command, Deciders
from outlast.core.ids import Random
from outlast.core.store.port import IdempotencyRow, Snapshot, WriteSet
from outlast.core.work.job import JobDecider
from outlast.operations.model.mode import ModeDecider
from outlast.operations.model.provider import ProviderDecider
from outlast.signing.classes import DocumentClass
from outlast.signing.model.document import KIND as DOCUMENT
from outlast.signing.model.document import AddDocument, DocumentDecider
from outlast.signing.model.key import KIND as KEY
from outlast.signing.model.key import EnrolKey, KeyDecider
from outlast.signing.model.request import RequestDecider
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.clients import TENANTS, Crowd, Plea
from outlast.testing.simulation.database import Database
from outlast.testing.simulation.engine import START_MS, Simulation, run_now
from outlast.testing.simulation.faults import FaultPoints
from outlast.testing.simulation.node import Node
from outlast.testing.simulation.parts import Provider, Shelf, SimClock, StampAuthority, binding_of
from outlast.testing.simulation.people import People
from outlast.testing.simulation.restored import NOTICED_MS, RestoredStore
from outlast.testing.simulation.site import Site
from outlast.testing.simulation.swarm import DRAW_VERSION, NEVER, SKEW_BOUND_MS, Swarm, draw
from outlast.testing.simulation.verdict import judge_site

KEYS = ("key-0", "key-1")
RESERVE_BYTES = 3_000
DAY_MS = 24 * 3_600_000
JUMPS_MS = (50, 2_000, 2_000, 60_000, 600_000, DAY_MS + 3_600_000)
"""By how much a wall clock is set forwards or back where clocks are wrong beyond all bounds."""
REST_MS = 2 * 3_600_000
"""How long a healed site may take to come to rest, in simulated time, where clocks are right or wrong within their
bound: an hour's deadline for owed timestamps, and the longest backoffs. Where clocks were wrong beyond it, as much
longer as they were ever apart: what the fastest has put off is not due on the others before."""
READ_EVERY_MS = 700
"""How often the reader compares two nodes' checkpoints."""
OLD_KEYS = 3
"""Idempotency records that are there from long ago."""

DECIDERS = Deciders(
    [
        RequestDecider(),
        DocumentDecider(),
        KeyDecider(),
        JobDecider(),
        ModeDecider(),
        ProviderDecider(),
    ]
)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed came to. ``failure`` is empty when all promises were kept. ``rest_ms`` is how long the healed site
    took to come to rest."""

    seed: int
    failure: str
    trace_hash: str
    events: int
    simulated_ms: float
    rest_ms: float
    reached: dict[str, int]
    entries: int
    signed: int
    trace: tuple[str, ...] = ()


class Run:
    """A seed's site and its trouble."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        name = f"{DRAW_VERSION}:{seed}"
        self.seed = seed
        self.sim = Simulation(name, keep_trace=keep_trace)
        self.faults = FaultPoints(name)
        self.checks = Checks()
        self.swarm = draw(Random(f"{name}/swarm"))
        self.tokens: dict[str, bytes] = {}
        self.site = self._site()
        self.nodes = [Node(self.site, f"n{at}") for at in range(self.swarm.nodes)]
        self.crowd = Crowd(self.site, self.nodes, self._pleas())
        self.people = People(self.site, self.crowd, KEYS)
        self.restored = RestoredStore(self.site, self.nodes)
        self.widest_ms = 0.0
        """How far apart clocks have ever been."""

    def __call__(self) -> Result:
        """From the first event to the verdict."""
        failure, signed = "", 0
        try:
            self._through_trouble()
            self._to_rest()
            signed = judge_site(self.site, self.nodes, self.crowd.pleas, self.tokens)
        except Exception as error:  # whatever the site or a check raises is this seed's failure
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
            rest_ms=self.sim.now_ms - self.site.healed_at_ms if self.site.healed else 0.0,
            reached=dict(self.checks.reached + self.faults.fired),
            entries=log.head.size,
            signed=signed,
            trace=tuple(self.sim.trace or ()),
        )

    # -- building ---------------------------------------------------------------------------------

    def _site(self) -> Site:
        sim, swarm, checks, faults = self.sim, self.swarm, self.checks, self.faults
        providers = [
            Provider(sim, f"hsm-{at}", faults, checks, KEYS) for at in range(swarm.providers)
        ]
        stampers = [
            StampAuthority(sim, f"tsa-{at}", faults, self.tokens) for at in range(swarm.authorities)
        ]
        return Site(
            sim,
            swarm,
            checks,
            faults,
            Database(sim, swarm, checks, faults),
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
        for at in range(OLD_KEYS):
            digest = sha256(b"old %d" % at).digest()[:16]
            row = IdempotencyRow(digest, digest, b"null", START_MS - 400 * DAY_MS)
            site.store.disk.idempotency[digest] = row
        return pleas

    # -- trouble ----------------------------------------------------------------------------------

    def _through_trouble(self) -> None:
        sim, swarm = self.sim, self.swarm
        for node in self.nodes:
            node.start()
        sim.strike_in = self.faults.visits_until("dies at an event")
        self.crowd.start()
        people = self.people
        for every_ms, trouble in (
            (swarm.crash_every_ms, self._crash),
            (swarm.stall_every_ms, self._stall),
            (swarm.jump_every_ms, self._jump),
            (swarm.outage_every_ms, self._outage),
            (swarm.disk_full_every_ms, self._fill),
            (swarm.rotate_every_ms, lambda: sim.spawn(people.rotate())),
            (swarm.mode_every_ms, lambda: sim.spawn(people.set_mode())),
            (swarm.switch_every_ms, lambda: sim.spawn(people.switch())),
            (NEVER if swarm.publish_every_ms == NEVER else READ_EVERY_MS, self._read),
        ):
            if every_ms != NEVER:
                self._again(every_ms, trouble)
        if swarm.restored:
            sim.after(swarm.trouble_ms * sim.between(0.05, 0.3), self.restored.back_up)
            self._restore_when_known()
        over: list[bool] = []
        sim.after(swarm.trouble_ms, over.append, True)
        sim.run(lambda: bool(over) and not self.site.away)

    def _again(self, every_ms: float, trouble: Callable[[], object]) -> None:
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
        rng, node = self.sim.rng, self.sim.rng.choice(self.nodes)
        if self.swarm.skew == "within":
            node.skew_ms = rng.uniform(-SKEW_BOUND_MS / 2, SKEW_BOUND_MS / 2)
        else:
            node.skew_ms += rng.choice((-1, 1)) * rng.choice(JUMPS_MS)
        if node.up:
            node.clock.skew_ms = node.skew_ms
        skews = [0.0, *(other.skew_ms for other in self.nodes)]
        self.widest_ms = max(self.widest_ms, max(skews) - min(skews))
        beyond = self.widest_ms > SKEW_BOUND_MS
        self.checks.reachable("clock beyond its bound" if beyond else "clock jumped")
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

    def _fill(self) -> None:
        self.site.store.full = self.site.shelf.full = True
        self.sim.note("the disk is full")
        self.sim.after(self.sim.between(100, 2_000), self._free)

    def _free(self) -> None:
        self.site.store.full = self.site.shelf.full = False

    def _read(self) -> None:
        rng = self.sim.rng
        self.site.reader.compare(rng.choice(self.nodes).files, rng.choice(self.nodes).files)

    def _restore_when_known(self) -> None:
        """The older store comes in as soon as every node can know it for what it is."""

        def look() -> None:
            if self.site.healed:
                return
            if self.restored.put_back_older():
                self.sim.after(NOTICED_MS, self.restored.put_back_newer)
            else:
                self.sim.after(200, look)

        self.sim.after(self.swarm.trouble_ms * self.sim.between(0.3, 0.8), look)

    # -- rest -------------------------------------------------------------------------------------

    def _to_rest(self) -> None:
        """All trouble ends; what was asked must come to its end, by itself or with a person's replay."""
        site, sim = self.site, self.sim
        sim.note("everything heals")
        self.faults.healed, sim.strike_in = True, 0
        site.healed_at_ms = sim.now_ms
        self._free()
        for part in self._parts():
            part.down = False
        for node in self.nodes:
            node.stalled_until_ms = 0.0
            node.skew_ms = 0.0
            if node.up:
                node.clock.skew_ms = 0.0
            node.start_again()
        sim.spawn(self.people.replay_dead())
        limit_ms = sim.now_ms + REST_MS + 2 * self.widest_ms
        sim.run(lambda: self._quiet() or sim.now_ms > limit_ms)
        unfinished = [site.store.disk.jobs[at] for at in sorted(site.store.disk.unfinished)]
        self.checks.always(not unfinished, f"jobs that never end: {unfinished}")
        waiting = [plea.key for plea in self.crowd.pleas if not plea.finished]
        self.checks.always(not waiting, f"clients that never get an answer: {waiting}")
        self.checks.always(not self.people.busy, "people who never get an answer")
        behind = [node.name for node in self.nodes if not self._published(node)]
        self.checks.always(not behind, f"nodes that never publish what is in the store: {behind}")

    def _quiet(self) -> bool:
        disk = self.site.store.disk
        return (
            not disk.unfinished
            and not self.people.busy
            and all(plea.finished for plea in self.crowd.pleas)
            and not any(job.state == "dead" for job in disk.jobs.values())
            and all(self._published(node) for node in self.nodes)
        )

    def _published(self, node: Node) -> bool:
        if self.swarm.publish_every_ms == NEVER:
            return True
        publisher = node.publisher
        return publisher is not None and publisher.published == self.site.store.disk.head.size


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
