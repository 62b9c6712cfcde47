"""Judging signed PDFs and detached signatures, offline, with pyHanko.

Guarantees: a verdict for any bytes; nothing is fetched; what the library cannot handle is ``indeterminate`` with
the reason, never an exception and never "valid". ``valid`` means all of: digest and signature match, the
certificate leads to one of the given roots, the signature covers its whole revision, and what was appended
later is permitted. Refuses nothing. Leaves to others: revocation, the policy under which a timestamp is needed.

It runs an event loop of its own and takes 10 to 100 ms: from async code, call it in a thread. It trusts the
library's own limits; a service should not run it on strangers' files outside a worker process.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import IO, Any, Literal

from asn1crypto import cms as asn1_cms
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.diff_analysis import ModificationLevel
from pyhanko.sign.validation import (
    EmbeddedPdfSignature,
    SignatureCoverageLevel,
    async_validate_detached_cms,
    async_validate_pdf_signature,
    async_validate_pdf_timestamp,
)
from pyhanko.sign.validation.settings import KeyUsageConstraints
from pyhanko.sign.validation.status import SignatureStatus
from pyhanko_certvalidator import ValidationContext

from outlast.core.clock import to_datetime
from outlast.signing.pdf.verdicts import (
    NO_ROOT,
    Certificate,
    Changes,
    Coverage,
    PdfVerdict,
    SignatureVerdict,
    TimestampVerdict,
    Verdict,
    worst,
)

# pyHanko logs every path it cannot build, with a traceback; the verdict says it in a sentence
for _name in ("pyhanko", "pyhanko_certvalidator"):
    logging.getLogger(_name).addHandler(logging.NullHandler())

MAX_REASON_CHARS = 300

_UNTRUSTED = {
    "CHAIN_CONSTRAINTS_FAILURE": "the certificate, or one above it, is not issued for this use"
    " (a signer's keyUsage must name digitalSignature or nonRepudiation)",
    "OUT_OF_BOUNDS_NO_POE": "the certificate, or one above it, is not valid at that time",
}
"""Sub-indications of ETSI EN 319 102-1, 5.1.3, in words."""
_KEY_USAGE = KeyUsageConstraints(key_usage={"digital_signature", "non_repudiation"})
_COVERAGE: dict[Any, Coverage] = {
    SignatureCoverageLevel.ENTIRE_FILE: "file",
    SignatureCoverageLevel.ENTIRE_REVISION: "revision",
    SignatureCoverageLevel.CONTIGUOUS_BLOCK_FROM_START: "part",
}
_CHANGES: dict[Any, Changes] = {
    ModificationLevel.NONE: "none",
    ModificationLevel.LTA_UPDATES: "archival",
    ModificationLevel.FORM_FILLING: "form-filling",
    ModificationLevel.ANNOTATIONS: "annotations",
    ModificationLevel.OTHER: "other",
}


def verify_pdf(data: bytes, trust_roots_der: Sequence[bytes], now_ms: int) -> PdfVerdict:
    """The verdict on every signature in a document.

    ``trust_roots_der``: the certificates (DER) to trust, of signers' and of timestamp authorities' CAs.
    ``now_ms``: Unix milliseconds; a certificate must be valid then, or at a trusted timestamp.
    """
    signatures: tuple[SignatureVerdict, ...] = ()
    try:
        reader = _open(data)
        embedded = list(reader.embedded_signatures)
        reason = "the document has no signature"
        if embedded:
            signatures = asyncio.run(_judge_all(embedded, tuple(trust_roots_der), now_ms))
    except Exception as error:  # whatever the file did to the parser is not the caller's problem
        reason = _reason(error)
    verdict: Verdict = "indeterminate"
    if signatures:
        verdict, reason = worst(signatures).verdict, worst(signatures).reason
    return PdfVerdict(
        verdict=verdict,
        reason=reason,
        sha256=sha256(data).hexdigest(),
        size_bytes=len(data),
        signatures=signatures,
    )


def verify_cms(
    data: bytes | IO[bytes], cms_der: bytes, trust_roots_der: Sequence[bytes], now_ms: int
) -> SignatureVerdict:
    """The verdict on a detached CMS over a file; arguments as `verify_pdf`'s."""

    async def judge(at_ms: int) -> SignatureStatus:
        info = asn1_cms.ContentInfo.load(cms_der, strict=True)
        if not isinstance(data, bytes):
            data.seek(0)
        return await async_validate_detached_cms(
            data,
            info["content"],
            signer_validation_context=_context(trust_roots_der, at_ms),
            ts_validation_context=_context(trust_roots_der, now_ms),
            key_usage_settings=_KEY_USAGE,
        )

    async def judge_with_timestamp() -> SignatureVerdict:
        status, at_ms = await _at_timestamp(judge, now_ms)
        return _verdict(status, "detached", at_ms, coverage="file", changes="none")

    try:
        return asyncio.run(judge_with_timestamp())
    except Exception as error:  # as above
        return SignatureVerdict(kind="detached", verdict="indeterminate", reason=_reason(error))


def _open(data: bytes) -> PdfFileReader:
    reader = PdfFileReader(BytesIO(data), strict=True)
    # two cross-reference tables in one (what Word writes): pyHanko judges those in lenient mode only
    return (
        PdfFileReader(BytesIO(data), strict=False) if reader.xrefs.hybrid_xrefs_present else reader
    )


