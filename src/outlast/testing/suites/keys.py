"""What every ``Signer`` must do: one suite for the fake and for every real provider.

A provider is described once, as a `SignerBench`: how to reach it, which key is of which algorithm, and, where it
can be brought about, what it looks like killed, hung, or addressed with wrong credentials. Each check is an
async function that asserts; `checks_for` lists those that apply. Signatures are verified by `cryptography`
directly, so that a mistake of our own algorithm code cannot vouch for itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Protocol

import anyio
import anyio.lowlevel
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from outlast.core.errors import OutlastError, Refused, Unavailable, Unknown
from outlast.ports.keys import MAX_TBS_BYTES, Algorithm, Signer, SignRequest

ALGORITHMS: tuple[Algorithm, ...] = ("rsa-pkcs1-sha256", "ecdsa-p256-sha256", "ed25519")
CONCURRENCY = 16
KILLED_WITHIN_S = 2.0
CALLER_TIMEOUT_S = 0.5
CANCEL_GRACE_S = 0.75
"""How much later than the caller's timeout a call may still return, on a busy machine."""

SignerContext = Callable[[], AbstractAsyncContextManager[Signer]]


class Hung(Protocol):
    """A provider that has stopped answering, and the way back."""

    @property
    def signer(self) -> Signer:
        """A signer that has been used before the provider hung."""
        ...

    def resume(self) -> None:
        """Let the provider answer again."""
        ...


class SignerBench:
    """One provider under test.

    ``keys`` names a key of each algorithm. ``missing_key_ref`` is well-formed and not there. ``open`` yields a
    fresh signer. The optional ones each yield a signer whose provider is in that state; ``secret`` is what no
    error may show.
    """

    def __init__(
        self,
        *,
        keys: dict[Algorithm, str],
        missing_key_ref: str,
        open_signer: SignerContext,
        killed: SignerContext | None = None,
        hung: Callable[[], AbstractAsyncContextManager[Hung]] | None = None,
        wrong_credentials: SignerContext | None = None,
        secret: str = "",
    ) -> None:
        self.keys = keys
        self.missing_key_ref = missing_key_ref
        self.open_signer = open_signer
        self.killed = killed
        self.hung = hung
        self.wrong_credentials = wrong_credentials
        self.secret = secret

    def request(self, algorithm: Algorithm, tbs: bytes, operation: str = "op/1/1") -> SignRequest:
        """A request to the key of that algorithm; the operation is one of that key."""
        return SignRequest(
            key_ref=self.keys[algorithm],
            algorithm=algorithm,
            tbs=tbs,
            operation=f"{algorithm}/{operation}",
        )


Check = Callable[[SignerBench], Awaitable[None]]


async def signs_verifiably(bench: SignerBench, algorithm: Algorithm) -> None:
    """A signature verifies under the described key, over exactly the bytes asked for."""
    async with bench.open_signer() as signer:
        info = await signer.describe(bench.keys[algorithm])
        for number, tbs in enumerate((b"\x00", b"signed attributes", bytes(range(256)) * 8)):
            signature = await signer.sign(bench.request(algorithm, tbs, f"verify/{number}/1"))
            verify(info.spki_der, algorithm, tbs, signature)


async def describes(bench: SignerBench, algorithm: Algorithm) -> None:
    """The description names the key as asked and gives an SPKI of the algorithm it claims."""
    async with bench.open_signer() as signer:
        info = await signer.describe(bench.keys[algorithm])
        assert info.key_ref == bench.keys[algorithm]
        assert info.algorithm == algorithm
        key = load_der_public_key(info.spki_der)
        assert isinstance(key, _KEY_TYPES[algorithm])
        if isinstance(key, rsa.RSAPublicKey):
            assert key.key_size >= 3072
        assert await signer.describe(bench.keys[algorithm]) == info


async def signs_concurrently(bench: SignerBench, algorithm: Algorithm) -> None:
    """CONCURRENCY calls at once, each gets the signature over its own bytes."""
    async with bench.open_signer() as signer:
        info = await signer.describe(bench.keys[algorithm])
        signatures: dict[bytes, bytes] = {}

        async def one(number: int) -> None:
            tbs = b"concurrent %d" % number
            signatures[tbs] = await signer.sign(bench.request(algorithm, tbs, f"many/{number}"))

        async with anyio.create_task_group() as group:
            for number in range(CONCURRENCY):
                group.start_soon(one, number)
        assert len(signatures) == CONCURRENCY
        for tbs, signature in signatures.items():
            verify(info.spki_der, algorithm, tbs, signature)


