"""XAES-256-GCM against the vectors of its specification."""

from __future__ import annotations

import pytest

from outlast.core.xaes import XAes256Gcm

NONCE = b"ABCDEFGHIJKLMNOPQRSTUVWX"


@pytest.mark.parametrize(
    ("key", "aad", "expected"),
    [
        (b"\x01" * 32, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (
            b"\x03" * 32,
            b"c2sp.org/XAES-256-GCM",
            "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d",
        ),
    ],
    ids=["subkey without carry", "subkey with carry"],
)
def test_specification_vectors(key: bytes, aad: bytes, expected: str) -> None:
    """Both published vectors, which take the two branches of the subkey derivation."""
    cipher = XAes256Gcm(key)
    sealed = cipher.encrypt(NONCE, b"XAES-256-GCM", aad)
    assert sealed.hex() == expected
    assert cipher.decrypt(NONCE, sealed, aad) == b"XAES-256-GCM"


def test_wrong_aad_gives_nothing() -> None:
    """Another AAD, and a flipped bit, are both told apart from the original."""
    cipher = XAes256Gcm(b"k" * 32)
    sealed = cipher.encrypt(NONCE, b"data", b"a")
    assert cipher.decrypt(NONCE, sealed, b"b") is None
    assert cipher.decrypt(NONCE, bytes([sealed[0] ^ 1]) + sealed[1:], b"a") is None


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_other_key_lengths_are_refused(length: int) -> None:
    """A short key never passes silently as a weak one."""
    with pytest.raises(ValueError, match="32 bytes"):
        XAes256Gcm(bytes(length))


def test_other_nonce_lengths_are_refused() -> None:
    """A nonce of AES-GCM's own length is an error, not a shorter derivation."""
    with pytest.raises(ValueError, match="24 bytes"):
        XAes256Gcm(bytes(32)).encrypt(bytes(12), b"", b"")
