"""What callers see of signing: states turned into the structs of the API (JSON names are the field names)."""

from __future__ import annotations

import msgspec

from outlast.core.clock import iso
from outlast.signing.model.document import Document
from outlast.signing.model.key import Binding, SigningKey
from outlast.signing.model.request import Request, Signature
from outlast.signing.world import Details

STATUS_TEXT = {
    "queued": "Queued for signing; it will be signed as soon as a provider can.",
    "awaiting-approval": "Waiting for a second person's approval.",
    "signing": "A provider is signing it.",
    "signed": "Signed; the file is being produced or timestamped.",
    "completed": "Signed.",
    "failed": "Not signed; the reason is given.",
    "cancelled": "Withdrawn.",
}
"""Each status in words for people, by the request's label."""


class DocumentView(msgspec.Struct, frozen=True, kw_only=True):
    """A document. ``size`` in bytes; ``signatures`` counts those it came with."""

    id: str
    sha256: str
    size: int
    media_type: str
    pages: int
    signatures: int
    title: str = ""


class TimestampView(msgspec.Struct, frozen=True, kw_only=True):
    """A signature's timestamp. ``state``: none, pending, owed, present, missed; times are RFC 3339."""

    state: str
    authority: str = ""
    time: str | None = None
    qualified: bool = False
    due: str | None = None


class SignatureView(msgspec.Struct, frozen=True, kw_only=True):
    """One signature. Numbers count without gaps per key and per document; 0: not signed yet."""

    key: str
    field: str
    provider: str
    certificate_sha256: str
    signing_time: str | None
    key_number: int
    document_number: int
    attempts: int
    failovers: tuple[str, ...]
    timestamp: TimestampView


class FileView(msgspec.Struct, frozen=True, kw_only=True):
    """A signed file."""

    sha256: str
    size: int


class RequestView(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """A signature request. ``version`` is its ETag."""

    id: str
    version: int
    status: str
    status_text: str
    reason: str
    document: str
    document_sha256: str
    class_name: str
    level: str
    format: str
    requested: str
    requested_by: str
    completed: str | None
    signatures: tuple[SignatureView, ...]
    file: FileView | None
    title: str = ""
    reference: str = ""


class BindingView(msgspec.Struct, frozen=True, kw_only=True):
    """A key at a provider."""

    provider: str
    key_ref: str
    algorithm: str
    certificate_sha256: str
    subject: str
    not_before: str
    not_after: str
    disabled: bool


class KeyView(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key: a name, and where it is enrolled."""

    name: str
    version: int
    status: str
    signatures: int
    bindings: tuple[BindingView, ...]


def document_view(document_id: str, document: Document, details: Details) -> DocumentView:
    """A document as callers see it."""
    return DocumentView(
        id=document_id,
        sha256=document.blob.sha256,
        size=document.blob.size,
        media_type=document.media_type,
        pages=document.pages,
        signatures=document.signatures,
        title=details.title,
    )


def request_view(request_id: str, version: int, request: Request, details: Details) -> RequestView:
    """A signature request as callers see it."""
    revision = request.revision
    return RequestView(
        id=request_id,
        version=version,
        status=request.label,
        status_text=STATUS_TEXT[request.label],
        reason=request.reason,
        document=request.document,
        document_sha256=request.document_sha256,
        class_name=request.class_name,
        level=request.level,
        format=request.format,
        requested=iso(request.requested_ms),
        requested_by=request.requested_by,
        completed=iso(request.completed_ms) if request.completed_ms else None,
        signatures=tuple(_signature_view(s) for s in request.signatures),
        file=FileView(sha256=revision.blob.sha256, size=revision.blob.size) if revision else None,
        title=details.title,
        reference=details.reference,
    )


def _signature_view(signature: Signature) -> SignatureView:
    pin, stamp = signature.pin, signature.stamp
    return SignatureView(
        key=signature.key,
        field=signature.field,
        provider=pin.provider if pin else "",
        certificate_sha256=pin.fingerprint if pin else "",
        signing_time=iso(pin.signing_time_ms) if pin else None,
        key_number=signature.key_number,
        document_number=signature.document_number,
        attempts=signature.attempts,
        failovers=signature.failovers,
        timestamp=TimestampView(
            state=signature.timestamp,
            authority=stamp.authority if stamp else "",
            time=iso(stamp.gen_time_ms) if stamp else None,
            qualified=stamp.qualified if stamp else False,
            due=iso(signature.timestamp_due_ms) if signature.timestamp_due_ms else None,
        ),
    )


def key_view(name: str, version: int, key: SigningKey, signatures: int) -> KeyView:
    """A signing key as callers see it."""
    return KeyView(
        name=name,
        version=version,
        status=key.label,
        signatures=signatures,
        bindings=tuple(_binding_view(b) for b in key.bindings),
    )


def _binding_view(binding: Binding) -> BindingView:
    return BindingView(
        provider=binding.provider,
        key_ref=binding.key_ref,
        algorithm=binding.algorithm,
        certificate_sha256=binding.fingerprint,
        subject=binding.subject,
        not_before=iso(binding.not_before_ms),
        not_after=iso(binding.not_after_ms),
        disabled=binding.disabled,
    )
