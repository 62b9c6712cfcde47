"""Signing with keys in a PKCS#11 token: an HSM, a smart card, SoftHSM.

The private key never leaves the token. RSA and ECDSA are given a digest (mechanisms CKM_RSA_PKCS and CKM_ECDSA, which every
token has), Ed25519 the bytes themselves (CKM_EDDSA). Calls into the module block, so each runs in a thread; there
are at most ``sessions`` at once, and a caller who gives up leaves a hanging call behind in its thread, not itself; while
``sessions`` calls hang so, no further one is begun. A session
or handle that has gone stale (token taken out, HSM restarted, module restarted) is replaced once within a call.

Keys are found by label, or as ``id:<hex>`` by CKA_ID. A PIN that the token has refused is not presented again.
Keys that ask for the PIN at every signature (CKA_ALWAYS_AUTHENTICATE) are not supported.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import anyio
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import Mechanism
from pkcs11.exceptions import PKCS11Error

from outlast.adapters.keys.pkcs11.failure import is_stale, translate
from outlast.adapters.keys.pkcs11.module import Module
from outlast.adapters.keys.pkcs11.objects import generate_key_pair, spki_of
from outlast.adapters.keys.pkcs11.token import TokenPool, WorkSession, close_session
from outlast.core.asymmetric import algorithm_of, load_public_key
from outlast.core.errors import Unavailable, Unknown
from outlast.ports.keys import Algorithm, KeyInfo, SignRequest
from outlast.ports.keys_checks import check_algorithm, check_tbs

MAX_SESSIONS = 64
MAX_KNOWN_KEYS = 1024
ANSWER_TIMEOUT_S = 10.0

# DER of DigestInfo for SHA-256 up to the digest (RFC 8017 section 9.2, note 1)
_SHA256_DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")

_Result = TypeVar("_Result")


class Pkcs11Signer:
    """A ``Signer`` over one token of a PKCS#11 module.

    ``module`` is the shared library's path, ``token_label`` which of its tokens, ``pin`` the user PIN (UTF-8).
    Errors: Refused ``module-not-found``, ``key-not-found``, ``key-ambiguous``, ``key-algorithm-mismatch``,
    ``key-unsupported``, ``tbs-too-large``, ``credentials-refused``; Unavailable ``provider-unreachable``,
    ``provider-busy``; Unknown ``provider-answer-lost``.
    """

    def __init__(
        self,
        module: Path,
        *,
        token_label: str,
        pin: bytes,
        sessions: int = 8,
        name: str = "pkcs11",
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        self._path = module
        self._label = token_label
        self._pin = pin
        self._name = name
        self._answer_timeout_s = answer_timeout_s
        self._sessions = min(max(sessions, 1), MAX_SESSIONS)
        self._limiter = anyio.CapacityLimiter(self._sessions)
        self._hanging = _Hanging()
        self._connecting = anyio.Lock()
        self._module: Module | None = None
        self._pool: TokenPool | None = None
        self._known: dict[str, KeyInfo] = {}

    async def sign(self, request: SignRequest) -> bytes:
        """The token's signature over ``request.tbs``."""
        check_tbs(request)
        check_algorithm(request, await self.describe(request.key_ref))
        return await self._run(lambda session: _sign(session, request))

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key, from the public key object beside it. Raises Refused ``key-not-found``."""
        known = self._known.get(key_ref)
        if known is None:
            known = await self._run(lambda session: _describe(session, key_ref))
            if len(self._known) >= MAX_KNOWN_KEYS:
                self._known.pop(next(iter(self._known)))
            self._known[key_ref] = known
        return known

    async def generate(self, key_ref: str, algorithm: Algorithm) -> KeyInfo:
        """Make a key pair in the token, labelled ``key_ref``. Raises Refused ``key-exists``."""

        def generate(session: WorkSession) -> None:
            writing = session.slot.get_token().open(rw=True)
            try:
                generate_key_pair(writing, key_ref, algorithm)
            finally:
                close_session(writing)

        await self._run(generate)
        return await self.describe(key_ref)

    async def check(self) -> None:
        """Returns when the token is present. Raises Unavailable otherwise."""
        pool = await self._connect()

        def present(_session: WorkSession) -> None:
            pool.present()

        await self._run(present)

    async def aclose(self) -> None:
        """Closes the sessions that are idle, the others as they end."""
        pool, module = self._pool, self._module
        if pool is None or module is None:
            return

        def close() -> None:
            with module.call():
                pool.close()

        with anyio.move_on_after(self._answer_timeout_s):
            await to_thread.run_sync(close, abandon_on_cancel=True)

    async def _connect(self) -> TokenPool:
        """The pool, at the first call: constructing a signer touches no hardware."""
        async with self._connecting:
            if self._pool is None:
                self._module = await to_thread.run_sync(
                    Module.load, self._path, abandon_on_cancel=True
                )
                self._pool = TokenPool(self._module, self._label, self._pin)
            return self._pool

    async def _run(
        self,
        work: Callable[[WorkSession], _Result],
    ) -> _Result:
        """``work`` in a thread with a session. Bounded by the caller's timeout and ``answer_timeout_s``."""
        if self._hanging.calls >= self._sessions:
            raise Unavailable(
                "provider-busy", f"{self._sessions} calls to the token do not end", scope=self._name
            )
        call = _Call(work, self._name, self._hanging)
        try:
            with anyio.fail_after(self._answer_timeout_s):
                pool = await self._connect()
                module = self._module
                assert module is not None
                return await to_thread.run_sync(
                    call.run, module, pool, limiter=self._limiter, abandon_on_cancel=True
                )
        except TimeoutError as error:
            message = f"the token has not answered within {self._answer_timeout_s:g} s"
            if call.signing:
                raise Unknown("provider-answer-lost", message, scope=self._name) from error
            raise Unavailable("provider-busy", message, scope=self._name) from error
        finally:
            call.leave()


