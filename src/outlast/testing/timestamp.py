"""A time-stamping authority in memory that really issues and verifies tokens, and fails exactly as it is told to.

It passes the same suite as the client of real authorities (`testing.suites.timestamp`). Key, certificate and
signatures are functions of its name and clock, and time passes only through ``sleep``, so a simulator gets the same
tokens from the same seed and can drive it without an event loop. About 1 ms a token.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from outlast.core.clock import Clock, to_datetime
from outlast.core.errors import Unavailable
from outlast.core.pki import subject_name
from outlast.core.rfc3161 import TsaRules, build_request, verify_response
from outlast.core.tsa import (
    LOCAL_POLICY_OID,
    Rejection,
    TokenSigner,
    issue_token,
    rejection_response,
)
from outlast.ports.timestamp import Token

FaultKind = Literal[
    "unreachable",  # Unavailable
    "throttle",  # Unavailable with retry_after_s
    "reject",  # Refused tsa-rejected
    "bad-signature",  # a token whose signature is wrong: Refused tsa-bad-token
    "other-digest",  # a good token over something else: Refused tsa-bad-token
    "wrong-time",  # a good token of an hour ago: Refused tsa-bad-token
    "hang",  # never answers
]

HOUR_MS = 3_600_000
VALIDITY_MS = 10 * 365 * 24 * HOUR_MS
MAX_RECORDED = 100_000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """How one call goes wrong. ``retry_after_s`` is for ``throttle``."""

    kind: FaultKind
    retry_after_s: float = 1.0


class FakeAuthority:
    """A TimestampAuthority.

    ``plan(fault, None, fault)`` gives the next calls their faults (None: none); ``always(fault)`` holds for every
    call beyond the plan; ``down`` makes every method raise Unavailable. ``stamped`` are the digests that got a token.
    ``rules`` are what its tokens verify under.
    """

    def __init__(
        self,
        clock: Clock,
        name: str = "fake-tsa",
        *,
        qualified: bool = False,
        delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.name = name
        self.delay_s = delay_s
        self.down = False
        self.stamped: deque[bytes] = deque(maxlen=MAX_RECORDED)
        self._clock = clock
        self._qualified = qualified
        self._sleep = sleep
        self._signer = _signer(name, clock)
        self._count = 0
        self._plan: deque[Fault | None] = deque()
        self._always: Fault | None = None
        self.rules = TsaRules(
            roots=(self._signer.certificate_der,), policies=frozenset({LOCAL_POLICY_OID})
        )

    def plan(self, *faults: Fault | None) -> None:
        """Faults of the next calls, in order."""
        self._plan.extend(faults)

    def always(self, fault: Fault | None) -> None:
        """The fault of every call beyond the plan; None heals."""
        self._always = fault

    async def stamp(self, digest: bytes) -> Token:
        """See TimestampAuthority."""
        if self.delay_s:
            await self._sleep(self.delay_s)
        fault = self._plan.popleft() if self._plan else self._always
        kind = fault.kind if fault is not None else None
        if kind == "hang":
            await self._sleep(math.inf)
        self._count += 1
        nonce = int.from_bytes(self._random("nonce")[:8], "big")
        request = build_request(digest, nonce)
        if self.down or kind == "unreachable":
            raise self._unreachable()
        if fault is not None and kind == "throttle":
            raise Unavailable(
                "throttled", "told to throttle", retry_after_s=fault.retry_after_s, scope=self.name
            )
        response = self._respond(request, kind, nonce)
        token = verify_response(response, digest, nonce, self.rules, self._clock.now_ms())
        self.stamped.append(digest)
        return Token(
            der=token.der,
            response_der=token.response_der,
            gen_time_ms=token.gen_time_ms,
            serial=token.serial,
            policy_oid=token.policy_oid,
            authority=self.name,
            qualified=self._qualified,
        )

    async def check(self) -> None:
        """See TimestampAuthority."""
        if self.down or (self._always is not None and self._always.kind == "unreachable"):
            raise self._unreachable()

    async def aclose(self) -> None:
        """See TimestampAuthority."""
        self.down = True

    def _respond(self, request: bytes, kind: FaultKind | None, nonce: int) -> bytes:
        now_ms = self._clock.now_ms()
        if kind == "reject":
            return rejection_response(Rejection("bad_request", "told to reject"))
        if kind == "other-digest":
            request = build_request(hashlib.sha256(b"something else").digest(), nonce)
        if kind == "wrong-time":
            now_ms -= HOUR_MS
        serial = int.from_bytes(self._random("serial")[:16], "big") >> 1 | 1
        response = issue_token(request, self._signer, serial, now_ms)
        if kind == "bad-signature":
            response = response[:-1] + bytes([response[-1] ^ 1])
        return response

    def _random(self, what: str) -> bytes:
        """Different for every call and name, the same in every run."""
        return hashlib.sha256(f"{self.name} {what} {self._count}".encode()).digest()

    def _unreachable(self) -> Unavailable:
        return Unavailable("provider-unreachable", "told to be unreachable", scope=self.name)


def _signer(name: str, clock: Clock) -> TokenSigner:
    """A self-signed identity that follows from the name and the time alone; clients pin it as it is."""
    secret = int.from_bytes(hashlib.sha256(f"fake authority {name}".encode()).digest(), "big")
    key = ec.derive_private_key(secret % (1 << 255) + 1, ec.SECP256R1())
    since_ms = clock.now_ms() // 1000 * 1000 - 24 * HOUR_MS
    subject = subject_name(f"{name} (fake)")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(to_datetime(since_ms))
        .not_valid_after(to_datetime(since_ms + VALIDITY_MS))
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return TokenSigner(key=key, certificate_der=certificate.public_bytes(Encoding.DER))