async def refuses_unknown_key(bench: SignerBench) -> None:
    """A key that is not there is Refused ``key-not-found``, to `sign` and to `describe`, whatever its name."""
    async with bench.open_signer() as signer:
        for key_ref in (
            bench.missing_key_ref,
            "../../etc/passwd",
            "a/b",
            "x" * 300,
            "é\n",
            "%2e%2e",
        ):
            request = SignRequest(
                key_ref=key_ref, algorithm="ed25519", tbs=b"x", operation="unknown/1/1"
            )
            for call in (partial(signer.sign, request), partial(signer.describe, key_ref)):
                refusal = await refused(call)
                assert refusal.code in {"key-not-found", "key-ref-invalid"}, (key_ref, refusal)
        assert (await refused(partial(signer.describe, bench.missing_key_ref))).code == (
            "key-not-found"
        )


async def refuses_other_algorithm(bench: SignerBench) -> None:
    """A key is never used with an algorithm that is not its own."""
    async with bench.open_signer() as signer:
        for algorithm in ALGORITHMS:
            for other in ALGORITHMS:
                if other != algorithm:
                    request = SignRequest(
                        key_ref=bench.keys[algorithm],
                        algorithm=other,
                        tbs=b"x",
                        operation=f"mismatch/{algorithm}/{other}",
                    )
                    refusal = await refused(partial(signer.sign, request))
                    assert refusal.code == "key-algorithm-mismatch"


async def bounds_what_is_signed(bench: SignerBench) -> None:
    """MAX_TBS_BYTES are signed, one more and none at all are Refused."""
    async with bench.open_signer() as signer:
        for algorithm in ALGORITHMS:
            info = await signer.describe(bench.keys[algorithm])
            most = b"m" * MAX_TBS_BYTES
            signature = await signer.sign(bench.request(algorithm, most, "most/1/1"))
            verify(info.spki_der, algorithm, most, signature)
        over = bench.request("ed25519", b"m" * (MAX_TBS_BYTES + 1), "over/1/1")
        assert (await refused(partial(signer.sign, over))).code == "tbs-too-large"
        empty = bench.request("ed25519", b"", "empty/1/1")
        assert (await refused(partial(signer.sign, empty))).code == "tbs-empty"


async def repeats_an_operation(bench: SignerBench) -> None:
    """The same operation asked for again is answered again with a valid signature."""
    async with bench.open_signer() as signer:
        for algorithm in ALGORITHMS:
            info = await signer.describe(bench.keys[algorithm])
            for _ in range(3):
                request = bench.request(algorithm, b"again", "again/1/1")
                verify(info.spki_der, algorithm, b"again", await signer.sign(request))


async def survives_cancellation(bench: SignerBench) -> None:
    """Calls cancelled at any point leave the signer as good as before."""
    async with bench.open_signer() as signer:
        info = await signer.describe(bench.keys["ecdsa-p256-sha256"])
        for number in range(30):
            with anyio.move_on_after(number * 0.0002):
                await signer.sign(
                    bench.request("rsa-pkcs1-sha256", b"cancelled", f"cancel/{number}/1")
                )
        await _cancel_many(signer, bench)
        with anyio.fail_after(10):
            signature = await signer.sign(bench.request("ecdsa-p256-sha256", b"after", "after/1/1"))
        verify(info.spki_der, "ecdsa-p256-sha256", b"after", signature)


async def _cancel_many(signer: Signer, bench: SignerBench) -> None:
    """Cancel twice as many calls at once as the suite ever has in flight."""

    async def one(number: int) -> None:
        await signer.sign(bench.request("ed25519", b"cancelled", f"cancel-many/{number}/1"))

    async with anyio.create_task_group() as group:
        for number in range(2 * CONCURRENCY):
            group.start_soon(one, number)
        await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


async def answers_check(bench: SignerBench) -> None:
    """`check` returns while the provider is well."""
    async with bench.open_signer() as signer:
        with anyio.fail_after(5):
            await signer.check()


async def closes(bench: SignerBench) -> None:
    """`aclose` may be repeated, and a later call answers or fails as the port says, never otherwise."""
    async with bench.open_signer() as signer:
        await signer.sign(bench.request("ed25519", b"x", "closes/1/1"))
        await signer.aclose()
        await signer.aclose()
        try:
            await signer.sign(bench.request("ed25519", b"x", "closes/2/1"))
        except OutlastError:
            pass  # the port allows a failure here, of our kinds only


async def killed_is_unavailable(bench: SignerBench) -> None:
    """A provider that is gone is Unavailable to every method, soon, and says nothing it should not."""
    assert bench.killed is not None
    async with bench.killed() as signer:
        request = bench.request("ecdsa-p256-sha256", b"x", "killed/1/1")
        key_ref = bench.keys["ecdsa-p256-sha256"]
        for call in (
            partial(signer.sign, request),
            signer.check,
            partial(_redescribe, signer, key_ref),
        ):
            with anyio.fail_after(KILLED_WITHIN_S):
                try:
                    await call()
                except Unavailable as error:
                    _shows_no_secret(bench, error)
                    continue
            raise AssertionError(f"{call} did not raise Unavailable")