class _Hanging:
    """How many calls nobody waits for are still in the module."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls = 0


class _Call(Generic[_Result]):
    """One piece of work in its thread: with a session, and again with a fresh one where that was stale."""

    def __init__(
        self, work: Callable[[WorkSession], _Result], name: str, hanging: _Hanging
    ) -> None:
        self._work = work
        self._name = name
        self._hanging = hanging
        self._is_running = self._is_left = False
        self._session: WorkSession | None = None

    @property
    def signing(self) -> bool:
        """Whether the token may have begun to sign. Read by another thread, once this one is given up."""
        return self._session is not None and self._session.signing

    def leave(self) -> None:
        """Nobody waits any longer: count the call while it goes on, and do not begin it if it has not begun."""
        with self._hanging.lock:
            self._is_left = True
            self._hanging.calls += self._is_running

    def run(self, module: Module, pool: TokenPool) -> _Result:
        """The result. Raises Refused, Unavailable, Unknown."""
        with self._hanging.lock:
            if self._is_left:
                raise Unavailable("provider-busy", "the caller gave up", scope=self._name)
            self._is_running = True
        try:
            return self._run(module, pool)
        finally:
            with self._hanging.lock:
                self._is_running = False
                self._hanging.calls -= self._is_left

    def _run(self, module: Module, pool: TokenPool) -> _Result:
        generation = module.generation
        try:
            return self._once(module, pool)
        except PKCS11Error as error:
            failure = translate(error, self._name, sent=self.signing)
            if not is_stale(error):
                raise failure from error
        module.restart(generation)
        try:
            return self._once(module, pool)
        except PKCS11Error as error:
            raise translate(error, self._name, sent=self.signing) from error

    def _once(self, module: Module, pool: TokenPool) -> _Result:
        with module.call():
            session = self._session = pool.take()
            try:
                result = self._work(session)
            except BaseException:
                # whatever went wrong, the session may be in the middle of an operation
                close_session(session.session)
                raise
            session.signing = False
            pool.give(session)
            return result


def _sign(session: WorkSession, request: SignRequest) -> bytes:
    key = session.private_key(request.key_ref)
    session.signing = True
    if request.algorithm == "ed25519":
        return bytes(key.sign(request.tbs, mechanism=Mechanism.EDDSA))
    digest = hashlib.sha256(request.tbs).digest()
    if request.algorithm == "rsa-pkcs1-sha256":
        return bytes(key.sign(_SHA256_DIGEST_INFO + digest, mechanism=Mechanism.RSA_PKCS))
    raw = key.sign(digest, mechanism=Mechanism.ECDSA)
    half = len(raw) // 2
    # PKCS#11 gives r and s side by side; CMS wants DER (RFC 5480 appendix A)
    return encode_dss_signature(
        int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")
    )


def _describe(session: WorkSession, key_ref: str) -> KeyInfo:
    spki = spki_of(session, key_ref)
    return KeyInfo(key_ref=key_ref, algorithm=algorithm_of(load_public_key(spki)), spki_der=spki)
