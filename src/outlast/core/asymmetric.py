"""The three signature algorithms of this project over `cryptography`, and nothing else.

RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2) from 3072 bits up, ECDSA on P-256 with SHA-256 (FIPS 186-5; DER
``ECDSA-Sig-Value``) and pure Ed25519 (RFC 8032). Anything else is refused, not approximated: a key on another
curve or a 2048-bit RSA key never gets as far as a signature.

Measured on two cores, one signature: P-256 0.04 ms, Ed25519 0.04 ms, RSA-3072 0.7 ms. `cryptography` keeps the
interpreter lock while it signs (two threads sign no more per second than one), so signing is done inline: a
thread would add a hop and free nothing.
"""

from __future__ import annotations

from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from outlast.core.errors import Refused

KeyAlgorithm = Literal["rsa-pkcs1-sha256", "ecdsa-p256-sha256", "ed25519"]
"""What a key is for; ``ports.keys.Algorithm`` says what each stands for in a signature."""

KEY_ALGORITHMS: tuple[KeyAlgorithm, ...] = ("rsa-pkcs1-sha256", "ecdsa-p256-sha256", "ed25519")

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MIN_RSA_BITS = 3072
MAX_RSA_BITS = 8192
"""Above this, verifying costs more than a signature is worth to an attacker who picks the key."""

_RSA_EXPONENT = 65537


def generate_private_key(algorithm: KeyAlgorithm, *, rsa_bits: int = MIN_RSA_BITS) -> PrivateKey:
    """A fresh key pair. RSA takes 0.1 to 1 s: keep it off the event loop. Raises Refused ``key-unsupported``."""
    if algorithm == "ecdsa-p256-sha256":
        return ec.generate_private_key(ec.SECP256R1())
    if algorithm == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if not MIN_RSA_BITS <= rsa_bits <= MAX_RSA_BITS:
        raise _unsupported(f"an RSA key of {rsa_bits} bits")
    return rsa.generate_private_key(_RSA_EXPONENT, rsa_bits)


def as_private_key(key: object) -> PrivateKey:
    """The same key, typed, once it is known to be of a kind we sign with. Raises Refused ``key-unsupported``."""
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        algorithm_of(key.public_key())
        return key
    raise _unsupported(type(key).__name__)


def algorithm_of(public_key: object) -> KeyAlgorithm:
    """What a public key signs with here. Raises Refused ``key-unsupported``."""
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if public_key.curve.name == "secp256r1":
            return "ecdsa-p256-sha256"
        raise _unsupported(f"a key on curve {public_key.curve.name}")
    if isinstance(public_key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= public_key.key_size <= MAX_RSA_BITS:
            return "rsa-pkcs1-sha256"
        raise _unsupported(f"an RSA key of {public_key.key_size} bits")
    raise _unsupported(type(public_key).__name__)


def load_public_key(spki: bytes) -> PublicKey:
    """A public key of one of our kinds from SubjectPublicKeyInfo (DER). Raises Refused ``key-unsupported``."""
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unsupported("a public key that cannot be parsed") from error
    return as_public_key(key)


def as_public_key(key: object) -> PublicKey:
    """The same key, typed, once it is known to be of a kind we sign with. Raises Refused ``key-unsupported``."""
    algorithm_of(key)
    if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        return key
    raise _unsupported(type(key).__name__)


def spki_der(key: PrivateKey | PublicKey) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) of a key or key pair, DER."""
    public_key = key if isinstance(key, PublicKey) else key.public_key()
    return public_key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def sign_bytes(key: PrivateKey, tbs: bytes, *, deterministic: bool = False) -> bytes:
    """The signature over ``tbs``, in the form CMS carries.

    ``deterministic`` makes ECDSA repeatable (RFC 6979); the two others always are.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(tbs)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(tbs, ec.ECDSA(hashes.SHA256(), deterministic_signing=deterministic))
    return key.sign(tbs, padding.PKCS1v15(), hashes.SHA256())


def signature_is_valid(
    spki: bytes, algorithm: KeyAlgorithm, *, tbs: bytes, signature: bytes
) -> bool:
    """Whether ``signature`` is over exactly ``tbs`` by the key whose SubjectPublicKeyInfo is ``spki`` (DER).

    False also where the key is not of ``algorithm``. Raises Refused ``key-unsupported`` for a key that cannot be
    read or is none of the three kinds.
    """
    public_key = load_public_key(spki)
    if algorithm_of(public_key) != algorithm:
        return False
    try:
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, tbs)
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, tbs, ec.ECDSA(hashes.SHA256()))
        else:
            public_key.verify(signature, tbs, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _unsupported(what: str) -> Refused:
    return Refused(
        "key-unsupported",
        f"{what} cannot be used for signing here",
        hint=f"Use RSA of at least {MIN_RSA_BITS} bits, ECDSA on P-256, or Ed25519.",
    )
