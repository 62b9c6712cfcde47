"""Inspection and preparation of one upload, sharing one parse. Pure; imports pyHanko."""

from __future__ import annotations

from io import BytesIO

from outlast.signing.pdf.document import open_document, refusing_malformed
from outlast.signing.pdf.facts import Limits, PdfFacts, PrepareOptions
from outlast.signing.pdf.inspect import inspect_opened
from outlast.signing.pdf.prepare import prepare_opened
from outlast.signing.pdf.revision import Prepared
from outlast.signing.pdf.scan import scan


def examine(
    data: bytes, limits: Limits, options: PrepareOptions | None
) -> tuple[PdfFacts, Prepared]:
    """Facts and the prepared revision; raises Refused as `inspect` and `prepare` say."""
    scanned = scan(data, limits)
    with refusing_malformed():
        stream = BytesIO(data)
        reader = open_document(stream, limits)
        facts = inspect_opened(reader, data, scanned, limits)
        return facts, prepare_opened(reader, stream, options, limits)
