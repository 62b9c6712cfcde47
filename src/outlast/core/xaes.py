"""XAES-256-GCM (C2SP): AES-256-GCM with a 192-bit nonce, so that nonces may be drawn at random for ever.

Plain AES-GCM with random 96-bit nonces must stop after 2**32 messages under one key (NIST SP 800-38D, 8.3): at a
thousand objects a second a root key would reach that in fifty days. Here each message gets its own AES-256 key,
derived from the root key and the first half of the nonce (c2sp.org/XAES-256-GCM), and the bound is 2**80.
"""

from __future__ import annotations

from threading import Lock

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
NONCE_BYTES = 24
TAG_BYTES = 16

_HALF = NONCE_BYTES // 2
_BLOCK_MASK = (1 << 128) - 1
_FIRST = b"\x00\x01X\x00"
_SECOND = b"\x00\x02X\x00"


class XAes256Gcm:
    """One key, ready for use. Thread-safe."""

    def __init__(self, key: bytes) -> None:
        """``key`` is 32 bytes; ValueError otherwise."""
        if len(key) != KEY_BYTES:
            raise ValueError(f"an XAES-256-GCM key has {KEY_BYTES} bytes, not {len(key)}")
        # ECB of single blocks is how the specification defines the derivation; it encrypts no message
        # (and has no state between blocks, so one context serves for ever: making one costs more than using it)
        self._aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
        self._lock = Lock()
        doubled = int.from_bytes(self._aes.update(bytes(16)), "big") << 1
        if doubled > _BLOCK_MASK:
            doubled = (doubled & _BLOCK_MASK) ^ 0b10000111
        self._subkey = doubled

    def encrypt(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext and 16-byte tag; ``nonce`` is 24 random bytes."""
        return self._message_cipher(nonce).encrypt(nonce[_HALF:], plaintext, aad)

    def decrypt(self, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
        """The plaintext, or None where key, nonce, AAD and ciphertext do not belong together."""
        try:
            return self._message_cipher(nonce).decrypt(nonce[_HALF:], ciphertext, aad)
        except InvalidTag:
            return None

    def _message_cipher(self, nonce: bytes) -> AESGCM:
        if len(nonce) != NONCE_BYTES:
            raise ValueError(f"an XAES-256-GCM nonce has {NONCE_BYTES} bytes, not {len(nonce)}")
        salt = nonce[:_HALF]
        blocks = self._masked(_FIRST + salt) + self._masked(_SECOND + salt)
        with self._lock:
            message_key = self._aes.update(blocks)
        return AESGCM(message_key)

    def _masked(self, block: bytes) -> bytes:
        return (int.from_bytes(block, "big") ^ self._subkey).to_bytes(16, "big")
