"""Jobs as an operator sees them: what waits, what is dead and why, and what to do about it, on record.

An operator sees the jobs of the key's own tenant and the site's own (copies that are owed, scrubs), which belong to no
tenant. Other tenants' jobs are not there.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from starlette.responses import Response

from outlast.core.access import SITE_TENANT
from outlast.core.clock import iso
from outlast.core.commit import Finish, Submission
from outlast.core.errors import Conflict, Refused
from outlast.core.store.port import JobRow, JobState
from outlast.core.work.job import KIND, MoveJob
from outlast.operations.model.jobkind import JobKind
from outlast.surfaces.http import headers as header
from outlast.surfaces.http.accept import as_text, receipt_headers, receipt_view
from outlast.surfaces.http.call import Call, json_answer
from outlast.surfaces.http.operate import hand_of, switched
from outlast.surfaces.http.problems import malformed
from outlast.surfaces.http.wire import (
    Accepted,
    JobKinds,
    JobKindView,
    JobPage,
    JobView,
    ReasonAsk,
)

MAX_PAGE = 200
"""Jobs in one page."""
Action = Literal["replay", "park", "discard"]


class _Move(msgspec.Struct, frozen=True):
    """What an action makes of a job, and from which states."""

    to: JobState
    found: tuple[JobState, ...]


_MOVES: dict[Action, _Move] = {
    "replay": _Move("ready", ("dead", "parked")),
    "park": _Move("parked", ("ready", "dead")),
    "discard": _Move("done", ("ready", "dead", "parked")),
}


async def list_(call: Call) -> Response:
    """GET /v1/jobs"""
    state, limit = call.query.get("state"), call.number("limit", 100, MAX_PAGE)
    cursor = call.query.get("cursor", "0")
    if state is not None and state not in get_args(JobState):
        raise malformed(f"no state is called {state[:40]!r}", f"One of {get_args(JobState)}.")
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) <= 18):
        raise Refused("cursor-invalid", "this cursor was not given out here", hint="Start anew.")
    known: JobState | None = next((s for s in get_args(JobState) if s == state), None)
    store, rows = call.ctx.site.store, list[JobRow]()
    for tenant in _tenants(call):
        rows += await store.jobs(tenant, state=known, after=int(cursor), limit=limit)
    rows = sorted(rows, key=lambda row: row.id)[:limit]
    more = str(rows[-1].id) if len(rows) == limit else None
    return json_answer(JobPage(items=tuple(_view(row) for row in rows), next=more))


async def get(call: Call) -> Response:
    """GET /v1/jobs/{id}"""
    return json_answer(_view(await _row(call)))


async def replay(call: Call) -> Response:
    """POST /v1/jobs/{id}:replay: it runs again, with no attempts behind it."""
    return await _move(call, "replay")


async def park(call: Call) -> Response:
    """POST /v1/jobs/{id}:park: it waits until somebody replays it."""
    return await _move(call, "park")


async def discard(call: Call) -> Response:
    """POST /v1/jobs/{id}:discard: it will never run again."""
    return await _move(call, "discard")


async def kinds(call: Call) -> Response:
    """GET /v1/job-kinds"""
    site = call.ctx.site
    items = tuple(_kind_view(kind, site.switches.job_kinds.get(kind)) for kind in site.runner.kinds)
    return json_answer(JobKinds(items=items))


def _kind_view(kind: str, switch: JobKind | None) -> JobKindView:
    if switch is None:
        return JobKindView(kind=kind, paused=False)
    return JobKindView(
        kind=kind,
        paused=switch.label == "paused",
        reason=switch.reason,
        actor=switch.actor,
        since=iso(switch.at_ms),
    )


async def pause(call: Call) -> Response:
    """POST /v1/job-kinds/{kind}:pause: holds on every node, until resumed."""
    ask, raw = await call.read(ReasonAsk)
    hand = hand_of(call, ask.reason, raw)
    receipt = await call.ctx.site.switches.pause_job_kind(hand, call.params["kind"])
    return await switched(call, receipt, "/v1/job-kinds")


async def resume(call: Call) -> Response:
    """POST /v1/job-kinds/{kind}:resume"""
    ask, raw = await call.read(ReasonAsk)
    hand = hand_of(call, ask.reason, raw)
    receipt = await call.ctx.site.switches.resume_job_kind(hand, call.params["kind"])
    return await switched(call, receipt, "/v1/job-kinds")


async def _move(call: Call, action: Action) -> Response:
    ask, raw = await call.read(ReasonAsk)
    job = await _row(call)
    move, site = _MOVES[action], call.ctx.site
    idempotency = call.idempotency(raw)
    if job.state not in move.found and idempotency is None:
        raise _wrong_state(job, action)
    finish = Finish(
        job=job.id,
        lease=job.lease,
        # the commit compares again; a state that cannot be moved from never matches
        expect=job.state if job.state in move.found else move.found[0],
        state=move.to,
        run_at_ms=site.clock.now_ms(),
        error=job.error,
    )
    if action == "discard" and job.state in move.found:
        # first, so that a crash in between leaves a job to discard again, not a request that waits for ever
        await site.signing.job_discarded(call.caller, job, ask.reason)
    command = MoveJob(at_ms=site.clock.now_ms(), kind=job.kind, action=action, reason=ask.reason)
    try:
        receipt = await site.committer.submit(
            Submission(
                tenant=job.tenant,
                actor=call.caller.actor,
                kind=KIND,
                stream=str(job.id),
                command=command,
                idempotency=idempotency,
                finish=finish,
            )
        )
    except Conflict:
        raise _wrong_state(await _row(call), action) from None
    prefer = header.prefer(call.headers)
    shown = await receipt_view(call, receipt, prefer)
    answer = Accepted(
        id=str(job.id), url=f"/v1/jobs/{job.id}", version=receipt.version, receipt=shown
    )
    return json_answer(answer, 200, as_text(receipt_headers(receipt, shown, prefer)))


def _wrong_state(job: JobRow, action: Action) -> Conflict:
    found = " or ".join(_MOVES[action].found)
    return Conflict(
        "job-state",
        f"job {job.id} is {job.state}; to {action} it, it must be {found}",
        hint="A leased job is running: wait until it has ended." if job.state == "leased" else "",
        retry="later" if job.state == "leased" else "never",
        retry_after_s=5.0 if job.state == "leased" else None,
        scope=f"job/{job.id}",
    )


async def _row(call: Call) -> JobRow:
    job_id = call.integer("id", "job")
    row = await call.ctx.site.store.job(job_id)
    if row is None or row.tenant not in _tenants(call):
        raise Refused("job-not-found", f"there is no job {job_id}")
    return row


def _tenants(call: Call) -> frozenset[str]:
    """Whose jobs the caller may see and act on."""
    return frozenset((call.caller.tenant, SITE_TENANT))


def _view(row: JobRow) -> JobView:
    return JobView(
        id=row.id,
        kind=row.kind,
        state=row.state,
        stream=row.stream,
        attempts=row.attempts,
        run_at=iso(row.run_at_ms),
        created=iso(row.created_ms),
        worker=row.worker,
        lease=row.lease,
        lease_until=iso(row.lease_until_ms) if row.state == "leased" else None,
        cause=row.cause,
        error=row.error,
    )
