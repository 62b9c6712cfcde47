"""The shapes of the API that are not a domain's own: answers, pages, and the bodies of commands.

Names are the JSON's. Times are RFC 3339 text in UTC; durations and sizes say their unit.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from outlast.core.routing.health import ProviderSnapshot
from outlast.operations.model.mode import Mode
from outlast.signing.views import DocumentView, KeyView, RequestView
from outlast.surfaces.http.problems import Problem

Reason = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
MaybeReason = Annotated[str, msgspec.Meta(max_length=500)]


class _Ask(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A body; a member that nobody knows is a typing error, not a wish to be passed over."""


class ReceiptView(msgspec.Struct, frozen=True, kw_only=True):
    """How far a command has got. ``accepted``: durable, and in the log at ``index`` .. ``index + count - 1``.
    ``published``: under a signed checkpoint too. ``count`` 0: it changed nothing. ``proof`` is where the inclusion
    proof is found."""

    stage: Literal["accepted", "published"]
    index: int
    count: int
    hlc: str
    proof: str | None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A command was accepted. ``version`` is the ETag of what it changed; ``url`` where to read that."""

    id: str
    url: str
    version: int
    receipt: ReceiptView


class DocumentAdded(msgspec.Struct, frozen=True, kw_only=True):
    """A document was taken in and locked under its hash."""

    id: str
    url: str
    version: int
    receipt: ReceiptView
    document: DocumentView


class BulkItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item of a bulk call, in the order sent: what its own call would have been answered."""

    status: int
    accepted: Accepted | None = None
    problem: Problem | None = None


class BulkAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Each item succeeded or failed alone."""

    items: tuple[BulkItem, ...]
    accepted: int
    refused: int


class RequestPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first. ``next`` is the cursor of the page after this one; null: there is none."""

    items: tuple[RequestView, ...]
    next: str | None


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """All signing keys of the tenant."""

    items: tuple[KeyView, ...]


class CancelAsk(_Ask, frozen=True, kw_only=True):
    """Why a request is withdrawn."""

    reason: MaybeReason = ""


class EnrolAsk(_Ask, frozen=True, kw_only=True):
    """A provider's key and its certificate chain (PEM, the signer's first)."""

    key_ref: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    chain_pem: Annotated[str, msgspec.Meta(min_length=1, max_length=200_000)]


class BindingAsk(_Ask, frozen=True, kw_only=True):
    """Which binding of a key; all when ``provider`` is empty."""

    provider: Annotated[str, msgspec.Meta(max_length=100)] = ""
    reason: MaybeReason = ""


class ReasonAsk(_Ask, frozen=True, kw_only=True):
    """Why; it goes on record."""

    reason: Reason


class ModeAsk(_Ask, frozen=True, kw_only=True):
    """``mode`` by hand, which holds until it is released; null releases it: the rule decides again."""

    mode: Mode | None
    reason: Reason


class ModeView(msgspec.Struct, frozen=True, kw_only=True):
    """How the site works now, since when and why. ``by_hand``: it was set and holds."""

    mode: Mode
    version: int
    since: str | None
    by_hand: bool
    reasons: tuple[str, ...]
    actor: str


class ProviderPage(msgspec.Struct, frozen=True, kw_only=True):
    """Signing providers, timestamp authorities and blob stores (called ``blobs.NAME``; none where documents are in one
    folder) as routing sees them now, in this process."""

    signers: tuple[ProviderSnapshot, ...]
    authorities: tuple[ProviderSnapshot, ...]
    blob_stores: tuple[ProviderSnapshot, ...] = ()


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    """A job. ``cause`` is the log index of the event that made it, ``error`` what its last attempt failed of."""

    id: int
    kind: str
    state: str
    stream: str
    attempts: int
    run_at: str
    created: str
    worker: str
    lease: int
    lease_until: str | None
    cause: int
    error: str


class JobPage(msgspec.Struct, frozen=True, kw_only=True):
    """By growing id; ``next`` is the cursor of the page after this one."""

    items: tuple[JobView, ...]
    next: str | None


class JobKindView(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of job; ``paused``: no node of the site starts any. The rest is how it was switched last."""

    kind: str
    paused: bool
    reason: str = ""
    actor: str = ""
    since: str | None = None


class JobKinds(msgspec.Struct, frozen=True, kw_only=True):
    """All kinds that this site runs."""

    items: tuple[JobKindView, ...]


class ApiKeyAsk(_Ask, frozen=True, kw_only=True):
    """A new API key. ``tenant`` defaults to the caller's; ``expires_in_s`` 0: never; ``per_s`` 0: no limit of
    its own."""

    scopes: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=32)]
    tenant: Annotated[str, msgspec.Meta(max_length=100)] = ""
    title: Annotated[str, msgspec.Meta(max_length=200)] = ""
    expires_in_s: Annotated[int, msgspec.Meta(ge=0, le=10 * 366 * 86_400)] = 0
    per_s: Annotated[float, msgspec.Meta(ge=0, le=1_000_000)] = 0.0


class ApiKeyMade(msgspec.Struct, frozen=True, kw_only=True):
    """``token`` is shown this once; null when this answer replays an earlier one."""

    id: str
    token: str | None
    receipt: ReceiptView


class ApiKeyView(msgspec.Struct, frozen=True, kw_only=True):
    """An API key; never its secret."""

    id: str
    status: Literal["active", "revoked", "expired"]
    tenant: str
    scopes: tuple[str, ...]
    title: str
    created: str
    created_by: str
    expires: str | None
    revoked: str | None
    per_s: float


class ApiKeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """Newest first."""

    items: tuple[ApiKeyView, ...]
    next: str | None


class ProofView(msgspec.Struct, frozen=True, kw_only=True):
    """Entry ``index`` is in the log. ``entry`` is the entry's bytes as text, exactly as hashed; ``proof`` the
    .tlog-proof file (C2SP tlog-proof) with the signed checkpoint; ``log_keys`` the log's public keys, to be compared
    with ones pinned earlier."""

    index: int
    entry: str
    proof: str
    log_keys: tuple[str, ...]


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this process should be sent work; ``reasons`` why not."""

    ready: bool
    mode: str
    reasons: tuple[str, ...] = ()
