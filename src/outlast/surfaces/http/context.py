"""What all handlers share: the site, who may call, and who waits for what."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from outlast.core.backpressure import Gate, GateConfig
from outlast.core.feed import Changes, Feed
from outlast.core.news import News
from outlast.core.store.port import WriteSet
from outlast.surfaces.http.metrics import Metrics
from outlast.surfaces.http.uploads import Uploads
from outlast.wiring.site import Site


class HttpOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the API behaves. ``public_log``: tiles and checkpoint for everybody. ``hosts``: Host headers taken,
    all when empty. ``principal_per_s``: requests per second of each API key, 0: no limit."""

    public_log: bool = False
    hosts: tuple[str, ...] = ()
    principal_per_s: float = 0.0
    principal_burst: float = 200.0
    uploads: int = 16
    """Documents being taken in at once; each may hold a few MiB."""
    appends: int = 8
    """Batches for journals being taken in at once; each may hold some MiB until it is durable."""
    followers: int = 256
    """Event streams at once."""


@dataclass(kw_only=True)
class Context:
    """See the module. ``gate`` bounds the rate of each API key."""

    site: Site
    options: HttpOptions
    version: str
    gate: Gate | None
    feed: Feed
    changes: Changes
    metrics: Metrics
    uploads: Uploads
    appends: Uploads
    closing: asyncio.Event
    """Set when the server is about to end: nobody is kept waiting any longer."""

    def close(self) -> None:
        """Let go of everybody who waits."""
        self.closing.set()
        self.changes.wake_all()

    def heard(self, news: News) -> None:
        """Given what other nodes have written."""
        self.feed.committed(news)
        self.changes.committed(news)

    def committed(self, write: WriteSet) -> None:
        """Given every flush."""
        self.feed.committed(write)
        self.changes.committed(write)
        self.metrics.committed(write)


def build_context(site: Site, options: HttpOptions, version: str) -> Context:
    """The context over a site; it follows the site's commits from now on."""
    rates = GateConfig(tenant_per_s=options.principal_per_s, tenant_burst=options.principal_burst)
    context = Context(
        site=site,
        options=options,
        version=version,
        gate=Gate(rates, site.clock) if options.principal_per_s else None,
        feed=Feed(site.store),
        changes=Changes(),
        metrics=Metrics(),
        uploads=Uploads(options.uploads),
        appends=Uploads(options.appends),
        closing=asyncio.Event(),
    )
    site.watchers.append(context.committed)
    site.listeners.append(context.heard)
    return context
