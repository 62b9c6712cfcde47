"""Sessions with the server: how they are opened, and what they insist on.

Every session asks for ``synchronous_commit=on`` and reads it back with the server's own ``fsync`` and
``full_page_writes``: a site that cannot have them does not start. A server that only follows another is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg

from outlast.core.errors import Refused
from outlast.core.store.postgres.failure import (
    REFUSED_SETTINGS,
    invalid_address,
    invalid_setting,
    translated,
)
from outlast.core.store.postgres.primary import Primary, Session

MIN_SERVER = 150_000
"""PostgreSQL 15, as ``server_version_num``: older ones are out of support or nearly so."""
READ_TIMEOUT_S = 30.0
"""The longest a read may take."""

_COMMON = {
    "synchronous_commit": "on",
    "jit": "off",
    # All that is asked is by key or in an index's order. Plans made while the tables were empty must not be scans.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # half-open connections: found out in about 12 s, on the server's side too
    "tcp_keepalives_idle": "6",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
WRITER_SETTINGS = {
    # A node that stops while it holds the head's lock (suspended, cut off) must not stop the site: its
    # session ends after 5 s. Who waits for the lock gives up after 10 s, which is retried.
    "idle_in_transaction_session_timeout": "5s",
    "lock_timeout": "10s",
    # No statement_timeout: it would end the wait for a synchronous standby and report success.
    "statement_timeout": "0",
    # A flush's statements may be transactions of their own: whatever the database's defaults are.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "plan_cache_mode": "force_generic_plan",
    "enable_bitmapscan": "off",
}
READER_SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": f"{READ_TIMEOUT_S:.0f}s",
}


async def connect_reader(primary: Primary, *_: object, **_given: object) -> Session:
    """A session for reads; asyncpg's pool calls it, with arguments that are of no use here."""
    return await primary.connect({**_COMMON, **READER_SETTINGS}, command_timeout=READ_TIMEOUT_S)


async def connect_writer(
    primary: Primary, queries: Mapping[str, str], *, allow_unsafe: bool
) -> Session:
    """A session for flushes whose settings have been read back."""
    with translated():
        try:
            connection = await primary.connect({**_COMMON, **WRITER_SETTINGS})
        except ValueError as error:
            raise invalid_address(str(error)) from None
        except (
            REFUSED_SETTINGS
        ) as error:  # ours are known to every server: it is one of the address
            raise invalid_setting(str(error)) from None
    try:
        await verify_settings(connection, queries, allow_unsafe=allow_unsafe)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def verify_settings(
    connection: asyncpg.Connection[Any], queries: Mapping[str, str], *, allow_unsafe: bool
) -> None:
    """Raise Refused ``unsafe-storage``, ``server-too-old`` or ``server-encoding``."""
    with translated():
        row = await connection.fetchrow(queries["settings"])
    version, encoding, synchronous, fsync, pages, _standby = row
    if version < MIN_SERVER:
        raise Refused(
            "server-too-old",
            f"the database server is PostgreSQL {version // 10_000}; {MIN_SERVER // 10_000} is needed",
        )
    if encoding != "UTF8":
        raise Refused(
            "server-encoding",
            f"the database's encoding is {encoding}, UTF8 is needed",
            hint="CREATE DATABASE outlast OWNER outlast ENCODING 'UTF8' TEMPLATE template0;",
        )
    if synchronous != "on" or ((fsync, pages) != ("on", "on") and not allow_unsafe):
        raise Refused(
            "unsafe-storage",
            f"PostgreSQL runs with synchronous_commit={synchronous}, fsync={fsync}, full_page_writes={pages};"
            " with any of them off, what was acknowledged may be lost",
            hint="Set all three to on. For a test whose data may be lost: [store] allow_unsafe = true.",
            scope="site",
        )
