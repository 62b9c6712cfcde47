"""A signature's timestamp held against the history: the token on record, over this value, at the time it says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from outlast.core.clock import iso
from outlast.core.errors import OutlastError
from outlast.core.rfc3161 import TsaRules, VerifiedToken, verify_token
from outlast.core.signerinfo import raw_signed_data
from outlast.signing.cms import der
from outlast.signing.evidence.manifest import SignaturePart
from outlast.signing.evidence.signature import Signed
from outlast.signing.evidence.verdicts import Findings
from outlast.signing.model.request import Stamp

MAX_EARLY_MS = 5 * 60_000
"""A token may be this much earlier than the claimed signing time: two clocks."""


def check_stamp(
    signed: Signed,
    part: SignaturePart,
    files: Mapping[str, bytes],
    tsa_roots: Sequence[bytes],
    found: Findings,
) -> None:
    """Compare a signature's timestamp with the record; what is owed is said, not failed."""
    state, subject = signed.state, signed.subject
    if state.timestamp == "none":
        if part.timestamp_token:
            found.add("timestamp", False, "the log knows no timestamp for it", subject=subject)
        return
    stamp = state.stamp
    if stamp is None:
        due = iso(state.timestamp_due_ms) if state.timestamp_due_ms else "no date"
        words = {"owed": f"none yet; owed until {due}", "missed": f"none came before {due}"}
        message = words.get(state.timestamp, "none yet")
        found.add("timestamp", "unknown", message, subject=subject)
        return
    token = files.get(part.timestamp_token, b"")
    problem = _wrong_token(signed, stamp, token, files.get(part.timestamp_response, b""))
    if problem:
        found.add("timestamp", False, problem, subject=subject)
        return
    digest = sha256(signed.state.value).digest()
    if stamp.document:
        covered = _covered(files.get("signed.pdf", b""), token)
        if covered is None:
            found.add("timestamp", False, "its token is not in the document", subject=subject)
            return
        digest = covered
    _check_token(signed, stamp, token, digest, found)
    _check_trust(signed, stamp, token, digest, tsa_roots, found)


def _wrong_token(signed: Signed, stamp: Stamp, token: bytes, response: bytes) -> str:
    if sha256(token).hexdigest() != stamp.token_sha256:
        return "its token is not the one on record"
    if sha256(response).hexdigest() != stamp.blob.sha256:
        return "the authority's response is not the one on record"
    if list(der.read(response).children())[-1].whole != token:
        return "the authority's response holds another token"
    if not stamp.document and token not in signed.facts.tokens:
        return "its token is not in the signature"
    return ""


def _covered(pdf: bytes, token: bytes) -> bytes | None:
    """The digest of what a document timestamp, the last thing in a PDF, covers: all but its own /Contents."""
    start = pdf.rfind(b"<" + token.hex().encode())
    end = pdf.find(b">", start)
    if start < 0 or end < 0:
        return None
    return sha256(pdf[:start] + pdf[end + 1 :]).digest()


def _check_token(
    signed: Signed, stamp: Stamp, token: bytes, digest: bytes, found: Findings
) -> None:
    """The token is sound and over this; its own certificates are taken as they come."""
    try:
        verified = _verified(token, digest, raw_signed_data(token).certificates)
    except (OutlastError, ValueError) as error:
        message = error.message if isinstance(error, OutlastError) else "its token cannot be read"
        found.add("timestamp", False, message, subject=signed.subject)
        return
    if verified.gen_time_ms != stamp.gen_time_ms:
        found.add("timestamp", False, "its time is not the one on record", subject=signed.subject)
        return
    pin = signed.state.pin
    if pin is not None and verified.gen_time_ms < pin.signing_time_ms - MAX_EARLY_MS:
        message = f"{iso(verified.gen_time_ms)}, before the claimed time of signing"
        found.add("timestamp", "unknown", message, subject=signed.subject)
        return
    what = "the document" if stamp.document else "this value"
    found.add(
        "timestamp",
        True,
        f"{stamp.authority} attests {what} at {iso(verified.gen_time_ms)}",
        subject=signed.subject,
    )


def _check_trust(
    signed: Signed,
    stamp: Stamp,
    token: bytes,
    digest: bytes,
    tsa_roots: Sequence[bytes],
    found: Findings,
) -> None:
    name, subject = "timestamp-trust", signed.subject
    if not tsa_roots:
        message = f"nothing pinned says who {stamp.authority} is; pin its root with --tsa-trust"
        found.add(name, "unknown", message, subject=subject, about_trust=True)
        return
    try:
        _verified(token, digest, tsa_roots)
    except OutlastError as error:
        found.add(name, False, error.message, subject=subject, about_trust=True)
        return
    message = "its authority's certificate leads to a root that you pinned"
    found.add(name, True, message, subject=subject, about_trust=True)


def _verified(token: bytes, digest: bytes, roots: Sequence[bytes]) -> VerifiedToken:
    return verify_token(token, digest, TsaRules(roots=tuple(roots)))
