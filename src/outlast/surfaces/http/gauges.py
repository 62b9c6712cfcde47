"""Looks up what the metrics show: one look at each part of the site, none of it on anybody's way."""

from __future__ import annotations

from outlast.core.clock import hlc_ms
from outlast.core.routing.router import Router
from outlast.core.store.port import JobGroup
from outlast.signing.model.request import SETTLE_JOB
from outlast.surfaces.http.context import Context
from outlast.surfaces.http.families import BlobRoom, Gauges, Provider
from outlast.wiring.site import Site


async def look(ctx: Context) -> Gauges:
    """Everything as it is now. Raises Unavailable where the store does not answer."""
    site = ctx.site
    head, jobs = await site.store.head(), tuple(await site.store.job_groups())
    now_ms, world, tracer = site.clock.now_ms(), site.world, site.tracer
    return Gauges(
        version=ctx.version,
        now_s=now_ms / 1000,
        mode=site.watch.mode.label,
        committed=site.committer.committed,
        flushes=site.committer.flushes,
        waiting=site.committer.waiting,
        commits_failed=site.committer.failed,
        replays=site.committer.replays,
        flush_seconds=site.committer.flush_seconds,
        log_size=head.size,
        log_published=site.publisher.published,
        log_failed=site.publisher.failure is not None,
        log_ahead_s=(hlc_ms(head.hlc) - now_ms) / 1000 if head.size else 0.0,
        checkpoint_age_s=site.publisher.behind_s,
        publish_lag_s=site.publisher.lag_s,
        jobs=jobs,
        kinds=site.runner.kinds,
        jobs_done=site.runner.done,
        jobs_running=site.runner.running,
        drain_per_s=site.gate.drain_per_s(),
        signing_seconds=world.signed,
        timestamps_owed=max(0, site.watch.owed),
        timestamp_deadline_s=_deadline_s(site, jobs),
        followers=ctx.feed.followers,
        long_polls=ctx.changes.waiting,
        uploads_waiting=ctx.uploads.waiting,
        sandbox_waiting=site.sandbox.waiting,
        sandbox_busy=site.sandbox.busy,
        providers=(
            *_providers("signer", world.signer_router),
            *_providers("authority", world.authority_router),
            *(p for router, _ in site.blobs.routers() for p in _providers("blobs", router)),
        ),
        blobs=tuple(BlobRoom(*room) for room in await site.blobs.rooms()),
        min_free_bytes=site.config.storage.min_free_mb << 20,
        certificates=site.vitals.certificates,
        sessions=site.store.pool_use(),
        loop_lag=site.vitals.loop_lag,
        spans={
            "recorded": tracer.recorded if tracer else 0,
            "dropped": tracer.dropped if tracer else 0,
            "exported": tracer.exported if tracer else 0,
            "refused": tracer.refused if tracer else 0,
        },
        spans_waiting=tracer.waiting if tracer else 0,
    )


def _providers(role: str, router: Router) -> list[Provider]:
    found = []
    for snapshot in router.snapshot():
        tally, retries = router.tally(snapshot.provider)
        found.append(
            Provider(role, snapshot, tally.outcomes, tally.seconds, tally.throttles, retries)
        )
    return found


def _deadline_s(site: Site, jobs: tuple[JobGroup, ...]) -> float | None:
    """No debt falls due before this: the oldest one's making and the shortest time that a class gives."""
    made = [
        j.oldest_made_ms for j in jobs if j.kind == SETTLE_JOB and j.state in ("ready", "leased")
    ]
    given = [c.timestamp_deadline_s for c in site.world.classes.values() if c.owe_timestamp]
    return min(made) / 1000 + min(given) if made and given else None
