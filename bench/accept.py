"""Case: a durable, idempotent accept over HTTP. See `measure`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.load import MARK, Load, Spec, Step
from bench.measure import Figure, Outcome, Verdict, ratio
from bench.servers import HERE, database, drive, free_port, postgres, process, scratch
from bench.site import REQUESTS, Running, on_postgres, site

PEER = "FastAPI + uvicorn + procrastinate"
POSTGRES, SQLITE = "Outlast, PostgreSQL", "Outlast, SQLite"
P99_GOAL_MS = 25
WITHOUT_WORKERS = "[work]\nenabled = false\n"
CLIENTS = 64
SECONDS = 4.0
BODY_BYTES = 1024
TEXT = "We, the undersigned, agree to what this contract says, in all its parts and annexes. " * 6


def padded(body: dict[str, object], *fields: str) -> bytes:
    """``body`` as JSON of BODY_BYTES, made up to it with text in ``fields``."""
    room = BODY_BYTES - len(json.dumps({**body, **dict.fromkeys(fields, "")}))
    sizes = [room // len(fields)] * len(fields)
    sizes[-1] += room - sum(sizes)
    texts = {name: TEXT[:size].ljust(size, ".") for name, size in zip(fields, sizes, strict=True)}
    return json.dumps({**body, **texts}).encode()


@contextlib.contextmanager
def peer(server: str) -> Iterator[Spec]:
    """FastAPI, uvicorn and procrastinate on a database of ``server``, running; yields what to send it."""
    app = "bench.peers.accept_app"
    with scratch("peer") as folder:
        env = {"PEER_DSN": database(server, "peer")}
        subprocess.run(
            [sys.executable, "-m", "procrastinate", f"--app={app}.tasks", "schema", "--apply"],
            cwd=HERE.parent,
            env={**os.environ, **env},
            check=True,
            capture_output=True,
        )
        port = free_port()
        command = [sys.executable, "-m", "uvicorn", f"{app}:app", "--port", str(port)]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        with process(command, log=folder / "log", env=env, cwd=HERE.parent, port=port):
            asked: dict[str, object] = {
                "document": "0190f3b2-7d5c-7000-8000-000000000000",
                "class": "default",
            }
            body = padded(asked, "title", "reference")
            headers = {"Content-Type": "application/json", "Idempotency-Key": MARK}
            step = Step(path=REQUESTS, expect=202, headers=headers, body=body)
            yield Spec(port=port, steps=(step,), connections=CLIENTS, seconds=SECONDS)


def accepting(running: Running) -> Spec:
    """The same to a site of ours."""
    body = padded({"document": running.upload(), "class": "default"}, "title", "reference")
    step = Step(path=REQUESTS, expect=202, headers=running.headers(), body=body)
    return Spec(port=running.port, steps=(step,), connections=CLIENTS, seconds=SECONDS)


def ours(dsn: str = "") -> Load:
    """A new site under load, on PostgreSQL where ``dsn`` is given, else on SQLite."""
    with scratch("accept") as folder:
        tables = WITHOUT_WORKERS + (on_postgres(folder, dsn) if dsn else "")
        with site(folder, tables) as running:
            return drive(accepting(running))


def measure(rounds: int) -> Outcome:
    """Peer and Outlast in turn; a site of ours starts anew each round, the peer and its database stay."""
    loads: dict[str, list[Load]] = {name: [] for name in (PEER, POSTGRES, SQLITE)}
    with postgres() as server, peer(server) as spec:
        for number in range(rounds):
            loads[PEER].append(drive(spec))
            loads[POSTGRES].append(ours(database(server, f"ours_{number}")))
            loads[SQLITE].append(ours())
    rates = {
        name: _figure(name, "accepts/s", [x.per_s for x in each]) for name, each in loads.items()
    }
    p99 = {
        name: _figure(f"{name}, p99", "ms", [x.p99_ms for x in each])
        for name, each in loads.items()
    }
    return Outcome(
        case="accept",
        title="Durable accept over HTTP",
        method=(
            f"POST of a {BODY_BYTES}-byte JSON body with an Idempotency-Key of its own, {CLIENTS} connections, one "
            "request outstanding on each, one server process. All answer 202 after the disk has it. The peer "
            "defers a task under a queueing lock, as procrastinate documents it. It and Outlast use the same PostgreSQL "
            "server (fsync and synchronous_commit on, Unix socket), a database each; on SQLite Outlast runs with WAL "
            "and synchronous=FULL. Outlast commits the idempotency record with the stored reply, the request's state, "
            "its job, and the entry in the Merkle log; it authenticates an API key and encrypts the personal "
            "fields. The peer does none of these but keep the task. No worker runs on any side."
        ),
        figures=(
            *rates.values(),
            *p99.values(),
            *(
                _figure(f"{name}: the load generator took", "cores", [x.cores for x in each])
                for name, each in loads.items()
            ),
        ),
        verdicts=(
            ratio("accepts per second, PostgreSQL", rates[POSTGRES], rates[PEER], goal=10),
            ratio("accepts per second, SQLite", rates[SQLITE], rates[PEER], goal=8),
            _late("p99, PostgreSQL", p99[POSTGRES]),
            _late("p99, SQLite", p99[SQLITE]),
        ),
    )


def _late(what: str, figure: Figure) -> Verdict:
    return Verdict(
        what=what,
        value=figure.median,
        goal=P99_GOAL_MS,
        at_least=False,
        unit="ms",
        spread=(min(figure.rounds), max(figure.rounds)),
    )


def _figure(name: str, unit: str, rounds: list[float]) -> Figure:
    return Figure(name=name, unit=unit, rounds=tuple(rounds))
