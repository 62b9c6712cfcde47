"""Node: one process of a site that others share, as the log tells of it.

    StartNode -> NodeStarted     it took up work; by the same name before: that process has ended
    StopNode  -> NodeStopped     it ended in good order

Two entries in a node's life, and none while it lives: whether it lives is asked of the database, where it keeps a
session open. A process that was killed leaves no last word; its record stays ``up`` and its session is gone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec

from outlast.core.decider import Command, Decision, Event
from outlast.core.errors import Refused

KIND = "operations.node"


class NodeStarted(Event, frozen=True, kw_only=True):
    """A process took up work under the node's name. ``process`` is fresh for every start."""

    name: ClassVar[str] = "operations.node_started"
    node: str
    process: str
    version: str
    at_ms: int


class NodeStopped(Event, frozen=True, kw_only=True):
    """The process ended in good order."""

    name: ClassVar[str] = "operations.node_stopped"
    node: str
    process: str
    at_ms: int


class StartNode(Command, frozen=True, kw_only=True):
    """Say that a process works under the node's name from now on."""

    node: str
    process: str
    version: str


class StopNode(Command, frozen=True, kw_only=True):
    """Say that the process ends."""

    node: str
    process: str


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The newest process of a node. ``stopped_ms`` 0: it has not said that it ends."""

    label: Literal["up", "stopped"]
    node: str
    process: str
    version: str
    started_ms: int
    stopped_ms: int = 0


class NodeDecider:
    """`Decider` of nodes."""

    kind = KIND
    state = Node
    events = (NodeStarted, NodeStopped)

    def decide(self, command: Any, state: Node | None) -> Decision[NodeStarted | NodeStopped]:
        """A process that was followed by another of its name has nothing to say any longer."""
        if isinstance(command, StartNode):
            started = NodeStarted(
                node=command.node,
                process=command.process,
                version=command.version,
                at_ms=command.at_ms,
            )
            return Decision(events=(started,))
        if isinstance(command, StopNode):
            if state is None or state.process != command.process or state.label == "stopped":
                return Decision()
            stopped = NodeStopped(node=command.node, process=command.process, at_ms=command.at_ms)
            return Decision(events=(stopped,))
        raise Refused("unknown-command", f"a node knows no {type(command).__name__}")

    def evolve(self, state: Node | None, event: Event) -> Node:
        """The node after ``event``."""
        if isinstance(event, NodeStopped):
            assert state is not None
            return msgspec.structs.replace(state, label="stopped", stopped_ms=event.at_ms)
        assert isinstance(event, NodeStarted)
        return Node(
            label="up",
            node=event.node,
            process=event.process,
            version=event.version,
            started_ms=event.at_ms,
        )
