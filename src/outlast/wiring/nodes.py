"""The nodes of a site that several processes share: which there are, and which of them live.

A node says in the log when it starts and when it ends, and nothing in between. Whether it lives is asked of the
database: each process keeps sessions open there, named ``outlast/<node>/<process>``. So a heartbeat costs no write, and a
process that was killed is known to be gone as soon as its connections are (about 12 s where its machine was cut off).

Refuses to be the second node where documents are kept in each node's own folder: jobs would go to nodes that cannot
find what they are to sign. A node's name is taken while another process has sessions under it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from outlast.core.access import SITE_TENANT
from outlast.core.clock import Clock
from outlast.core.commit import Submission
from outlast.core.decider import Command, Deciders
from outlast.core.errors import OutlastError, Refused
from outlast.core.store.port import Store, StreamItem
from outlast.operations.model import mode as modes
from outlast.operations.model import node as records
from outlast.operations.model.mode import SiteMode
from outlast.operations.views import NodeView
from outlast.signing.world import Door
from outlast.wiring.config import NODE_NAME

log = logging.getLogger("outlast.nodes")

MAX_NODES = 1_000
"""Nodes shown, running or not."""
FORGET_MS = 24 * 3_600_000
"""A node that ended longer ago is not shown."""
NAME_WAIT_S = 15.0
"""How long a start waits for the sessions of an earlier process of its name to end: the server's keepalives take 12 s
to find out that a machine is gone."""
NAME_LOOK_S = 0.25
_PROCESS_CHARS = 8
_NAME_FILE = "node"


class Me(NamedTuple):
    """This process: the node's name, and a name of its own that is fresh at every start. ``is_shared``: the site may
    have other nodes."""

    node: str
    process: str
    is_shared: bool

    @property
    def session(self) -> str:
        """What its sessions with the database are called."""
        return session_name(self.node, self.process)

    def within(self, site: str) -> str:
        """How it signs what it writes: by the site's name, and the node's where there may be others."""
        return f"{site}/{self.node}" if self.is_shared else site


Sessions = Callable[[], Awaitable[frozenset[str]]]
"""The names of all sessions with the site's database."""


def session_name(node: str, process: str) -> str:
    """What a process calls its sessions with the database."""
    return f"outlast/{node}/{process[-_PROCESS_CHARS:]}"


def who_am_i(chosen: str, site: str, data: Path, process: str, *, is_shared: bool) -> Me:
    """This process. Where a site is one process and no name was chosen, its node is called like the site."""
    if not is_shared:
        return Me(chosen or site, process, False)
    return Me(chosen or _kept_name(data, process), process, True)


def known_name(chosen: str, data: Path, *, is_shared: bool) -> str:
    """A node's own name as far as it is known before the site is opened: chosen, or kept from an earlier start. Empty for
    a site that is one process, and at the first start."""
    if chosen or not is_shared:
        return chosen
    try:
        kept = (data / _NAME_FILE).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""  # the start itself says what is wrong with it
    return kept if NODE_NAME.fullmatch(kept) else ""


def _kept_name(data: Path, fresh: str) -> str:
    """The name made from ``fresh`` at the first start and kept in the data folder."""
    path = data / _NAME_FILE
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = f"node-{fresh[-_PROCESS_CHARS:]}"
        path.write_text(f"{kept}\n")
    if not NODE_NAME.fullmatch(kept):
        raise Refused(
            "config-invalid",
            f"{path} does not hold the name of a node",
            hint="Remove it for a fresh one, or set [site] node.",
        )
    return kept


