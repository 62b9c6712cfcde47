"""The nodes of one site as real processes of `outlast serve`, sharing a PostgreSQL database and an object store.

Each node has a folder of its own. The first start makes the site's secrets and keys; every other node gets a copy of
them, as its operator would. Blocking, as all of `testing.servers`.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from outlast.testing.seaweed import SeaweedServer
from outlast.testing.servers import ServerProcess, write_secret

SHARED = ("secrets", "keys", "pki")
"""Folders of a node's data that every node of a site has."""
LEASE_MS = 2_000
"""Short, so that the jobs of a killed node are taken over while a test waits."""


class Cluster:
    """Nodes by name. ``start`` one first: it makes what the others copy."""

    def __init__(
        self, folder: Path, dsn: str, documents: SeaweedServer, ports: Callable[[], int]
    ) -> None:
        self.folder = folder
        self.dsn = dsn
        self.token = ""
        self.log_keys: tuple[str, ...] = ()
        self.documents = documents
        self._ports = ports
        self._port_of: dict[str, int] = {}
        self._processes: dict[str, ServerProcess] = {}

    def data(self, name: str) -> Path:
        """A node's folder."""
        return self.folder / name / "data"

    def url(self, name: str) -> str:
        """Where it listens; a node keeps its port."""
        return f"http://127.0.0.1:{self._port_of[name]}"

    @property
    def running(self) -> list[str]:
        """Nodes that were started and not ended."""
        return [name for name, process in self._processes.items() if process.running()]

    def start(self, *names: str) -> None:
        """Start nodes, return once all of them are ready."""
        offsets = {}
        for name in names:
            if name not in self._port_of:
                self._prepare(name)
            log = self.folder / name / "serve.log"
            offsets[name] = log.stat().st_size if log.exists() else 0
            program = Path(sys.executable).with_name("outlast")
            arguments = [
                program,
                "--config",
                self.folder / name / "outlast.toml",
                "--json",
                "serve",
            ]
            self._processes[name] = ServerProcess([str(a) for a in arguments], log, {})
        for name in names:
            self._processes[name].wait_until(lambda n=name: self._is_ready(n, offsets[n]))  # type: ignore[misc]  # mypy cannot infer a lambda with a default

    def kill(self, name: str) -> None:
        """SIGKILL."""
        self._processes[name].kill()

    def stop(self, name: str) -> int:
        """SIGTERM, and wait for its end; the exit status."""
        return self._processes[name].stop()

    def stop_all(self) -> None:
        """End what runs."""
        for process in self._processes.values():
            if process.running():
                process.kill()

    def output(self, name: str) -> str:
        """All that a node has printed."""
        return (self.folder / name / "serve.log").read_text(errors="replace")

    def _is_ready(self, name: str, offset: int) -> bool:
        """Whether it has said so; the first one's word has the administrator's token."""
        for line in self.output(name)[offset:].splitlines():
            if line.startswith('{"url"'):
                started = json.loads(line)
                self.token = self.token or started["token"] or ""
                self.log_keys = tuple(started["log_keys"])
                return True
        return False

    def _prepare(self, name: str) -> None:
        self._port_of[name] = self._ports()
        folder = self.folder / name
        folder.mkdir(parents=True)
        write_secret(folder / "dsn", self.dsn.encode())
        (folder / "outlast.toml").write_text(self._config(name))
        first = next((n for n in self._port_of if n != name), None)
        if first is not None:
            for shared in SHARED:
                shutil.copytree(self.data(first) / shared, self.data(name) / shared)

    def _config(self, name: str) -> str:
        documents = self.documents
        return f"""
[site]
node = "{name}"
data = "data"
[http]
port = {self._port_of[name]}
public_log = true
[work]
lease_ms = {LEASE_MS}
concurrency = 16
sandboxes = 1
[store]
dsn_file = "dsn"
[blobs.objects]
kind = "s3"
endpoint = "{documents.endpoint}"
bucket = "{documents.bucket}"
region = "{documents.region}"
access_key_file = "{documents.access_key_file}"
secret_key_file = "{documents.secret_key_file}"
"""
