"""Document: added once, and that is all that ever happens to it."""

from __future__ import annotations

from outlast.core.blobref import BlobRef
from outlast.signing.model.document import AddDocument, DocumentAdded, DocumentDecider
from outlast.testing.given import given

BLOB = BlobRef(name="b", sha256="ab" * 32, size=10)
PREPARED = BlobRef(name="p", sha256="cd" * 32, size=5)
ADD = AddDocument(
    at_ms=1,
    media_type="application/pdf",
    blob=BLOB,
    prepared=PREPARED,
    pages=3,
    signatures=1,
    sealed="s",
)
ADDED = DocumentAdded(
    media_type="application/pdf", blob=BLOB, prepared=PREPARED, pages=3, signatures=1, sealed="s"
)


def test_document_is_added_with_everything_known_of_it() -> None:
    """All that intake found is on record, and in the state."""
    state = given(DocumentDecider()).when(ADD).then(ADDED)
    assert (state.label, state.blob, state.prepared) == ("stored", BLOB, PREPARED)
    assert (state.pages, state.signatures, state.sealed) == (3, 1, "s")


def test_document_is_added_once() -> None:
    """Its hash is locked: the same id cannot come to mean other bytes."""
    given(DocumentDecider(), ADDED).when(ADD).refused("document-exists")
