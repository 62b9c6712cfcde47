"""Case: no-op jobs from enqueue to done. See `measure`."""

from __future__ import annotations

from importlib import metadata

from bench.flow import BACKLOG, PACED_PER_S
from bench.measure import Figure, Outcome, Verdict, ratio
from bench.servers import database, measured, postgres

SECONDS = 2.5
PEERS = {
    "procrastinate": "bench.peers.jobs_procrastinate",
    "pgqueuer": "bench.peers.jobs_pgqueuer",
    "awa-pg": "bench.peers.jobs_awa",
}
POSTGRES, SQLITE = "Outlast, PostgreSQL", "Outlast, SQLite"
GOAL = 25


def measure(rounds: int) -> Outcome:
    """All systems in turn on one PostgreSQL server, each time on an empty database."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*PEERS, POSTGRES, SQLITE)}
    with postgres() as server:
        for number in range(rounds):
            for place, (name, module) in enumerate(PEERS.items()):
                dsn = database(server, f"jobs_{number}_{place}")
                found[name].append(measured(module, dsn, SECONDS))
            dsn = database(server, f"jobs_{number}_ours")
            found[POSTGRES].append(measured("bench.jobs_ours", dsn, SECONDS))
            found[SQLITE].append(measured("bench.jobs_ours", "sqlite", SECONDS))
    rates = {name: _figure(name, "per_s", "jobs/s", each) for name, each in found.items()}
    return Outcome(
        case="jobs",
        title="Jobs, enqueue to done",
        method=_METHOD.format(
            seconds=SECONDS,
            backlog=BACKLOG,
            paced=PACED_PER_S,
            versions=", ".join(f"{name} {metadata.version(name)}" for name in PEERS),
        ),
        figures=(
            *rates.values(),
            *(_figure(f"{n}, p50", "p50_ms", "ms", each) for n, each in found.items()),
            *(_figure(f"{n}, p99", "p99_ms", "ms", each) for n, each in found.items()),
            *(_figure(f"{n}, CPU of its process", "cpu_us", "us/job", e) for n, e in found.items()),
        ),
        verdicts=(
            ratio(
                "jobs per second, PostgreSQL", rates[POSTGRES], rates["procrastinate"], goal=GOAL
            ),
            ratio("jobs per second, SQLite", rates[SQLITE], rates["procrastinate"], goal=GOAL),
            *(_beside(rates[POSTGRES], rates[name], name) for name in ("pgqueuer", "awa-pg")),
        ),
        notes=(
            "What the sides do is not the same. Outlast writes an event, a state and a Merkle log entry with each job "
            "and fences its end; the peers write no audit trail. procrastinate keeps an event table by triggers; "
            "PgQueuer writes a log row for each change of a job and deletes the job; Awa keeps heartbeats and counters.",
        ),
    )


_METHOD = (
    "Jobs that do nothing, enqueued for {seconds:g} s while the worker works (nobody gets more than {backlog:,} ahead of "
    "it), until the store has none left; producers and worker share one process, the database server runs beside it. "
    "All on the same PostgreSQL (fsync and synchronous_commit on) over a Unix socket, each on an empty database. Peers "
    "({versions}) enqueue 50 jobs a call (Awa 200, by COPY), as their documentation advises for many; "
    "procrastinate's worker has concurrency 50, PgQueuer dequeues 100 at a time through asyncpg's pool, Awa has 256 "
    "workers and two claimers. With Outlast each "
    "job is a command of its own, submitted alone: decided on a stream of its own, event, state, job and log entry in one "
    "transaction; claimed under a lease, ended under its fence; tiles and signed checkpoints are written meanwhile. "
    "Latency, measured after that at {paced:g} jobs/s: from the call that enqueues one job until its handler runs."
)


def _beside(ours: Figure, peer: Figure, name: str) -> Verdict:
    """A ratio that no goal was set for."""
    return ratio(f"jobs per second, PostgreSQL, over {name}", ours, peer, goal=None)


def _figure(name: str, key: str, unit: str, rounds: list[dict[str, float]]) -> Figure:
    return Figure(name=name, unit=unit, rounds=tuple(each[key] for each in rounds))
