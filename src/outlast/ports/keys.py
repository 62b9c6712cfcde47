"""Signing with a key that somebody keeps: one contract for software, HSM, KMS and remote signer.

A ``Signer`` answers for one *provider* (one configured keystore or service) and knows its keys by ``key_ref``,
the provider's own name for a key. It is told exactly which bytes to sign and returns the raw signature in the
form CMS carries (PKCS#1 v1.5 for RSA, DER ``ECDSA-Sig-Value`` for P-256, 64 bytes for Ed25519).

The caller verifies every returned signature against the enrolled public key before use (`verify_signature`);
an adapter must not be trusted for that. Signing is safe to repeat: it has no effect but the signature, so an
``Unknown`` outcome costs at most an unused signature value.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from outlast.core.asymmetric import KeyAlgorithm

Algorithm = KeyAlgorithm
"""What is signed and how: RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017), ECDSA on P-256 with SHA-256 (FIPS 186-5),
Ed25519 (RFC 8032, pure). An RSA key has at least 3072 bits."""

MAX_TBS_BYTES = 64 * 1024
"""Most bytes a signer is ever asked to sign: signed attributes, never a document."""


class SignRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One signing operation. ``tbs`` are the bytes to be signed (the adapter hashes where its API wants a digest).

    ``operation`` is stable across retries of one attempt (``<request>/<signature>/<attempt>``): remote signers
    use it as their Idempotency-Key. ``traceparent`` is W3C Trace Context or empty.
    """

    key_ref: str
    algorithm: Algorithm
    tbs: bytes
    operation: str
    traceparent: str = ""


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a provider says of a key: its algorithm and SubjectPublicKeyInfo (DER)."""

    key_ref: str
    algorithm: Algorithm
    spki_der: bytes


class Signer(Protocol):
    """The ability to sign with keys that a provider keeps.

    Every method may raise Refused (wrong or disabled key, request not understood, credentials refused), Unavailable (not reached,
    throttled: with ``retry_after_s``; nothing was signed) or Unknown (sent, no usable answer).
    """

    async def sign(self, request: SignRequest) -> bytes:
        """The signature over ``request.tbs``."""
        ...

    async def describe(self, key_ref: str) -> KeyInfo:
        """Public half of a key; used at enrolment. Raises Refused ``key-not-found``."""
        ...

    async def check(self) -> None:
        """Returns when the provider answers a cheap question; raises Unavailable otherwise."""
        ...

    async def aclose(self) -> None:
        """Frees sessions and connections. Later calls may fail."""
        ...
