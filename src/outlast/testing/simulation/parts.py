"""The parts of a simulated site that are not the site: keys, providers, authorities, blobs, and a PDF that is none.

Signatures and tokens are real, so a lie is caught by the same check as in production. Keys and certificates are
functions of their names; everything else of the seed.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.asymmetric import spki_der
from outlast.core.blobref import BlobRef
from outlast.core.clock import SystemClock
from outlast.core.errors import Refused, Unavailable
from outlast.core.pki import subject_name
from outlast.ports.keys import KeyInfo, SignRequest
from outlast.ports.timestamp import Token
from outlast.signing.model.key import Binding
from outlast.signing.pdf.facts import PrepareOptions
from outlast.signing.pdf.revision import Prepared
from outlast.testing import timestamp as authorities
from outlast.testing.keys import FakeSigner, Fault, FaultKind
from outlast.testing.simulation.checks import Checks
from outlast.testing.simulation.engine import START_MS, Asked, Reply, Simulation, Sleep
from outlast.testing.simulation.faults import FaultPoints

GENERATIONS = 3
"""Keys and certificates that a provider has for a name, one after the other."""
YEARS_AHEAD = datetime(2090, 1, 1, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
LATE_S = 4.0
"""A late provider answers within this; no deadline is longer than 1 s."""


@lru_cache(maxsize=64)
def key_of(provider: str, name: str, generation: int) -> Ed25519PrivateKey:
    """The key that a provider keeps for a signing key's name."""
    secret = sha256(f"{provider}/{name}/{generation}".encode()).digest()
    return Ed25519PrivateKey.from_private_bytes(secret)


@lru_cache(maxsize=64)
def binding_of(provider: str, name: str, generation: int = 0) -> Binding:
    """The enrolled key and certificate; the same bytes in every process."""
    key = key_of(provider, name, generation)
    subject = subject_name(f"{name} {generation} at {provider}")
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, LONG_AGO, YEARS_AHEAD)
        .sign(key, None)
        .public_bytes(Encoding.DER)
    )
    return Binding(
        provider=provider,
        key_ref=f"{name}/{generation}",
        algorithm="ed25519",
        spki=spki_der(key),
        chain=(certificate,),
        fingerprint=sha256(certificate).hexdigest(),
        subject=f"{name} at {provider}",
        not_before_ms=int(LONG_AGO.timestamp() * 1000),
        not_after_ms=int(YEARS_AHEAD.timestamp() * 1000),
    )


class SimClock:
    """Simulated time as a wall clock, for whoever sits outside the nodes."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return START_MS + int(self._sim.now_ms)

    def monotonic_s(self) -> float:
        """Seconds since the start."""
        return self._sim.now_ms / 1000


class NodeClock(SystemClock):
    """A machine's clock, which may be set forwards and back; each life of a node has its own."""

    def __init__(self, sim: Simulation, skew_ms: float) -> None:
        super().__init__(self._wall_ns_now, self._steady_ns_now)
        self._sim = sim
        self.skew_ms = skew_ms

    def monotonic_s(self) -> float:
        """Runs evenly, whatever the wall clock does."""
        return self._sim.now_ms / 1000

    def _wall_ns_now(self) -> int:
        return int((START_MS + self._sim.now_ms + self.skew_ms) * 1_000_000)

    def _steady_ns_now(self) -> int:
        return int(self._sim.now_ms * 1_000_000)


def sleeper(sim: Simulation) -> Callable[[float], Sleep]:
    """``sleep(seconds)`` for the fakes."""

    def sleep(seconds: float) -> Sleep:
        return Sleep(sim, seconds * 1000 if seconds != math.inf else math.inf)

    return sleep


FAILS: tuple[FaultKind, ...] = ("fail-before", "fail-after", "refuse", "throttle")
LIES: tuple[FaultKind, ...] = ("garbage", "other-bytes")
HANGS: tuple[FaultKind, ...] = ("hang", "hang-after", "late")
WRONG_KEY_OF_LIES = 0.4
"""Of lies, so many are right bytes signed with a key that was never enrolled."""


