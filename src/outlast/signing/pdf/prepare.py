"""Writing the revision that a signature needs, without the signature.

Guarantees: the original's bytes stay as they are, so earlier signatures stay valid; metadata is not touched; the
same input gives the same revision. Refuses (``field-already-signed``, ``field-not-a-signature``,
``field-name-invalid``, ``certification-not-first``, ``pdf-malformed``) what cannot be prepared. Leaves to
others: whether the document ought to be signed (`outlast.signing.pdf.inspect`).

The signature dictionary is written by hand because its offsets are the point; everything else of the revision
(cross-reference table or stream, trailer, changed objects) is pyHanko's incremental writer.
"""

# pyHanko's writer is only partly annotated, so calls into it are not checked:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
from hashlib import sha256
from io import BytesIO
from typing import IO, Any

from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.generic import pdf_name
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader

from outlast.core.errors import Refused
from outlast.signing.pdf import document
from outlast.signing.pdf.document import Field, refusing_malformed
from outlast.signing.pdf.facts import Limits, PreparedKind, PrepareOptions
from outlast.signing.pdf.refusals import malformed
from outlast.signing.pdf.revision import Prepared
from outlast.signing.pdf.slots import SLOT_WIDTHS, Slot

MIN_RESERVE_BYTES = 1024
MAX_RESERVE_BYTES = 256 * 1024
"""Room for one CMS: a B-B signature takes about 2 KiB, each timestamp 2 to 8 KiB more."""

_NEW_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BYTE_RANGE_WIDTH = 48
_LOCKED_PRINT = 0b10000100  # annotation flags: Locked, and Print because PDF/A wants it
_APPEND_ONLY = 3  # SigFlags: SignaturesExist, AppendOnly

_HEAD: dict[PreparedKind, bytes] = {
    "signature": b"/Type /Sig /Filter /Adobe.PPKLite /SubFilter /ETSI.CAdES.detached",
    "certification": b"/Type /Sig /Filter /Adobe.PPKLite /SubFilter /ETSI.CAdES.detached"
    b" /Reference [<< /Type /SigRef /TransformMethod /DocMDP"
    b" /TransformParams << /Type /TransformParams /V /1.2 /P 2 >> >>]",
    "document-timestamp": b"/Type /DocTimeStamp /Filter /Adobe.PPKLite /SubFilter /ETSI.RFC3161",
}


def prepare_revision(
    data: bytes, options: PrepareOptions | None = None, limits: Limits | None = None
) -> Prepared:
    """The revision to append to a whole PDF; see `Prepared`. Raises Refused as the module says."""
    limits = limits or Limits()
    with refusing_malformed():
        stream = BytesIO(data)
        return prepare_opened(document.open_document(stream, limits), stream, options, limits)


def prepare_opened(
    reader: PdfFileReader, stream: BytesIO, options: PrepareOptions | None, limits: Limits
) -> Prepared:
    """As `prepare_revision`, on a reader already open over ``stream``, which is written to."""
    options = options or PrepareOptions()
    _check_reserve(options.reserve_bytes)
    original = stream.getvalue()
    digest = sha256(original).digest()
    fields = list(document.form_fields(reader, limits))
    if options.kind == "certification" and any(f.kind == "/Sig" and f.value for f in fields):
        raise Refused(
            "certification-not-first",
            "a certification must be the document's first signature",
            hint="Ask for an ordinary signature instead.",
        )
    writer = _RevisionWriter(reader, digest)
    placeholder = _SignatureDictionary(options.kind, options.reserve_bytes)
    name = _change_document(writer, fields, options, placeholder, limits)
    _check_numbers(writer)
    stream.seek(0, 2)
    if not original.endswith((b"\n", b"\r")):
        stream.write(b"\n")
    writer.write_in_place()
    revision = bytes(stream.getbuffer()[len(original) :])  # getvalue would copy the original too
    return _locate(options, name, original, digest, revision, placeholder)


