"""``bundle.json``: what an evidence bundle says of itself. See `bundle` for the files it names."""

from __future__ import annotations

import msgspec

from outlast.signing.views import RequestView

VERSION = 1
"""Of the bundle's form; a reader refuses others."""
MANIFEST = "bundle.json"


class FileFact(msgspec.Struct, frozen=True):
    """A file of the bundle."""

    sha256: str
    size: int


class SignaturePart(msgspec.Struct, frozen=True, kw_only=True):
    """Where a signature's parts are in the bundle. ``cms`` is empty when a later revision holds it in the PDF."""

    place: int
    certificates: str
    cms: str = ""
    timestamp_response: str = ""
    timestamp_token: str = ""
    document_timestamp: bool = False


class EntryPart(msgspec.Struct, frozen=True):
    """A log entry and its proof."""

    index: int
    type: str
    entry: str
    proof: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``bundle.json``."""

    v: int = VERSION
    made_by: str
    origin: str
    signed: tuple[str, ...]
    document: str = ""
    request: RequestView
    signatures: tuple[SignaturePart, ...]
    entries: tuple[EntryPart, ...]
    files: dict[str, FileFact]
