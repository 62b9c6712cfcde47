"""Examining untrusted PDFs in processes of their own, bounded in time, memory and number.

Guarantees: whatever a document does to the parser, the caller gets facts and a prepared revision, or a Refused
(``pdf-too-costly`` when the process ran out of CPU time or memory, or died). A process that overran is killed, never
reused. The site itself imports no PDF parser. Refuses nothing by itself but ``pdf-too-costly``; raises
Unavailable ``pdf-worker-unavailable`` when no process can be started or the machine is too busy.

Processes are plain children spoken to over pipes from worker threads, so this works under any event loop. They
are reused, and replaced after a number of documents, which bounds what a parser may leak.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import anyio
import anyio.to_thread
import msgspec

from outlast.core.errors import Refused, Unavailable
from outlast.signing.pdf import wire
from outlast.signing.pdf.facts import MIB, Limits, PdfFacts, PrepareOptions
from outlast.signing.pdf.refusals import too_costly
from outlast.signing.pdf.revision import Prepared

TIMEOUT_S = 20.0
"""Wall-clock seconds for one document."""
CPU_S = 10
"""CPU seconds for one document, enforced by the kernel."""
MEMORY_BYTES = 1024 * MIB
"""Address space of one worker process: ten times the largest document, and the interpreter."""
DOCUMENTS_PER_PROCESS = 1_000
"""After so many documents a process is replaced."""
START_TIMEOUT_S = 60.0
"""Seconds for a fresh process to import the parser, on a busy machine."""

_ENVIRONMENT = ("PATH", "PYTHONPATH", "LANG", "LC_ALL")
"""All a worker gets of the site's environment, which may hold secrets."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What one document may cost, and how many are examined at once."""

    workers: int = 2
    timeout_s: float = TIMEOUT_S
    cpu_s: int = CPU_S
    memory_bytes: int = MEMORY_BYTES


