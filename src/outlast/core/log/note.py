"""Signed notes (C2SP signed-note v1.0.0): text, and lines of signatures under it.

Guarantees: ``format_note(parse_note(data)) == data`` for every note that parses, and parsing takes time and memory in
proportion to an input of at most ``MAX_NOTE_BYTES``. Signatures by unknown keys are kept and ignored; a signature
by a known key that fails spoils the whole note.

Refuses notes that are not UTF-8, hold control characters, or carry signatures written in a second way (base64 with
stray bits), so that no two texts stand for one note. What a note's text means is ``checkpoint``'s business, how
each kind of key signs it ``signers``'.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Protocol

import msgspec

from outlast.core.errors import Refused

MAX_NOTE_BYTES = 524_288
"""Longest note taken, in bytes: MAX_SIGNATURES post-quantum ones need about 300 kB."""

MAX_SIGNATURES = 64
"""Most signatures a note may carry; the specification asks for at least 16."""

MAX_NAME_BYTES = 255
"""Longest key name, in bytes: ML-DSA-44 cosignatures prefix it with one byte of length."""

MAX_VKEY_BYTES = 4_096
"""Longest verifier key taken, in bytes; one for ML-DSA-44 has about 2,000."""

_KEY_ID_BYTES = 4
_SIGNATURE_PREFIX = "— "
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f]")
_HEX_KEY_ID = re.compile("[0-9a-f]{8}")


class Signature(msgspec.Struct, frozen=True):
    """One signature line: the key's name and 32-bit id, and what follows them, whoever's it is."""

    name: str
    key_id: int
    value: bytes


class Note(msgspec.Struct, frozen=True):
    """A note: ``text`` with its final newline, and the signatures in their order."""

    text: str
    signatures: tuple[Signature, ...]


class Verified(msgspec.Struct, frozen=True):
    """A signature that was checked. ``time_s``: the Unix time its signer states, 0 for none."""

    name: str
    key_id: int
    kind: int
    time_s: int


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key as verifiers are configured with it: name, signature type, key material."""

    name: str
    kind: int
    public: bytes

    @property
    def key_id(self) -> int:
        """SHA-256(name || 0x0A || type || key), first four bytes (signed-note, "Signatures")."""
        material = self.name.encode() + b"\n" + bytes([self.kind]) + self.public
        return int.from_bytes(sha256(material).digest()[:_KEY_ID_BYTES], "big")

    def text(self) -> str:
        """The key as a vkey: ``name+id+base64`` (signed-note, "Verifier keys")."""
        return f"{self.name}+{self.key_id:08x}+{encode_base64(bytes([self.kind]) + self.public)}"


class Signer(Protocol):
    """A key that signs notes."""

    @property
    def key(self) -> VerifierKey:
        """The public half."""
        ...

    def sign(self, text: str, time_s: int) -> bytes:
        """What follows the key id in a signature line; kinds without a timestamp ignore ``time_s``."""
        ...


class Verifier(Protocol):
    """A key that checks notes."""

    @property
    def key(self) -> VerifierKey:
        """The public key."""
        ...

    def verify(self, text: str, value: bytes) -> int:
        """Check a signature; returns the time it states in Unix seconds, 0 for none. Raises Corrupt."""
        ...


def check_name(name: str) -> None:
    """Raise Refused ``note-malformed`` unless this can be a key's name."""
    if not name or "+" in name or any(char.isspace() for char in name) or _CONTROL.search(name):
        raise Refused("note-malformed", "a key name is empty, or has a space or a plus in it")
    if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise Refused("note-malformed", f"a key name is longer than {MAX_NAME_BYTES} bytes")


def parse_vkey(text: str) -> VerifierKey:
    """A verifier key from its text form; raises Refused ``vkey-malformed``."""
    parts = text.split("+", 2) if len(text) <= MAX_VKEY_BYTES else []
    if len(parts) != 3 or not _HEX_KEY_ID.fullmatch(parts[1]):
        raise Refused("vkey-malformed", "a verifier key is name+8 hex digits+base64")
    check_name(parts[0])
    material = decode_base64(parts[2], "vkey-malformed")
    if len(material) < 2:
        raise Refused("vkey-malformed", "a verifier key without key material")
    key = VerifierKey(parts[0], material[0], material[1:])
    if key.key_id != int(parts[1], 16):
        raise Refused("vkey-malformed", "the verifier key's id does not belong to its name and key")
    return key


