"""No-op jobs on procrastinate: its worker with concurrency 50 and producers in one process.

    python -m bench.peers.jobs_procrastinate DSN SECONDS

Jobs are deferred with `batch_defer_async`, as its documentation advises where there are many.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence

import procrastinate

from bench.flow import Flow

CONCURRENCY = 50
CONNECTIONS = 20
"""Of the pool, as in the accept peer."""
BATCH = 50
PRODUCERS = 2
_LEFT = "SELECT count(*) AS left FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


async def measure(dsn: str, seconds: float) -> None:
    """Run the flow on an empty database."""
    logging.getLogger("procrastinate").setLevel(logging.WARNING)
    connector = procrastinate.PsycopgConnector(
        conninfo=dsn, min_size=CONNECTIONS, max_size=CONNECTIONS
    )
    app = procrastinate.App(connector=connector)
    flow = Flow()

    @app.task(name="noop", queue="bench")
    async def noop(number: int) -> None:
        flow.handled(number)

    async def enqueue(numbers: Sequence[int]) -> None:
        if len(numbers) == 1:
            await noop.defer_async(number=numbers[0])
        else:
            await noop.batch_defer_async(*({"number": number} for number in numbers))

    async def left() -> int:
        row = await connector.execute_query_one_async(_LEFT)
        return int(row["left"])

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=CONCURRENCY, install_signal_handlers=False)
        )
        await flow.run(enqueue, left, seconds=seconds, producers=PRODUCERS, batch=BATCH)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1], float(sys.argv[2])))
