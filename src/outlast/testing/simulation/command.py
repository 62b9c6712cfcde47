"""`python -m outlast.testing.simulation`: many seeds, or one again.

--seeds N --start S     run N seeds from S on, in as many processes as there are cores; print what they came to
--seed S                run one seed and print its trace
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from outlast.core.clock import SystemClock
from outlast.testing.simulation.checks import SOMETIMES
from outlast.testing.simulation.run import Result, run_seed

CHUNK = 20
"""Seeds handed to a process at once."""
TRACE_LINES = 60
"""Of a failing seed's trace, its end is printed; ``--seed`` prints all of it."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 0 when every seed kept every promise."""
    parser = argparse.ArgumentParser(prog="python -m outlast.testing.simulation")
    parser.add_argument("--seeds", type=int, default=1_000, help="how many seeds")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run only this one, with its trace")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(argv)
    if options.seed is not None:
        return _one(options.seed)
    return _many(range(options.start, options.start + options.seeds), options.processes)


def run_many(seeds: Iterable[int], processes: int) -> Iterable[Result]:
    """Results of many seeds, in the order of the seeds."""
    if processes <= 1:
        yield from map(run_seed, seeds)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_seed, seeds, chunksize=CHUNK)


def _one(seed: int) -> int:
    result = run_seed(seed, keep_trace=True)
    print("\n".join(result.trace))
    print(f"\nseed {seed}: {result.failure or 'all promises kept'}; trace {result.trace_hash}")
    return 1 if result.failure else 0


def _many(seeds: Sequence[int], processes: int) -> int:
    clock = SystemClock()
    began_s = clock.monotonic_s()
    reached: Counter[str] = Counter()
    failed: list[Result] = []
    events = signed = 0
    simulated_ms = 0.0
    for result in run_many(seeds, processes):
        reached.update(result.reached)
        events += result.events
        signed += result.signed
        simulated_ms += result.simulated_ms
        if result.failure:
            failed.append(result)
            print(f"seed {result.seed} FAILED: {result.failure}", flush=True)
    took_s = clock.monotonic_s() - began_s
    print(
        f"{len(seeds)} seeds in {took_s:.1f} s: {events} events, {signed} signatures, "
        f"{simulated_ms / 3_600_000:.1f} simulated hours; {len(failed)} failed"
    )
    for point in SOMETIMES:
        print(f"  {reached[point]:8} x {point}")
    if failed:
        _show(failed[0].seed)
    return 1 if failed else 0


def _show(seed: int) -> None:
    result = run_seed(seed, keep_trace=True)
    print(f"\nThe end of seed {seed}; all of it with --seed {seed}:")
    print("\n".join(result.trace[-TRACE_LINES:]))
    print(result.failure)
