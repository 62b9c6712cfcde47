"""Judges an evidence bundle, offline: does the log prove that exactly this was signed, so, then, by whom?

Guarantees: a verdict for any bytes, in bounded memory; no network, no clock, no store. ``valid`` means all of:

- the zip holds the files its manifest lists, unchanged, and nothing else
- each log entry is in the log, under a checkpoint signed by the log's keys
- the entries are the complete history of one request, its document and its signing keys, in order, and a possible one:
  pinned before each call, one effective signature for each place, growing sequence numbers
- the signed file is the one that history ends with, over the document that history begins with
- each signature is the very value on record, over the bytes pinned for its attempt, by a certificate enrolled before
- each timestamp is the one on record, over that value
- PDF and CMS verification by pyHanko agree, and the certificates lead to roots that the caller pinned

What the caller did not pin is taken from the bundle, checked as far as that goes, and reported as not decided. Leaves to
others: revocation, and whether the log shown here is the log that others see (compare its checkpoint with a witness').
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import TypeVar

import msgspec

from outlast.core.errors import OutlastError
from outlast.core.log.signers import verifier_for
from outlast.signing.evidence.attempts import impossible
from outlast.signing.evidence.history import KEYS_FILE, History, check_proofs, read_history
from outlast.signing.evidence.manifest import MANIFEST, VERSION, Manifest
from outlast.signing.evidence.outside import Trust, check_outside
from outlast.signing.evidence.signature import Signed, check_signature
from outlast.signing.evidence.stamps import check_stamp
from outlast.signing.evidence.unpack import malformed, unpack
from outlast.signing.evidence.verdicts import BundleVerdict, Check, Findings, Outcome
from outlast.signing.model import request as requests
from outlast.signing.views import RequestView, request_view
from outlast.signing.world import Details

__all__ = ["BundleVerdict", "Check", "Outcome", "verify_bundle"]

T = TypeVar("T")

MAX_MANIFEST_BYTES = 8 * 1024 * 1024
_UNPROVEN = frozenset({"title", "reference", "status_text"})
"""Members of the summary that the log holds encrypted, or that are mere wording."""


def verify_bundle(
    data: bytes,
    roots: Sequence[bytes],
    tsa_roots: Sequence[bytes],
    log_keys: Sequence[str],
    now_ms: int,
) -> BundleVerdict:
    """The verdict on a bundle. Arguments as in `Trust`; each may be empty. Takes 0.1 to 1 s, so from async code call
    it in a thread. Raises Refused ``vkey-malformed``, ``vkey-unsupported`` for the caller's own keys."""
    trust = Trust(
        roots=tuple(roots), tsa_roots=tuple(tsa_roots), log_keys=tuple(log_keys), now_ms=now_ms
    )
    for key in log_keys:
        verifier_for(key)  # the caller's mistakes are errors, not findings about the bundle
    found = Findings()
    try:
        files = unpack(data)
        manifest = _manifest(files, found)
    except OutlastError as error:
        found.add("bundle", False, error.message)
        return _verdict(found, trust)
    size = _guarded(found, "log-proofs", lambda: check_proofs(manifest, files, log_keys, found))
    history = _guarded(found, "history", lambda: read_history(manifest, files, found))
    if history is not None:
        _check_all(history, manifest, files, trust, found)
    return _verdict(found, trust, manifest, files, size or 0)


def _guarded(found: Findings, name: str, check: Callable[[], T]) -> T | None:
    """A check's result; where hostile bytes break it, a failure instead."""
    try:
        return check()
    except OutlastError as error:
        found.add(name, False, error.message)
    except (
        Exception
    ) as error:  # whatever the bytes did to a parser, they are not what a site writes
        found.add(name, False, f"it cannot be read ({type(error).__name__})")
    return None


def _manifest(files: Mapping[str, bytes], found: Findings) -> Manifest:
    """``bundle.json``, once all other files are what it says. Raises Refused ``bundle-malformed``."""
    raw = files.get(MANIFEST)
    if raw is None or len(raw) > MAX_MANIFEST_BYTES:
        raise malformed(f"it has no {MANIFEST}, or a very long one")
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise malformed(f"{MANIFEST} cannot be read: {error}") from error
    if manifest.v != VERSION:
        raise malformed(f"it is of version {manifest.v}; this program knows {VERSION}")
    listed = set(manifest.files) | {MANIFEST}
    if set(files) != listed:
        name = min(set(files) ^ listed)
        raise malformed(f"{name[:80]!r} is {'not listed' if name in files else 'missing'}")
    for name, fact in manifest.files.items():
        if len(files[name]) != fact.size or sha256(files[name]).hexdigest() != fact.sha256:
            raise malformed(f"{name} is not the file that {MANIFEST} lists")
    known = {MANIFEST, "README.txt", KEYS_FILE, manifest.document, *manifest.signed}
    for part in manifest.signatures:
        known |= {part.certificates, part.cms, part.timestamp_response, part.timestamp_token}
    for entry in manifest.entries:
        known |= {entry.entry, entry.proof}
    strangers = set(files) - known
    if strangers:
        raise malformed(f"{min(strangers)[:80]!r} is no part of it")
    found.add("files", True, f"{len(files)} files are unchanged since the bundle was made")
    return manifest


