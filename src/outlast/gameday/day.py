"""One game day: real processes, a customer who does not stop, and everything around it failing in turn.

What is on stage: the site; a signing appliance over mutual TLS; two timestamp authorities, one behind a proxy that can
swallow what is sent. While requests keep coming the appliance is killed (SIGKILL), the first authority blackholed, the
second killed, the site itself killed and started again over the same data, and then everything is brought back. The day
ends when every request is signed and every owed timestamp is settled, or when it has waited long enough for that.

Leaves to others: the verdict (`verdict`), what is shown (`screen`, `report`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import anyio
import msgspec

from outlast.core.clock import Clock
from outlast.core.errors import OutlastError, Refused
from outlast.core.log.archive import TileArchive
from outlast.gameday.client import Client, Upload, ask_again, ask_steadily
from outlast.gameday.faults import Fault, play
from outlast.gameday.folder import Folder
from outlast.gameday.stage import KEY, Stage, certify_keys, collect_roots, set_stage
from outlast.gameday.story import Teller
from outlast.gameday.supervisor import Program, Running, Supervisor
from outlast.gameday.verdict import Delivered
from outlast.gameday.view import View

FOLLOW_EVERY_S = 0.1
STATUS_EVERY_S = 0.25
RESTART_AFTER_S = 0.2
"""What a service manager waits before it starts a process again."""
SETTLE_TIMEOUT_S = 45.0
"""How long the day waits, after the last request, for everything to be signed and settled."""
PUBLISH_TIMEOUT_S = 10.0
FETCH_AT_ONCE = 4


class Moments(msgspec.Struct, kw_only=True):
    """When it happened, Unix milliseconds; 0: it did not."""

    started_ms: int = 0
    appliance_killed_ms: int = 0
    tsa_1_blackholed_ms: int = 0
    tsa_2_killed_ms: int = 0
    site_killed_ms: int = 0
    site_back_ms: int = 0
    restored_ms: int = 0
    settled_ms: int = 0


class _Started(msgspec.Struct):
    """What `outlast serve --json` prints."""

    token: str | None
    log_keys: tuple[str, ...]


class GameDay:
    """Run it once. Afterwards ``moments``, ``delivered`` and ``log_keys`` tell how it went; the site is stopped."""

    def __init__(
        self, folder: Folder, view: View, documents: Sequence[Path], per_s: float, clock: Clock
    ) -> None:
        self.moments = Moments()
        self.delivered: list[Delivered] = []
        self.log_keys: tuple[str, ...] = ()
        self._folder = folder
        self._view = view
        self._documents = documents
        self._per_s = per_s
        self._clock = clock
        self._record = view.record
        self._teller = Teller(view)
        self._unfetched: set[str] = set()
        self._running: dict[str, Running] = {}

    async def run(self) -> None:
        """Raises Unavailable ``process-failed``, Refused for what the site will not take."""
        async with Supervisor(self._folder.output, self._clock) as supervisor:
            self._supervisor = supervisor
            self._stage = await anyio.to_thread.run_sync(set_stage, self._folder, self._clock)
            async with Client(self._stage.url, self._clock) as client:
                self._client = client
                self._view.troubles = client.troubles
                await self._set_up(self._stage)
                keys = await self._upload()
                await self._perform(keys)
                await self._curtain(keys)
        self._view.status = None
        for actor in self._view.actors.values():
            actor.state, actor.pid = "stopped", 0

    # -- before ------------------------------------------------------------------------------------------------

    async def _set_up(self, stage: Stage) -> None:
        enrolments = await certify_keys(self._folder, self._clock)
        async with asyncio.TaskGroup() as group:
            for program in (stage.tsa_1, stage.tsa_2, stage.proxy, stage.appliance):
                group.create_task(self._start(program))
        collect_roots(self._folder)
        await self._start_site()
        started = msgspec.json.decode(_last_json(self._running["site"].printed()), type=_Started)
        if started.token is None:
            raise Refused("no-token", "the site did not print a first token")
        self.log_keys = started.log_keys
        (self._folder.pki / "log-keys.txt").write_text("".join(f"{k}\n" for k in self.log_keys))
        self._client.use(started.token)
        for enrolment in enrolments:
            await self._client.enrol(KEY, enrolment)
        self._client.use(await self._client.make_key())
        self._view.actors["local"].state = "up"

    async def _upload(self) -> list[tuple[str, Upload]]:
        """Hand in each document once; a request's idempotency key and document for as many as are wanted."""
        self._view.phase = f"uploading {len(self._documents)} documents"
        uploads = []
        for number, path in enumerate(self._documents, 1):
            content = await anyio.Path(path).read_bytes()
            uploads.append(await self._client.upload(path.stem, content, f"upload-{number}"))
        return [(f"order-{i + 1:04d}", uploads[i % len(uploads)]) for i in range(self._view.wanted)]

    # -- during ------------------------------------------------------------------------------------------------

    async def _perform(self, keys: list[tuple[str, Upload]]) -> None:
        view = self._view
        view.start_ms = self.moments.started_ms = self._clock.now_ms()
        view.phase = f"{view.wanted} requests, {self._per_s:g} a second, while providers fail"
        async with asyncio.TaskGroup() as watching:
            watchers = [
                watching.create_task(self._follow()),
                watching.create_task(self._look()),
                watching.create_task(self._collect()),
            ]
            async with asyncio.TaskGroup() as acting:
                acting.create_task(
                    ask_steadily(self._client, view.ledger, keys, self._per_s, self._clock)
                )
                acting.create_task(play(self._faults(), self._progress, self._clock))
            view.phase = "waiting for the last signatures and owed timestamps"
            with suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    await self._until_settled()
            for watcher in watchers:
                watcher.cancel()

    def _faults(self) -> list[Fault]:
        return [
            Fault(0.15, 0.5, self._kill_appliance),
            Fault(0.30, 0.5, self._blackhole_tsa_1),
            Fault(0.42, 0.5, self._kill_tsa_2),
            Fault(0.60, 1.5, self._kill_site),
            Fault(0.82, 1.5, self._bring_back),
        ]

    def _progress(self) -> float:
        return (self._view.ledger.accepted + len(self._view.ledger.refusals)) / self._view.wanted

    async def _kill_appliance(self) -> None:
        self.moments.appliance_killed_ms = await self._kill("appliance")

    async def _blackhole_tsa_1(self) -> None:
        self._running["tsa-1-proxy"].tell("blackhole")
        self.moments.tsa_1_blackholed_ms = self._clock.now_ms()
        self._view.actors["tsa-1"].state = "blackholed"
        self._view.say("tsa-1 blackholed (what is sent vanishes, nothing answers)", "bad")

    async def _kill_tsa_2(self) -> None:
        self.moments.tsa_2_killed_ms = await self._kill("tsa-2")

    async def _kill_site(self) -> None:
        published = await anyio.Path(self._folder.log / "checkpoint").read_bytes()
        await anyio.Path(self._folder.checkpoint).write_bytes(published)
        self.moments.site_killed_ms = await self._kill("site")
        self._view.status = None
        await asyncio.sleep(RESTART_AFTER_S)
        await self._start_site()
        self.moments.site_back_ms = self._clock.now_ms()
        away_s = (self.moments.site_back_ms - self.moments.site_killed_ms) / 1000
        self._view.say(f"site is back over the same data, {away_s:.2f} s after the kill", "good")

    async def _bring_back(self) -> None:
        self._running["tsa-1-proxy"].tell("pass")
        self._view.actors["tsa-1"].state = "up"
        async with asyncio.TaskGroup() as group:
            group.create_task(self._start(self._stage.appliance))
            group.create_task(self._start(self._stage.tsa_2))
        self.moments.restored_ms = self._clock.now_ms()
        self._view.say("appliance and tsa-2 started again, tsa-1 reachable again", "good")

    async def _kill(self, name: str) -> int:
        running = self._running[name]
        at_ms = self._clock.now_ms()
        await self._supervisor.kill(running)
        actor = self._view.actors[name]
        actor.state, actor.pid = "killed", 0
        self._view.say(f"{name} killed (SIGKILL, pid {running.pid})", "bad", at_ms)
        return at_ms

    async def _start_site(self) -> None:
        async def ready(running: Running) -> bool:
            # its own word first: until then another process might be answering
            return "log_keys" in running.printed() and await self._client.ready()

        self._view.actors["site"].state = "starting"
        running = await self._supervisor.start(self._stage.site, ready)
        self._running["site"] = running
        self._view.actors["site"].state, self._view.actors["site"].pid = "up", running.pid

    async def _start(self, program: Program) -> None:
        running = await self._supervisor.start(program)
        self._running[program.name] = running
        actor = self._view.actors.get(program.name)
        if actor is not None:
            actor.state, actor.pid = "up", running.pid

    # -- watching ----------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Read the published log as it grows, from its files: they answer also while the site is dead."""
        archive = TileArchive(self._folder.log)
        while True:
            await self._read_on(archive)
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _read_on(self, archive: TileArchive) -> None:
        leaves = await anyio.to_thread.run_sync(published_after, archive, self._record.size)
        self._record.read(leaves)
        self._teller.tell()

    async def _look(self) -> None:
        while True:
            if self._running["site"].alive():
                self._view.status = await self._client.status()
            await asyncio.sleep(STATUS_EVERY_S)

    async def _collect(self) -> None:
        """Fetch what is finished, as it gets finished."""
        while True:
            await self._fetch_finished()
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _fetch_finished(self) -> None:
        have = {item.key for item in self.delivered} | self._unfetched
        turns = asyncio.Semaphore(FETCH_AT_ONCE)

        async def fetch(key: str, request: str, name: str) -> None:
            async with turns:
                await self._fetch(key, request, name)

        async with asyncio.TaskGroup() as group:
            for key, promise in self._view.ledger.by_key().items():
                request = self._record.requests.get(promise.request)
                if key not in have and request is not None and request.complete:
                    have.add(key)
                    name = f"{key}-{promise.document}"
                    group.create_task(fetch(key, promise.request, name))

    async def _fetch(self, key: str, request: str, name: str) -> None:
        try:
            signed = await self._client.file(request)
            bundle = await self._client.evidence(request)
        except OutlastError as error:
            self._unfetched.add(key)  # the verdict will name it as lost
            self._view.say(f"{key} cannot be fetched: {error}", "bad")
            return
        await anyio.Path(self._folder.signed / f"{name}.pdf").write_bytes(signed)
        await anyio.Path(self._folder.evidence / f"{name}.zip").write_bytes(bundle)
        self.delivered.append(Delivered(key, f"{name}.pdf", sha256(signed).hexdigest()))

    async def _until_settled(self) -> None:
        while not (
            self._record.completed == self._view.ledger.accepted
            and len(self.delivered) + len(self._unfetched) == self._view.ledger.accepted
        ):
            if any(request.failed for request in self._record.requests.values()):
                return
            await asyncio.sleep(FOLLOW_EVERY_S)
        self.moments.settled_ms = self._clock.now_ms()

    # -- after -------------------------------------------------------------------------------------------------

    async def _curtain(self, keys: list[tuple[str, Upload]]) -> None:
        """Ask for everything once more, with the same keys; then let the site publish its last entries and stop."""
        view = self._view
        view.phase = "asking again for everything, with the same keys"
        promised = [(key, upload) for key, upload in keys if key in view.ledger.by_key()]
        await ask_again(self._client, view.ledger, promised)
        view.phase = "stopping everything"
        await self._until_published()
        await self._supervisor.stop_all()
        await self._read_on(TileArchive(self._folder.log))

    async def _until_published(self) -> None:
        until_s = self._clock.monotonic_s() + PUBLISH_TIMEOUT_S
        while self._clock.monotonic_s() < until_s:
            status = await self._client.status()
            if status is not None and status.log.committed == status.log.published:
                return
            await asyncio.sleep(FOLLOW_EVERY_S)


def published_after(archive: TileArchive, size: int) -> list[bytes]:
    """The log's published entries from ``size`` on. Blocking."""
    end = archive.size
    return list(archive.entries(size, end)) if end > size else []


def _last_json(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise Refused("no-announcement", "the site did not say where it is")
    return lines[-1]
