"""The history in a bundle: log entries proven, put in order, decoded, and folded into what they add up to.

Everything that verification says about a signature is compared with this, never with the bundle's own summary.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from outlast.core.decider import Event
from outlast.core.errors import OutlastError, Refused
from outlast.core.log.checkpoint import OpenedCheckpoint, open_checkpoint
from outlast.core.log.entry import Entry, decode_entry
from outlast.core.log.merkle import leaf_hash, verify_inclusion
from outlast.core.log.note import Verifier
from outlast.core.log.proof import parse_proof
from outlast.core.log.signers import verifier_for
from outlast.signing.evidence.manifest import EntryPart, Manifest
from outlast.signing.evidence.unpack import malformed
from outlast.signing.evidence.verdicts import Findings
from outlast.signing.model import document as documents
from outlast.signing.model import key as keys
from outlast.signing.model import request as requests

KEYS_FILE = "log/keys.txt"
MAX_LOG_KEYS = 64
"""Verifier keys taken from a bundle."""

_EVENTS: dict[str, type[Event]] = {
    event.name: event
    for event in (
        documents.DocumentAdded,
        *requests.EVENTS,
        keys.KeyEnrolled,
        keys.KeyDisabled,
        keys.KeyEnabled,
    )
}


class Step(msgspec.Struct, frozen=True):
    """One log entry: where it is, and the event in it (None: a kind this version does not know)."""

    index: int
    entry: Entry
    event: Any


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the log says. ``request`` is the request as its events leave it; ``key_steps`` are those of each
    key's stream, by the key's name."""

    request_id: str
    request: requests.Request
    version: int
    document: documents.DocumentAdded
    steps: tuple[Step, ...]
    key_steps: dict[str, tuple[Step, ...]]

    def key_at(self, name: str, index: int) -> keys.SigningKey | None:
        """A key as it stood before entry ``index``; None if it had not been enrolled."""
        state: keys.SigningKey | None = None
        for step in self.key_steps.get(name, ()):
            if step.index < index:
                state = keys.KeyDecider().evolve(state, step.event)
        return state


def check_proofs(
    manifest: Manifest, files: Mapping[str, bytes], pinned: Sequence[str], found: Findings
) -> int:
    """Every entry is in the log under a checkpoint that its keys signed; returns the newest tree's size.

    ``pinned``: vkeys that the caller trusts; without any, those in the bundle are used, and that is said.
    """
    verifiers = _verifiers(manifest, files, pinned, found)
    opened: dict[bytes, OpenedCheckpoint] = {}
    size, wrong = 0, ""
    for part in manifest.entries:
        try:
            proof = parse_proof(_file(files, part.proof))
            if proof.checkpoint not in opened:
                opened[proof.checkpoint] = _open(proof.checkpoint, verifiers, manifest.origin)
            tree = opened[proof.checkpoint].checkpoint
            entry = _file(files, part.entry)
            if proof.index != part.index:
                raise malformed(f"{part.proof} is for entry {proof.index}")
            verify_inclusion(leaf_hash(entry), proof.index, tree.size, proof.hashes, tree.root)
            size = max(size, tree.size)
        except OutlastError as error:
            wrong = wrong or f"entry {part.index}: {error.message}"
    if wrong:
        found.add("log-proofs", False, wrong)
    else:
        found.add(
            "log-proofs",
            True,
            f"{len(manifest.entries)} entries are in the log {manifest.origin}, under a signed checkpoint of"
            f" {size} entries",
        )
    return size


def _verifiers(
    manifest: Manifest, files: Mapping[str, bytes], pinned: Sequence[str], found: Findings
) -> tuple[Verifier, ...]:
    lines = _file(files, KEYS_FILE).decode("utf-8", "replace").split()
    if not 0 < len(lines) <= MAX_LOG_KEYS:
        raise malformed(f"{KEYS_FILE} has {len(lines)} keys")
    if not pinned:
        message = "the log's keys come from the bundle itself; pin them with --log-key"
        found.add("log-keys", "unknown", message, about_trust=True)
        return tuple(map(verifier_for, lines))
    verifiers = tuple(map(verifier_for, pinned))
    missing = [
        v.key.name
        for v, text in zip(verifiers, pinned, strict=True)
        if v.key.name == manifest.origin and text not in lines
    ]
    if missing:
        message = f"the bundle names other keys of {manifest.origin} than you pinned"
        found.add("log-keys", False, message, about_trust=True)
    else:
        found.add("log-keys", True, "you pinned the log's keys", about_trust=True)
    return verifiers


