"""What an uploaded PDF is, and whether it may be signed at all.

Guarantees: bytes in, facts or Refused out, whatever the bytes; time and memory grow with the file and the limits
only. Each refusal has a stable code and says what to do next:

    not-a-pdf pdf-truncated pdf-malformed pdf-encrypted     it cannot be read
    pdf-too-large pdf-too-many-pages pdf-bomb               it is beyond a limit
    pdf-page-tree-cycle                                     reading it would not end
    pdf-active-content                                      it could show something else than was signed
    pdf-certified-no-changes                                its certifier forbids further signatures

A signed document is welcome unless certified with DocMDP P=1. Call it in a worker process
(`outlast.signing.sandbox`): no promise of this module outweighs a defect in a parser.
"""

from __future__ import annotations

import re
from io import BytesIO

from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.reader import PdfFileReader

from outlast.core.errors import Refused
from outlast.signing.pdf import document
from outlast.signing.pdf.document import Field, ObjectTexts, entry, refusing_malformed
from outlast.signing.pdf.facts import Limits, PdfFacts, SignatureFact
from outlast.signing.pdf.refusals import encrypted, malformed, too_many_pages
from outlast.signing.pdf.scan import ScanResult, scan

_BYTE_RANGE = re.compile(rb"/ByteRange\s*\[\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s*\]")
_SUB_FILTER = re.compile(rb"/SubFilter\s*/([A-Za-z0-9.]{1,64})")
_DEFAULT_PERMISSION = 2  # ISO 32000-2, table 257
_NO_CHANGES = 1


def inspect_pdf(data: bytes, limits: Limits | None = None) -> PdfFacts:
    """Facts of a document that may be signed; raises Refused as the module says."""
    limits = limits or Limits()
    scanned = scan(data, limits)
    with refusing_malformed():
        reader = document.open_document(BytesIO(data), limits)
        return inspect_opened(reader, data, scanned, limits)


def inspect_opened(
    reader: PdfFileReader, data: bytes, scanned: ScanResult, limits: Limits
) -> PdfFacts:
    """As `inspect_pdf`, on a reader already open and bytes already scanned."""
    if "/Encrypt" in reader.trailer:
        raise encrypted()
    permission = _certification(reader)
    if permission == _NO_CHANGES:
        raise Refused(
            "pdf-certified-no-changes",
            "the document is certified, and its certifier allows no changes, so no signature either",
            hint="Ask the certifier for a version that allows signing, or sign a detached signature over it.",
        )
    texts = ObjectTexts(reader)
    fields = [f for f in document.form_fields(reader, limits) if f.kind == "/Sig"]
    filled = [field for field in fields if field.value is not None]
    if len(filled) > limits.max_signatures:
        raise malformed(f"it has more than {limits.max_signatures} signatures")
    major, minor = reader.input_version
    return PdfFacts(
        version=f"{major}.{minor}",
        size_bytes=len(data),
        pages=_count_pages(reader, limits),
        objects=scanned.objects,
        revisions=reader.total_revisions,
        has_form=document.form_of(reader) is not None,
        signatures=tuple(_signature(field, texts, len(data)) for field in filled),
        docmdp_permission=permission,
        empty_signature_fields=tuple(field.name for field in fields if field.value is None),
    )


def _count_pages(reader: PdfFileReader, limits: Limits) -> int:
    claimed = int(entry(document.dictionary(reader.root["/Pages"], "/Pages"), "/Count") or 0)
    if claimed > limits.max_pages:
        raise too_many_pages(limits.max_pages)
    count = sum(1 for _ in document.pages(reader, limits))
    if count == 0:
        raise malformed("it has no pages")
    if claimed != count:
        raise malformed(f"it claims {claimed} pages and has {count}")
    return count


def _certification(reader: PdfFileReader) -> int | None:
    """The DocMDP permission of a certified document (ISO 32000-2, 12.8.2.2), else None."""
    permissions = entry(reader.root, "/Perms")
    if permissions is None or "/DocMDP" not in permissions:
        return None
    signature = document.dictionary(permissions["/DocMDP"], "the certification")
    for reference in entry(signature, "/Reference") or ():
        if (
            entry(document.dictionary(reference, "a signature reference"), "/TransformMethod")
            == "/DocMDP"
        ):
            parameters = entry(reference, "/TransformParams")
            level = entry(parameters, "/P") if parameters is not None else None
            return _DEFAULT_PERMISSION if level is None else int(level)
    return _DEFAULT_PERMISSION


def _signature(field: Field, texts: ObjectTexts, size: int) -> SignatureFact:
    value = field.value
    text = texts.text(value.reference) if isinstance(value, generic.IndirectObject) else None
    byte_range = _BYTE_RANGE.search(text or b"")
    sub_filter = _SUB_FILTER.search(text or b"")
    ends = int(byte_range[3]) + int(byte_range[4]) if byte_range else -1
    return SignatureFact(
        field_name=field.name,
        sub_filter=sub_filter[1].decode() if sub_filter else "",
        covers_file=ends == size,
    )
