"""Proofs that an entry is in a log, as ``.tlog-proof`` files (C2SP tlog-proof@v1, as of commit 5ba5ee8).

Guarantees: ``verify_proof`` needs nothing but the file, the entry's bytes and the keys its caller pinned; it reads no
network, no clock and no store. What it returns has been signed by one of those keys, and the entry is under it.

Leaves to others: how many witnesses are enough (``witnesses`` and ``quorum`` are the caller's), and what the entry says.
The ``extra`` line is not authenticated and never used here.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from outlast.core.errors import Refused
from outlast.core.log.checkpoint import (
    OpenedCheckpoint,
    open_checkpoint,
    parse_checkpoint,
    parse_decimal,
)
from outlast.core.log.merkle import (
    HASH_BYTES,
    ReadNode,
    inclusion_proof,
    leaf_hash,
    verify_inclusion,
)
from outlast.core.log.note import (
    MAX_NOTE_BYTES,
    Verifier,
    decode_base64,
    encode_base64,
    parse_note,
    verify_note,
)

SUFFIX = ".tlog-proof"
"""The file name extension of proofs."""

MAX_HASHES = 63
"""Most hashes in a proof: the height of the largest tree."""

MAX_EXTRA_BYTES = 65_536
"""Longest opaque extra data taken, in bytes."""

MAX_PROOF_BYTES = MAX_NOTE_BYTES + 2 * MAX_EXTRA_BYTES
"""Longest proof file taken, in bytes."""

_HEADER = "c2sp.org/tlog-proof@v1"


class Proof(msgspec.Struct, frozen=True):
    """Entry ``index`` is in the tree of ``checkpoint`` (a signed note, verbatim), by these sibling hashes."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def make_proof(index: int, checkpoint: bytes, read_node: ReadNode) -> Proof:
    """The proof of an entry from the nodes of the checkpoint's tree; raises Refused ``proof-range``."""
    size = parse_checkpoint(parse_note(checkpoint).text).size
    return Proof(index, tuple(inclusion_proof(index, size, read_node)), checkpoint)


def format_proof(proof: Proof) -> bytes:
    """The file's bytes (tlog-proof, "Format")."""
    lines = [_HEADER]
    if proof.extra is not None:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines.append(f"index {proof.index}")
    lines += map(encode_base64, proof.hashes)
    data = "\n".join(lines).encode() + b"\n\n" + proof.checkpoint
    if parse_proof(data) != proof:
        raise Refused("proof-malformed", "this proof could not be read back")
    return data


def parse_proof(data: bytes) -> Proof:
    """The proof in these bytes; raises Refused ``proof-malformed``. Nothing is verified yet."""
    if len(data) > MAX_PROOF_BYTES:
        raise Refused("proof-malformed", f"a proof may have {MAX_PROOF_BYTES} bytes")
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise Refused("proof-malformed", "the proof's own lines are not ASCII") from error
    if not blank or not checkpoint or lines.pop(0) != _HEADER:
        raise Refused("proof-malformed", f"a proof begins with {_HEADER}, a checkpoint ends it")
    extra = None
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "), "proof-malformed")
    if not lines or not lines[0].startswith("index ") or len(lines) > MAX_HASHES + 1:
        raise Refused("proof-malformed", "a proof has one index line and at most 63 hashes")
    index = parse_decimal(lines.pop(0).removeprefix("index "), "proof-malformed")
    hashes = tuple(decode_base64(line, "proof-malformed") for line in lines)
    if any(len(item) != HASH_BYTES for item in hashes) or len(extra or b"") > MAX_EXTRA_BYTES:
        raise Refused("proof-malformed", "a hash or the extra data has the wrong length")
    return Proof(index, hashes, checkpoint, extra)


def verify_proof(
    proof: Proof,
    entry: bytes,
    verifiers: Collection[Verifier],
    *,
    origin: str | None = None,
    need: int = 1,
    witnesses: Collection[Verifier] = (),
    quorum: int = 0,
) -> OpenedCheckpoint:
    """Check that ``entry``, byte for byte, is in the log (tlog-proof, "Verifying a tlog proof").

    ``verifiers`` are the log's pinned keys, ``need`` of which must have signed; ``quorum`` of the ``witnesses`` must
    have cosigned. Returns the checkpoint the entry is under. Raises Refused ``note-untrusted``,
    ``checkpoint-origin``, ``proof-range`` and what the parsers raise; Corrupt ``note-signature``,
    ``inclusion-proof``.
    """
    opened = open_checkpoint(proof.checkpoint, verifiers, origin=origin, need=need)
    if quorum:
        cosigned = verify_note(opened.note, witnesses)
        if len({item.name for item in cosigned}) < quorum:
            raise Refused("note-untrusted", f"fewer than {quorum} of the witnesses have cosigned")
    tree = opened.checkpoint
    verify_inclusion(leaf_hash(entry), proof.index, tree.size, proof.hashes, tree.root)
    return opened
