"""One signature of a bundle held against the history: the very value on record, over this file, by this key."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from hashlib import sha256

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from outlast.core.clock import iso
from outlast.core.errors import OutlastError
from outlast.signing.cms import check_validity
from outlast.signing.cms.certificate import CertificateFacts
from outlast.signing.evidence.cmsfacts import CmsFacts, read_cms
from outlast.signing.evidence.history import History
from outlast.signing.evidence.manifest import SignaturePart
from outlast.signing.evidence.verdicts import Findings
from outlast.signing.model import request as requests
from outlast.signing.model.key import Binding
from outlast.signing.pdf.revision import ContentsPlace, contents

DIGESTS = frozenset({"sha256", "sha384", "sha512"})


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A signature as found: its place, the state on record, its CMS and what that says."""

    place: int
    state: requests.Signature
    cms_der: bytes
    facts: CmsFacts

    @property
    def subject(self) -> str:
        """As the checks name it."""
        return f"signature {self.place + 1}"


def check_signature(
    part: SignaturePart, history: History, files: Mapping[str, bytes], found: Findings
) -> Signed | None:
    """Compare a signature with the record. None where it cannot even be read."""
    subject = f"signature {part.place + 1}"
    if not 0 <= part.place < len(history.request.signatures):
        found.add("signature", False, "the request has no such signature", subject=subject)
        return None
    state = history.request.signatures[part.place]
    if state.pin is None or state.revision is None:
        found.add("signature", False, "the log knows no such signed file", subject=subject)
        return None
    try:
        cms_der = _cms(history, state.revision, part, files)
        facts = read_cms(cms_der)
    except OutlastError as error:
        found.add("signature", False, error.message, subject=subject)
        return None
    signed = Signed(place=part.place, state=state, cms_der=cms_der, facts=facts)
    _check_value(signed, state.pin, found)
    _check_content(signed, history, state.revision, files, found)
    _check_key(signed, state.pin, history, files.get(part.certificates, b""), found)
    if part.cms and files.get(part.cms) != cms_der:
        found.add("cms", False, f"{part.cms} is not what the signed file holds", subject=subject)
    return signed


def _cms(
    history: History,
    revision: requests.Revision,
    part: SignaturePart,
    files: Mapping[str, bytes],
) -> bytes:
    if history.request.format == "cms":
        return files.get(f"signed-{part.place + 1}.p7s", b"")
    at = ContentsPlace(revision.contents_offset, revision.reserved_bytes)
    return contents(files.get("signed.pdf", b""), at)


def _check_value(signed: Signed, pin: requests.Pin, found: Findings) -> None:
    facts, subject = signed.facts, signed.subject
    if not hmac.compare_digest(facts.value, signed.state.value):
        found.add("value", False, "its value is not the one on record", subject=subject)
    elif facts.tbs_sha256 != pin.tbs_sha256:
        found.add(
            "value", False, "what was signed is not what its attempt was pinned to", subject=subject
        )
    else:
        message = (
            f"the value that {pin.provider} gave for attempt {pin.attempt}, over the bytes that attempt was"
            " pinned to"
        )
        found.add("value", True, message, subject=subject)


def _check_content(
    signed: Signed,
    history: History,
    revision: requests.Revision,
    files: Mapping[str, bytes],
    found: Findings,
) -> None:
    facts = signed.facts
    if facts.digest_name not in DIGESTS:
        found.add("content", False, "its digest algorithm is not accepted", subject=signed.subject)
        return
    digest = hashlib.new(facts.digest_name)
    if history.request.format == "cms":
        digest.update(files.get("document.bin", b""))
        covered = "document.bin"
    else:
        pdf = memoryview(files.get("signed.pdf", b""))
        start, reserved = revision.contents_offset, revision.reserved_bytes
        digest.update(pdf[:start])
        digest.update(pdf[start + 2 * reserved + 2 : revision.length])
        covered = f"all of the first {revision.length} bytes of signed.pdf but its own value"
    is_same = hmac.compare_digest(digest.digest(), facts.digest)
    message = f"it is over {covered}" if is_same else f"it is not over {covered}"
    found.add("content", is_same, message, subject=signed.subject)


def _check_key(
    signed: Signed, pin: requests.Pin, history: History, pem: bytes, found: Findings
) -> None:
    subject, name = signed.subject, signed.state.key
    if signed.facts.fingerprint != pin.fingerprint:
        found.add(
            "certificate", False, "its certificate is not the one it was pinned to", subject=subject
        )
        return
    began = [
        s.index
        for s in history.steps
        if isinstance(s.event, requests.AttemptStarted)
        and (s.event.place, s.event.pin) == (signed.place, pin)
    ]
    key = history.key_at(name, min(began, default=0))
    binding = key.by_fingerprint(pin.fingerprint) if key else None
    if binding is None or binding.provider != pin.provider:
        message = f"its certificate had not been enrolled for the key {name!r} at {pin.provider}"
        found.add("certificate", False, message, subject=subject)
        return
    problem = _wrong_certificate(signed, binding, pin, pem)
    if problem:
        found.add("certificate", False, problem, subject=subject)
    elif key is not None and binding in key.bindings and not binding.disabled:
        message = f"{binding.subject}, enrolled for the key {name!r} at {pin.provider} beforehand"
        found.add("certificate", True, message, subject=subject)
    else:
        message = (
            f"the key {name!r} at {pin.provider} was being replaced or disabled when it signed"
        )
        found.add("certificate", "unknown", message, subject=subject)


def _wrong_certificate(signed: Signed, binding: Binding, pin: requests.Pin, pem: bytes) -> str:
    if binding.chain[0] != signed.facts.certificate:
        return "its certificate is not the enrolled one"
    try:
        chain = tuple(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(pem))
    except ValueError:
        return "its certificates/*.pem cannot be read"
    if chain != binding.chain:
        return "its certificates/*.pem are not the enrolled chain"
    facts = CertificateFacts(
        subject=binding.subject,
        issuer="",
        serial="",
        not_before_ms=binding.not_before_ms,
        not_after_ms=binding.not_after_ms,
        fingerprint_sha256=binding.fingerprint,
    )
    try:
        check_validity(facts, pin.signing_time_ms)
    except OutlastError as error:
        return f"{error.message} (at {iso(pin.signing_time_ms)})"
    leaf = x509.load_der_x509_certificate(binding.chain[0])
    told = (int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp()))
    if told != (binding.not_before_ms // 1000, binding.not_after_ms // 1000):
        return "its certificate's validity is not what enrolment recorded"
    if sha256(binding.chain[0]).hexdigest() != binding.fingerprint:
        return "its certificate's fingerprint is not what enrolment recorded"
    return ""