async def _redescribe(signer: Signer, key_ref: str) -> None:
    """A description may be remembered; of a key never asked for it cannot be."""
    await signer.describe(key_ref)
    await signer.check()


async def hung_gives_way(bench: SignerBench) -> None:
    """A provider that stops answering holds its caller no longer than the caller's timeout; and it heals."""
    assert bench.hung is not None
    async with bench.hung() as hung:
        request = bench.request("ecdsa-p256-sha256", b"x", "hung/1/1")
        started = anyio.current_time()
        try:
            with anyio.fail_after(CALLER_TIMEOUT_S):
                await hung.signer.sign(request)
            raise AssertionError("a hung provider answered")
        except (TimeoutError, Unavailable, Unknown):
            pass
        assert anyio.current_time() - started < CALLER_TIMEOUT_S + CANCEL_GRACE_S
        hung.resume()
        with anyio.fail_after(10):
            again = bench.request("ecdsa-p256-sha256", b"x", "hung/1/2")
            signature = await _sign_once_healed(hung.signer, again)
            info = await hung.signer.describe(request.key_ref)
        verify(info.spki_der, "ecdsa-p256-sha256", b"x", signature)


async def _sign_once_healed(signer: Signer, request: SignRequest) -> bytes:
    """A provider just resumed may fail a call or two; after that it must not."""
    for _ in range(3):
        try:
            return await signer.sign(request)
        except (Unavailable, Unknown):
            await anyio.sleep(0.2)
    return await signer.sign(request)


async def wrong_credentials_are_refused(bench: SignerBench) -> None:
    """Wrong credentials are Refused ``credentials-refused``, with retry ``reauth``, and are not shown."""
    assert bench.wrong_credentials is not None
    async with bench.wrong_credentials() as signer:
        request = bench.request("ecdsa-p256-sha256", b"x", "reauth/1/1")
        for call in (partial(signer.sign, request), partial(signer.describe, request.key_ref)):
            with anyio.fail_after(5):
                refusal = await refused(call)
            assert refusal.code == "credentials-refused", refusal
            assert refusal.retry == "reauth"
            _shows_no_secret(bench, refusal)


_PER_ALGORITHM = (signs_verifiably, describes, signs_concurrently)
_PER_PROVIDER: tuple[Check, ...] = (
    refuses_unknown_key,
    refuses_other_algorithm,
    bounds_what_is_signed,
    repeats_an_operation,
    survives_cancellation,
    answers_check,
    closes,
)


def checks_for(*, killed: bool, hung: bool, wrong_credentials: bool) -> list[tuple[str, Check]]:
    """(name, check) of everything that applies to a provider which can be brought into these states."""
    checks: list[tuple[str, Check]] = [
        (f"{check.__name__}-{algorithm}", partial(check, algorithm=algorithm))
        for check in _PER_ALGORITHM
        for algorithm in ALGORITHMS
    ]
    checks += [(check.__name__, check) for check in _PER_PROVIDER]
    if killed:
        checks.append((killed_is_unavailable.__name__, killed_is_unavailable))
    if hung:
        checks.append((hung_gives_way.__name__, hung_gives_way))
    if wrong_credentials:
        checks.append((wrong_credentials_are_refused.__name__, wrong_credentials_are_refused))
    return checks


_KEY_TYPES: dict[Algorithm, type] = {
    "rsa-pkcs1-sha256": rsa.RSAPublicKey,
    "ecdsa-p256-sha256": ec.EllipticCurvePublicKey,
    "ed25519": ed25519.Ed25519PublicKey,
}


def verify(spki_der: bytes, algorithm: Algorithm, tbs: bytes, signature: bytes) -> None:
    """Raises ``cryptography.exceptions.InvalidSignature`` unless the signature is over ``tbs`` by that key."""
    key = load_der_public_key(spki_der)
    if isinstance(key, ed25519.Ed25519PublicKey):
        assert algorithm == "ed25519"
        key.verify(signature, tbs)
    elif isinstance(key, ec.EllipticCurvePublicKey):
        assert algorithm == "ecdsa-p256-sha256"
        key.verify(signature, tbs, ec.ECDSA(hashes.SHA256()))
    else:
        assert isinstance(key, rsa.RSAPublicKey)
        assert algorithm == "rsa-pkcs1-sha256"
        key.verify(signature, tbs, padding.PKCS1v15(), hashes.SHA256())


async def refused(call: Callable[[], Awaitable[object]]) -> Refused:
    """The Refused that the call raises; fails where it does not."""
    try:
        await call()
    except Refused as error:
        return error
    raise AssertionError("the call was not refused")


def _shows_no_secret(bench: SignerBench, error: OutlastError) -> None:
    shown = f"{error!r} {error} {error.message} {error.hint} {error.scope}"
    assert not bench.secret or bench.secret not in shown
