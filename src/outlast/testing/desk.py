"""A signing desk for tests: the real domain, commit path and crypto, over a store in memory and scripted providers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from outlast.core.blobs import Blobs
from outlast.core.clock import HybridClock, ManualClock
from outlast.core.commit import Claim, Committer, Planner, Receipt, Settle
from outlast.core.decider import Deciders
from outlast.core.envelope import Envelope, LocalRootKey, RootKeys
from outlast.core.errors import OutlastError
from outlast.core.ids import Ids
from outlast.core.log.entry import decode_entry
from outlast.core.pki import Authority, certificate_der, issue, make_ca
from outlast.core.routing.breaker import BreakerConfig
from outlast.core.routing.health import ProviderConfig
from outlast.core.routing.latency import DeadlineConfig
from outlast.core.routing.router import Router
from outlast.core.store.port import JobRow
from outlast.core.work.job import JobDecider
from outlast.core.work.runner import Job
from outlast.core.work.verdict import judge
from outlast.ports.keys import Algorithm
from outlast.signing.api import Caller, SignatureAsk, Signing
from outlast.signing.classes import DocumentClass
from outlast.signing.intake import Intake
from outlast.signing.model.document import DocumentDecider
from outlast.signing.model.key import KeyDecider
from outlast.signing.model.request import Request, RequestDecider
from outlast.signing.pdf.facts import Limits, PdfFacts, PrepareOptions
from outlast.signing.pdf.intake import examine
from outlast.signing.pdf.prepare import prepare_revision
from outlast.signing.pdf.revision import Prepared
from outlast.signing.work import kinds
from outlast.signing.world import Subjects, World
from outlast.testing.blob import MemoryBlobs
from outlast.testing.keys import FakeSigner
from outlast.testing.store import MemoryStore
from outlast.testing.timestamp import FakeAuthority

T = TypeVar("T")
CALLER = Caller("acme", "api-key:ann")
DEADLINE_MS = 100


class Desk:
    """Two providers (``one``, ``two``), two authorities (``clock-a``, ``clock-b``), one key enrolled at both
    providers, and a class for each test's wish."""

    def __init__(self, spool: Path, **wish: object) -> None:
        self.clock = ManualClock()
        self.ids = Ids(self.clock)
        self.store = MemoryStore()
        self.blobs = MemoryBlobs()
        self.deciders = Deciders([RequestDecider(), DocumentDecider(), KeyDecider(), JobDecider()])
        planner = Planner(self.deciders, HybridClock(self.clock), "desk")
        self.committer = Committer(self.store, planner, self.clock)
        self.envelope = Envelope(RootKeys(LocalRootKey("root-1", b"k" * 32)))
        self.bodies = Blobs(self.blobs, self.envelope, self.ids)
        self.signers = {name: FakeSigner(name) for name in ("one", "two")}
        self.authorities = {
            name: FakeAuthority(self.clock, name) for name in ("clock-a", "clock-b")
        }
        names = {"providers": ("one", "two"), "authorities": ("clock-a", "clock-b"), "key": "seal"}
        document_class = DocumentClass(name="default", **{**names, **wish})  # type: ignore[arg-type]  # by wish
        health = ProviderConfig(
            breaker=BreakerConfig(stall_ms=60_000),
            deadline=DeadlineConfig(min_ms=DEADLINE_MS, max_ms=DEADLINE_MS),
        )
        self.world = World(
            clock=self.clock,
            door=self.committer,
            streams=self.store,
            deciders=self.deciders,
            bodies=self.bodies,
            envelope=self.envelope,
            subjects=Subjects(self.store, self.envelope),
            within=_within,
            prepare=_prepare,
            denied=lambda tenant, class_name, provider: self.denials.get(provider, ""),
            classes={"default": document_class},
            signers=self.signers,
            authorities=self.authorities,
            regions={},
            signer_router=Router(self.clock, dict.fromkeys(self.signers, health)),
            authority_router=Router(self.clock, dict.fromkeys(self.authorities, health)),
        )
        self.denials: dict[str, str] = {}
        self.intake = Intake(self.bodies, _examine, spool)
        self.signing = Signing(self.world, self.store, self.intake, self.ids, _admit)
        self.kinds = kinds(self.world)
        self.ca: Authority = make_ca("desk CA", "ecdsa-p256-sha256", self.clock)
        self.errors: list[OutlastError] = []

    async def enrol(self, algorithm: Algorithm = "ecdsa-p256-sha256", key: str = "seal") -> None:
        """The key at both providers, each with a certificate of its own."""
        for name, signer in self.signers.items():
            info = signer.generate(algorithm, algorithm)
            leaf = issue(self.ca, f"{key} at {name}", info.spki_der, "document-signing", self.clock)
            chain = [certificate_der(leaf), self.ca.certificate_der]
            await self.signing.enrol_key(CALLER, key, name, algorithm, chain)

    async def upload(self, content: bytes, media_type: str = "application/pdf") -> str:
        """A document's id."""
        receipt = await self.signing.add_document(CALLER, chunks(content), media_type=media_type)
        return receipt.stream

    async def ask(self, document: str, **wish: object) -> str:
        """A request's id."""
        ask = SignatureAsk(document=document, **wish)  # type: ignore[arg-type]  # by wish
        receipt: Receipt = await self.signing.request(CALLER, ask)
        return receipt.stream

    async def claim(self) -> list[JobRow]:
        """All jobs that are due."""
        return await self.committer.claim(
            Claim(worker="w", kinds=tuple(self.kinds), limit=50,
                  now_ms=self.clock.now_ms(), ttl_ms=10_000)
        )  # fmt: skip

    async def run(self, row: JobRow) -> None:
        """One job, as the runner does it."""
        job, kind = Job(row), self.kinds[row.kind]
        try:
            await kind.handler(job)
            if not job.finished:
                await self.committer.settle(Settle(row.tenant, job.done()))
        except OutlastError as error:
            self.errors.append(error)
            verdict = judge(row, error, kind.backoff, self.clock.now_ms(), 0.5)
            if verdict.finish is not None:
                await self.committer.settle(Settle(row.tenant, verdict.finish))

    async def work(self, *, rounds: int = 20, step_ms: int = 500) -> None:
        """Run due jobs, letting time pass between rounds, until nothing is left or the rounds are over."""
        for _ in range(rounds):
            for row in await self.claim():
                await self.run(row)
            counts = await self.store.job_counts()
            if counts.ready == counts.leased == 0:
                return
            self.clock.advance(step_ms)

    async def request(self, request_id: str) -> Request:
        """A request's state."""
        return await self.world.request("acme", request_id)

    async def signed(self, request_id: str) -> bytes:
        """The newest signed file."""
        _, _, stream = await self.signing.signed_file(CALLER, request_id)
        return b"".join([chunk async for chunk in stream])

    async def log(self) -> list[str]:
        """The types of all log entries, in order."""
        return [decode_entry(leaf).type for leaf in await self.store.entries(0, 10_000)]


async def chunks(content: bytes) -> AsyncIterator[bytes]:
    """An upload in pieces of 64 KiB."""
    for at in range(0, max(1, len(content)), 65_536):
        yield content[at : at + 65_536]


async def _within(timeout_ms: int, work: Awaitable[T]) -> T:
    async with asyncio.timeout(timeout_ms / 1000):
        return await work


async def _prepare(pdf: bytes, options: PrepareOptions) -> Prepared:
    return prepare_revision(pdf, options)


async def _examine(
    source: bytes | Path, limits: Limits, options: PrepareOptions
) -> tuple[PdfFacts, Prepared]:
    data = source if isinstance(source, bytes) else await asyncio.to_thread(source.read_bytes)
    return examine(data, limits, options)


@contextmanager
def _admit(tenant: str) -> Iterator[None]:
    yield
