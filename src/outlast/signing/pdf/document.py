"""Walking an untrusted PDF with pyHanko's reader: page tree and form, each in bounded time.

Guarantees: every walk is iterative, visits a node once and stops at a limit; whatever pyHanko raises on bad
input leaves here as Refused. Only `pyhanko.pdf_utils` is used: `pyhanko.sign` takes twice as long to import.
This module imports pyHanko, so it is loaded in worker processes (`outlast.signing.sandbox`), not in the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import msgspec
from pyhanko.pdf_utils import generic, misc
from pyhanko.pdf_utils.decode_limits import DecodeLimits, DocumentDecodeBudget
from pyhanko.pdf_utils.reader import PdfFileReader

from outlast.core.errors import OutlastError, Refused
from outlast.signing.pdf.facts import Limits

MAX_TREE_DEPTH = 200
"""Deepest page tree or form hierarchy followed."""


class Field(msgspec.Struct, frozen=True):
    """A terminal form field: full name, inherited type and value, and its object."""

    name: str
    kind: str
    value: generic.PdfObject | None
    reference: generic.Reference


def open_document(stream: BytesIO, limits: Limits) -> PdfFileReader:
    """A strict reader whose decoders stop at the limits; raises what pyHanko raises."""
    budget = DocumentDecodeBudget(base_allowance=limits.max_decoded_bytes, max_ratio=0)
    return PdfFileReader(stream, strict=True, decode_limits=DecodeLimits(document_budget=budget))


@contextmanager
def refusing_malformed() -> Iterator[None]:
    """Turns every exception of the parser into Refused: the input is untrusted, and it knows many."""
    try:
        yield
    except (OutlastError, MemoryError):
        raise
    except misc.PdfDecodeLimitError as error:
        raise bomb() from error
    except Exception as error:  # a parser fed hostile bytes may raise anything
        raise malformed(str(error) or type(error).__name__) from error


def pages(reader: PdfFileReader, limits: Limits) -> Iterator[generic.Reference]:
    """The pages in order. Raises Refused ``pdf-page-tree-cycle``, ``pdf-too-many-pages``, ``pdf-malformed``."""
    seen: set[generic.Reference] = set()
    found = 0
    stack = [(_reference(reader.root.raw_get("/Pages"), "/Pages"), 0)]
    while stack:
        reference, depth = stack.pop()
        if reference in seen or depth > MAX_TREE_DEPTH:
            raise Refused(
                "pdf-page-tree-cycle",
                "the document's page tree leads back to itself",
                hint="Open and save it again with a PDF editor, then submit the new file.",
            )
        seen.add(reference)
        node = _dictionary(reference.get_object(), "a page tree node")
        if "/Kids" not in node:
            found += 1
            yield reference
        else:
            kids = node["/Kids"]
            stack.extend((_reference(kid, "a page"), depth + 1) for kid in reversed(kids))
        if found + len(stack) > limits.max_pages:
            raise Refused(
                "pdf-too-many-pages",
                f"the document has more than {limits.max_pages} pages",
                hint="Split it, or ask the operator to raise the class's page limit.",
            )


def form_fields(reader: PdfFileReader, limits: Limits) -> Iterator[Field]:
    """The terminal fields of the form, with their inherited type. Raises Refused ``pdf-malformed``."""
    form = form_of(reader)
    if form is None:
        return
    seen: set[generic.Reference] = set()
    top = [_reference(one, "a form field") for one in entry(form, "/Fields") or ()]
    stack = [(one, "", "", 0) for one in reversed(top)]
    while stack:
        reference, prefix, inherited, depth = stack.pop()
        if reference in seen or depth > MAX_TREE_DEPTH or len(seen) >= limits.max_form_fields:
            raise malformed("the form's fields lead back to themselves or are too many")
        seen.add(reference)
        node = _dictionary(reference.get_object(), "a form field")
        name = ".".join(filter(None, (prefix, str(entry(node, "/T") or ""))))
        kind = str(entry(node, "/FT") or inherited)
        # kids without a name are widgets of this field, not fields (ISO 32000-2, 12.7.4.2)
        kids = [_reference(kid, "a form field") for kid in entry(node, "/Kids") or ()]
        children = [k for k in kids if "/T" in _dictionary(k.get_object(), "a form field")]
        if children:
            stack.extend((kid, name, kind, depth + 1) for kid in reversed(children))
        else:
            yield Field(name, kind, entry(node, "/V"), reference)


def form_of(reader: PdfFileReader) -> generic.DictionaryObject | None:
    """The interactive form, if there is one."""
    form = entry(reader.root, "/AcroForm")
    return None if form is None else _dictionary(form, "/AcroForm")


def entry(node: generic.DictionaryObject, key: str) -> Any:
    """The value, with a reference followed (pyHanko's own ``get`` does not), or None."""
    return node[key] if key in node else None  # noqa: SIM401 - the very difference


def bomb() -> Refused:
    """The refusal for a document that expands beyond its limit."""
    return Refused(
        "pdf-bomb",
        "the document's compressed parts expand beyond the limit",
        hint="Re-export it with ordinary compression, or split it.",
    )


def malformed(why: str) -> Refused:
    """The refusal for a document that is not what the standard says."""
    return Refused(
        "pdf-malformed",
        f"the PDF is malformed: {why[:200]}",
        hint="Open and save it again with a PDF editor (or `qpdf in.pdf out.pdf`) and submit the result.",
    )


def _reference(value: object, what: str) -> generic.Reference:
    if isinstance(value, generic.IndirectObject):
        return value.reference
    raise malformed(f"{what} is not an indirect object")


def _dictionary(value: object, what: str) -> generic.DictionaryObject:
    if isinstance(value, generic.DictionaryObject):
        return value
    raise malformed(f"{what} is not a dictionary")
