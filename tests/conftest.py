"""What every test may ask for: free ports, real processes that end with the test, the shared documents.

Tests run in parallel (one pytest process per core), so nothing here is shared between two of them: each worker
hands out ports of its own range, and files live under ``tmp_path``.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from hypothesis import HealthCheck, settings

from outlast.testing.postgres import PostgresServer

STOP_GRACE_S = 10.0
"""How long a process may take to end after SIGTERM before it gets SIGKILL."""

PORTS_PER_WORKER = 600
FIRST_PORT = 21_000
"""Below the range from which Linux takes client ports (32768), so that no connection can be in the way."""

# A slow machine is no failure: a deadline per example would make it one.
settings.register_profile("dev", deadline=None, max_examples=50)
settings.register_profile(
    "ci",
    deadline=None,
    max_examples=200,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, as the program does."""
    return "asyncio"


@pytest.fixture
def ruins(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Where to build what a power cut left: in memory where there is such a place, hundreds of sites are opened."""
    memory = pathlib.Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-ruins-", dir=parent))
    yield folder
    shutil.rmtree(folder)


def _worker_number() -> int:
    """0 without pytest-xdist, else the number in ``gw3``."""
    return int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])


def _can_listen(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _ports() -> Iterator[int]:
    """Ports that nothing listens on, from this worker's own range; starts elsewhere in each test run."""
    base = FIRST_PORT + _worker_number() % 16 * PORTS_PER_WORKER
    offset = os.getpid() * 37
    while True:
        port = base + offset % PORTS_PER_WORKER
        offset += 1
        if _can_listen(port):
            yield port


@pytest.fixture(scope="session")
def free_ports() -> Callable[[], int]:
    """A function that returns another loopback TCP port each time."""
    ports = _ports()
    return lambda: next(ports)


@pytest.fixture
def free_port(free_ports: Callable[[], int]) -> int:
    """One loopback TCP port that nothing listens on."""
    return free_ports()


@pytest.fixture(scope="session")
def postgres_server(free_ports: Callable[[], int]) -> Iterator[PostgresServer]:
    """PostgreSQL as it ships, durable settings included; one for all tests of a process.

    Its folder is not under ``tmp_path``, which other users may not enter: PostgreSQL refuses to run as root.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="outlast-postgres-"))
    folder.chmod(0o755)
    server = PostgresServer(folder, free_ports())
    try:
        server.start()
        yield server
    finally:
        server.kill()  # nobody needs what a shutdown would still write
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def database(postgres_server: PostgresServer) -> str:
    """The address of an empty database on it, another for each test."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def shared_pdfs() -> pathlib.Path | None:
    """The folder of documents kept beside the repository, or None where it is not there."""
    folder = pathlib.Path(__file__).parents[2] / "shared" / "data" / "pdfs"
    return folder if folder.is_dir() else None


class Processes:
    """Starts real processes, each in a process group of its own, and ends exactly those."""

    def __init__(self, log_dir: pathlib.Path) -> None:
        self._log_dir = log_dir
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, pathlib.Path] = {}

    def start(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: pathlib.Path | None = None,
        port: int | None = None,
        timeout_s: float = 20.0,
    ) -> subprocess.Popen[bytes]:
        """Start ``argv``; with ``port``, return once something listens there.

        ``env`` is added to this process's environment. Output goes to a file, shown when the process ends early.
        """
        log = self._log_dir / f"process-{len(self._logs)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [os.fspath(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,
            )
        self._running.append(process)
        self._logs[process.pid] = log
        if port is not None:
            self._wait_listening(process, port, timeout_s)
        return process

    def log(self, process: subprocess.Popen[bytes]) -> str:
        """What the process has printed so far."""
        return self._logs[process.pid].read_text(errors="replace")

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL to the process alone, as a crash would be; its children must notice by themselves."""
        process.kill()
        process.wait(STOP_GRACE_S)

    def stop(self, process: subprocess.Popen[bytes]) -> int:
        """SIGTERM, SIGKILL after STOP_GRACE_S, then whatever is left of its group; the exit status."""
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
        status = process.wait(STOP_GRACE_S)
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # nothing was left: the usual case
        return status

    def stop_all(self) -> None:
        """End everything that was started here, the latest first."""
        while self._running:
            self.stop(self._running.pop())

    def _wait_listening(
        self, process: subprocess.Popen[bytes], port: int, timeout_s: float
    ) -> None:
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return
            except OSError:
                time.sleep(0.02)
        raise AssertionError(
            f"{process.args!r} does not listen on port {port} "
            f"(exit status {process.poll()}):\n{self.log(process)[-4000:]}"
        )


@pytest.fixture
def process(tmp_path: pathlib.Path) -> Iterator[Processes]:
    """Starts real processes; all of them have ended when the test has."""
    processes = Processes(tmp_path)
    yield processes
    processes.stop_all()