class PdfSandbox:
    """At most ``bounds.workers`` processes, started when needed. Close it (``async with``, `aclose`)."""

    def __init__(self, bounds: Bounds | None = None) -> None:
        self._bounds = bounds or Bounds()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._limiter = anyio.CapacityLimiter(self._bounds.workers)
        # beside the shared pool of threads; each worker needs one that asks and one that may kill
        self._threads = anyio.CapacityLimiter(2 * self._bounds.workers)
        self._closed = False

    @property
    def waiting(self) -> int:
        """Documents that wait for a process."""
        return self._limiter.statistics().tasks_waiting

    @property
    def busy(self) -> int:
        """Documents being looked into."""
        return self._limiter.borrowed_tokens

    async def __aenter__(self) -> PdfSandbox:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def examine(
        self, source: bytes | Path, limits: Limits, options: PrepareOptions | None = None
    ) -> tuple[PdfFacts, Prepared]:
        """Inspect and prepare a document given as bytes or, if large, as the path of a file.

        Raises Refused as `inspect_pdf` and `prepare_revision` do, or ``pdf-too-costly``; Unavailable. Waiting
        for a free process does not count towards the timeout. Cancelling ends the process at once.
        """
        job = wire.Job(
            source if isinstance(source, bytes) else b"",
            str(source) if isinstance(source, Path) else "",
            limits,
            options or PrepareOptions(),
            self._bounds.cpu_s,
        )
        async with self._limiter:
            worker = await self._worker()
            try:
                reply = await self._ask(worker, job)
            finally:
                self._busy.discard(worker)
            await self._keep(worker)
        if isinstance(reply, wire.Declined):
            raise Refused(reply.code, reply.message, hint=reply.hint)
        return reply.facts, Prepared.from_bytes(reply.prepared)

    async def warm(self) -> None:
        """Have one process ready, so that no request waits for its start. Raises Unavailable."""
        async with self._limiter:
            worker = await self._worker()
            self._busy.discard(worker)
            await self._keep(worker)

    async def aclose(self) -> None:
        """End all processes; later calls raise Unavailable."""
        self._closed = True
        workers = [*self._idle, *self._busy]
        self._idle.clear()
        for worker in workers:
            await self._end(worker)

    async def _worker(self) -> _Worker:
        if self._closed:
            raise _unavailable("the sandbox is closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                self._busy.add(worker)
                return worker
            await self._end(worker)
        return await self._start()

    async def _start(self) -> _Worker:
        try:
            worker = await anyio.to_thread.run_sync(
                _Worker, self._bounds.memory_bytes, limiter=self._threads
            )
        except OSError as error:
            raise _unavailable("no process can be started") from error
        self._busy.add(worker)
        ready = False
        try:
            with anyio.move_on_after(START_TIMEOUT_S):
                ready = await anyio.to_thread.run_sync(
                    worker.ready, abandon_on_cancel=True, limiter=self._threads
                )
        finally:
            if not ready:
                self._busy.discard(worker)
                await self._end(worker)
        if not ready:
            raise _unavailable("a process was started and did not get ready")
        return worker

    async def _ask(self, worker: _Worker, job: wire.Job) -> wire.Reply:
        reply: wire.Reply | None = None
        try:
            with anyio.move_on_after(self._bounds.timeout_s) as scope:
                reply = await anyio.to_thread.run_sync(
                    worker.ask, job, abandon_on_cancel=True, limiter=self._threads
                )
        finally:
            if reply is None:
                await self._end(worker)  # which also ends the thread that waits for it
        if reply is not None:
            return reply
        if scope.cancelled_caught:
            # The kernel bounds what a document may cost by CPU time, long before this: the machine is too busy.
            raise _unavailable(f"one was not through in {self._bounds.timeout_s:g} s")
        raise too_costly("it used more time or memory than is allowed, or broke the parser")

    async def _keep(self, worker: _Worker) -> None:
        if self._closed or worker.documents >= DOCUMENTS_PER_PROCESS:
            await self._end(worker)
        else:
            self._idle.append(worker)

    async def _end(self, worker: _Worker) -> None:
        # not to be interrupted: a process left behind would go on using what it was killed for
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(worker.end, limiter=self._threads)


class _Worker:
    """One process. Its methods block; `end` may be called from another thread meanwhile."""

    def __init__(self, memory_bytes: int) -> None:
        self.documents = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "outlast.signing.pdf.worker", str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # parsers quote documents in their warnings
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the site, which then closes its workers
        )
        assert self._process.stdin is not None  # asked for above
        assert self._process.stdout is not None
        self._jobs = self._process.stdin
        self._replies = self._process.stdout

    def alive(self) -> bool:
        return self._process.poll() is None

    def ready(self) -> bool:
        """Waits until the process can take documents; False when it ended instead."""
        try:
            return self._replies.read(len(wire.HELLO)) == wire.HELLO
        except (OSError, ValueError):
            return False

    def ask(self, job: wire.Job) -> wire.Reply | None:
        """The answer, or None when the process ended or answered nonsense."""
        self.documents += 1
        try:
            wire.send(self._jobs, job)
            body = wire.receive(self._replies, wire.MAX_REPLY_BYTES)
            return None if body is None else msgspec.msgpack.decode(body, type=wire.Reply)
        except (OSError, ValueError, msgspec.MsgspecError):
            return None  # the pipe broke, was closed by `end`, or carried something else

    def end(self) -> None:
        """Kill the process and reap it: it holds nothing worth a farewell."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._jobs, self._replies):
            try:
                pipe.close()
            except OSError:
                pass  # bytes left for a process that is gone


def _unavailable(why: str) -> Unavailable:
    return Unavailable(
        "pdf-worker-unavailable",
        f"no document can be examined: {why}",
        hint="Nothing was taken in. Check load, memory and the limit on processes, then try again.",
        retry_after_s=5,
    )
