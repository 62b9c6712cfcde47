"""A second opinion on a bundle's signatures, by a verifier that knows nothing of the log (pyHanko), and about trust."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from outlast.signing.evidence.history import History
from outlast.signing.evidence.signature import Signed
from outlast.signing.evidence.verdicts import Findings
from outlast.signing.pdf.verdicts import SignatureVerdict


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller pinned: DER certificates of signers' and timestamp authorities' roots, vkeys of the log; and
    the time to judge at, Unix milliseconds."""

    roots: tuple[bytes, ...]
    tsa_roots: tuple[bytes, ...]
    log_keys: tuple[str, ...]
    now_ms: int


def check_outside(
    history: History,
    read: Sequence[Signed],
    files: Mapping[str, bytes],
    trust: Trust,
    found: Findings,
) -> None:
    """Whether each signature is intact, and leads to a root that the caller pinned for signers."""
    # a timestamp authority's root vouches for no signer, so those are left out here
    alone = msgspec.structs.replace(trust, tsa_roots=())
    verdicts = _opinions(history, read, files, alone, found)
    if len(verdicts) != len(read):
        message = f"pyHanko finds {len(verdicts)} signatures of this request, not {len(read)}"
        found.add("verifier", False, message)
        return
    for i, (signed, verdict) in enumerate(zip(read, verdicts, strict=True)):
        signer = verdict.signer
        is_same = signer is not None and signer.fingerprint_sha256 == signed.facts.fingerprint
        if verdict.verdict in ("invalid", "indeterminate") or not is_same:
            message = verdict.reason or "pyHanko reads another certificate"
            found.add("verifier", False, message, subject=signed.subject)
            continue
        message = "pyHanko finds it intact, and nothing forbidden changed since"
        found.add("verifier", True, message, subject=signed.subject)
        if verdict.verdict == "untrusted" and trust.roots and trust.tsa_roots:
            verdict = _when_stamped(history, read, files, trust, i) or verdict
        _judge_trust(signed, verdict, trust, found)


def _when_stamped(
    history: History,
    read: Sequence[Signed],
    files: Mapping[str, bytes],
    trust: Trust,
    place: int,
) -> SignatureVerdict | None:
    """The opinion at the time that a trusted timestamp attests, for a certificate that has expired since."""
    stamped = _opinions(history, read, files, trust, Findings())[place]
    if stamped.verdict != "valid" or stamped.judged_at_ms is None:
        return None
    then = msgspec.structs.replace(trust, tsa_roots=(), now_ms=stamped.judged_at_ms)
    return _opinions(history, read, files, then, Findings())[place]


def _opinions(
    history: History,
    read: Sequence[Signed],
    files: Mapping[str, bytes],
    trust: Trust,
    found: Findings,
) -> list[SignatureVerdict]:
    # here, not above: it takes half a second to load, and bundles are also made where nothing is verified
    from outlast.signing.pdf.verify import verify_cms, verify_pdf

    roots = (*trust.roots, *trust.tsa_roots)
    if history.request.format == "cms":
        document = files["document.bin"]
        return [verify_cms(document, s.cms_der, roots, trust.now_ms) for s in read]
    pdf = verify_pdf(files["signed.pdf"], roots, trust.now_ms)
    if not pdf.signatures:
        found.add("verifier", False, pdf.reason)
    earlier, ours = (
        pdf.signatures[: history.document.signatures],
        pdf.signatures[history.document.signatures :],
    )
    if earlier:
        broken = [s.field_name for s in earlier if not s.intact]
        message = f"{len(earlier)} signatures that the document came with are intact"
        if broken:
            message = (
                f"signatures that the document came with cannot be confirmed: {broken[0][:80]}"
            )
        found.add("earlier-signatures", "unknown" if broken else "pass", message)
    return [s for s in ours if s.kind == "signature"]


def _judge_trust(signed: Signed, verdict: SignatureVerdict, trust: Trust, found: Findings) -> None:
    subject, issuer = signed.subject, verdict.signer.issuer if verdict.signer else ""
    if not trust.roots:
        message = f"nothing pinned says who {issuer} is; pin its root with --trust"
        found.add("trust", "unknown", message, subject=subject, about_trust=True)
    elif verdict.verdict == "valid":
        message = "its certificate leads to a root that you pinned"
        found.add("trust", True, message, subject=subject, about_trust=True)
    else:
        found.add("trust", False, verdict.reason, subject=subject, about_trust=True)