def _check_all(
    history: History,
    manifest: Manifest,
    files: Mapping[str, bytes],
    trust: Trust,
    found: Findings,
) -> None:
    problem = impossible(history)
    found.add("attempts", not problem, problem or "a possible history: no attempt signed twice")
    _check_summary(history, manifest, found)
    _guarded(found, "document", lambda: _check_files(history, manifest, files, found))
    wanted = [i for i, s in enumerate(history.request.signatures) if s.revision is not None]
    if [part.place for part in manifest.signatures] != wanted:
        found.add("signature", False, "the bundle does not have the signatures that the log has")
        return
    read: list[Signed] = []
    for part in manifest.signatures:
        check = partial(check_signature, part, history, files, found)
        signed = _guarded(found, "signature", check)
        if signed is not None:
            read.append(signed)
            stamp = partial(check_stamp, signed, part, files, trust.tsa_roots, found)
            _guarded(found, "timestamp", stamp)
    if len(read) == len(wanted):
        _guarded(found, "verifier", lambda: check_outside(history, read, files, trust, found))


def _check_summary(history: History, manifest: Manifest, found: Findings) -> None:
    """The manifest's summary is what the log adds up to."""
    told = manifest.request
    proven = request_view(history.request_id, history.version, history.request, Details())
    different = [
        field
        for field in RequestView.__struct_fields__
        if field not in _UNPROVEN and getattr(told, field) != getattr(proven, field)
    ]
    message = "the summary is what the log adds up to"
    if different:
        message = f"the summary says something else than the log: {', '.join(different)}"
    found.add("summary", not different, message)


def _check_files(
    history: History, manifest: Manifest, files: Mapping[str, bytes], found: Findings
) -> None:
    """The document at the history's beginning, and the signed files at its end."""
    request, taken = history.request, history.document.blob
    if request.format == "pades":
        expected_names: tuple[str, ...] = ("signed.pdf",)
        original = files["signed.pdf"][: taken.size]
    else:
        places = [i for i, s in enumerate(request.signatures) if s.revision is not None]
        expected_names = tuple(f"signed-{i + 1}.p7s" for i in places)
        original = files["document.bin"]
    is_same = len(original) == taken.size and sha256(original).hexdigest() == taken.sha256
    message = f"the document taken in had {taken.size} bytes, SHA-256 {taken.sha256}"
    found.add("document", is_same, message if is_same else f"{message}; this is another")
    if manifest.signed != expected_names:
        found.add("signed-file", False, "the bundle does not have the files that the log has")
        return
    if request.format == "pades" and not _ends_signed(request, len(files["signed.pdf"])):
        message = "something follows its last signature that nothing signs"
        found.add("signed-file", False, message, subject="signed.pdf")
    for name, expected in _recorded(history).items():
        content = files[name]
        is_same = sha256(content).hexdigest() == expected
        message = "is the file on record" if is_same else "is not the file on record"
        found.add("signed-file", is_same, f"it {message}", subject=name)


def _ends_signed(request: requests.Request, size: int) -> bool:
    """Whether a PDF of ``size`` bytes ends with its last signature, or with the document timestamp that settled it
    (whose own check reaches to the end)."""
    newest = [s for s in request.signatures if s.revision is not None][-1]
    if newest.stamp is not None and newest.stamp.document:
        return True
    return newest.revision is not None and newest.revision.length == size


def _recorded(history: History) -> dict[str, str]:
    """SHA-256 by name of each signed file, as the log has it."""
    request = history.request
    if request.format == "pades":
        assert request.revision is not None, "a bundle has a signed file"
        return {"signed.pdf": request.revision.blob.sha256}
    return {
        f"signed-{i + 1}.p7s": s.revision.blob.sha256
        for i, s in enumerate(request.signatures)
        if s.revision is not None
    }


def _verdict(
    found: Findings,
    trust: Trust,
    manifest: Manifest | None = None,
    files: Mapping[str, bytes] | None = None,
    log_size: int = 0,
) -> BundleVerdict:
    verdict, reason = found.conclusion()
    notes = []
    if manifest is not None and (manifest.request.title or manifest.request.reference):
        notes.append("title and reference are encrypted in the log: nothing here proves them")
    return BundleVerdict(
        verdict=verdict,
        reason=reason,
        request=manifest.request.id if manifest else "",
        document_sha256=manifest.request.document_sha256 if manifest else "",
        signed_sha256=tuple(
            sha256(files[name]).hexdigest() for name in manifest.signed if name in files
        )
        if manifest and files
        else (),
        origin=manifest.origin if manifest else "",
        log_size=log_size,
        log_keys_pinned=bool(trust.log_keys),
        roots_pinned=bool(trust.roots),
        tsa_roots_pinned=bool(trust.tsa_roots),
        checks=tuple(found.checks),
        notes=tuple(notes),
    )
