"""What asyncpg and PostgreSQL raise, as one of ours.

Before COMMIT was sent, a lost connection means that nothing happened: Unavailable. Once it was sent, nobody can know:
Unknown. No message repeats the address of the server, which may have a password in it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from outlast.core.errors import Conflict, Corrupt, OutlastError, Refused, Unavailable, Unknown

RETRY_S = 1.0
"""When to come again after a lost connection or a server that starts: failovers take some seconds."""
FULL_RETRY_S = 10.0
"""When to come again after a full disk."""

_LOST = (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, asyncio.TimeoutError)
_LOST_CLASSES = ("08", "57")
"""SQLSTATE classes: connection exception; operator intervention (shutdown, restart, crash, cancel)."""
_BUSY = frozenset({"53300", "55P03", "53200"})
"""too_many_connections, lock_not_available, out_of_memory."""


@contextmanager
def translated(*, committing: bool = False) -> Iterator[None]:
    """What the database raises in this block, as one of ours."""
    try:
        yield
    except OutlastError:
        raise
    except (asyncpg.PostgresError, *_LOST, UnicodeEncodeError) as error:
        raise translate(error, committing=committing) from error


def translate(error: Exception, *, committing: bool = False) -> OutlastError:
    """An error of asyncpg as one of ours; ``committing``: COMMIT had been sent."""
    if isinstance(error, asyncpg.DataError | UnicodeEncodeError):
        return _unstorable(str(error))
    if isinstance(error, asyncpg.TargetServerAttributeNotMatched):
        return _read_only()
    if isinstance(error, ssl.SSLError):
        return unreachable(f"TLS: {error.reason}")
    if isinstance(error, asyncpg.PostgresError):
        return _by_state(error, committing)
    if committing:
        return unknown(type(error).__name__)
    why = error.strerror if isinstance(error, OSError) else ""
    return unreachable(f"{type(error).__name__}: {why}" if why else type(error).__name__)


def unknown(why: str) -> Unknown:
    """COMMIT was sent and its answer is lost."""
    return Unknown(
        "storage-answer-lost",
        f"the connection to the database was lost during a commit ({why})",
        hint="Repeat with the same Idempotency-Key: what was written is answered as the first time.",
        retry_after_s=RETRY_S,
        scope="site",
    )


def busy(why: str) -> Unavailable:
    """The database works, and has no room for this now."""
    return Unavailable(
        "storage-busy", f"the database is busy: {why}", retry_after_s=RETRY_S, scope="site"
    )


def invalid_address(why: str = "") -> Refused:
    """The DSN cannot be understood. ``why``, asyncpg's words, is not repeated: it may be a part of the password."""
    if "root" in why and "does not exist" in why:
        return Refused(
            "store-dsn-invalid",
            "the server's certificate shall be checked, and there are no root certificates to check it with",
            hint="Name a file: …?sslmode=verify-full&sslrootcert=/path/to/ca.pem; without it, ~/.postgresql/root.crt"
            " of the site's user is taken.",
            scope="site",
        )
    return Refused(
        "store-dsn-invalid",
        "the address of the database cannot be understood",
        hint="It looks like postgresql://user:password@host:5432/database (in a password, / is %2F and @ is %40).",
        scope="site",
    )


REFUSED_SETTINGS = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
)
"""What a server says to a setting that it was given at login and does not take."""
_SETTING = re.compile(r'parameter "([A-Za-z0-9_.]{1,63})"')


def invalid_setting(why: str) -> Refused:
    """The DSN ends with a setting that the server does not take; its value is not repeated."""
    found = _SETTING.search(why)
    return Refused(
        "store-dsn-invalid",
        f"the database server does not take the setting {found[1]!r} of its address"
        if found
        else "the database server does not take a setting of its address",
        hint="What follows ? and & in the address are asyncpg's options (sslmode, sslrootcert, …) and the server's settings.",
        scope="site",
    )


def _by_state(error: asyncpg.PostgresError, committing: bool) -> OutlastError:
    state = error.sqlstate or ""
    if state == "40003" or (committing and state[:2] in _LOST_CLASSES):
        return unknown(type(error).__name__)
    if state[:2] == "23":
        return Conflict(
            "storage-conflict",
            f"the write contradicts what is stored: {error.constraint_name or error}",
            hint="Read again and decide on what is there now.",
        )
    if state in ("40001", "40P01"):
        return Conflict(
            "storage-contended",
            "the database gave way to another transaction",
            hint="Repeat it at once.",
        )
    if state == "53100":
        return Unavailable(
            "storage-full",
            "the disk of the database server is full",
            hint="Free space on the database server; work resumes by itself.",
            retry_after_s=FULL_RETRY_S,
            scope="site",
        )
    if state == "25006":
        return _read_only()
    if state in ("XX001", "XX002"):
        return Corrupt(
            "database-corrupt",
            f"the database server reports damage: {error}",
            hint="Stop the site, keep the server's data folder, and restore from a mirror.",
            scope="site",
        )
    return _refusal(error, state) or _trouble(error, state)


def _refusal(error: asyncpg.PostgresError, state: str) -> Refused | None:
    """What will not go away by itself."""
    if state[:2] == "28":
        return Refused(
            "storage-login",
            "the database server does not let this user in",
            hint="Check user and password in the file that [store] dsn_file names, and the server's pg_hba.conf.",
            scope="site",
        )
    if state == "3D000":
        return Refused(
            "storage-missing",
            f"there is no such database on the server: {error}",
            hint="CREATE DATABASE outlast OWNER outlast ENCODING 'UTF8' TEMPLATE template0;",
            scope="site",
        )
    if state == "42501":
        return Refused(
            "storage-forbidden",
            f"the database user lacks a right: {error}",
            hint="Make it the owner of the database, or GRANT what docs/howto/postgresql.md lists.",
            scope="site",
        )
    if state in ("22021", "22P05"):
        return _unstorable(str(error))
    if state[:2] == "42":
        return Refused(
            "schema-drift",
            f"the database's tables are not those of this program: {error}",
            hint="Undo what was changed by hand, or give the site a database of its own.",
            scope="site",
        )
    return None


def _trouble(error: asyncpg.PostgresError, state: str) -> Unavailable:
    """What may go away by itself."""
    if state in _BUSY:
        return busy(str(error))
    if state[:2] in _LOST_CLASSES or state == "25P03":
        return unreachable(str(error))
    return Unavailable(
        "storage-error",
        f"PostgreSQL: {type(error).__name__} ({state}): {error}",
        hint="Look into the database server's log.",
        retry_after_s=RETRY_S,
        scope="site",
    )


def unreachable(why: str) -> Unavailable:
    """Nothing was written: there was no connection, or it was lost before COMMIT."""
    return Unavailable(
        "storage-unreachable",
        f"no connection to the database: {why}",
        hint="Check that the server runs and that this machine may connect; work resumes by itself.",
        retry_after_s=RETRY_S,
        scope="site",
    )


def _read_only() -> Unavailable:
    return Unavailable(
        "storage-read-only",
        "none of the database servers named takes writes: only standbys answer",
        hint="Promote a standby, or name all servers in the DSN: the primary among them is found.",
        retry_after_s=RETRY_S,
        scope="site",
    )


def _unstorable(detail: str) -> Refused:
    return Refused(
        "text-unstorable",
        f"PostgreSQL cannot store a value: {detail}",
        hint="Names must be valid Unicode without the NUL character.",
    )
