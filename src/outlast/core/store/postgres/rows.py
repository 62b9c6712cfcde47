"""Between the port's structs and the two statements of a flush: arguments column by column, rows back to structs."""

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

_KINDS = msgspec.json.Encoder()


def load_arguments(needs: Needs) -> list[object]:
    """The arguments of the query ``load``."""
    # Claims of one flush share the due jobs, so each is offered as many as all of them want.
    wanted = sum(ask.limit for ask in needs.claims)
    return [
        *_columns(needs.streams, 3),
        list(needs.idempotency),
        list(needs.jobs),
        list(needs.counters),
        [ask.now_ms for ask in needs.claims],
        [_KINDS.encode(ask.kinds).decode() for ask in needs.claims],
        wanted,
    ]


def snapshot_of(row: Sequence[Any], needs: Needs) -> Snapshot:
    """What the query ``load`` returned."""
    size, edge, hlc, next_job, streams, idempotency, jobs, counters, claimable = row
    answers: list[list[JobRow]] = [[] for _ in needs.claims]
    for number, *job in claimable:
        answers[number - 1].append(JobRow(*job))
    return Snapshot(
        head=Head(size, edge, hlc, next_job),
        streams={StreamKey(*item[:3]): StreamRow(*item[3:]) for item in map(tuple, streams)},
        idempotency={item[0]: IdempotencyRow(*item) for item in idempotency},
        jobs={item[0]: JobRow(*item) for item in jobs},
        counters=dict(counters),
        claimable=answers,
    )


def write_arguments(write: WriteSet) -> list[object]:
    """The arguments of the query ``write``."""
    new_streams: list[tuple[object, ...]] = []
    streams: list[tuple[object, ...]] = []
    new_jobs: list[tuple[object, ...]] = []
    jobs: list[tuple[object, ...]] = []
    for key, row in write.streams.items():
        fields = (*key, row.version, row.label, row.state, row.last_index, row.updated_ms)
        (new_streams if key in write.new_streams else streams).append(fields)
    for job in write.jobs.values():
        if job.id in write.new_jobs:
            new_jobs.append(msgspec.structs.astuple(job))
        else:
            jobs.append(
                (job.id, job.state, job.run_at_ms, job.lease, job.worker, job.lease_until_ms,
                 job.attempts, job.error)
            )  # fmt: skip
    return [
        *msgspec.structs.astuple(write.head),
        *_columns(((entry.index, entry.previous, entry.leaf) for entry in write.entries), 3),
        *_columns(new_streams, 8),
        *_columns(streams, 8),
        *_columns(map(msgspec.structs.astuple, write.idempotency), 4),
        *_columns(new_jobs, 15),
        *_columns(jobs, 8),
        *_columns(write.counters.items(), 2),
        *_columns(write.subject_keys.items(), 2),
    ]


def _columns(rows: Iterable[Sequence[object]], width: int) -> list[Sequence[object]]:
    """Rows as ``width`` columns; as many empty ones when there are none."""
    return list(zip(*rows, strict=True)) or [()] * width
