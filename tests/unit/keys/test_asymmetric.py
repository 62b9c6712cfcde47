"""The three algorithms: what is signed verifies, and nothing else does."""

from __future__ import annotations

import pytest

from outlast.core.asymmetric import (
    KEY_ALGORITHMS,
    KeyAlgorithm,
    generate_private_key,
    sign_bytes,
    signature_is_valid,
    spki_der,
)
from outlast.core.errors import Refused


@pytest.mark.parametrize("algorithm", KEY_ALGORITHMS)
def test_only_the_right_signature_is_valid(algorithm: KeyAlgorithm) -> None:
    """Other bytes, another key, another algorithm, a changed or cut or empty signature: all invalid."""
    key, other = generate_private_key(algorithm), generate_private_key(algorithm)
    tbs = b"signed attributes"
    signature = sign_bytes(key, tbs)

    def valid(signature: bytes, tbs: bytes = tbs, spki: bytes = spki_der(key)) -> bool:
        return signature_is_valid(spki, algorithm, tbs=tbs, signature=signature)

    assert valid(signature)
    assert not valid(signature, tbs=tbs + b" ")
    assert not valid(signature, spki=spki_der(other))
    assert not valid(signature[:-1])
    assert not valid(b"")
    assert not valid(signature[:-1] + bytes([signature[-1] ^ 1]))
    for wrong in KEY_ALGORITHMS:
        if wrong != algorithm:
            assert not signature_is_valid(spki_der(key), wrong, tbs=tbs, signature=signature)


def test_deterministic_signatures_repeat() -> None:
    """The simulator gets the same signature for the same bytes; ECDSA otherwise never repeats."""
    key = generate_private_key("ecdsa-p256-sha256")
    assert sign_bytes(key, b"x", deterministic=True) == sign_bytes(key, b"x", deterministic=True)
    assert sign_bytes(key, b"x") != sign_bytes(key, b"x")


def test_unreadable_public_key_is_refused() -> None:
    """Noise in place of a key is Refused, not an exception of the library."""
    with pytest.raises(Refused, match="key-unsupported"):
        signature_is_valid(b"noise", "ed25519", tbs=b"x", signature=b"y")


def test_rsa_size_is_bounded() -> None:
    """RSA below 3072 bits is not made."""
    with pytest.raises(Refused, match="key-unsupported"):
        generate_private_key("rsa-pkcs1-sha256", rsa_bits=2048)
