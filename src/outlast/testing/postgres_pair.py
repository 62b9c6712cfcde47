"""Two real PostgreSQL servers, one the synchronous standby of the other, and what happens to such a pair.

Does by hand what Patroni or a managed service does by itself: promote the standby when the primary is gone, and have
a fresh copy follow. As with Patroni's ``synchronous_mode``, the primary waits for its standby as long as there is one, and a
promoted standby starts without.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from outlast.testing.postgres import START_TIMEOUT_S, PostgresServer
from outlast.testing.servers import ServerFailed

SETTINGS = {
    # what a cluster tool sets; our sessions ask for "on", which is enough for an acknowledged commit to survive
    "synchronous_commit": "remote_apply",
    "wal_keep_size": "64MB",
    "hot_standby": "on",
}


class PostgresPair:
    """``primary`` and ``standby`` change places with a promotion."""

    def __init__(self, folder: Path, ports: tuple[int, int]) -> None:
        self.primary = PostgresServer(folder / "a", ports[0], SETTINGS)
        self.standby = PostgresServer(folder / "b", ports[1], SETTINGS)
        self._databases = 0

    def start(self) -> None:
        """Both run, and commits wait for the standby."""
        self.primary.start()
        self.follow()

    def follow(self) -> None:
        """Have the standby begin as a fresh copy of the primary; return once commits wait for it."""
        self.primary.copy_to(self.standby)
        self.standby.start()
        self.standby.run("ALTER SYSTEM RESET synchronous_standby_names")
        self._wait_streaming()
        self.primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.primary.run("SELECT pg_reload_conf()")
        self._wait_for("SELECT sync_state FROM pg_stat_replication", ("sync",))

    def promote(self) -> None:
        """The standby takes over; the primary, dead or alive, is not asked."""
        self.standby.run("SELECT pg_reload_conf()")
        self.standby.run("SELECT pg_promote()")
        self.primary, self.standby = self.standby, self.primary

    def stop(self) -> None:
        """End both; nobody needs what they would still write."""
        for server in (self.standby, self.primary):
            server.resume()
            server.kill()

    def dsn(self, database: str, first: PostgresServer | None = None) -> str:
        """The address of a database on whichever of the two takes writes; ``first`` is named first."""
        first = first or self.primary
        second = self.standby if first is self.primary else self.primary
        host = f"127.0.0.1:{first.port}"
        return first.dsn(database).replace(host, f"{host},127.0.0.1:{second.port}")

    def create_database(self) -> str:
        """Make an empty database on the primary; its name."""
        self._databases += 1
        name = f"pair_{self._databases}"
        self.primary.create_database(name)
        return name

    def _wait_streaming(self) -> None:
        self._wait_for("SELECT state FROM pg_stat_replication", ("streaming",))

    def _wait_for(self, sql: str, wanted: tuple[str, ...]) -> None:
        end = time.monotonic() + START_TIMEOUT_S
        while (seen := self.primary.run(sql)) not in wanted:
            if time.monotonic() > end:
                raise ServerFailed(f"the standby does not follow: {sql} is {seen!r}")
            time.sleep(0.05)


@contextmanager
def running_pair(ports: tuple[int, int]) -> Iterator[PostgresPair]:
    """A pair in a folder of its own, outside those that other users may not enter: PostgreSQL does not run as root."""
    folder = Path(tempfile.mkdtemp(prefix="outlast-postgres-"))
    folder.chmod(0o755)
    pair = PostgresPair(folder, ports)
    try:
        pair.start()
        yield pair
    finally:
        pair.stop()
        shutil.rmtree(folder, ignore_errors=True)
