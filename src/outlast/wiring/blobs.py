"""Where documents are kept: the stores that `[blobs]` names, opened, and what keeps their copies equal.

One filesystem store, the default, is used as it is. Everything else goes through `core.replicas`, one object store
included, so that its health is watched and its failures are told alike.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from outlast.adapters.blob.filesystem import FilesystemBlobs
from outlast.core.clock import Clock
from outlast.core.decider import Deciders
from outlast.core.errors import OutlastError, Refused
from outlast.core.replicas.debts import DebtLedger, Door, Settler
from outlast.core.replicas.health import StoreHealth
from outlast.core.replicas.model import CHECK_JOB, JOB_PREFIX, job_kind
from outlast.core.replicas.scrub import Scrubber
from outlast.core.replicas.store import CALL_S, ReplicatedBlobs
from outlast.core.routing.health import ProviderSnapshot
from outlast.core.routing.router import Router
from outlast.core.store.port import JobRow, Store
from outlast.core.work.runner import Kind
from outlast.ports.blob import BlobStore
from outlast.wiring.config import Config, FilesystemBlobStore, S3BlobStore
from outlast.wiring.secrets import read_secret

log = logging.getLogger("outlast.blobs")

SETTLE_CONCURRENCY = 8
"""Blobs being copied to where they are owed at once."""
LOOK_EVERY_S = 300.0
"""How often is looked whether a scrub is due."""
MAX_CA_BYTES = 1024 * 1024


class OpenStores(NamedTuple):
    """The configured stores by name, in order of preference, and the room on the data folder's disk."""

    by_name: dict[str, BlobStore]
    data: Path
    reserve_bytes: int

    @property
    def alone(self) -> FilesystemBlobs | None:
        """The only store there is, where that is a folder."""
        first = next(iter(self.by_name.values()))
        return first if len(self.by_name) == 1 and isinstance(first, FilesystemBlobs) else None

    def room(self) -> int:
        """Bytes free for what is put; the database is on that disk, wherever documents are."""
        state = os.statvfs(self.data)
        return max(0, state.f_bavail * state.f_frsize - self.reserve_bytes)


@contextmanager
def open_stores(config: Config) -> Iterator[OpenStores]:
    """Open what is configured, closed at the end. Raises Refused ``blob-store-dropped``, ``site-in-use``,
    ``s3-driver-missing``, ``secret-unreadable``, ``config-invalid``; object stores are not asked yet."""
    _check_dropped(config)
    reserve = config.storage.min_free_mb << 19
    with ExitStack() as stack:
        stores: dict[str, BlobStore] = {}
        for name, section in config.blobs.items():
            if isinstance(section, FilesystemBlobStore):
                folder = _open_folder(name, _directory(config, section), reserve)
                stack.callback(folder.close)
                stores[name] = folder
            else:
                stores[name] = build_s3(name, section)
        yield OpenStores(stores, config.data, reserve)


def _open_folder(name: str, directory: Path, reserve: int) -> FilesystemBlobs:
    try:
        return FilesystemBlobs(directory, min_free_bytes=reserve)
    except Refused as error:
        if error.code != "storage-in-use":
            raise
        # a site in a server's database has no file of its own whose lock would say so first
        raise Refused(
            "site-in-use",
            f"another process is using {directory}, where this site's documents are (blob store {name!r})",
            hint="Stop the other `outlast` process. A further node has a data folder of its own (--data), and documents in"
            " an object store.",
            scope="site",
        ) from error


def check_stores(config: Config) -> None:
    """Open what the tables name, as far as that asks nobody: secret files, CA files, drivers, dropped folders."""
    _check_dropped(config)
    for name, section in config.blobs.items():
        if isinstance(section, S3BlobStore):
            build_s3(name, section)


def build_s3(name: str, section: S3BlobStore) -> BlobStore:
    """An object store, not asked yet. Raises Refused as `open_stores` does."""
    try:
        from outlast.adapters.blob.s3 import S3Blobs, S3Settings
    except ModuleNotFoundError as error:
        raise Refused(
            "s3-driver-missing",
            f"blob store {name!r} is an object store, and obstore is not installed",
            hint="pip install 'outlast[s3]'",
        ) from error
    settings = S3Settings(
        endpoint=section.endpoint,
        bucket=section.bucket,
        region=section.region,
        prefix=section.prefix,
        ca_pem=_ca(name, section.ca_file),
        virtual_hosted=section.virtual_hosted,
        timeout_s=section.timeout_s,
    )
    access, secret = (
        read_secret(Path(file)).decode(errors="replace")
        for file in (section.access_key_file, section.secret_key_file)
    )
    return S3Blobs(settings, access, secret)


def are_shared(config: Config) -> bool:
    """Whether every node of a site would see the same documents."""
    return all(isinstance(section, S3BlobStore) for section in config.blobs.values())


