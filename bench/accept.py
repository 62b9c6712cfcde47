"""Case: a durable, idempotent accept over HTTP. See `measure`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator

from bench.load import MARK, Load, Spec, Step
from bench.measure import Figure, Outcome, ratio
from bench.servers import HERE, drive, free_port, postgres, process, scratch
from bench.site import REQUESTS, Running, site

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
def peer() -> Iterator[Spec]:
    """FastAPI, uvicorn and procrastinate on PostgreSQL, running; yields what to send it."""
    app = "bench.peers.accept_app"
    with scratch("peer") as folder, postgres() as dsn:
        env = {"PEER_DSN": dsn}
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


def measure(rounds: int) -> Outcome:
    """Peer and Outlast in turn; a site of ours starts anew each round, the peer's database stays."""
    peers: list[Load] = []
    ours: list[Load] = []
    with peer() as spec:
        for _ in range(rounds):
            peers.append(drive(spec))
            with scratch("accept") as folder, site(folder, "[work]\nenabled = false\n") as running:
                ours.append(drive(accepting(running)))
    theirs = Figure(
        name="FastAPI + uvicorn + procrastinate",
        unit="accepts/s",
        rounds=tuple(load.per_s for load in peers),
    )
    mine = Figure(name="Outlast", unit="accepts/s", rounds=tuple(load.per_s for load in ours))
    return Outcome(
        case="accept",
        title="Durable accept over HTTP",
        method=(
            f"POST of a {BODY_BYTES}-byte JSON body with an Idempotency-Key of its own, {CLIENTS} connections, one "
            "request outstanding on each, one server process. Both answer 202 after the disk has it. The peer "
            "defers a task under a queueing lock, as procrastinate documents it, on PostgreSQL with fsync and "
            "synchronous_commit on. Outlast commits on SQLite (WAL, synchronous=FULL): the idempotency record with "
            "the stored reply, the request's state, its job, and the entry in the Merkle log; it authenticates an "
            "API key and encrypts the personal fields. No worker runs on either side."
        ),
        figures=(
            theirs,
            mine,
            _latency("FastAPI + uvicorn + procrastinate", peers),
            _latency("Outlast", ours),
        ),
        verdicts=(ratio("accepts per second", mine, theirs, goal=5, aim=10),),
    )


def _latency(name: str, loads: list[Load]) -> Figure:
    return Figure(name=f"{name}, p99", unit="ms", rounds=tuple(load.p99_ms for load in loads))