async def _judge_all(
    embedded: Sequence[EmbeddedPdfSignature], roots: Sequence[bytes], now_ms: int
) -> tuple[SignatureVerdict, ...]:
    return tuple([await _judge_one(one, roots, now_ms) for one in embedded])


async def _judge_one(
    embedded: EmbeddedPdfSignature, roots: Sequence[bytes], now_ms: int
) -> SignatureVerdict:
    stamp = embedded.sig_object_type == "/DocTimeStamp"
    kind: Any = "document-timestamp" if stamp else "signature"

    async def judge(at_ms: int) -> SignatureStatus:
        if stamp:
            return await async_validate_pdf_timestamp(embedded, _context(roots, at_ms))
        return await async_validate_pdf_signature(
            embedded,
            _context(roots, at_ms),
            ts_validation_context=_context(roots, now_ms),
            key_usage_settings=_KEY_USAGE,
        )

    name = str(embedded.field_name)
    try:
        status, at_ms = await _at_timestamp(judge, now_ms)
        coverage = _COVERAGE.get(embedded.coverage, "unknown")
        changes = _CHANGES.get(getattr(status, "modification_level", None), "unknown")
        return _verdict(status, kind, at_ms, coverage=coverage, changes=changes, field_name=name)
    except Exception as error:  # one signature that cannot be judged does not hide the others
        return SignatureVerdict(
            kind=kind, verdict="indeterminate", reason=_reason(error), field_name=name
        )


async def _at_timestamp(
    judge: Callable[[int], Awaitable[SignatureStatus]], now_ms: int
) -> tuple[SignatureStatus, int]:
    """The status now; or, where only the certificate's time is over, at the time a trusted authority attests."""
    status = await judge(now_ms)
    stamp = getattr(status, "timestamp_validity", None)
    if status.trusted or stamp is None or not stamp.trusted:
        return status, now_ms
    then_ms = _ms(stamp.timestamp)
    earlier = await judge(then_ms)
    return (earlier, then_ms) if earlier.trusted else (status, now_ms)


def _verdict(
    status: Any,
    kind: Literal["signature", "document-timestamp", "detached"],
    at_ms: int,
    *,
    coverage: Coverage,
    changes: Changes,
    field_name: str = "",
) -> SignatureVerdict:
    intact = bool(status.intact and status.valid)
    permitted = getattr(status, "docmdp_ok", None)
    if permitted is None:  # a document timestamp has no policy of its own
        permitted = changes not in ("other", "unknown")
    verdict, reason = _conclusion(intact, status, bool(permitted), coverage)
    claimed = getattr(status, "signer_reported_dt", None)
    stamp = status if kind == "document-timestamp" else getattr(status, "timestamp_validity", None)
    timestamp = None if stamp is None else _timestamp(stamp)
    if verdict == "valid" and timestamp is not None and timestamp.verdict == "invalid":
        verdict, reason = "indeterminate", "the signature is intact, but its timestamp is not"
    return SignatureVerdict(
        kind=kind,
        verdict=verdict,
        reason=reason,
        field_name=field_name,
        intact=intact,
        trusted=bool(status.trusted),
        coverage=coverage,
        changes=changes,
        algorithm=f"{status.pkcs7_signature_mechanism}/{status.md_algorithm}",
        signer=_certificate(status.signing_cert),
        claimed_time_ms=None if claimed is None else _ms(claimed),
        timestamp=timestamp,
        judged_at_ms=at_ms,
    )


def _conclusion(
    intact: bool, status: Any, permitted: bool, coverage: Coverage
) -> tuple[Verdict, str]:
    if not intact:
        return "invalid", "the signed bytes or the signature were changed"
    if coverage not in ("file", "revision"):
        return "invalid", "the signature does not cover all of the document it stands in"
    if not permitted:
        return "invalid", "the document was changed after signing in a way the signature forbids"
    if not status.trusted:
        problem = getattr(status.trust_problem_indic, "name", "")
        return "untrusted", _UNTRUSTED.get(problem, NO_ROOT)
    return "valid", ""


def _timestamp(status: Any) -> TimestampVerdict:
    intact = bool(status.intact and status.valid)
    verdict, reason = _conclusion(intact, status, True, "file")
    return TimestampVerdict(
        verdict=verdict,
        reason=reason,
        time_ms=_ms(status.timestamp),
        authority=_certificate(status.signing_cert),
    )


def _certificate(certificate: asn1_x509.Certificate) -> Certificate:
    encoded = certificate.dump()
    parsed = x509.load_der_x509_certificate(encoded)
    return Certificate(
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        serial=f"{parsed.serial_number:x}",
        fingerprint_sha256=sha256(encoded).hexdigest(),
    )


def _context(roots: Sequence[bytes], at_ms: int) -> ValidationContext:
    return ValidationContext(
        trust_roots=[asn1_x509.Certificate.load(root) for root in roots],
        moment=to_datetime(at_ms),
        allow_fetching=False,
        revocation_mode="soft-fail",
    )


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)


def _reason(error: Exception) -> str:
    return f"it cannot be judged: {type(error).__name__}: {error}"[:MAX_REASON_CHARS]
