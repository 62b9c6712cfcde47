"""Checkpoints (C2SP tlog-checkpoint v1.0.0): a log's origin, size and root hash, as a signed note.

Guarantees: a checkpoint that ``open_checkpoint`` returns was signed by at least ``need`` of the keys its caller
pinned, and names the origin those keys stand for. Extension lines of other logs are carried along and believed
nothing: ML-DSA-44 signatures do not cover them; we never write any.

Leaves to others: not signing two trees that fork (the publisher, which knows what it signed before).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

import msgspec

from outlast.core.errors import Refused
from outlast.core.log.merkle import HASH_BYTES, MAX_SIZE
from outlast.core.log.note import (
    Note,
    Signer,
    Verified,
    Verifier,
    decode_base64,
    encode_base64,
    format_note,
    parse_note,
    sign_note,
    verify_note,
)

MAX_BODY_BYTES = 65_536
"""Longest checkpoint text taken, in bytes, extension lines included."""

_DECIMAL = re.compile("0|[1-9][0-9]{0,18}")


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree head: the log's ``origin``, its ``size`` in entries, the 32-byte ``root``; other logs' extensions."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text; raises Refused ``checkpoint-malformed`` for what could not be read back."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        text = "\n".join(lines) + "\n"
        if parse_checkpoint(text) != self:
            raise Refused("checkpoint-malformed", "an origin or extension is not one line")
        return text


class OpenedCheckpoint(msgspec.Struct, frozen=True):
    """A checkpoint that verified: its content, the whole note, and the signatures that were checked."""

    checkpoint: Checkpoint
    note: Note
    verified: tuple[Verified, ...]


def parse_decimal(text: str, code: str) -> int:
    """A size or index as the specifications write it: ASCII digits, no leading zero, at most MAX_SIZE."""
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise Refused(code, "a size or index is not a decimal number, or too large")
    return int(text)


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text (tlog-checkpoint, "Note text"); raises Refused ``checkpoint-malformed``."""
    if len(text) > MAX_BODY_BYTES or not text.endswith("\n"):
        raise Refused("checkpoint-malformed", "the checkpoint is too long or its last line open")
    lines = text[:-1].split("\n")
    if len(lines) < 3 or "" in lines:
        raise Refused("checkpoint-malformed", "a checkpoint has three lines or more, none empty")
    size = parse_decimal(lines[1], "checkpoint-malformed")
    root = decode_base64(lines[2], "checkpoint-malformed")
    if len(root) != HASH_BYTES:
        raise Refused("checkpoint-malformed", f"a root hash has {HASH_BYTES} bytes")
    return Checkpoint(lines[0], size, root, tuple(lines[3:]))


def sign_checkpoint(
    origin: str, size: int, root: bytes, signers: Iterable[Signer], *, time_s: int = 0
) -> bytes:
    """A checkpoint as a signed note. ``time_s``: the Unix time that timestamped signatures state, 0 for none.

    The caller has made sure that this tree extends every one it signed before.
    """
    return format_note(sign_note(Checkpoint(origin, size, root).text(), signers, time_s))


def open_checkpoint(
    data: bytes, verifiers: Collection[Verifier], *, origin: str | None = None, need: int = 1
) -> OpenedCheckpoint:
    """Verify a checkpoint with pinned keys.

    ``need`` is how many different keys of ``verifiers`` must have signed. The checkpoint's origin must be ``origin``,
    or, without one, the name of a key that signed (logs sign under their origin; tlog-checkpoint, "Signatures").
    Raises Refused ``note-malformed``, ``checkpoint-malformed``, ``note-untrusted``, ``checkpoint-origin``; Corrupt
    ``note-signature``.
    """
    note = parse_note(data)
    verified = verify_note(note, verifiers)
    if len({(item.name, item.key_id) for item in verified}) < need:
        raise Refused("note-untrusted", f"fewer than {need} of the pinned keys have signed")
    checkpoint = parse_checkpoint(note.text)
    accepted = {origin} if origin is not None else {item.name for item in verified}
    if checkpoint.origin not in accepted:
        raise Refused(
            "checkpoint-origin",
            "the checkpoint is of another log than its keys or the caller name",
            hint="Pass the origin expected, or the verifier keys of that log.",
        )
    return OpenedCheckpoint(checkpoint, note, verified)