class BlobPart:
    """What a site has of all this. ``store`` takes and gives documents; ``replicas`` is that store where there is
    more to it than a folder; ``owed`` counts the debts that have not been settled."""

    def __init__(
        self,
        config: Config,
        stores: OpenStores,
        clock: Clock,
        door: Door,
        streams: Store,
        deciders: Deciders,
        actor: str,
    ) -> None:
        self.stores: Mapping[str, BlobStore] = stores.by_name
        self.health = StoreHealth(list(stores.by_name), clock)
        self.ledger = DebtLedger(door, streams, deciders, clock, actor)
        self.replicas: ReplicatedBlobs | None = None
        if stores.alone is None:
            self.replicas = ReplicatedBlobs(
                stores.by_name, self.health, self.ledger, config.storage.write_copies
            )
        self.store: BlobStore = self.replicas or next(iter(stores.by_name.values()))
        self.scrubber = Scrubber(
            stores.by_name,
            self.health,
            self.ledger,
            door,
            streams,
            streams,
            deciders,
            clock,
            actor,
            config.storage.scrub_mb_per_s * 1_000_000,
        )
        self.owed = 0
        self.owed_by: dict[str, int] = {}
        """The same by kind of job, as last counted."""
        self._clock = clock
        self._every_ms = config.storage.scrub_every_h * 3_600_000
        self._opened = stores
        self._jobs = streams
        self._settler = Settler(stores.by_name, self.health, self.ledger, SETTLE_CONCURRENCY)

    def kinds(self) -> dict[str, Kind]:
        """The jobs that the runner shall run for this part."""
        settling = self._settler.kinds() if self.replicas is not None else {}
        return {**settling, **self.scrubber.kinds()}

    async def run(self) -> None:
        """Ask every store once, then begin a scrub when one is due, until cancelled. A single store is scrubbed only when asked to: there is
        nothing to mend it from."""
        await self.ask_all()
        while self._every_ms and len(self.stores) > 1:
            try:
                await self.scrubber.begin_if_idle_since(self._clock.now_ms() - self._every_ms)
            except OutlastError as error:
                log.warning("cannot begin a scrub: %s", error)
            await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.Event().wait()

    async def ask_all(self) -> None:
        """Have every store say whether it can be used: what refuses us is out of use before anybody's document meets
        it."""
        if self.replicas is not None:
            await asyncio.gather(*(self._ask(name) for name in self.stores))

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(CALL_S):
                await self.health.watched(name, self.stores[name].check())
        except (OutlastError, TimeoutError) as error:
            log.warning("blob store %s: %s", name, str(error) or "no answer")

    def routers(self) -> tuple[tuple[Router, Mapping[str, BlobStore]], ...]:
        """The router over the stores and what it asks, under the names it knows them by."""
        if self.replicas is None:
            return ()
        return ((self.health.router, self.health.routed(self.stores)),)

    def snapshots(self) -> tuple[ProviderSnapshot, ...]:
        """The stores as the status page shows them."""
        return self.health.router.snapshot() if self.replicas is not None else ()

    def is_debt(self, job: JobRow) -> bool:
        """Whether a job settles a debt: those wait for their store, and are no sign of too much work."""
        return is_debt_kind(job.kind)

    async def recount(self) -> int:
        """Count the debts; how many there are."""
        kinds = self._settler.kinds()
        if self.replicas is not None:
            self.owed_by = {kind: await self._jobs.count_jobs(kind) for kind in kinds}
        self.owed = sum(self.owed_by.values())
        return self.owed

    async def rooms(self) -> tuple[tuple[str, int | None, int], ...]:
        """Each store: its name, its room in bytes if it can tell, and how many blobs it has still to be given."""
        return tuple(
            [
                (name, await store.free_bytes(), self.owed_by.get(job_kind(name), 0))
                for name, store in self.stores.items()
            ]
        )

    async def free_bytes(self) -> int | None:
        """The least room, of the stores that can tell and of the data folder."""
        room = self._opened.room()
        stored = await self.store.free_bytes()
        return room if stored is None else min(room, stored)


def is_debt_kind(kind: str) -> bool:
    """Whether jobs of this kind settle what stores owe."""
    return kind.startswith(JOB_PREFIX) or kind == CHECK_JOB


def _directory(config: Config, section: FilesystemBlobStore) -> Path:
    return Path(section.directory) if section.directory else config.data / "blobs"


def _check_dropped(config: Config) -> None:
    """Documents that the site has accepted must not become unreachable by a change of its configuration."""
    default = config.data / "blobs"
    sections = [s for s in config.blobs.values() if isinstance(s, FilesystemBlobStore)]
    if (default / "small.db").exists() and default not in [_directory(config, s) for s in sections]:
        raise Refused(
            "blob-store-dropped",
            f"{default} holds documents, and no [blobs] table names it",
            hint='Add [blobs.local] with kind = "filesystem" beside the others; `outlast blobs scrub` then copies.'
            " Once every blob is elsewhere, move the folder away.",
        )


def _ca(name: str, file: str) -> bytes:
    if not file:
        return b""
    try:
        with Path(file).open("rb") as opened:
            pem = opened.read(MAX_CA_BYTES)
    except OSError as error:
        raise Refused(
            "config-invalid", f"blob store {name!r}: ca_file: {error.strerror}"
        ) from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise Refused(
            "config-invalid", f"blob store {name!r}: its ca_file holds no PEM certificate"
        )
    return pem
