"""Jobs from enqueue to done: one load for every job system, which runs in a process of its own.

A system is three things: ``enqueue(numbers)`` returns when those jobs are durable, ``left()`` counts jobs that are not
durably done, and its handler calls ``Flow.handled(number)`` and does nothing else. Two phases:

- **flow**: PRODUCERS enqueue, each a batch after the other, while the worker works; nobody gets further ahead of the
  worker than BACKLOG jobs. After ``seconds`` no more is enqueued. The rate is all jobs over the time from the first
  enqueue until the store has none left.
- **paced**: PACED jobs, one at a time, at PACED_PER_S, which every system can follow: what a job takes from the call
  that enqueues it until its handler runs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence

PRODUCERS = 64
BACKLOG = 600
PACED = 100
PACED_PER_S = 75.0
LOOK_S = 0.005
LIMIT_S = 60.0
"""How long the rest may take to be done."""

Enqueue = Callable[[Sequence[int]], Awaitable[object]]
Left = Callable[[], Awaitable[int]]


class Flow:
    """What was enqueued and handled."""

    def __init__(self) -> None:
        self.enqueued = 0
        self.done = 0
        self._began: dict[int, float] = {}
        self._latencies: list[float] = []
        self._moved = asyncio.Event()

    def handled(self, number: int) -> None:
        """Called by the handler; a job that is run twice counts once and ends the benchmark."""
        self.done += 1
        began = self._began.pop(number, None)
        if began is not None:
            self._latencies.append(time.perf_counter() - began)
        self._moved.set()

    async def _room(self) -> None:
        while self.enqueued - self.done > BACKLOG:
            self._moved.clear()
            await self._moved.wait()

    def _next(self, count: int) -> range:
        first = self.enqueued
        self.enqueued += count
        return range(first, first + count)

    async def _finished(self, left: Left) -> None:
        async with asyncio.timeout(LIMIT_S):
            while self.done < self.enqueued or await left():  # noqa: ASYNC110 - the store is asked, and has no event
                await asyncio.sleep(LOOK_S)
        if self.done != self.enqueued:
            raise RuntimeError(f"{self.enqueued} jobs were enqueued, {self.done} were run")

    async def run(
        self, enqueue: Enqueue, left: Left, *, seconds: float, producers: int, batch: int
    ) -> None:
        """Both phases; prints the figures as JSON."""
        await enqueue(self._next(batch))
        await self._finished(left)
        warmed, began, cpu = self.done, time.perf_counter(), time.process_time()

        async def produce() -> None:
            while time.perf_counter() - began < seconds:
                await self._room()
                await enqueue(self._next(batch))

        await asyncio.gather(*(produce() for _ in range(producers)))
        await self._finished(left)
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        jobs = self.done - warmed
        await self._pace(enqueue)
        await self._finished(left)
        ordered = sorted(self._latencies)
        figures = {
            "per_s": jobs / took,
            "cpu_us": 1e6 * cpu / jobs,
            "p50_ms": 1000 * ordered[len(ordered) // 2],
            "p99_ms": 1000 * ordered[int(len(ordered) * 0.99)],
        }
        print(json.dumps(figures), flush=True)

    async def _pace(self, enqueue: Enqueue) -> None:
        start = time.perf_counter()
        waiting = []
        for turn in range(PACED):
            await asyncio.sleep(max(0.0, start + turn / PACED_PER_S - time.perf_counter()))
            numbers = self._next(1)
            self._began[numbers[0]] = time.perf_counter()
            waiting.append(asyncio.ensure_future(enqueue(numbers)))
        await asyncio.gather(*waiting)
