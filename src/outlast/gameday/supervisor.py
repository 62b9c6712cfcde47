"""Processes of a game day: started, killed, started again, and all of them ended, whatever happens.

Guarantees: nothing started here outlives the game day. A clean end and a failed one stop each process by its id; and
if the game day itself is killed, its guard (a shell that holds the other end of a pipe) notices the pipe's end and
kills what is left. Each process has a session of its own, so that Ctrl-C is for the game day, which then stops them in
order. Refuses to say that a process is ready before it says so itself.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from outlast.core.clock import Clock
from outlast.core.errors import Unavailable

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 8.0
POLL_S = 0.02
MAX_LOG_SHOWN = 1_500
"""Characters of a process's output that an error repeats."""

_TOKEN = re.compile(r"ol_[0-9a-zA-Z]{32}_[0-9a-zA-Z_-]{43}")

_GUARD = """\
while read -r sign pid; do
  if [ "$sign" = + ]; then pids="$pids $pid"; else
    left=; for p in $pids; do [ "$p" = "$pid" ] || left="$left $p"; done; pids=$left
  fi
done
for p in $pids; do kill -9 "$p" 2>/dev/null; done
"""


class Program(msgspec.Struct, frozen=True):
    """What is run: its name on the screen, its command line, what it prints once it takes connections."""

    name: str
    command: tuple[str, ...]
    ready: str = "listening "


class Running:
    """A process of ours. ``log`` collects its output over all its lives."""

    def __init__(
        self, program: Program, process: subprocess.Popen[bytes], log: Path, printed_before: int
    ) -> None:
        self.program = program
        self.log = log
        self._process = process
        self._printed_before = printed_before

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def printed(self) -> str:
        """What it has printed since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._printed_before)
            return file.read().decode(errors="replace")

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing where it has ended."""
        self._process.send_signal(number)

    async def ended(self, timeout_s: float) -> bool:
        """Whether it ends in time; it is reaped then."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._process.poll() is None:  # noqa: ASYNC110 - its end is only seen by asking
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Let go of its standard input."""
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except BrokenPipeError:
                pass  # it ended with something unread


class Supervisor:
    """Starts and ends processes; use as an async context manager."""

    def __init__(self, logs: Path, clock: Clock) -> None:
        self._logs = logs
        self._clock = clock
        self._running: list[Running] = []
        self._guard: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Supervisor:
        self._guard = _start_guard()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.shield(self.stop_all())
        guard = self._guard
        assert guard is not None
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait(STOP_TIMEOUT_S)

    async def start(
        self, program: Program, ready: Callable[[Running], Awaitable[bool]] | None = None
    ) -> Running:
        """Start it and wait until it is ready. Raises Unavailable ``process-failed`` with what it printed."""
        running = self._spawn(program)
        until_s = self._clock.monotonic_s() + START_TIMEOUT_S
        while not await (ready or _has_said_so)(running):
            if not running.alive() or self._clock.monotonic_s() > until_s:
                raise Unavailable(
                    "process-failed",
                    f"{program.name} did not start: {_fit_to_show(running.printed())}",
                    hint=f"Its whole output is in {running.log}.",
                )
            await asyncio.sleep(POLL_S)
        return running

    def _spawn(self, program: Program) -> Running:
        log = self._logs / f"{program.name}.log"
        with log.open("ab") as output:
            printed_before = output.tell()
            process = subprocess.Popen(
                program.command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
        running = Running(program, process, log, printed_before)
        self._running.append(running)
        self._tell_guard("+", running.pid)
        return running

    async def kill(self, running: Running) -> None:
        """SIGKILL, as a crash or the kernel would; its children must notice by themselves."""
        running.signal(signal.SIGKILL)
        await running.ended(STOP_TIMEOUT_S)
        self._forget(running)

    async def stop(self, running: Running) -> None:
        """SIGTERM, and SIGKILL after STOP_TIMEOUT_S."""
        running.signal(signal.SIGTERM)
        if not await running.ended(STOP_TIMEOUT_S):
            running.signal(signal.SIGKILL)
            await running.ended(STOP_TIMEOUT_S)
        self._forget(running)

    async def stop_all(self) -> None:
        """End everything, all at once."""
        await asyncio.gather(*(self.stop(running) for running in self._running))

    def alive(self) -> Sequence[Running]:
        """Those that run."""
        return [running for running in self._running if running.alive()]

    def _forget(self, running: Running) -> None:
        running.close()
        if running in self._running:
            self._running.remove(running)
            self._tell_guard("-", running.pid)

    def _tell_guard(self, sign: str, pid: int) -> None:
        assert self._guard is not None
        assert self._guard.stdin is not None
        try:
            self._guard.stdin.write(f"{sign} {pid}\n".encode())
            self._guard.stdin.flush()
        except BrokenPipeError:
            pass  # somebody killed the guard; processes are still ended by us


def _start_guard() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", _GUARD],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _fit_to_show(printed: str) -> str:
    return _TOKEN.sub("(a token)", printed)[-MAX_LOG_SHOWN:].strip()


async def _has_said_so(running: Running) -> bool:
    return running.program.ready in running.printed()
