"""The status page: how this site is, in one struct, for people and programs.

Nothing is measured here: the caller brings what it knows, and the page says it in stable words. It names no
tenant, no document and no person, so it may be shown to anybody who operates.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from outlast.core.routing.health import ProviderSnapshot
from outlast.operations.model.mode import Limits, Mode, Observed, SiteMode, assess

Verdict = Literal["operational", "degraded", "partial-outage", "outage"]
"""The word at the top of the page. ``partial-outage``: some work waits. ``outage``: no new work is taken."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs by state, and how fast they are being finished."""

    ready: int = 0
    leased: int = 0
    dead: int = 0
    parked: int = 0
    drain_per_s: float = 0.0
    oldest_ready_ms: int = 0
    """How long the oldest job that could run has waited."""


class LogHead(msgspec.Struct, frozen=True, kw_only=True):
    """How far the log has got: entries committed, entries under a signed checkpoint."""

    committed: int = 0
    published: int = 0


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the site. ``gone``: it has not said that it ends, and is no longer connected to the database.
    ``mode`` and ``reasons`` are what the rule says of it; a mode set by hand is the whole site's."""

    name: str
    state: Literal["up", "gone", "stopped"]
    version: str
    started_ms: int
    stopped_ms: int = 0
    mode: Mode = "normal"
    reasons: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The page, as ``node`` sees it: counts and log are the site's, mode, providers and disk its own. ``reasons`` are
    why the mode would be entered now; ``mode_reasons`` why it was. ``mode_since_ms`` None: it was never another."""

    site: str
    version: str
    at_ms: int
    verdict: Verdict
    mode: Mode
    mode_since_ms: int | None
    mode_by_hand: bool
    mode_reasons: tuple[str, ...]
    reasons: tuple[str, ...]
    signers: tuple[ProviderSnapshot, ...]
    authorities: tuple[ProviderSnapshot, ...]
    work: Work
    timestamps_owed: int
    disk_free_bytes: int | None
    log: LogHead
    node: str = ""
    nodes: tuple[NodeView, ...] = ()
    blob_stores: tuple[ProviderSnapshot, ...] = ()
    """Where documents are kept, where that is more than a folder of this machine."""
    copies_owed: int = 0
    """Copies and deletions of documents that a store still has to take."""


def status(
    *,
    site: str,
    version: str,
    at_ms: int,
    mode: SiteMode | None,
    observed: Observed,
    limits: Limits,
    signers: tuple[ProviderSnapshot, ...] = (),
    authorities: tuple[ProviderSnapshot, ...] = (),
    work: Work | None = None,
    log: LogHead | None = None,
    node: str = "",
    nodes: tuple[NodeView, ...] = (),
    blob_stores: tuple[ProviderSnapshot, ...] = (),
    copies_owed: int = 0,
) -> Status:
    """Put the page together."""
    current = mode or SiteMode()
    asked = assess(observed, limits, current.label)
    # on a full disk the mode itself cannot be recorded: the page must not say "operational" meanwhile
    works = asked.mode if asked.mode == "read-only" and not current.held else current.label
    return Status(
        site=site,
        version=version,
        at_ms=at_ms,
        verdict=_verdict(works, signers, blob_stores),
        mode=current.label,
        mode_since_ms=current.since_ms or None,
        mode_by_hand=current.held,
        mode_reasons=current.reasons,
        reasons=asked.reasons,
        signers=signers,
        authorities=authorities,
        work=work or Work(),
        timestamps_owed=observed.timestamps_owed,
        disk_free_bytes=observed.disk_free_bytes,
        log=log or LogHead(),
        blob_stores=blob_stores,
        copies_owed=copies_owed,
        node=node,
        nodes=nodes,
    )


def out_of_use(snapshots: tuple[ProviderSnapshot, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the ejected or probed ones, and of those disabled by hand: for `Observed`."""
    disabled = tuple(s.provider for s in snapshots if s.disabled)
    ejected = tuple(s.provider for s in snapshots if s.state != "closed" and not s.disabled)
    return ejected, disabled


def _verdict(
    mode: Mode, signers: tuple[ProviderSnapshot, ...], blob_stores: tuple[ProviderSnapshot, ...]
) -> Verdict:
    if mode == "read-only" or (blob_stores and not any(usable(s) for s in blob_stores)):
        return "outage"
    if signers and not any(usable(s) for s in signers):
        return "partial-outage"
    return "operational" if mode == "normal" else "degraded"


def usable(snapshot: ProviderSnapshot) -> bool:
    """Whether a provider takes normal traffic now."""
    return snapshot.state == "closed" and not snapshot.disabled and snapshot.throttled_ms == 0
