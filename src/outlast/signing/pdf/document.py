"""Walking an untrusted PDF with pyHanko's reader: page tree and form, each in bounded time.

Guarantees: every walk is iterative, visits a node once and stops at a limit; whatever pyHanko raises on bad
input leaves here as Refused. Only `pyhanko.pdf_utils` is used: `pyhanko.sign` takes twice as long to import.
This module imports pyHanko, so it is loaded in worker processes (`outlast.signing.sandbox`), not in the site.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import msgspec
from pyhanko.pdf_utils import generic, misc
from pyhanko.pdf_utils.decode_limits import (
    DEFAULT_PURPOSE_LIMITS,
    DecodeLimits,
    DecodePurpose,
    DocumentDecodeBudget,
    StreamDecodeLimits,
)
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.pdf_utils.xref import ObjStreamRef

from outlast.core.errors import OutlastError
from outlast.signing.pdf.facts import Limits
from outlast.signing.pdf.refusals import bomb, malformed, page_tree_cycle, too_many_pages

MAX_TEXT_BYTES = 64 * 1024
"""Longest object read as text; a longer one is parsed."""

MAX_XREF_ENTRY_BYTES = 20
"""What one cross-reference entry may take: as many bytes as in a table."""

MAX_TREE_DEPTH = 200
"""Deepest page tree or form hierarchy followed."""


_IS_PAGE = re.compile(rb"/Type\s*/Page(?![A-Za-z0-9])")
_KIDS = re.compile(rb"/Kids\s*\[([\d\sR]*)\]")
_REFERENCE = re.compile(rb"(\d{1,10})\s+(\d{1,5})\s+R")


class Field(msgspec.Struct, frozen=True):
    """A terminal form field: full name, inherited type, value (a reference is not followed), and its object."""

    name: str
    kind: str
    value: generic.PdfObject | None
    reference: generic.Reference


def open_document(stream: BytesIO, limits: Limits) -> PdfFileReader:
    """A strict reader whose decoders stop at the limits; raises what pyHanko raises, and Refused ``pdf-malformed``
    where numbers for new objects cannot be told from those in use."""
    decode_limits = DecodeLimits(
        per_purpose={
            **DEFAULT_PURPOSE_LIMITS,
            DecodePurpose.XREF_STREAM: StreamDecodeLimits(
                max_output_size=limits.max_objects * MAX_XREF_ENTRY_BYTES
            ),
        },
        document_budget=DocumentDecodeBudget(limits.max_decoded_bytes, max_ratio=0),
    )
    reader = PdfFileReader(stream, strict=True, decode_limits=decode_limits)
    if reader.trailer["/Size"] <= _highest_number(reader):
        # an incremental update numbers its objects from /Size: it would overwrite the document's own
        raise malformed("its /Size is not above its object numbers")
    return reader


def _highest_number(reader: PdfFileReader) -> int:
    """The highest object number in any cross-reference section."""
    sections = [reader.xrefs.get_xref_data(i) for i in range(reader.xrefs.total_revisions)]
    sections += [one.hybrid.xref_data for one in sections if one.hybrid is not None]
    return max(
        (number for one in sections for number, _ in one.explicit_refs_in_revision), default=0
    )


class ObjectTexts:
    """The source text of objects, found through the reader's cross-references. Each object stream is decoded
    once: pyHanko does so for every object in it."""

    def __init__(self, reader: PdfFileReader) -> None:
        self._reader = reader
        self._data: bytes = reader.stream.getvalue()
        self._packed: dict[int, dict[int, bytes]] = {}

    def text(self, reference: generic.Reference) -> bytes | None:
        """From the object's number to ``endobj``, or None where it is not plain to see."""
        place = self._reader.xrefs[reference]
        if isinstance(place, ObjStreamRef):
            if place.obj_stream_id not in self._packed:
                self._packed[place.obj_stream_id] = self._unpack(place.obj_stream_id)
            return self._packed[place.obj_stream_id].get(reference.idnum)
        if not isinstance(place, int):
            return None
        end = self._data.find(b"endobj", place, place + MAX_TEXT_BYTES)
        return self._data[place:end] if end >= 0 else None

    def _unpack(self, number: int) -> dict[int, bytes]:
        stream = generic.Reference(number, 0, self._reader).get_object()
        if not isinstance(stream, generic.StreamObject):
            raise malformed("an object stream is none")
        data = stream.read_data(DecodePurpose.OBJECT_STREAM)
        first = int(stream["/First"])
        index = [int(word) for word in data[:first].split()[: 2 * int(stream["/N"])]]
        numbers, starts = index[::2], index[1::2]
        ends = [*starts[1:], len(data) - first]
        return {
            one: data[first + start : first + end]
            for one, start, end in zip(numbers, starts, ends, strict=True)
        }


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
    texts = ObjectTexts(reader)
    seen: set[generic.Reference] = set()
    found = 0
    stack = [(_reference(reader.root.raw_get("/Pages"), "/Pages"), 0)]
    while stack:
        reference, depth = stack.pop()
        if reference in seen or depth > MAX_TREE_DEPTH:
            raise page_tree_cycle()
        seen.add(reference)
        kids = _kids(reader, texts, reference)
        if kids is None:
            found += 1
            yield reference
        else:
            stack.extend((kid, depth + 1) for kid in reversed(kids))
        if found + len(stack) > limits.max_pages:
            raise too_many_pages(limits.max_pages)


