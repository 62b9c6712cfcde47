"""A log's signing keys: one Ed25519 and one ML-DSA-44 key under the log's origin, kept together.

Guarantees: the private keys leave this object only through ``encode``, sealed when a passphrase is given; no ``repr``,
error or log line shows them. Refuses a wrong passphrase (``logkey-passphrase``) and files it did not write
(Corrupt ``logkey``). Leaves to the wiring: where the bytes are kept. Unsealed, they belong in a file of mode 0600.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.note import Signer, Verifier
from outlast.core.log.signers import SEED_BYTES, Ed25519Signer, MlDsa44Signer, verifier_for

MAX_FILE_BYTES = 4_096
"""Longest key file read, in bytes."""

# scrypt's cost is fixed, not read from the file, so no file can ask for more memory: 32 MiB and about 0.1 s
_SCRYPT_N = 1 << 15
_SCRYPT_R = 8
_SCRYPT_P = 1
_SALT_BYTES = 16
_NONCE_BYTES = 12
_CONTEXT = b"outlast-logkey/1\n"


class _File(msgspec.Struct, frozen=True):
    """The key file: JSON; ``secret`` is the two seeds, plain or sealed with AES-256-GCM under scrypt."""

    v: Literal[1]
    name: str
    seal: Literal["none", "scrypt-aes256gcm"]
    secret: bytes
    salt: bytes = b""
    nonce: bytes = b""


class LogKey:
    """The keys of the log named ``name`` (its origin), from their two 32-byte seeds."""

    def __init__(self, name: str, ed25519_seed: bytes, ml_dsa_seed: bytes) -> None:
        self.name = name
        self._seeds = ed25519_seed + ml_dsa_seed
        self.signers: tuple[Signer, ...] = (
            Ed25519Signer(name, ed25519_seed),
            MlDsa44Signer(name, ml_dsa_seed),
        )

    def __repr__(self) -> str:
        return f"LogKey({self.name!r})"

    @property
    def vkeys(self) -> tuple[str, ...]:
        """The public keys as vkeys, Ed25519 first: what readers pin."""
        return tuple(signer.key.text() for signer in self.signers)

    @property
    def verifiers(self) -> tuple[Verifier, ...]:
        """Verifiers for both keys."""
        return tuple(verifier_for(signer.key) for signer in self.signers)

    @classmethod
    def generate(cls, name: str, entropy: Callable[[int], bytes] = os.urandom) -> LogKey:
        """Fresh keys for a log; ``entropy(n)`` returns n random bytes."""
        return cls(name, entropy(SEED_BYTES), entropy(SEED_BYTES))

    def encode(
        self, passphrase: bytes | None = None, entropy: Callable[[int], bytes] = os.urandom
    ) -> bytes:
        """The key file's bytes, sealed under the passphrase if there is one."""
        if passphrase is None:
            return msgspec.json.encode(_File(1, self.name, "none", self._seeds))
        salt, nonce = entropy(_SALT_BYTES), entropy(_NONCE_BYTES)
        sealed = _cipher(passphrase, salt).encrypt(
            nonce, self._seeds, _CONTEXT + self.name.encode()
        )
        return msgspec.json.encode(
            _File(1, self.name, "scrypt-aes256gcm", sealed, salt, nonce),
        )

    @classmethod
    def decode(cls, data: bytes, passphrase: bytes | None = None) -> LogKey:
        """The keys from ``encode``'s bytes; raises Refused ``logkey-passphrase``, Corrupt ``logkey``."""
        try:
            if len(data) > MAX_FILE_BYTES:
                raise ValueError("too long")
            file = msgspec.json.decode(data, type=_File)
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise Corrupt("logkey", "not a log key file") from error
        seeds = _open(file, passphrase)
        if len(seeds) != 2 * SEED_BYTES:
            raise Corrupt("logkey", "the log key file does not hold two keys")
        return cls(file.name, seeds[:SEED_BYTES], seeds[SEED_BYTES:])


def _open(file: _File, passphrase: bytes | None) -> bytes:
    if file.seal == "none":
        return file.secret
    if passphrase is None:
        raise Refused("logkey-passphrase", "the log key is sealed, and no passphrase was given")
    if len(file.nonce) != _NONCE_BYTES:
        raise Corrupt("logkey", "not a log key file")
    try:
        cipher = _cipher(passphrase, file.salt)
        return cipher.decrypt(file.nonce, file.secret, _CONTEXT + file.name.encode())
    except InvalidTag as error:
        raise Refused(
            "logkey-passphrase", "the log key does not open with this passphrase"
        ) from error


def _cipher(passphrase: bytes, salt: bytes) -> AESGCM:
    kdf = Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P)
    return AESGCM(kdf.derive(passphrase))
