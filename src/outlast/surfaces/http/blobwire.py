"""The shapes of what is said and asked of the stores that documents are kept in."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from outlast.core.replicas.scrubmodel import Finding, References, Tally
from outlast.core.routing.health import ProviderSnapshot


class ScrubView(msgspec.Struct, frozen=True, kw_only=True):
    """The newest scrub. ``part`` is what it does next; ``after`` the name it has come to; ``findings`` are copies
    that are not mended. ``failed``: its job is dead, ``error`` says why; it goes on when the job is replayed, and a new one
    can begin."""

    status: Literal["idle", "running", "paused", "failed"]
    run: int
    part: Literal["copies", "references"]
    after: str
    begun: str | None
    ended: str | None
    complete: bool
    tally: Tally
    findings: tuple[Finding, ...]
    references: References
    error: str = ""


class BlobsView(msgspec.Struct, frozen=True, kw_only=True):
    """Where documents are kept. ``stores`` by name with their kind, in order of preference; ``health`` where there is
    more than a folder; ``owed`` copies and deletions wait for their store."""

    stores: dict[str, str]
    health: tuple[ProviderSnapshot, ...]
    owed: int
    scrub: ScrubView


class DebtView(msgspec.Struct, frozen=True, kw_only=True):
    """A blob that owes something: ``kept``, a copy to each of ``stores``; ``deleted``, its deletion there."""

    blob: str
    want: str
    stores: tuple[str, ...]
    since: str
    reasons: tuple[str, ...]


class DebtPage(msgspec.Struct, frozen=True, kw_only=True):
    """A page, newest blob first."""

    items: tuple[DebtView, ...]
    next: str | None


class ScrubAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to scrub. ``mend`` false: look only. ``delete_orphans_older_than_s``: delete blobs that nothing refers to
    and that are older than this; 0: none."""

    mend: bool = True
    delete_orphans_older_than_s: Annotated[int, msgspec.Meta(ge=0, le=10**9)] = 0