def _open(checkpoint: bytes, verifiers: Sequence[Verifier], origin: str) -> OpenedCheckpoint:
    """All known keys of this log must have signed: whoever pins two asks for both."""
    need = len({v.key.key_id for v in verifiers if v.key.name == origin})
    opened = open_checkpoint(checkpoint, verifiers, need=max(1, need))
    if opened.checkpoint.origin != origin:
        raise malformed(f"a checkpoint is of the log {opened.checkpoint.origin[:80]}")
    return opened


def read_history(manifest: Manifest, files: Mapping[str, bytes], found: Findings) -> History | None:
    """The entries as a history, if they are one; else None, and the findings say why."""
    steps = tuple(_step(part, _file(files, part.entry)) for part in manifest.entries)
    strangers = [s.entry.type for s in steps if s.event is None]
    if strangers:
        found.add(
            "history", "unknown", f"an event {strangers[0][:80]!r} is not known to this version"
        )
        return None
    problem = _disorder(steps)
    if problem:
        found.add("history", False, problem)
        return None
    history = _fold(manifest, steps)
    found.add(
        "history",
        True,
        f"{len(steps)} entries of {len(history.key_steps) + 2} streams, complete and in order",
    )
    return history


def _step(part: EntryPart, encoded: bytes) -> Step:
    entry = decode_entry(encoded)
    if entry.type != part.type:
        raise malformed(f"entry {part.index} is of type {entry.type[:80]}")
    kind = _EVENTS.get(entry.type)
    event = None if kind is None else msgspec.json.decode(entry.data, type=kind)
    return Step(part.index, entry, event)


def _disorder(steps: Sequence[Step]) -> str:
    """Why these entries are not one site's record of one request, or nothing."""
    for before, after in itertools.pairwise(steps):
        if after.index <= before.index:
            return f"entry {after.index} comes after entry {before.index}"
        if after.entry.hlc <= before.entry.hlc:
            return f"entry {after.index} claims to be earlier than entry {before.index}"
    if len({s.entry.site for s in steps}) != 1 or len({s.entry.tenant for s in steps}) != 1:
        return "its entries are of different sites or tenants"
    versions: dict[str, int] = {}
    for step in steps:
        stream = step.entry.stream
        if step.entry.seq != versions.get(stream, 0) + 1:
            return f"entry {step.index}: something is missing before event {step.entry.seq} of {stream[:80]}"
        versions[stream] = step.entry.seq
    return ""


def _fold(manifest: Manifest, steps: Sequence[Step]) -> History:
    streams: dict[str, list[Step]] = {}
    for step in steps:
        streams.setdefault(step.entry.stream, []).append(step)
    own = streams.pop(f"{requests.KIND}/{manifest.request.id}", [])
    state: requests.Request | None = None
    decider = requests.RequestDecider()
    for step in own:
        state = decider.evolve(state, step.event)
    if state is None:
        raise malformed("it has no history of its request")
    (added,) = streams.pop(f"{documents.KIND}/{state.document}")
    names = {s.key for s in state.signatures}
    of_keys = {name: tuple(streams.pop(f"{keys.KIND}/{name}")) for name in names}
    if streams:
        raise malformed(f"it has entries of {min(streams)[:80]}, which is no part of this request")
    return History(
        request_id=manifest.request.id,
        request=state,
        version=own[-1].entry.seq,
        document=added.event,
        steps=tuple(own),
        key_steps=of_keys,
    )


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    """A file of the bundle that must be there."""
    content = files.get(name)
    if content is None:
        raise Refused("bundle-malformed", f"the bundle lacks {name[:80]!r}")
    return content
