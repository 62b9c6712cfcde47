"""The refusals that more than one step of intake gives. No parser is imported here."""

from __future__ import annotations

from outlast.core.errors import Refused

MAX_REASON_CHARS = 200
"""A parser's message may quote the document at length."""


def encrypted() -> Refused:
    """The document is under a password."""
    return Refused(
        "pdf-encrypted",
        "the document is encrypted",
        hint="Remove its password (`qpdf --decrypt in.pdf out.pdf`) and submit the result.",
    )


def malformed(why: str) -> Refused:
    """The document is not what the standard says."""
    return Refused(
        "pdf-malformed",
        f"the PDF is malformed: {why[:MAX_REASON_CHARS]}",
        hint="Open and save it again with a PDF editor (or `qpdf in.pdf out.pdf`), submit the result.",
    )


def bomb() -> Refused:
    """The document expands beyond its limit."""
    return Refused(
        "pdf-bomb",
        "the document's compressed parts expand beyond the limit",
        hint="Re-export it with ordinary compression, or split it.",
    )


def too_costly(why: str) -> Refused:
    """Examining the document went beyond a bound on time or memory, or ended the process that did it."""
    return Refused(
        "pdf-too-costly",
        f"examining the document was given up: {why}",
        hint="Save it again with a PDF editor (or `qpdf in.pdf out.pdf`), or split it, then submit the result.",
    )


def page_tree_cycle() -> Refused:
    """A walk through the page tree would not end."""
    return Refused(
        "pdf-page-tree-cycle",
        "the document's page tree leads back to itself",
        hint="Open and save it again with a PDF editor, then submit the new file.",
    )


def too_many_pages(limit: int) -> Refused:
    """More pages than the class allows."""
    return Refused(
        "pdf-too-many-pages",
        f"the document has more than {limit} pages",
        hint="Split it, or ask the operator to raise the class's page limit.",
    )
