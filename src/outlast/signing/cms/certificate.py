"""Judging a signing certificate at enrolment, and every signature value before it is used.

Guarantees: a chain accepted by `check_certificate` belongs to the key it is enrolled for, is in order, and each
certificate is signed by the next; a signature value accepted by `verify_signature` is one over exactly these
bytes by exactly this key. Leaves to others: trust in the root, revocation.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from hashlib import sha256

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from outlast.core.asymmetric import PublicKey, algorithm_of, load_public_key
from outlast.core.errors import Refused
from outlast.ports.keys import Algorithm, KeyInfo
from outlast.signing.cms.template import MAX_CHAIN

PUBLIC_KEYS_KEPT = 256
"""Parsed public keys kept: parsing costs as much as verifying."""


class CertificateFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What an enrolled certificate says. Names are RFC 4514 text, the serial lower-case hex, times Unix
    milliseconds, the fingerprint SHA-256 over the DER in hex."""

    subject: str
    issuer: str
    serial: str
    not_before_ms: int
    not_after_ms: int
    fingerprint_sha256: str


def verify_signature(spki_der: bytes, algorithm: Algorithm, tbs: bytes, signature: bytes) -> None:
    """Returns if ``signature`` is valid over ``tbs``; raises Refused ``signature-invalid``, or
    ``key-unsupported`` if the key does not fit the algorithm."""
    key = _public_key(spki_der, algorithm)
    try:
        if isinstance(key, RSAPublicKey):
            key.verify(signature, tbs, padding.PKCS1v15(), SHA256())
        elif isinstance(key, EllipticCurvePublicKey):
            key.verify(signature, tbs, ec.ECDSA(SHA256()))
        else:
            key.verify(signature, tbs)
    except InvalidSignature as error:
        raise Refused(
            "signature-invalid",
            "the provider's signature does not verify against the enrolled key",
            hint="Nothing was signed. Check which key the provider used, and what it signed.",
        ) from error


@functools.lru_cache(maxsize=PUBLIC_KEYS_KEPT)
def _public_key(spki_der: bytes, algorithm: Algorithm) -> PublicKey:
    key = load_public_key(spki_der)
    if algorithm_of(key) != algorithm:
        raise _unsupported(f"the key is for {algorithm_of(key)}, not for {algorithm}")
    return key


def check_certificate(
    chain_der: Sequence[bytes], key_info: KeyInfo, now_ms: int
) -> CertificateFacts:
    """Facts about the signing certificate, if the chain may be enrolled for the key.

    ``chain_der``: DER, signing certificate first, each signed by the next; the root may be left out.
    Raises Refused: ``certificate-malformed``, ``certificate-chain-broken``, ``certificate-key-mismatch``,
    ``certificate-key-usage``, ``certificate-expired``, ``certificate-not-yet-valid``, ``key-unsupported``.
    """
    chain = _load_chain(chain_der)
    leaf = chain[0]
    _check_key(leaf, key_info)
    _check_usage(leaf)
    _check_order(chain)
    facts = CertificateFacts(
        subject=leaf.subject.rfc4514_string(),
        issuer=leaf.issuer.rfc4514_string(),
        serial=f"{leaf.serial_number:x}",
        not_before_ms=int(leaf.not_valid_before_utc.timestamp() * 1000),
        not_after_ms=int(leaf.not_valid_after_utc.timestamp() * 1000),
        fingerprint_sha256=sha256(chain_der[0]).hexdigest(),
    )
    check_validity(facts, now_ms)
    return facts


def check_validity(facts: CertificateFacts, now_ms: int) -> None:
    """Returns if the certificate is valid at ``now_ms``; raises Refused ``certificate-expired`` or
    ``certificate-not-yet-valid``. Cheap: to be asked before every signature."""
    if now_ms > facts.not_after_ms:
        raise Refused(
            "certificate-expired",
            "the signing certificate has expired",
            hint="Renew it, then enrol the new certificate for the key.",
        )
    if now_ms < facts.not_before_ms:
        raise Refused(
            "certificate-not-yet-valid",
            "the signing certificate is not valid yet",
            hint="Check the clock of this machine, or wait until the certificate's start.",
        )


def _load_chain(chain_der: Sequence[bytes]) -> list[x509.Certificate]:
    hint = f"Supply 1 to {MAX_CHAIN} X.509 certificates, the signing certificate first."
    if not 0 < len(chain_der) <= MAX_CHAIN:
        raise Refused("certificate-malformed", f"{len(chain_der)} certificates given", hint=hint)
    try:
        chain = [x509.load_der_x509_certificate(one) for one in chain_der]
        # names are parsed when asked for: ask now, so that bad ones are refused here
        _ = [one.subject.rfc4514_string() + one.issuer.rfc4514_string() for one in chain]
    except (ValueError, TypeError) as error:
        raise Refused("certificate-malformed", "a certificate cannot be read", hint=hint) from error
    return chain


def _check_key(leaf: x509.Certificate, key_info: KeyInfo) -> None:
    # compared as keys, not as bytes: two encodings of one SPKI differ in optional parameters
    try:
        same = leaf.public_key() == _public_key(key_info.spki_der, key_info.algorithm)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsupported("the certificate's key cannot be read") from error
    if not same:
        raise Refused(
            "certificate-key-mismatch",
            "the certificate is for another key than the provider's",
            hint="Enrol the certificate issued for this key, or name the key it was issued for.",
        )


def _check_usage(leaf: x509.Certificate) -> None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        # RFC 5280, 4.2.1.3 leaves use open without the extension, but ETSI EN 319 412-2, 4.3.2 demands it and
        # verifiers (`outlast verify` too) refuse the signature: better told now than by whoever checks a contract
        raise Refused(
            "certificate-key-usage",
            "the certificate names no key usage, so verifiers would not accept what it signs",
            hint="Have a certificate issued with keyUsage digitalSignature and nonRepudiation.",
        ) from error
    except ValueError as error:
        raise Refused(
            "certificate-malformed",
            "the certificate's extensions cannot be read",
            hint="Ask the issuer for a certificate that follows RFC 5280.",
        ) from error
    if not (usage.digital_signature or usage.content_commitment):
        raise Refused(
            "certificate-key-usage",
            "the certificate's key usage allows neither digital signature nor non-repudiation",
            hint="Have a certificate issued with keyUsage nonRepudiation (content commitment).",
        )


def _check_order(chain: Sequence[x509.Certificate]) -> None:
    for subject, issuer in itertools.pairwise(chain):
        try:
            subject.verify_directly_issued_by(issuer)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise Refused(
                "certificate-chain-broken",
                "a certificate in the chain is not issued by the one after it",
                hint="Order the chain from the signing certificate to the root, leaving none out.",
            ) from error


def _unsupported(why: str) -> Refused:
    return Refused(
        "key-unsupported",
        why,
        hint="Use RSA (3072 bits or more, PKCS#1 v1.5 with SHA-256), ECDSA on P-256, or Ed25519.",
    )