def _change_document(
    writer: _RevisionWriter,
    fields: list[Field],
    options: PrepareOptions,
    placeholder: _SignatureDictionary,
    limits: Limits,
) -> str:
    """Put the signature into a field of the form, and return the field's name."""
    signature = writer.add_object(placeholder)
    existing = _named(fields, options.field_name)
    if existing:
        _set_value(writer, existing, signature)
        name = existing.name
    else:
        name = options.field_name or _unused_name(fields)
        _add_field(writer, next(document.pages(writer.prev, limits)), name, signature)
    _set_form_flags(writer)
    if options.kind == "certification":
        _add_permission(writer, signature)
    return name


def _check_numbers(writer: _RevisionWriter) -> None:
    """A changed object must not take the place of a cross-reference stream of the original."""
    taken = {reference.idnum for reference in writer.prev.xrefs.xref_stream_refs}
    if taken & {number for _, number in writer.objects}:
        raise malformed("a cross-reference stream has the number of another object")


class _RevisionWriter(IncrementalPdfFileWriter):
    """pyHanko's writer, made to change nothing it was not told to, and to give the same bytes every time."""

    def __init__(self, reader: PdfFileReader, digest: bytes) -> None:
        super().__init__(reader.stream, prev=reader)
        self._document_id[1] = generic.ByteStringObject(sha256(b"revision" + digest).digest()[:16])

    @classmethod
    def _handle_id(cls, prev: PdfFileReader) -> generic.ArrayObject:
        try:
            first = prev.trailer["/ID"][0]
        except KeyError:
            first = generic.ByteStringObject(bytes(16))
        if isinstance(first, generic.TextStringObject):
            first = generic.ByteStringObject(first.original_bytes)
        return generic.ArrayObject([first, generic.ByteStringObject(bytes(16))])

    def _update_meta(self) -> None:
        """Signing is not an edit: leave XMP and the info dictionary alone."""


class _SignatureDictionary(generic.DictionaryObject):
    """Writes the signature dictionary and remembers where its parts came to lie in the output."""

    def __init__(self, kind: PreparedKind, reserve_bytes: int) -> None:
        super().__init__()
        self.kind = kind
        self.reserve_bytes = reserve_bytes
        self.byte_range_at = 0
        self.contents_at = 0
        self.slots: list[Slot] = []

    def write_to_stream(
        self, stream: IO[bytes], handler: Any = None, container_ref: Any = None
    ) -> None:
        stream.write(b"<< " + _HEAD[self.kind] + b"\n/ByteRange ")
        self.byte_range_at = stream.tell()
        stream.write(b" " * _BYTE_RANGE_WIDTH + b"\n/Contents ")
        self.contents_at = stream.tell()
        stream.write(b"<" + b"00" * self.reserve_bytes + b">\n")
        if self.kind != "document-timestamp":  # EN 319 142-1, 5.4.3: no /M, /Name, ... there
            for name, width in SLOT_WIDTHS.items():
                self.slots.append(Slot(name, stream.tell(), width))
                stream.write(b" " * width + b"\n")
        stream.write(b">>")


def _locate(
    options: PrepareOptions,
    name: str,
    original: bytes,
    digest: bytes,
    revision: bytes,
    placeholder: _SignatureDictionary,
) -> Prepared:
    """Turn offsets in the file into offsets in the revision, and write the ByteRange."""
    base = len(original)
    after = placeholder.contents_at + 2 * options.reserve_bytes + 2
    byte_range = b"[0 %d %d %d]" % (placeholder.contents_at, after, base + len(revision) - after)
    start = placeholder.byte_range_at - base
    revision = b"".join(
        (
            revision[:start],
            byte_range.ljust(_BYTE_RANGE_WIDTH),
            revision[start + _BYTE_RANGE_WIDTH :],
        )
    )
    return Prepared(
        kind=options.kind,
        field_name=name,
        revision=revision,
        original_length=base,
        original_sha256=digest,
        contents_offset=placeholder.contents_at - base,
        reserved_bytes=options.reserve_bytes,
        slots=tuple(Slot(s.name, s.offset - base, s.width) for s in placeholder.slots),
    )


