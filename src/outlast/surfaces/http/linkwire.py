"""The shapes of links: what is asked for and what is given."""

from __future__ import annotations

from typing import Annotated

import msgspec

from outlast.core.links import MAX_LIFE_S, MAX_USES
from outlast.surfaces.http.wire import ReceiptView

LifeS = Annotated[int, msgspec.Meta(ge=1, le=MAX_LIFE_S)]
Uses = Annotated[int, msgspec.Meta(ge=1, le=MAX_USES)]
Text = Annotated[str, msgspec.Meta(max_length=200)]


class LinkAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link to download one file: seconds until it expires, and how often it may be used."""

    expires_in_s: LifeS = 900
    uses: Uses = 10


class UploadLinkAsk(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    rename={"class_name": "class"},
):
    """A link to upload one document of this content type and at most so many bytes (0: what its class takes).
    ``uses`` bounds the attempts: it takes one document, whatever happens."""

    media_type: Annotated[str, msgspec.Meta(max_length=127)] = "application/pdf"
    max_bytes: Annotated[int, msgspec.Meta(ge=0)] = 0
    class_name: Text = "default"
    title: Text = ""
    expires_in_s: LifeS = 900
    uses: Uses = 5


class LinkGiven(msgspec.Struct, frozen=True, kw_only=True):
    """A link. ``url`` is a path of this site; whoever has it may use it until ``expires``, with ``method``."""

    id: str
    url: str
    method: str
    expires: str
    uses: int
    receipt: ReceiptView
