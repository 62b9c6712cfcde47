"""What a verifier says of signatures, in words that programs and people can use. No parser is imported here."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["valid", "untrusted", "invalid", "indeterminate"]
"""``valid``: intact, by a trusted certificate, nothing forbidden changed since. ``untrusted``: intact, but no path
to a trusted root. ``invalid``: the bytes or the signature do not match, or a forbidden change was made.
``indeterminate``: it could not be judged; the reason says why."""

Coverage = Literal["file", "revision", "part", "unknown"]
"""How far the signature reaches: the whole file; its whole revision, with more appended since; less."""

Changes = Literal["none", "archival", "form-filling", "annotations", "other", "unknown"]
"""What was appended after the signature: nothing; timestamps and validation data; form values and further
signatures; annotations; anything else."""

NO_ROOT = "the certificate leads to no trusted root"
"""The reason of "untrusted" where nothing else is wrong."""
_WORST_LAST: tuple[Verdict, ...] = ("valid", "untrusted", "indeterminate", "invalid")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """Names as RFC 4514 text, serial and SHA-256 fingerprint in lower-case hex."""

    subject: str
    issuer: str
    serial: str
    fingerprint_sha256: str


class TimestampVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A timestamp token over the signature or over the document. ``time_ms``: Unix milliseconds."""

    verdict: Verdict
    reason: str
    time_ms: int | None = None
    authority: Certificate | None = None


class SignatureVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """One signature. ``intact``: the bytes and the signature value match. ``claimed_time_ms`` is what the signer
    says, ``timestamp`` what an authority says. ``judged_at_ms``: when the certificate had to be valid (the
    timestamp's time if there is a trusted one, else now). Revocation is not asked: this works offline."""

    kind: Literal["signature", "document-timestamp", "detached"]
    verdict: Verdict
    reason: str
    field_name: str = ""
    intact: bool = False
    trusted: bool = False
    coverage: Coverage = "unknown"
    changes: Changes = "unknown"
    algorithm: str = ""
    signer: Certificate | None = None
    claimed_time_ms: int | None = None
    timestamp: TimestampVerdict | None = None
    judged_at_ms: int | None = None


class PdfVerdict(msgspec.Struct, frozen=True, kw_only=True):
    """A whole document: its SHA-256 in hex, and each signature in signing order. ``verdict`` is the worst of
    them, ``indeterminate`` if there is none; ``reason`` is empty when valid."""

    verdict: Verdict
    reason: str
    sha256: str
    size_bytes: int
    signatures: tuple[SignatureVerdict, ...] = ()


def worst(verdicts: tuple[SignatureVerdict, ...]) -> SignatureVerdict:
    """The one that counts for the whole. There is at least one."""
    return max(verdicts, key=lambda one: _WORST_LAST.index(one.verdict))
