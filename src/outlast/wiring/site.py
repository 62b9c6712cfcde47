"""One running site: its parts, put together once from configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from outlast.core.clock import Clock
from outlast.core.commit import Committer
from outlast.core.decider import Deciders
from outlast.core.ids import Ids
from outlast.core.publish import Publisher
from outlast.core.store.port import Store, WriteSet
from outlast.core.work.runner import Runner
from outlast.signing.api import Signing
from outlast.signing.world import World


@dataclass(kw_only=True)
class Site:
    """The object graph. Surfaces hold one; nothing else is global.

    ``watchers`` are called on the event loop after every flush.
    """

    name: str
    clock: Clock
    ids: Ids
    deciders: Deciders
    store: Store
    committer: Committer
    publisher: Publisher
    runner: Runner
    world: World
    signing: Signing
    watchers: list[Callable[[WriteSet], None]] = field(default_factory=list)