class Nodes:
    """This node among those of its site. ``sessions`` None: no other process can share the store."""

    def __init__(
        self,
        *,
        me: Me,
        version: str,
        door: Door,
        store: Store,
        clock: Clock,
        deciders: Deciders,
        sessions: Sessions | None,
        shares_documents: bool,
    ) -> None:
        self.node = me.node
        self._process = me.process
        self._version = version
        self._door = door
        self._store = store
        self._clock = clock
        self._deciders = deciders
        self._sessions = sessions
        self._shares_documents = shares_documents
        self._started_ms = clock.now_ms()
        self._gone: set[str] = set()
        self.is_stopping = False
        """No more jobs are started here: the process is about to end."""

    async def check(self) -> None:
        """Raises Refused ``documents-not-shared`` where there is another node and documents are on this disk."""
        others = sorted({node for node, _ in await self._connected()} - {self.node})
        if others and not self._shares_documents:
            raise Refused(
                "documents-not-shared",
                f"node {others[0]!r} is at work on this site, and documents are kept in each node's own folder",
                hint="Configure an object store for documents on every node ([blobs.NAME]), or stop the other node.",
                scope="site",
            )

    async def join(self) -> None:
        """Take the node's name and say so. Raises Refused ``node-name-taken``."""
        if self._sessions is None:
            return
        await self._wait_for_name()
        await self._submit(
            records.StartNode(
                at_ms=self._clock.now_ms(),
                node=self.node,
                process=self._process,
                version=self._version,
            )
        )

    async def leave(self) -> None:
        """Say that the process ends."""
        if self._sessions is None:
            return
        stop = records.StopNode(at_ms=self._clock.now_ms(), node=self.node, process=self._process)
        try:
            await self._submit(stop)
        except OutlastError as error:
            log.warning("that this node ends is not on record: %s", error)

    async def look(self) -> None:
        """Say it in the process's log when another node is gone without a word, or is back."""
        gone = {view.name for view in await self.view() if view.state == "gone"}
        for name in sorted(gone - self._gone):
            log.warning("node %s is gone: it has not stopped, and has no session left", name)
        for name in sorted(self._gone - gone):
            log.warning("node %s is no longer missing", name)
        self._gone = gone

    async def view(self) -> tuple[NodeView, ...]:
        """All nodes by name; those that ended lately too."""
        if self._sessions is None:
            return (
                NodeView(
                    name=self.node, state="up", version=self._version, started_ms=self._started_ms
                ),
            )
        connected = {node for node, _ in await self._connected()}
        modes_now = {
            item.id: self._deciders.decode_state(modes.KIND, item.row.state)
            for item in await self._store.streams(SITE_TENANT, modes.KIND, limit=MAX_NODES)
        }
        found = await self._store.streams(SITE_TENANT, records.KIND, limit=MAX_NODES)
        views = [self._view(item, item.id in connected, modes_now.get(item.id)) for item in found]
        since_ms = self._clock.now_ms() - FORGET_MS
        return tuple(
            sorted(
                (v for v in views if v.state != "stopped" or v.stopped_ms >= since_ms),
                key=lambda v: v.name,
            )
        )

    def _view(self, item: StreamItem, is_connected: bool, mode: SiteMode | None) -> NodeView:
        node: records.Node = self._deciders.decode_state(records.KIND, item.row.state)
        stopped = node.label == "stopped"
        return NodeView(
            name=item.id,
            state="stopped" if stopped else "up" if is_connected else "gone",
            version=node.version,
            started_ms=node.started_ms,
            stopped_ms=node.stopped_ms,
            mode=mode.label if mode else "normal",
            reasons=mode.reasons if mode and mode.label != "normal" else (),
        )

    async def _wait_for_name(self) -> None:
        own = self._process[-_PROCESS_CHARS:]
        end_s = self._clock.monotonic_s() + NAME_WAIT_S
        while True:
            connected = await self._connected()
            others = [process for node, process in connected if node == self.node]
            if all(process == own for process in others):
                return
            if self._clock.monotonic_s() >= end_s:
                raise Refused(
                    "node-name-taken",
                    f"another process works on this site as node {self.node!r}",
                    hint="Give each node its own [site] node; without it, its own data folder (not a copy's `node` file).",
                    scope="site",
                )
            await asyncio.sleep(NAME_LOOK_S)

    async def _connected(self) -> set[tuple[str, str]]:
        """Node and process of each that has a session."""
        names = await self._sessions() if self._sessions is not None else frozenset()
        parts = [name.split("/") for name in names]
        return {(part[1], part[2]) for part in parts if len(part) == 3 and part[0] == "outlast"}

    async def _submit(self, command: Command) -> None:
        await self._door.submit(
            Submission(
                tenant=SITE_TENANT,
                actor=f"node:{self.node}",
                kind=records.KIND,
                stream=self.node,
                command=command,
            )
        )
