"""Many seeds on all processors, until they are through, time is up, or somebody has seen enough.

Processes are started afresh (no state is inherited) and leave ctrl-C to their parent. Work is handed out a little at a
time, so that a stop takes no longer than the seeds under way: well under a second.
"""

from __future__ import annotations

import gc
import logging
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count, islice
from multiprocessing import get_context

import msgspec

from outlast.core.clock import Clock
from outlast.testing.simulation.checks import unreached
from outlast.testing.simulation.run import Result, run_seed
from outlast.testing.simulation.seedfile import seed_name

CHUNK = 10
"""Seeds handed to a process at once, about half a second of work."""
AHEAD = 2
"""Chunks that wait for each process."""
ENOUGH = 1_000
"""Seeds after which everything that is declared must have happened at least once."""
COLLECT_AFTER = 50_000
"""Objects until the cyclic garbage collector looks: a seed makes many and keeps none."""


class Failure(msgspec.Struct, frozen=True):
    """A seed that broke a promise, written ``version:number``."""

    seed: str
    what: str


class Tally(msgspec.Struct, kw_only=True):
    """What the seeds came to together. ``times`` counts by point, ``seeds_with`` the seeds that came to it."""

    start: int
    processes: int
    seeds: int = 0
    took_s: float = 0.0
    stopped: str = ""
    """Why it ended before all seeds were through; empty: it did not."""
    events: int = 0
    entries: int = 0
    signed: int = 0
    simulated_ms: float = 0.0
    longest_rest_ms: float = 0.0
    times: dict[str, int] = {}
    seeds_with: dict[str, int] = {}
    failures: list[Failure] = []
    never: list[str] = []
    """Declared and not seen, when there were enough seeds to expect it."""

    def add(self, result: Result) -> None:
        """Take in one seed."""
        self.seeds += 1
        self.events += result.events
        self.entries += result.entries
        self.signed += result.signed
        self.simulated_ms += result.simulated_ms
        self.longest_rest_ms = max(self.longest_rest_ms, result.rest_ms)
        for point, times in result.reached.items():
            self.times[point] = self.times.get(point, 0) + times
            self.seeds_with[point] = self.seeds_with.get(point, 0) + 1
        if result.failure:
            self.failures.append(Failure(seed_name(result.seed), result.failure))

    @property
    def is_good(self) -> bool:
        """Every seed kept every promise, and what is declared happened."""
        return not self.failures and not self.never


def sweep(
    *,
    start: int,
    seeds: int | None,
    processes: int,
    clock: Clock,
    limit_s: float | None = None,
    on_result: Callable[[Tally, Result], None] = lambda _tally, _result: None,
) -> Tally:
    """Run ``seeds`` seeds from ``start`` on (None: no end), ``limit_s`` seconds at most; ctrl-C ends it early."""
    tally = Tally(start=start, processes=processes)
    began_s = clock.monotonic_s()
    numbers = count(start) if seeds is None else iter(range(start, start + seeds))

    def is_late() -> bool:
        return limit_s is not None and clock.monotonic_s() - began_s >= limit_s

    run = _here if processes <= 1 else _elsewhere
    results = run(numbers, processes, is_late)
    try:
        for result in results:
            tally.add(result)
            on_result(tally, result)
    except KeyboardInterrupt:
        tally.stopped = "interrupted"
        for result in _rest_of(results):
            tally.add(result)
    if not tally.stopped and tally.seeds != seeds:
        tally.stopped = "time is up"
    tally.took_s = clock.monotonic_s() - began_s
    if tally.seeds >= ENOUGH:
        tally.never = unreached(tally.times)
    return tally


def _here(numbers: Iterator[int], _processes: int, is_late: Callable[[], bool]) -> Iterator[Result]:
    for number in numbers:
        yield run_seed(number)
        if is_late():
            return


class _Elsewhere:
    """Results from other processes, as they come."""

    def __init__(self, numbers: Iterator[int], processes: int, is_late: Callable[[], bool]) -> None:
        self._numbers = numbers
        self._is_late = is_late
        self._pool = ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_be_a_worker
        )
        self._under_way: deque[Future[list[Result]]] = deque()
        self._ready: deque[Result] = deque()
        for _ in range(processes * AHEAD):
            self._hand_out()

    def __iter__(self) -> _Elsewhere:
        return self

    def __next__(self) -> Result:
        while not self._ready:
            if not self._under_way:
                self._pool.shutdown()
                raise StopIteration
            self._ready.extend(self._under_way[0].result())
            self._under_way.popleft()
            self._hand_out()
        return self._ready.popleft()

    def drain(self) -> Iterator[Result]:
        """Hand out nothing more; what is under way is awaited, what has not begun is dropped."""
        yield from self._ready
        self._pool.shutdown(wait=False, cancel_futures=True)
        for future in self._under_way:
            if not future.cancelled():
                yield from future.result()
        self._pool.shutdown()

    def _hand_out(self) -> None:
        chunk = [] if self._is_late() else list(islice(self._numbers, CHUNK))
        if chunk:
            self._under_way.append(self._pool.submit(_run_chunk, chunk))


def _elsewhere(
    numbers: Iterator[int], processes: int, is_late: Callable[[], bool]
) -> Iterator[Result]:
    return _Elsewhere(numbers, processes, is_late)


def _rest_of(results: Iterator[Result]) -> Iterator[Result]:
    return results.drain() if isinstance(results, _Elsewhere) else iter(())


def _be_a_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    be_quick()


def be_quick() -> None:
    """For a process that does nothing but run seeds: what the site would log is in the trace, and garbage can wait."""
    logging.getLogger("outlast").setLevel(logging.CRITICAL + 1)
    gc.set_threshold(COLLECT_AFTER, 20, 50)


def _run_chunk(numbers: list[int]) -> list[Result]:
    return [run_seed(number) for number in numbers]