def parse_note(data: bytes) -> Note:
    """The note in these bytes; raises Refused ``note-malformed``. Nothing is verified yet."""
    if len(data) > MAX_NOTE_BYTES:
        raise Refused("note-malformed", f"a note may have {MAX_NOTE_BYTES} bytes, not {len(data)}")
    try:
        decoded = data.decode()
    except UnicodeDecodeError as error:
        raise Refused("note-malformed", "the note is not UTF-8") from error
    if _CONTROL.search(decoded):
        raise Refused("note-malformed", "the note has control characters in it")
    # the last empty line parts text from signatures; the text keeps its own newline
    text, blank, signatures = decoded.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise Refused("note-malformed", "the note has no signature lines")
    lines = signatures[:-1].split("\n", MAX_SIGNATURES)
    if len(lines) > MAX_SIGNATURES:
        raise Refused("note-malformed", f"the note has more than {MAX_SIGNATURES} signatures")
    return Note(text + "\n", tuple(_parse_signature(line) for line in lines))


def format_note(note: Note) -> bytes:
    """The note's bytes; raises Refused ``note-malformed`` for what could not be read back."""
    check_text(note.text)
    if not 0 < len(note.signatures) <= MAX_SIGNATURES:
        raise Refused("note-malformed", f"a note has 1 to {MAX_SIGNATURES} signatures")
    return f"{note.text}\n{''.join(map(_format_signature, note.signatures))}".encode()


def check_text(text: str) -> None:
    """Raise Refused ``note-malformed`` unless this can be a note's text."""
    if not text.endswith("\n") or _CONTROL.search(text):
        raise Refused("note-malformed", "a note's text ends in a newline and has no controls")


def sign_note(text: str, signers: Iterable[Signer], time_s: int = 0) -> Note:
    """The text, signed by each of the signers; ``time_s`` is the Unix time those kinds state that do."""
    check_text(text)
    signatures = [
        Signature(signer.key.name, signer.key.key_id, signer.sign(text, time_s))
        for signer in signers
    ]
    return Note(text, tuple(signatures))


def verify_note(note: Note, verifiers: Iterable[Verifier]) -> tuple[Verified, ...]:
    """Check every signature by a known key, and return those, in the note's order.

    Raises Corrupt ``note-signature`` when one of them fails, Refused ``note-untrusted`` when there is none.
    """
    known = {(verifier.key.name, verifier.key.key_id): verifier for verifier in verifiers}
    verified: list[Verified] = []
    for signature in note.signatures:
        verifier = known.get((signature.name, signature.key_id))
        if verifier is not None:
            time_s = verifier.verify(note.text, signature.value)
            kind = verifier.key.kind
            verified.append(Verified(signature.name, signature.key_id, kind, time_s))
    if not verified:
        raise Refused(
            "note-untrusted",
            "no known key has signed this note",
            hint="Check that the verifier keys given are those of this log.",
        )
    return tuple(verified)


def encode_base64(data: bytes) -> str:
    """Standard base64 (RFC 4648, section 4) with padding."""
    return base64.b64encode(data).decode()


def decode_base64(text: str, code: str) -> bytes:
    """The bytes behind standard base64; raises Refused ``code`` unless it is written the one right way."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(code, "not base64") from error
    if encode_base64(data) != text:
        raise Refused(code, "base64 with stray bits or padding")
    return data


def _parse_signature(line: str) -> Signature:
    name, space, encoded = line.removeprefix(_SIGNATURE_PREFIX).partition(" ")
    if not line.startswith(_SIGNATURE_PREFIX) or not space:
        raise Refused("note-malformed", "a signature line is not: em dash, name, base64")
    check_name(name)
    raw = decode_base64(encoded, "note-malformed")
    if len(raw) <= _KEY_ID_BYTES:
        raise Refused("note-malformed", "a signature line has no signature")
    return Signature(name, int.from_bytes(raw[:_KEY_ID_BYTES], "big"), raw[_KEY_ID_BYTES:])


def _format_signature(signature: Signature) -> str:
    check_name(signature.name)
    raw = signature.key_id.to_bytes(_KEY_ID_BYTES, "big") + signature.value
    return f"{_SIGNATURE_PREFIX}{signature.name} {encode_base64(raw)}\n"
