"""A key provider in memory that really signs, and fails exactly as it is told to.

It passes the same suite as the real providers (`testing.suites.keys`). Faults are planned per call, in order, or
set for good; what was actually signed is on record in ``signed``, so a test can tell "it failed" from "it failed
after the effect". Signatures are deterministic (RFC 6979), and time passes only through ``sleep``, so the
simulator can drive it without an event loop.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
import msgspec

from outlast.core.asymmetric import (
    KEY_ALGORITHMS,
    PrivateKey,
    algorithm_of,
    generate_private_key,
    sign_bytes,
    spki_der,
)
from outlast.core.errors import Refused, Unavailable, Unknown
from outlast.ports.keys import Algorithm, KeyInfo, SignRequest
from outlast.ports.keys_checks import check_algorithm, check_tbs, key_not_found

FaultKind = Literal[
    "fail-before",  # Unavailable, nothing signed
    "fail-after",  # signed, but the answer is lost: Unknown
    "refuse",  # Refused key-disabled
    "throttle",  # Unavailable with retry_after_s
    "hang",  # never answers, nothing signed
    "hang-after",  # signed, never answers
    "late",  # answers properly, after delay_s
    "garbage",  # answers bytes that are no signature
    "other-bytes",  # answers a valid signature, over other bytes
]

GARBAGE = b"\x00 not a signature"
MAX_SIGNED_RECORDS = 100_000


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """How one call goes wrong. ``delay_s`` is for ``late``, ``retry_after_s`` for ``throttle``."""

    kind: FaultKind
    delay_s: float = 0.0
    retry_after_s: float = 1.0


class FakeSigner:
    """A ``Signer`` over keys in memory.

    ``plan(fault, None, fault)`` gives the next calls of `sign` their faults (None: none); ``always(fault)`` holds
    for every call beyond the plan. ``down`` makes every method raise Unavailable. ``delay_s`` slows each call.
    """

    def __init__(
        self,
        name: str = "fake",
        *,
        delay_s: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.name = name
        self.delay_s = delay_s
        self.down = False
        self.calls = 0
        """Calls of `sign`, failed or not."""
        self.signed: deque[SignRequest] = deque(maxlen=MAX_SIGNED_RECORDS)
        """Requests that took effect, in order."""
        self._sleep = sleep
        self._keys: dict[str, tuple[PrivateKey, KeyInfo]] = {}
        self._plan: deque[Fault | None] = deque()
        self._always: Fault | None = None

    @classmethod
    def with_all_algorithms(cls, name: str = "fake") -> FakeSigner:
        """One with a key of each algorithm, named as the algorithm is."""
        fake = cls(name)
        for algorithm in KEY_ALGORITHMS:
            fake.generate(algorithm, algorithm)
        return fake

    def generate(self, key_ref: str, algorithm: Algorithm) -> KeyInfo:
        """Make a key, replacing any of that name."""
        return self.import_key(key_ref, generate_private_key(algorithm))

    def import_key(self, key_ref: str, key: PrivateKey) -> KeyInfo:
        """Take a key made elsewhere (by a seeded test), replacing any of that name."""
        info = KeyInfo(
            key_ref=key_ref, algorithm=algorithm_of(key.public_key()), spki_der=spki_der(key)
        )
        self._keys[key_ref] = (key, info)
        return info

    def plan(self, *faults: Fault | None) -> None:
        """Give the next calls of `sign` these faults, after those already planned."""
        self._plan.extend(faults)

    def always(self, fault: Fault | None) -> None:
        """From now on, whatever is not planned goes this way; None heals."""
        self._always = fault

    async def sign(self, request: SignRequest) -> bytes:
        """The signature, or what the plan says instead."""
        self.calls += 1
        fault = self._plan.popleft() if self._plan else self._always
        self._check_up()
        if self.delay_s:
            await self._sleep(self.delay_s)
        check_tbs(request)
        key, info = self._key(request.key_ref)
        check_algorithm(request, info)
        if fault is not None:
            return await self._sign_with_fault(fault, key, request)
        return self._sign(key, request)

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key. Raises Refused ``key-not-found``."""
        self._check_up()
        return self._key(key_ref)[1]

    async def check(self) -> None:
        """Raises Unavailable while ``down``."""
        self._check_up()

    async def aclose(self) -> None:
        """Nothing to free."""

    def _sign(self, key: PrivateKey, request: SignRequest) -> bytes:
        self.signed.append(request)
        return sign_bytes(key, request.tbs, deterministic=True)

    async def _sign_with_fault(self, fault: Fault, key: PrivateKey, request: SignRequest) -> bytes:
        match fault.kind:
            case "fail-before":
                raise Unavailable("provider-unreachable", f"{self.name} is told to fail")
            case "refuse":
                raise Refused("key-disabled", f"{self.name} is told to refuse")
            case "throttle":
                raise Unavailable(
                    "provider-throttled",
                    f"{self.name} is told to throttle",
                    retry_after_s=fault.retry_after_s,
                )
            case "garbage":
                return GARBAGE
            case "other-bytes":
                return sign_bytes(key, b"other " + request.tbs, deterministic=True)
            case "fail-after":
                self._sign(key, request)
                raise Unknown("provider-answer-lost", f"{self.name} is told to lose its answer")
            case "late":
                await self._sleep(fault.delay_s)
                return self._sign(key, request)
            case "hang":
                await self._sleep(math.inf)
            case "hang-after":
                self._sign(key, request)
                await self._sleep(math.inf)
        raise Unknown("provider-answer-lost", f"{self.name} hung for ever, and that has ended")

    def _key(self, key_ref: str) -> tuple[PrivateKey, KeyInfo]:
        try:
            return self._keys[key_ref]
        except KeyError:
            raise key_not_found(key_ref) from None

    def _check_up(self) -> None:
        if self.down:
            raise Unavailable("provider-unreachable", f"{self.name} is told to be down")