def _check_reserve(reserve_bytes: int) -> None:
    if not MIN_RESERVE_BYTES <= reserve_bytes <= MAX_RESERVE_BYTES:
        raise Refused(
            "reservation-out-of-range",
            f"{reserve_bytes} bytes asked for the signature",
            hint=f"Reserve {MIN_RESERVE_BYTES} to {MAX_RESERVE_BYTES} bytes.",
        )


def _named(fields: list[Field], name: str) -> Field | None:
    """The existing empty signature field of that name; None if a new one is to be made."""
    found = next((f for f in fields if name and f.name == name), None)
    if found is None:
        if name and not _NEW_NAME.fullmatch(name):
            raise Refused(
                "field-name-invalid",
                "there is no such signature field, and the name does not do for a new one",
                hint="Use up to 64 letters, digits, '_' and '-', or an existing field's full name.",
            )
        return None
    if found.kind != "/Sig":
        raise Refused(
            "field-not-a-signature",
            "the named form field is not a signature field",
            hint="Name a signature field, or leave the name out.",
        )
    if found.value is not None:
        raise Refused(
            "field-already-signed",
            "the named field is signed already",
            hint="Name another field, or leave the name out.",
        )
    return found


def _unused_name(fields: list[Field]) -> str:
    taken = {field.name.split(".")[0] for field in fields}
    return next(n for n in (f"Signature{i}" for i in range(1, len(taken) + 2)) if n not in taken)


def _set_value(writer: _RevisionWriter, field: Field, signature: generic.IndirectObject) -> None:
    node = field.reference.get_object()
    assert isinstance(node, generic.DictionaryObject)  # the form walk found it so
    node[pdf_name("/V")] = signature
    writer.mark_update(field.reference)


def _add_field(
    writer: _RevisionWriter,
    page: generic.Reference,
    name: str,
    signature: generic.IndirectObject,
) -> None:
    """A new invisible signature field, its widget on the given page."""
    zero = generic.NumberObject(0)
    field = generic.DictionaryObject(
        {
            pdf_name("/FT"): pdf_name("/Sig"),
            pdf_name("/T"): generic.TextStringObject(name),
            pdf_name("/V"): signature,
            pdf_name("/Type"): pdf_name("/Annot"),
            pdf_name("/Subtype"): pdf_name("/Widget"),
            pdf_name("/F"): generic.NumberObject(_LOCKED_PRINT),
            pdf_name("/Rect"): generic.ArrayObject([zero] * 4),
            pdf_name("/P"): generic.IndirectObject(page.idnum, page.generation, writer.prev),
        }
    )
    reference = writer.add_object(field)
    writer.register_annotation(page, reference)
    root = writer.root
    if "/AcroForm" not in root:
        form = generic.DictionaryObject({pdf_name("/Fields"): generic.ArrayObject([reference])})
        root[pdf_name("/AcroForm")] = writer.add_object(form)
        writer.update_root()
        return
    form = root["/AcroForm"]
    if "/Fields" not in form:
        form[pdf_name("/Fields")] = generic.ArrayObject()
        writer.update_container(form)
    form["/Fields"].append(reference)
    writer.update_container(form["/Fields"])


def _set_form_flags(writer: _RevisionWriter) -> None:
    form = writer.root["/AcroForm"]
    if document.entry(form, "/SigFlags") != _APPEND_ONLY:
        form[pdf_name("/SigFlags")] = generic.NumberObject(_APPEND_ONLY)
        writer.update_container(form)


def _add_permission(writer: _RevisionWriter, signature: generic.IndirectObject) -> None:
    root = writer.root
    if "/Perms" in root:
        permissions = root["/Perms"]
        permissions[pdf_name("/DocMDP")] = signature
        writer.update_container(permissions)
    else:
        root[pdf_name("/Perms")] = generic.DictionaryObject({pdf_name("/DocMDP"): signature})
        writer.update_root()