def _kids(
    reader: PdfFileReader, texts: ObjectTexts, reference: generic.Reference
) -> list[generic.Reference] | None:
    """A page tree node's children, None for a page. Plain text is read as such: parsing takes 30 times longer."""
    text = texts.text(reference)
    if text is not None and b"%" not in text and b"#" not in text:
        if b"/Kids" not in text and _IS_PAGE.search(text):
            return None
        arrays = _KIDS.findall(text)
        if len(arrays) == 1 and text.count(b"/Kids") == 1 and not _IS_PAGE.search(text):
            return [
                generic.Reference(int(number), int(generation), reader)
                for number, generation in _REFERENCE.findall(arrays[0])
            ]
    node = dictionary(reference.get_object(), "a page tree node")
    if "/Kids" not in node:
        return None
    return [_reference(kid, "a page") for kid in node["/Kids"]]


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
        node = dictionary(reference.get_object(), "a form field")
        name = ".".join(filter(None, (prefix, str(entry(node, "/T") or ""))))
        kind = str(entry(node, "/FT") or inherited)
        # kids without a name are widgets of this field, not fields (ISO 32000-2, 12.7.4.2)
        kids = [_reference(kid, "a form field") for kid in entry(node, "/Kids") or ()]
        children = [k for k in kids if "/T" in dictionary(k.get_object(), "a form field")]
        if children:
            stack.extend((kid, name, kind, depth + 1) for kid in reversed(children))
        else:
            yield Field(name, kind, node.raw_get("/V") if "/V" in node else None, reference)


def form_of(reader: PdfFileReader) -> generic.DictionaryObject | None:
    """The interactive form, if there is one."""
    form = entry(reader.root, "/AcroForm")
    return None if form is None else dictionary(form, "/AcroForm")


def entry(node: generic.DictionaryObject, key: str) -> Any:
    """The value, with a reference followed (pyHanko's own ``get`` does not), or None."""
    return node[key] if key in node else None  # noqa: SIM401 - the very difference


def _reference(value: object, what: str) -> generic.Reference:
    if isinstance(value, generic.IndirectObject):
        return value.reference
    raise malformed(f"{what} is not an indirect object")


def dictionary(value: object, what: str) -> generic.DictionaryObject:
    """The value, known to be a dictionary; raises Refused ``pdf-malformed`` naming ``what``."""
    if isinstance(value, generic.DictionaryObject):
        return value
    raise malformed(f"{what} is not a dictionary")
