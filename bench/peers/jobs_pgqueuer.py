"""No-op jobs on PgQueuer: its worker and producers in one process, on asyncpg, the faster of its drivers.

    python -m bench.peers.jobs_pgqueuer DSN SECONDS

As its performance guide says: a pool, jobs enqueued in batches, a larger batch_size because jobs are short. Its tables are
logged (durability `durable`, its default).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgPoolDriver
from pgqueuer.models import Job

from bench.flow import Flow

DEQUEUE_BATCH = 100
BATCH = 50
PRODUCERS = 2
CONNECTIONS = 20


async def measure(dsn: str, seconds: float) -> None:
    """Run the flow on an empty database."""
    flow = Flow()
    async with asyncpg.create_pool(dsn, min_size=5, max_size=CONNECTIONS) as pool:
        worker = PgQueuer(AsyncpgPoolDriver(pool))
        queries = worker.qm.queries
        await queries.install()

        @worker.entrypoint("noop")
        async def noop(job: Job) -> None:
            flow.handled(int(job.payload or b"0"))

        async def enqueue(numbers: Sequence[int]) -> None:
            count = len(numbers)
            payloads: list[bytes | None] = [b"%d" % number for number in numbers]
            await queries.enqueue(["noop"] * count, payloads, [0] * count)

        async def left() -> int:
            count: int = await pool.fetchval("SELECT count(*) FROM pgqueuer")
            return count

        running = asyncio.create_task(
            worker.run(batch_size=DEQUEUE_BATCH, dequeue_timeout=timedelta(seconds=10))
        )
        await flow.run(enqueue, left, seconds=seconds, producers=PRODUCERS, batch=BATCH)
        worker.shutdown.set()
        await asyncio.gather(running, return_exceptions=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(sys.argv[1], float(sys.argv[2])))
