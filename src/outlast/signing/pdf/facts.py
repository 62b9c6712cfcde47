"""What intake wants to know of a PDF, and the limits it is held to. No parser is imported here."""

from __future__ import annotations

from typing import Literal

import msgspec

MIB = 1024 * 1024

PreparedKind = Literal["signature", "certification", "document-timestamp"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one document. Sizes are bytes.

    ``max_decoded_bytes`` counts what all compressed streams expand to, nested filters included.
    ``max_form_fields`` and ``max_signatures`` bound the walk through the form.
    """

    max_bytes: int = 50 * MIB
    max_pages: int = 5_000
    max_objects: int = 200_000
    max_decoded_bytes: int = 256 * MIB
    max_form_fields: int = 10_000
    max_signatures: int = 100


class SignatureFact(msgspec.Struct, frozen=True, kw_only=True):
    """One signature already there. ``covers_file``: nothing was appended after it. ``sub_filter`` as written,
    without the slash; empty if absent."""

    field_name: str
    sub_filter: str
    covers_file: bool


class PdfFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in a document that may be signed.

    ``version`` is the PDF version in force, such as ``1.7``. ``docmdp_permission`` is the level (2 or 3) of a
    certification already there, else None. ``empty_signature_fields`` are full names, in the form's order.
    """

    version: str
    size_bytes: int
    pages: int
    objects: int
    revisions: int
    has_form: bool
    signatures: tuple[SignatureFact, ...]
    docmdp_permission: int | None
    empty_signature_fields: tuple[str, ...]


class PrepareOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to append. ``field_name``: an empty signature field to use, or the name of a new one (letters,
    digits, ``_`` and ``-``, at most 64); empty: a new unique name. ``reserve_bytes``: room for the CMS,
    timestamp included. ``certification`` (DocMDP P=2: forms and further signatures stay possible) must be the
    first signature."""

    kind: PreparedKind = "signature"
    field_name: str = ""
    reserve_bytes: int = 14 * 1024
