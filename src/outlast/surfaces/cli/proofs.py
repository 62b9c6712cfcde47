"""Checks one ``.tlog-proof`` against its entry, as checks to be printed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from outlast.core.errors import OutlastError
from outlast.core.log.proof import parse_proof, verify_proof
from outlast.core.log.signers import verifier_for
from outlast.signing.evidence.verdicts import Findings
from outlast.surfaces.cli.pins import MAX_PIN_FILE_BYTES, read_file, vkeys


def check_proof(
    path: Path, data: bytes, entry: Path | None, log_keys: Sequence[str], found: Findings
) -> None:
    """The entry is in a log that the pinned keys, or those lying beside the proof, have signed."""
    source = entry or _entry_beside(path)
    if source is None:
        found.add("entry", "unknown", "its entry is not here; name it with --entry")
        return
    keys = tuple(log_keys)
    if keys:
        found.add("log-keys", True, "you pinned the log's keys", about_trust=True)
    else:
        beside = path.parent.parent / "keys.txt"
        if not beside.is_file():
            message = "no key of the log is pinned (--log-key), and none lies beside the proof"
            found.add("log-keys", "unknown", message)
            return
        keys = vkeys(str(beside))
        message = f"the log's keys come from {beside}; pin them with --log-key"
        found.add("log-keys", "unknown", message, about_trust=True)
    try:
        proof = parse_proof(data)
        opened = verify_proof(
            proof, read_file(source, MAX_PIN_FILE_BYTES), [verifier_for(key) for key in keys]
        )
    except OutlastError as error:
        found.add("proof", False, error.message)
        return
    tree = opened.checkpoint
    message = (
        f"{source.name} is entry {proof.index} of the log {tree.origin}, of {tree.size} entries"
    )
    found.add("proof", True, message)


def _entry_beside(path: Path) -> Path | None:
    """Where `outlast log prove` and evidence bundles put the entry."""
    name = f"{path.stem}.json"
    places = (path.parent / name, path.parent.parent / "entries" / name)
    return next((place for place in places if place.is_file()), None)
