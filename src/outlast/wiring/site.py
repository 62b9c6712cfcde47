"""One running site: its parts, put together once from configuration.

`open_site` builds the object graph; `Site.run` keeps its loops going: the worker, the log's publisher, the health
of providers, the mode, the pruning of what is no longer needed. Nothing here is global, so several sites can live
in one process (tests do that).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from outlast import __version__
from outlast.core.access import SITE_TENANT, Access, ApiKeyDecider, Authenticator
from outlast.core.backpressure import Gate, GateConfig
from outlast.core.blobs import Blobs
from outlast.core.clock import Clock, HybridClock, SystemClock, hlc_ms
from outlast.core.commit import Committer, Planner
from outlast.core.decider import Deciders
from outlast.core.durable import make_durable_directory
from outlast.core.envelope import Envelope
from outlast.core.errors import Refused, Unavailable
from outlast.core.ids import EntropyPool, Ids, system_random
from outlast.core.links import LinkDecider, Links
from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import sign_checkpoint
from outlast.core.log.logkey import LogKey
from outlast.core.news import News
from outlast.core.policy import ClassFact, Context, Entity, Facts, PolicySet, ProviderFact, SiteFact
from outlast.core.publish import Publisher
from outlast.core.replicas.model import CopiesDecider
from outlast.core.replicas.scrubmodel import ScrubDecider
from outlast.core.routing.breaker import BreakerConfig
from outlast.core.routing.health import ProviderConfig
from outlast.core.routing.latency import DeadlineConfig
from outlast.core.routing.router import Router
from outlast.core.store.port import Store, WriteSet
from outlast.core.telemetry import CommitSpans, Tracer
from outlast.core.work.job import JobDecider
from outlast.core.work.runner import Limits as RunnerLimits
from outlast.core.work.runner import Runner
from outlast.operations.api import Journals
from outlast.operations.model.jobkind import JobKindDecider
from outlast.operations.model.journal import JournalDecider
from outlast.operations.model.mode import Limits as ModeLimits
from outlast.operations.model.mode import ModeDecider
from outlast.operations.model.node import NodeDecider
from outlast.operations.model.provider import ProviderDecider
from outlast.ports.keys import Signer
from outlast.ports.timestamp import TimestampAuthority
from outlast.signing.api import Caller, Signing
from outlast.signing.evidence.bundle import Evidence
from outlast.signing.intake import Intake
from outlast.signing.model.document import DocumentDecider
from outlast.signing.model.key import KIND as KEY_KIND
from outlast.signing.model.key import KeyDecider
from outlast.signing.model.request import RequestDecider
from outlast.signing.pdf.facts import MIB, Limits, PrepareOptions
from outlast.signing.pdf.revision import Prepared
from outlast.signing.sandbox import Bounds, PdfSandbox
from outlast.signing.work import TIMESTAMP_OWED, kinds
from outlast.signing.world import Subjects, World
from outlast.wiring.blobs import BlobPart, OpenStores, are_shared, open_stores
from outlast.wiring.config import Config, Pkcs11Provider, Provider, SoftwareProvider
from outlast.wiring.embedded import (
    DEFAULT_ALGORITHM,
    DEFAULT_KEY,
    certify,
    ensure_key,
    site_authority,
    software_provider,
)
from outlast.wiring.follow import Follower
from outlast.wiring.nodes import Me, Nodes, Sessions, who_am_i
from outlast.wiring.providers import (
    build_authorities,
    build_signers,
    open_keys,
    regions,
    software_signer,
)
from outlast.wiring.rootkeys import load_link_key
from outlast.wiring.storage import open_store
from outlast.wiring.switches import Switches
from outlast.wiring.telemetry import tracing
from outlast.wiring.upkeep import keep_pruning
from outlast.wiring.vitals import Vitals
from outlast.wiring.watch import Watch

log = logging.getLogger("outlast.site")
T = TypeVar("T")
DEFAULT_TENANT = "default"
DRAIN_S = 10.0
"""How long jobs may run on in a process that is about to end; their leases then go back."""
DRAIN_LOOK_S = 0.02
LARGE_DOCUMENTS = 2
"""Documents above 1 MiB that jobs hold in memory whole at a time."""

SIGNER_HEALTH = ProviderConfig(breaker=BreakerConfig(check_first=True))
LOCAL_HEALTH = ProviderConfig(
    breaker=BreakerConfig(check_first=True, stall_ms=5_000, slow_call_ms=2_500),
    deadline=DeadlineConfig(max_ms=5_000),
)
"""A key in this process is late when this process is busy; that is no reason to leave it."""
AUTHORITY_HEALTH = ProviderConfig(
    breaker=BreakerConfig(check_first=True, stall_ms=2_000, slow_call_ms=1_500),
    deadline=DeadlineConfig(max_ms=2_000),
)


@dataclass(kw_only=True)
class Site:
    """The object graph. Surfaces hold one; nothing else is global.

    ``watchers`` are called on the event loop after every flush of this process, ``listeners`` with what other nodes of
    the site have written.
    """

    config: Config
    name: str
    clock: Clock
    ids: Ids
    deciders: Deciders
    store: Store
    committer: Committer
    archive: TileArchive
    publisher: Publisher
    runner: Runner
    world: World
    signing: Signing
    journals: Journals
    policy: PolicySet
    gate: Gate
    log_vkeys: tuple[str, ...]
    watch: Watch
    switches: Switches
    nodes: Nodes
    follower: Follower | None
    access: Access
    authenticator: Authenticator
    evidence: Evidence
    sandbox: PdfSandbox
    blobs: BlobPart
    links: Links
    vitals: Vitals
    tracer: Tracer | None
    watchers: list[Callable[[WriteSet], None]] = field(default_factory=list)
    listeners: list[Callable[[News], None]] = field(default_factory=list)

    async def drain(self, timeout_s: float = DRAIN_S) -> bool:
        """Start no more jobs, and wait for those that run; False where some ran on after ``timeout_s``."""
        self.nodes.is_stopping = True
        end_s = self.clock.monotonic_s() + timeout_s
        while self.runner.running:
            if self.clock.monotonic_s() >= end_s:
                return False
            await asyncio.sleep(DRAIN_LOOK_S)
        return True


def _health(provider: Provider) -> ProviderConfig:
    local = isinstance(provider, SoftwareProvider | Pkcs11Provider)
    return LOCAL_HEALTH if local else SIGNER_HEALTH


def _deciders() -> Deciders:
    return Deciders(
        [
            RequestDecider(),
            DocumentDecider(),
            KeyDecider(),
            JobDecider(),
            ApiKeyDecider(),
            ModeDecider(),
            ProviderDecider(),
            JobKindDecider(),
            NodeDecider(),
            CopiesDecider(),
            ScrubDecider(),
            LinkDecider(),
            JournalDecider(),
        ]
    )


async def _within(timeout_ms: int, work: Awaitable[T]) -> T:
    async with asyncio.timeout(timeout_ms / 1000):
        return await work


def _need_folder(data: Path) -> None:
    why = ""
    try:
        make_durable_directory(data, 0o700)
    except OSError as error:
        why = error.strerror or "cannot be made"
    if not why and not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        why = "cannot be written to"
    if why:
        raise Refused(
            "data-folder-unusable",
            f"the data folder {data}: {why}",
            hint="Give this user the folder, on a volume that is not read-only; or name another with --data.",
        )


@asynccontextmanager
async def open_site(config: Config, clock: Clock | None = None) -> AsyncIterator[Site]:
    """A site over its data folder, ready to be asked; nothing runs until `run_site`.

    Raises Refused for what is wrong with the configuration, the secrets or the database (in use, schema newer
    than this program), each saying what to do.
    """
    system_clock = SystemClock()
    clock = clock or system_clock
    entropy = EntropyPool()
    ids = Ids(clock, entropy)
    data = config.data
    _need_folder(data)
    me = who_am_i(
        config.site.node, config.site.name, data, ids.new(), is_shared=bool(config.store.dsn_file)
    )
    async with open_store(config, entropy, me.session, clock) as opened:
        store, log_key = opened.store, opened.log_key
        # a wall clock that was set back while we were down must not take us behind our own record
        if not system_clock.resume(hlc_ms((await store.head()).hlc)):
            log.critical(
                "the newest log entry is dated far ahead of this machine's clock: check it"
            )
        sandbox = PdfSandbox(Bounds(workers=config.work.sandboxes or 2))
        with open_stores(config) as blobs:
            own_name = me.node if me.is_shared else config.site.node
            async with sandbox, tracing(config, clock, entropy, own_name) as tracer:
                site = _assemble(
                    config,
                    clock,
                    ids,
                    Envelope(opened.root_keys, entropy),
                    log_key,
                    store,
                    blobs,
                    sandbox,
                    tracer,
                    me,
                    opened.sessions,
                )
                try:
                    await site.nodes.check()
                    if site.follower is not None:
                        await site.follower.begin()  # before anything is read that it keeps up
                    await site.watch.start()
                    await _ensure_default_key(site)
                    yield site
                    await site.committer.drain()
                finally:
                    await _close_providers(site)


async def _close_providers(site: Site) -> None:
    providers: list[Signer | TimestampAuthority] = [
        *site.world.signers.values(),
        *site.world.authorities.values(),
    ]
    for provider in providers:
        try:
            await provider.aclose()
        except Exception:  # the others are closed all the same
            log.exception("a provider did not close")


def _assemble(
    config: Config,
    clock: Clock,
    ids: Ids,
    envelope: Envelope,
    log_key: LogKey,
    store: Store,
    stores: OpenStores,
    sandbox: PdfSandbox,
    tracer: Tracer | None,
    me: Me,
    sessions: Sessions | None,
) -> Site:
    deciders = _deciders()
    watchers: list[Callable[[WriteSet], None]] = []

    def on_commit(write: WriteSet) -> None:
        for watcher in watchers:
            watcher(write)

    planner = Planner(deciders, HybridClock(clock), config.site.name)
    committer = Committer(store, planner, clock, on_commit)
    actor = f"site:{me.within(config.site.name)}"
    blobs = BlobPart(config, stores, clock, committer, store, deciders, actor)
    bodies = Blobs(blobs.store, envelope, ids, blobs.replicas)
    policy = load_policy(config)
    gate = Gate(GateConfig(max_backlog=config.work.max_backlog), clock)
    signers = build_signers(config)
    authorities = build_authorities(config, clock)

    async def prepare(pdf: bytes, options: PrepareOptions) -> Prepared:
        try:
            _, prepared = await sandbox.examine(pdf, _NO_LIMITS, options)
        except Refused as error:
            if error.code != "pdf-too-costly":
                raise
            # it was not too costly at intake: this machine is busy, or its worker was killed
            raise Unavailable("pdf-worker-overrun", error.message, hint=error.hint) from error
        return prepared

    large = asyncio.Semaphore(LARGE_DOCUMENTS)
    world = World(
        clock=clock,
        door=committer,
        streams=store,
        deciders=deciders,
        bodies=bodies,
        envelope=envelope,
        subjects=Subjects(store, envelope),
        within=_within,
        prepare=prepare,
        denied=denials(policy, config, lambda: watch.mode.label),
        degraded=degradations(policy, config, lambda: watch.mode.label),
        classes=config.classes,
        signers=signers,
        authorities=authorities,
        regions=regions(config),
        signer_router=Router(clock, {name: _health(config.providers[name]) for name in signers}),
        authority_router=Router(clock, dict.fromkeys(authorities, AUTHORITY_HEALTH)),
        actor=actor,
        large=lambda: large,
        tracer=tracer,
    )
    archive = TileArchive(data_log(config))

    def sign(size: int, root: bytes) -> bytes:
        return sign_checkpoint(
            config.origin, size, root, log_key.signers, time_s=clock.now_ms() // 1000
        )

    publisher = Publisher(store, archive, sign, clock)
    runner = Runner(
        committer,
        store,
        clock,
        {**kinds(world), **blobs.kinds()},
        worker=f"{me.within(config.site.name)}/{me.process}",
        rng=system_random(),
        limits=RunnerLimits(concurrency=config.work.concurrency, lease_ms=config.work.lease_ms),
        held=lambda: publisher.failure is not None or nodes.is_stopping,
    )
    nodes = Nodes(
        me=me,
        version=__version__,
        door=committer,
        store=store,
        clock=clock,
        deciders=deciders,
        sessions=sessions,
        shares_documents=are_shared(config),
    )
    switches = Switches(
        node=me.node if me.is_shared else "",
        world=world,
        store=store,
        deciders=deciders,
        runner=runner,
        others={name: router for router, stores in blobs.routers() for name in stores},
    )
    watch = Watch(
        name=config.site.name,
        version=__version__,
        world=world,
        store=store,
        blobs=blobs,
        gate=gate,
        publisher=publisher,
        switches=switches,
        nodes=nodes,
        limits=_disk_limits(config),
        local=frozenset(n for n, p in config.providers.items() if isinstance(p, SoftwareProvider)),
    )
    listeners: list[Callable[[News], None]] = []

    async def heard(news: News) -> None:
        for listener in listeners:
            listener(news)
        await switches.refresh(news.streams)

    follower = Follower(store, clock, heard) if me.is_shared else None
    authenticator = Authenticator(
        store, deciders, clock, follower.is_current if follower else lambda: True
    )
    watchers += [
        publisher.committed,
        lambda write: runner.wake() if write.new_jobs else None,
        watch.committed,
        switches.committed,
        authenticator.committed,
        *([follower.committed] if follower else []),
    ]
    listeners += [
        lambda news: publisher.wake(),
        lambda news: runner.wake() if any(k.tenant != SITE_TENANT for k in news.streams) else None,
        lambda news: watch.others_wrote(),
        authenticator.committed,
    ]
    committer.spans = CommitSpans(tracer) if tracer is not None else None
    publisher.tracer = runner.tracer = tracer
    spool = data_spool(config)
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Site(
        config=config,
        name=config.site.name,
        clock=clock,
        ids=ids,
        deciders=deciders,
        store=store,
        committer=committer,
        archive=archive,
        publisher=publisher,
        runner=runner,
        world=world,
        signing=Signing(world, store, Intake(bodies, sandbox.examine, spool), ids, watch.admit),
        journals=Journals(
            committer,
            store,
            clock,
            config.site.name,
            watch.refusal,
        ),
        policy=policy,
        gate=gate,
        log_vkeys=log_key.vkeys,
        watch=watch,
        switches=switches,
        nodes=nodes,
        follower=follower,
        access=Access(committer, store, deciders, clock, ids),
        authenticator=authenticator,
        evidence=Evidence(
            world,
            store,
            archive,
            publisher,
            origin=config.origin,
            vkeys=log_key.vkeys,
            made_by=f"outlast {__version__}",
        ),
        sandbox=sandbox,
        blobs=blobs,
        links=Links(committer, clock, ids, load_link_key(config)),
        vitals=Vitals(config, store, deciders, clock),
        tracer=tracer,
        watchers=watchers,
        listeners=listeners,
    )


_NO_LIMITS = Limits(
    max_bytes=1024 * MIB,
    max_pages=1_000_000,
    max_objects=1_000_000,
    max_decoded_bytes=512 * MIB,
    max_form_fields=100_000,
    max_signatures=1_000,
)
"""For documents that intake has let in: their class's limits held then, and each signature adds a little. What they
may cost is bounded by the sandbox."""


def _disk_limits(config: Config) -> ModeLimits:
    low = config.storage.min_free_mb << 20
    return ModeLimits(disk_low_bytes=low, disk_ok_bytes=low + low // 4)


def data_log(config: Config) -> Path:
    """The folder of tiles and checkpoint."""
    return config.data / "log"


def data_spool(config: Config) -> Path:
    """The folder of unnamed temporary files."""
    return config.data / "spool"


def load_policy(config: Config) -> PolicySet:
    """The policies over what the configuration names. Raises Refused ``policy-invalid``."""
    facts = Facts(
        sites=(SiteFact(name=config.site.name, region=config.site.region),),
        providers=tuple(
            ProviderFact(
                name=name,
                region=regions(config)[name],
                on_premises=getattr(part, "on_premises", False),
            )
            for name, part in {**config.providers, **config.authorities}.items()
        ),
        classes=tuple(
            ClassFact(
                name=name,
                regions=c.residency,
                degradations=(TIMESTAMP_OWED,) if c.owe_timestamp else (),
            )
            for name, c in config.classes.items()
        ),
    )
    texts = {Path(f).name: Path(f).read_text() for f in config.policy.files}
    return PolicySet.load(texts or None, facts)


def denials(
    policy: PolicySet, config: Config, mode: Callable[[], str]
) -> Callable[[str, str, str], str]:
    """A question: ``(tenant, class, provider)`` -> why policy forbids it, or an empty string."""
    site = Entity("Site", config.site.name)

    def denied(tenant: str, class_name: str, provider: str) -> str:
        context: Context = {
            "class": Entity("Class", class_name),
            "tenant": tenant,
            "mode": mode(),
        }
        action = "StampWith" if provider in config.authorities else "SignWith"
        decision = policy.authorize(site, action, Entity("Provider", provider), context)
        return "" if decision.allow else decision.why

    return denied


def degradations(
    policy: PolicySet, config: Config, mode: Callable[[], str]
) -> Callable[[str, str], str]:
    """A question: ``(class, degradation)`` -> why policy forbids it, or an empty string."""
    site = Entity("Site", config.site.name)

    def degraded(class_name: str, degradation: str) -> str:
        context: Context = {"kind": degradation, "mode": mode()}
        decision = policy.authorize(site, "Degrade", Entity("Class", class_name), context)
        return "" if decision.allow else decision.why

    return degraded


async def _ensure_default_key(site: Site) -> None:
    """Without any enrolled key a site could not sign: give it one of its own."""
    if await site.store.streams(DEFAULT_TENANT, KEY_KIND, limit=1):
        return
    config, provider = site.config, software_provider(site.config)
    if provider is None:
        return
    section = config.providers[provider]
    assert isinstance(section, SoftwareProvider)
    signer = software_signer(config, section)
    info = await ensure_key(signer, DEFAULT_KEY, DEFAULT_ALGORITHM)
    chain = certify(site_authority(config, site.clock), info, f"{site.name} signing", site.clock)
    caller = Caller(DEFAULT_TENANT, f"site:{site.name}")
    await site.signing.enrol_key(caller, DEFAULT_KEY, provider, DEFAULT_KEY, chain)


async def run_site(site: Site) -> None:
    """Keep the site working until cancelled."""
    await site.publisher.begin()
    async with asyncio.TaskGroup() as group:
        group.create_task(site.publisher.run(), name="publisher")
        if site.config.work.enabled:
            group.create_task(site.runner.run(), name="runner")
        group.create_task(site.watch.run(), name="watch")
        group.create_task(site.blobs.run(), name="blobs")
        group.create_task(keep_pruning(site.store, site.clock), name="prune")
        if site.follower is not None:
            group.create_task(site.follower.run(), name="follow")
        group.create_task(_open_keys(site), name="open keys")
        group.create_task(site.vitals.run(), name="vitals")


async def _open_keys(site: Site) -> None:
    for signer in site.world.signers.values():
        await open_keys(signer)
