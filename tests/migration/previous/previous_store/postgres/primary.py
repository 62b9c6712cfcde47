"""Which of the servers named takes writes: found anew for every session, and never an earlier one again.

All servers named are tried at once, each on its own time, so a machine that is gone (which answers nothing at all)
keeps nobody from the others. Of several that take writes (a primary that was frozen, or came back by mistake, beside
the standby that was promoted in its place) the one of the newest timeline is used: each promotion begins one. What
this process has once learned it keeps: `Session.era` tells sessions of a server since replaced from those of its
successor, and no session is opened to the former again.

It does not replace fencing: a node that never hears of the successor cannot know. It leaves TLS, passwords and the
forms of a DSN to asyncpg.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
from asyncpg.connect_utils import SessionAttribute

CONNECT_TIMEOUT_S = 5.0
"""How long a server may take to let us in."""
OTHERS_S = 0.2
"""How long the other servers named are waited for once one takes writes."""
DEFAULT_PORT = 5432

_KEEPALIVE = (
    (socket.SO_KEEPALIVE, 1, socket.SOL_SOCKET),
    (socket.TCP_KEEPIDLE, 6, socket.IPPROTO_TCP),
    (socket.TCP_KEEPINTVL, 2, socket.IPPROTO_TCP),
    (socket.TCP_KEEPCNT, 3, socket.IPPROTO_TCP),
    (socket.TCP_USER_TIMEOUT, 12_000, socket.IPPROTO_TCP),
)
"""A machine that is gone is found out in about 12 s, whether or not something sent to it waits for an answer."""

_TIMELINE = """
SELECT system_identifier, ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::integer
FROM pg_control_system()
"""


class Place(NamedTuple):
    """A cluster of servers (its system identifier) and how often it has been promoted since it was made."""

    system: int
    timeline: int


UNKNOWN = Place(0, 0)
"""Of a server that does not tell, as some managed ones."""


class Session(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A session that knows when it was opened, in promotions that this process has heard of."""

    era: int = 0


class Primary:
    """Opens sessions for one store. ``era`` grows when a server of a newer timeline, or another cluster, is found."""

    def __init__(self, dsn: str, session_name: str = "outlast") -> None:
        """``session_name`` is what the server's lists of sessions show."""
        self._dsn = dsn
        self._session_name = session_name
        self._newest = UNKNOWN
        self.era = 0

    async def connect(self, settings: Mapping[str, str], **more: Any) -> Session:
        """A session with the server that takes writes. ``more`` is for asyncpg's ``connect``.

        Raises what asyncpg raises: TargetServerAttributeNotMatched where no server takes writes that may.
        """
        tries = [
            asyncio.create_task(self._open(where, settings, more)) for where in places(self._dsn)
        ]
        chosen: Session | None = None
        try:
            await _until_decided(tries)
            chosen = self._chosen(tries)
            return chosen
        finally:
            for task in tries:
                task.cancel()
                task.add_done_callback(partial(_discard, keep=chosen))

    async def _open(
        self, where: Mapping[str, Any], settings: Mapping[str, str], more: Mapping[str, Any]
    ) -> tuple[Place, Session]:
        session: Session = await asyncpg.connect(
            dsn=self._dsn,
            **where,
            timeout=CONNECT_TIMEOUT_S,
            max_cached_statement_lifetime=0,
            server_settings={**settings, "application_name": self._session_name},
            target_session_attrs=SessionAttribute.primary,
            connection_class=Session,
            **more,
        )
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                place = await _place(session)
        except BaseException:
            session.terminate()
            raise
        _keep_alive(session)
        return place, session

    def _chosen(self, tries: list[asyncio.Task[tuple[Place, Session]]]) -> Session:
        ended = [task for task in tries if task.done() and not task.cancelled()]
        found = [task.result() for task in ended if task.exception() is None]
        found = [(place, session) for place, session in found if not self._is_past(place)]
        if not found:
            raise _worst([error for task in ended if (error := task.exception()) is not None])
        place, session = max(found, key=lambda pair: pair[0].timeline)
        if place not in (self._newest, UNKNOWN):
            self._newest, self.era = place, self.era + 1
        session.era = self.era
        return session

    def _is_past(self, place: Place) -> bool:
        """Whether another server has been promoted in this one's place."""
        return place.system == self._newest.system and place.timeline < self._newest.timeline


def places(dsn: str) -> list[dict[str, Any]]:
    """The servers that an address names, each as arguments for asyncpg; empty ones where asyncpg knows better (a
    ``host`` in the query, sockets). Raises ValueError for a port that is none."""
    named = urlsplit(dsn).netloc.rpartition("@")[2].split(",")
    if len(named) < 2:
        return [{}]
    parts = [urlsplit(f"//{one}") for one in named]
    return [{"host": part.hostname, "port": part.port or DEFAULT_PORT} for part in parts]


async def _until_decided(tries: list[asyncio.Task[tuple[Place, Session]]]) -> None:
    """Until one takes writes and the others had their chance, or none does."""
    waiting: set[asyncio.Task[tuple[Place, Session]]] = set(tries)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if waiting and any(task.exception() is None for task in done):
            await asyncio.wait(waiting, timeout=OTHERS_S)
            return


def _discard(task: asyncio.Task[tuple[Place, Session]], *, keep: Session | None) -> None:
    """End the session of a try, unless it is the one that is used; its error has been looked at."""
    if not task.cancelled() and task.exception() is None and (unused := task.result()[1]) != keep:
        unused.terminate()


def _worst(errors: list[BaseException]) -> BaseException:
    """Of several servers' refusals the one that tells most: a standby's, then a server's, then the network's."""
    for kind in (asyncpg.TargetServerAttributeNotMatched, asyncpg.PostgresError, BaseException):
        for error in errors:
            if isinstance(error, kind):
                return error
    late: BaseException = asyncpg.TargetServerAttributeNotMatched(
        "all that take writes have been replaced"
    )
    return late


async def _place(session: Session) -> Place:
    try:
        row = await session.fetchrow(_TIMELINE)
    except asyncpg.PostgresError:
        return UNKNOWN
    return UNKNOWN if row is None else Place(*row)


def _keep_alive(session: Session) -> None:
    """asyncpg has no setting for it; without, a read or a COMMIT waits for a machine that is gone."""
    transport = getattr(session, "_transport", None)
    connected = transport.get_extra_info("socket") if transport is not None else None
    if connected is None or connected.family == socket.AF_UNIX:
        return
    for option, value, level in _KEEPALIVE:
        connected.setsockopt(level, option, value)