class Provider:
    """A signer that keeps real keys, and fails, lies, hangs and answers late as its seed has it.

    What it does it does to the end, whether or not the caller still waits. ``calls`` counts those that came.
    """

    def __init__(
        self,
        sim: Simulation,
        name: str,
        faults: FaultPoints,
        checks: Checks,
        keys: tuple[str, ...],
    ) -> None:
        self.name = name
        self.down = False
        self.calls = 0
        self._sim = sim
        self._faults = faults
        self._checks = checks
        self._fake = FakeSigner(name, sleep=sleeper(sim))
        for key in keys:
            for generation in range(GENERATIONS):
                secret = key_of(name, key, generation)
                self._fake.import_key(f"{key}/{generation}", secret)

    async def sign(self, request: SignRequest) -> bytes:
        """The signature, or trouble."""

        def ask(reply: Reply) -> None:
            def served(value: bytes | None, error: BaseException | None) -> None:
                if reply.given_up:
                    self._checks.reachable("answer after its caller gave up")
                reply(value, error)

            self.calls += 1
            self._sim.spawn(self._serve(request), done=served)

        value: bytes = await Asked(ask)
        return value

    async def _serve(self, request: SignRequest) -> bytes:
        await Sleep(self._sim, self._sim.between(1, 30))
        fault = self._fault()
        self._sim.note(f"{self.name} asked {request.operation}: {fault.kind if fault else 'signs'}")
        self._fake.down = self.down
        self._fake.plan(fault)
        value = await self._fake.sign(request)
        if fault is not None and fault.kind in LIES:
            self._checks.reachable("lie caught")
            if self._sim.chance(WRONG_KEY_OF_LIES):
                return key_of(self.name, "nobody's", 0).sign(request.tbs)
        return value

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key."""
        return await self._fake.describe(key_ref)

    async def check(self) -> None:
        """Whether it is up."""
        self._fake.down = self.down
        await self._fake.check()

    async def aclose(self) -> None:
        """Nothing to free."""

    def _fault(self) -> Fault | None:
        sim, faults = self._sim, self._faults
        if faults.fires("provider hangs or is late"):
            return Fault(kind=sim.rng.choice(HANGS), delay_s=sim.between(0.1, LATE_S))
        if faults.fires("provider lies"):
            return Fault(kind=sim.rng.choice(LIES))
        if faults.fires("provider fails"):
            return Fault(kind=sim.rng.choice(FAILS), retry_after_s=sim.between(0.1, 3.0))
        return None


AUTHORITY_FAULTS: tuple[authorities.FaultKind, ...] = (
    "unreachable",
    "throttle",
    "reject",
    "bad-signature",
    "hang",
)


class StampAuthority:
    """An authority that issues real tokens, when it does. ``tokens`` are those it gave out, by SHA-256."""

    def __init__(
        self, sim: Simulation, name: str, faults: FaultPoints, tokens: dict[str, bytes]
    ) -> None:
        self.name = name
        self.down = False
        self._sim = sim
        self._faults = faults
        self._tokens = tokens
        self._fake = authorities.FakeAuthority(SimClock(sim), name, sleep=sleeper(sim))

    async def stamp(self, digest: bytes) -> Token:
        """A token, or trouble."""
        sim = self._sim
        await Sleep(sim, sim.between(1, 40))
        fault = None
        if self._faults.fires("authority fails"):
            kind = sim.rng.choice(AUTHORITY_FAULTS)
            fault = authorities.Fault(kind=kind, retry_after_s=sim.between(0.1, 2.0))
        sim.note(f"{self.name} asked: {fault.kind if fault else 'stamps'}")
        self._fake.down = self.down
        self._fake.plan(fault)
        token = await self._fake.stamp(digest)
        self._tokens[sha256(token.der).hexdigest()] = token.der
        return token

    async def check(self) -> None:
        """Whether it is up."""
        self._fake.down = self.down
        await self._fake.check()

    async def aclose(self) -> None:
        """Nothing to free."""


class Shelf:
    """The site's blobs, shared by its nodes: written after a moment, or refused when the disk is full."""

    def __init__(self, sim: Simulation) -> None:
        self.bodies: dict[str, bytes] = {}
        self.full = False
        self._sim = sim

    async def put_bytes(self, tenant: str, body: bytes) -> BlobRef:
        """Store a body durably."""
        await Sleep(self._sim, self._sim.between(0.1, 4))
        if self.full:
            raise Unavailable("storage-full", "no room for a blob", scope="site")
        name = f"blob-{len(self.bodies)}"
        self.bodies[name] = body
        return BlobRef(name=name, sha256=sha256(body).hexdigest(), size=len(body))

    async def put(self, tenant: str, chunks: AsyncIterator[bytes]) -> BlobRef:
        """Store a body that comes in pieces."""
        return await self.put_bytes(tenant, b"".join([chunk async for chunk in chunks]))

    async def read(self, tenant: str, ref: BlobRef) -> bytes:
        """A whole body."""
        await Sleep(self._sim, self._sim.between(0.1, 2))
        try:
            return self.bodies[ref.name]
        except KeyError:
            raise Refused("blob-not-found", f"no blob {ref.name}") from None

    async def stream(self, tenant: str, ref: BlobRef) -> AsyncIterator[bytes]:
        """A body in pieces."""
        yield await self.read(tenant, ref)


def prepare(document: bytes, options: PrepareOptions) -> Prepared:
    """A revision in the form that signing fills and checks, on a document that is no PDF."""
    head = b"\n%revision"
    width = 2 * options.reserve_bytes
    text = head + b" /ByteRange "
    room = 64  # for four numbers; what is left over stays blank
    contents_offset = len(text) + room + len(b" /Contents ")
    start = len(document) + contents_offset
    end = start + width + 2
    tail = b" %%EOF\n"
    byte_range = f"[0 {start} {end} {len(tail)}]".encode().ljust(room)
    revision = text + byte_range + b" /Contents <" + b"0" * width + b">" + tail
    return Prepared(
        kind=options.kind,
        field_name=options.field_name or "Signature",
        revision=revision,
        original_length=len(document),
        original_sha256=sha256(document).digest(),
        contents_offset=contents_offset,
        reserved_bytes=options.reserve_bytes,
        slots=(),
    )
