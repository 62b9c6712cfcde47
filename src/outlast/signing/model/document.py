"""Document: bytes taken in, checked, and locked under their hash.

    AddDocument -> DocumentAdded            (label "stored")

Its bytes are in the blob store, encrypted; ``blob`` names them with their SHA-256, which signing checks again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from outlast.core.blobref import BlobRef
from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused

KIND = "signing.document"


class DocumentAdded(Event, frozen=True, kw_only=True):
    """A document passed intake. ``blob`` and ``prepared`` are references to encrypted blobs; ``sealed`` are its
    personal fields (file name), sealed under the stream's subject key."""

    name: ClassVar[str] = "signing.document_added"
    media_type: str
    blob: BlobRef
    prepared: BlobRef | None = None
    pages: int = 0
    signatures: int = 0
    sealed: str = ""


class AddDocument(Command, frozen=True, kw_only=True):
    """Take in a document that intake has checked and stored."""

    media_type: str
    blob: BlobRef
    prepared: BlobRef | None = None
    pages: int = 0
    signatures: int = 0
    sealed: str = ""


class Document(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stored document. ``signatures`` counts those it came with."""

    label: str = "stored"
    media_type: str
    blob: BlobRef
    prepared: BlobRef | None = None
    pages: int = 0
    signatures: int = 0
    sealed: str = ""


class DocumentDecider:
    """`Decider` of documents."""

    kind = KIND
    state = Document
    events = (DocumentAdded,)

    def decide(self, command: Any, state: Document | None) -> Decision[DocumentAdded]:
        """A document is added once."""
        add: AddDocument = command
        if state is not None:
            raise Refused("document-exists", "a document with this id exists already")
        fields = {name: getattr(add, name) for name in DocumentAdded.__struct_fields__}
        return Decision(events=(DocumentAdded(**fields),))

    def evolve(self, state: Document | None, event: DocumentAdded) -> Document:
        """The document as added."""
        return Document(**{name: getattr(event, name) for name in DocumentAdded.__struct_fields__})
