"""No-op jobs on Awa (awa-pg): its worker, which is Rust around a Python handler, and producers in one process.

    python -m bench.peers.jobs_awa DSN SECONDS

Jobs are enqueued with `enqueue_many_copy`, "for high-volume Python producers".
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import awa

from bench.flow import Flow

WORKERS = 256
CLAIMERS = 2
CLAIM_BATCH = 256
"""A queue's settings for hot queues, which did no worse than its defaults here."""
CONNECTIONS = 20
BATCH = 200
PRODUCERS = 2
QUEUE = "bench"


@dataclass
class Noop:
    """The job's arguments."""

    number: int


async def measure(dsn: str, seconds: float) -> None:
    """Run the flow on an empty database."""
    flow = Flow()
    async with awa.AsyncClient(
        dsn.replace("@/", "@localhost/"), max_connections=CONNECTIONS
    ) as client:
        await client.migrate()

        @client.task(Noop, queue=QUEUE)
        async def noop(job: awa.Job[Noop]) -> None:
            flow.handled(job.args.number)

        async def enqueue(numbers: Sequence[int]) -> None:
            if len(numbers) == 1:
                await client.insert(Noop(numbers[0]), queue=QUEUE)
            else:
                await client.enqueue_many_copy([Noop(number) for number in numbers], queue=QUEUE)

        async def left() -> int:
            stats = await client.queue_stats()
            return sum(s.available + s.running for s in stats if s.queue == QUEUE)

        settings = {"name": QUEUE, "max_workers": WORKERS}
        await client.start([{**settings, "claimers": CLAIMERS, "claim_batch_size": CLAIM_BATCH}])
        await flow.run(enqueue, left, seconds=seconds, producers=PRODUCERS, batch=BATCH)
        await client.shutdown()


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1], float(sys.argv[2])))
