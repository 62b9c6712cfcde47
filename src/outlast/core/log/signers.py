"""The keys that sign checkpoints: Ed25519, and ML-DSA-44 beside it.

    0x01  Ed25519 over the note's text                            C2SP signed-note v1.0.0
    0x04  Ed25519, timestamped, over "cosignature/v1 ..."         C2SP tlog-cosignature
    0x06  ML-DSA-44, timestamped, over a "subtree/v1" structure   C2SP tlog-cosignature

(tlog-cosignature as of C2SP commit 5ba5ee8.) A log signs with 0x01, which every reader knows, and 0x06, which a
quantum computer does not break; witnesses and mirrors use 0x04 or 0x06. Private keys are held in memory, so no outage
of a key service stops a log, and appear in no ``repr``.

Refuses keys of the wrong length or a type not in the table (``vkey-unsupported``); a signature that does not verify is
Corrupt ``note-signature``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey, MLDSA44PublicKey

from outlast.core.errors import Corrupt, Refused
from outlast.core.log.checkpoint import parse_checkpoint
from outlast.core.log.note import MAX_NAME_BYTES, Verifier, VerifierKey, check_name, parse_vkey

KIND_ED25519 = 0x01
"""Ed25519 note signatures (signed-note, "Signature types")."""

KIND_ED25519_COSIGNATURE = 0x04
"""Timestamped Ed25519 checkpoint cosignatures."""

KIND_ML_DSA_44 = 0x06
"""Timestamped ML-DSA-44 (sub)tree cosignatures."""

SEED_BYTES = 32
"""Length of either kind's private key: the seed of RFC 8032 and of FIPS 204."""

MAX_TIME_S = (1 << 63) - 1
"""Largest timestamp of a cosignature, in Unix seconds."""

_TIME_BYTES = 8


class Ed25519Signer:
    """Signs the text of notes (type 0x01)."""

    def __init__(self, name: str, seed: bytes) -> None:
        check_name(name)
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name, KIND_ED25519, public)

    def sign(self, text: str, time_s: int) -> bytes:
        """64 bytes of Ed25519 over the text; the time is not stated."""
        return self._private.sign(text.encode())


class Ed25519Cosigner:
    """Signs checkpoints, with the time (type 0x04). Each cosigner needs a key of its own."""

    def __init__(self, name: str, seed: bytes) -> None:
        check_name(name)
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name, KIND_ED25519_COSIGNATURE, public)

    def sign(self, text: str, time_s: int) -> bytes:
        """The timestamp and 64 bytes of Ed25519."""
        return _time(time_s) + self._private.sign(_cosigned_text(text, time_s))


class MlDsa44Signer:
    """Signs checkpoints, with the time or 0 (type 0x06); about 0.8 ms each, so never once per entry."""

    def __init__(self, name: str, seed: bytes) -> None:
        check_name(name)
        self._private = MLDSA44PrivateKey.from_seed_bytes(seed)
        public = self._private.public_key().public_bytes_raw()
        self.key = VerifierKey(name, KIND_ML_DSA_44, public)

    def sign(self, text: str, time_s: int) -> bytes:
        """The timestamp and 2,420 bytes of ML-DSA-44 with an empty context."""
        return _time(time_s) + self._private.sign(cosigned_message(self.key.name, text, time_s))


class Ed25519Verifier:
    """Checks type 0x01."""

    def __init__(self, key: VerifierKey) -> None:
        self.key = key
        self._public = Ed25519PublicKey.from_public_bytes(key.public)

    def verify(self, text: str, value: bytes) -> int:
        """Returns 0: this type states no time."""
        _check(self._public, self.key.name, value, text.encode())
        return 0


class Ed25519CosignatureVerifier:
    """Checks type 0x04."""

    def __init__(self, key: VerifierKey) -> None:
        self.key = key
        self._public = Ed25519PublicKey.from_public_bytes(key.public)

    def verify(self, text: str, value: bytes) -> int:
        """Returns the Unix time at which the cosigner says it signed."""
        time_s = _read_time(value)
        _check(self._public, self.key.name, value[_TIME_BYTES:], _cosigned_text(text, time_s))
        return time_s


class MlDsa44Verifier:
    """Checks type 0x06, on checkpoints."""

    def __init__(self, key: VerifierKey) -> None:
        self.key = key
        self._public = MLDSA44PublicKey.from_public_bytes(key.public)

    def verify(self, text: str, value: bytes) -> int:
        """Returns the Unix time at which the cosigner says it signed, 0 if it does not say."""
        time_s = _read_time(value)
        message = cosigned_message(self.key.name, text, time_s)
        _check(self._public, self.key.name, value[_TIME_BYTES:], message)
        return time_s


_VERIFIERS: Final[dict[int, Callable[[VerifierKey], Verifier]]] = {
    KIND_ED25519: Ed25519Verifier,
    KIND_ED25519_COSIGNATURE: Ed25519CosignatureVerifier,
    KIND_ML_DSA_44: MlDsa44Verifier,
}


def verifier_for(vkey: str | VerifierKey) -> Verifier:
    """The verifier for a key in its text form; raises Refused ``vkey-malformed`` or ``vkey-unsupported``."""
    key = parse_vkey(vkey) if isinstance(vkey, str) else vkey
    kind = _VERIFIERS.get(key.kind)
    if kind is None:
        raise Refused("vkey-unsupported", f"a verifier key of type {key.kind:#04x}, not 1, 4 or 6")
    try:
        return kind(key)
    except ValueError as error:
        raise Refused("vkey-malformed", "the key material is not a public key") from error


def cosigned_message(name: str, text: str, time_s: int) -> bytes:
    """The structure that ML-DSA-44 signs for a checkpoint (tlog-cosignature, "ML-DSA-44 signed message")."""
    checkpoint = parse_checkpoint(text)
    fields = (
        b"subtree/v1\n\0",
        _opaque(name),
        _time(time_s),
        _opaque(checkpoint.origin),
        (0).to_bytes(8, "big"),  # start: a checkpoint is the subtree from the first leaf on
        checkpoint.size.to_bytes(8, "big"),
        checkpoint.root,
    )
    return b"".join(fields)


def _opaque(text: str) -> bytes:
    """``opaque<1..2^8-1>`` of RFC 8446, section 3.4."""
    raw = text.encode()
    if not 0 < len(raw) <= MAX_NAME_BYTES:
        raise Refused("checkpoint-malformed", f"an origin has 1 to {MAX_NAME_BYTES} bytes")
    return bytes([len(raw)]) + raw


def _cosigned_text(text: str, time_s: int) -> bytes:
    parse_checkpoint(text)  # a cosignature is a statement about a checkpoint and nothing else
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _time(time_s: int) -> bytes:
    if not 0 <= time_s <= MAX_TIME_S:
        raise Refused("checkpoint-time", "a cosignature's time is outside 0 to 2^63-1 seconds")
    return time_s.to_bytes(_TIME_BYTES, "big")


def _read_time(value: bytes) -> int:
    time_s = int.from_bytes(value[:_TIME_BYTES], "big")
    if len(value) <= _TIME_BYTES or time_s > MAX_TIME_S:
        raise Corrupt("note-signature", "a cosignature is too short or its time too large")
    return time_s


def _check(
    public: Ed25519PublicKey | MLDSA44PublicKey, name: str, signature: bytes, message: bytes
) -> None:
    try:
        public.verify(signature, message)
    except InvalidSignature as error:
        raise Corrupt("note-signature", f"the signature by {name} does not verify") from error
