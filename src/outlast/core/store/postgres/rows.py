"""Between the port's structs and the parts of a flush's statements: arguments column by column, rows back to structs.

A part that has nothing to do is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from outlast.core.store.port import (
    Head,
    IdempotencyRow,
    JobRow,
    Needs,
    Snapshot,
    StreamKey,
    StreamRow,
    WriteSet,
)

HEAD_COLUMNS = 4
"""Of the load's answer: what the port calls head. What follows is the session's business, then come the parts."""
OWN_COLUMNS = 4

JOB_PARTS = ("bodies", "new_leases", "leases", "done", "undone")
"""Of the write."""

Row = tuple[object, ...]
Columns = dict[str, list[Sequence[object]]]

_KINDS = msgspec.json.Encoder()


def load_columns(needs: Needs, floors: tuple[int, int]) -> dict[str, list[object]]:
    """The arguments of each part of the load that is needed, in the load's order."""
    columns: dict[str, list[object]] = {}
    if needs.streams:
        columns["streams"] = list(zip(*needs.streams, strict=True))
    if needs.idempotency:
        columns["idempotency"] = [list(needs.idempotency)]
    if needs.jobs:
        columns["jobs"] = [list(needs.jobs)]
    if needs.counters:
        columns["counters"] = [list(needs.counters)]
    if needs.claims:
        # Claims of one flush share the due jobs, so each is offered as many as all of them want.
        columns["claims"] = [
            [ask.now_ms for ask in needs.claims],
            [_KINDS.encode(ask.kinds).decode() for ask in needs.claims],
            sum(ask.limit for ask in needs.claims),
            *floors,
        ]
    return columns


def snapshot_of(row: Sequence[Any], parts: Sequence[str], needs: Needs) -> Snapshot:
    """What a load with these parts returned."""
    found = dict(zip(parts, row[HEAD_COLUMNS + OWN_COLUMNS :], strict=True))
    answers: list[list[JobRow]] = [[] for _ in needs.claims]
    for number, *job in found.get("claims", ()):
        answers[number - 1].append(JobRow(*job))
    return Snapshot(
        head=Head(*row[:HEAD_COLUMNS]),
        streams={
            StreamKey(*item[:3]): StreamRow(*item[3:])
            for item in map(tuple, found.get("streams", ()))
        },
        idempotency={item[0]: IdempotencyRow(*item) for item in found.get("idempotency", ())},
        jobs={item[0]: JobRow(*item) for item in found.get("jobs", ())},
        counters=dict(found.get("counters", ())),
        claimable=answers,
    )


def write_columns(write: WriteSet, snapshot: Snapshot) -> Columns:
    """The arguments of each part of the write that has something to do."""
    columns: Columns = {}
    _add(columns, "entries", [(one.index, one.previous, one.leaf) for one in write.entries])
    _add(columns, "idempotency", map(msgspec.structs.astuple, write.idempotency))
    _add(columns, "counters", write.counters.items())
    _add(columns, "subject_keys", write.subject_keys.items())
    if write.streams:
        _add_streams(columns, write)
    if write.jobs:
        _add_jobs(columns, write, snapshot)
    return columns


def _add_streams(columns: Columns, write: WriteSet) -> None:
    new: list[Row] = []
    changed: list[Row] = []
    for key, row in write.streams.items():
        fields = (*key, row.version, row.label, row.state, row.last_index, row.updated_ms)
        (new if key in write.new_streams else changed).append(fields)
    _add(columns, "new_streams", new)
    _add(columns, "streams", changed)


def _add_jobs(columns: Columns, write: WriteSet, snapshot: Snapshot) -> None:
    """Bodies of new jobs; unfinished ones into the lease table, finished ones out of it."""
    rows: dict[str, list[Row]] = {name: [] for name in JOB_PARTS}
    for job in write.jobs.values():
        is_new = job.id in write.new_jobs
        if is_new:
            rows["bodies"].append(
                (job.id, job.tenant, job.kind, job.stream, job.payload, job.cause, job.created_ms,
                 job.trace)
            )  # fmt: skip
        if job.state == "done":
            rows["done"].append(
                (job.id, job.run_at_ms, job.lease, job.worker, job.lease_until_ms, job.attempts,
                 job.error)
            )  # fmt: skip
            continue
        before = None if is_new else snapshot.jobs.get(job.id)
        was_done = before is not None and before.state == "done"
        if was_done:
            rows["undone"].append((job.id,))
        if is_new or was_done:
            rows["new_leases"].append(
                (job.id, job.kind, job.state, job.run_at_ms, job.lease, job.worker,
                 job.lease_until_ms, job.attempts, job.error)
            )  # fmt: skip
        else:
            rows["leases"].append(
                (job.id, job.state, job.run_at_ms, job.lease, job.worker, job.lease_until_ms,
                 job.attempts, job.error)
            )  # fmt: skip
    for name in JOB_PARTS:
        _add(columns, name, rows[name])


def _add(columns: Columns, name: str, rows: Iterable[Sequence[object]]) -> None:
    turned: list[Sequence[object]] = list(zip(*rows, strict=True))
    if turned:
        columns[name] = turned
