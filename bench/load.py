"""An HTTP load generator in one process: N connections, one request outstanding on each, back to back.

The same generator drives every variant, and it is run as a process of its own:

    python bench/load.py < spec.json > result.json

A connection goes through the steps of the spec in turn, again and again; a turn's latency is from the first byte
sent to the last answer read. It writes requests to the socket as bytes and reads no more of an answer than it must
(status and Content-Length), so that the server is what is measured: a request costs it about 15 us. In paths,
headers and bodies MARK stands for 16 characters that are different in each turn, and PREVIOUS for the id that the
answer before gave.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import sys
import time
from typing import cast

import msgspec
import uvloop

MARK = "@" * 16
PREVIOUS = "#" * 36
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID = re.compile(rb'"id":"([0-9a-f-]{36})"')
GRACE_S = 60.0
"""How long the last answers may take after the end."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Its answer must have the status ``expect`` and contain ``expect_text``; turns with an answer
    that contains ``note_text`` are noted."""

    path: str
    expect: int
    expect_text: str = ""
    note_text: str = ""
    method: str = "POST"
    headers: dict[str, str] = {}
    body: bytes = b""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. ``turns`` ends the run by count instead of time (then nothing is warm-up). Connections are dealt
    out to ``port`` and ``more_ports`` in turn."""

    port: int
    more_ports: tuple[int, ...] = ()
    steps: tuple[Step, ...]
    connections: int = 64
    seconds: float = 4.0
    warm_seconds: float = 1.0
    turns: int = 0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Rate and latencies are of whole turns, in the measured part. ``latencies_ms`` are in the
    order in which turns ended, and only given for a run by count; ``noted`` are indices into them. ``cores`` is how
    much of a core the generator itself took."""

    per_s: float
    turns: int
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    cores: float = 0.0
    unexpected: str = ""
    latencies_ms: list[float] = []
    noted: list[int] = []


def _encode(step: Step, port: int) -> bytes:
    lines = [f"{step.method} {step.path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    lines += [f"{name}: {value}" for name, value in step.headers.items()]
    if step.method != "GET":
        lines.append(f"Content-Length: {len(step.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + step.body


class _Run:
    """What all connections share."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.requests = [_encode(step, spec.port) for step in spec.steps]
        self.expect = [(str(s.expect).encode(), s.expect_text.encode()) for s in spec.steps]
        self.name = os.urandom(4).hex()
        self.begun = 0
        self.start = time.perf_counter() + (0.0 if spec.turns else spec.warm_seconds)
        self.stop = float("inf") if spec.turns else self.start + spec.seconds
        self.note = [step.note_text.encode() for step in spec.steps]
        self.latencies: list[float] = []
        self.noted: list[int] = []
        self.statuses: dict[str, int] = {}
        self.unexpected = ""

    def next_mark(self) -> bytes | None:
        """What makes the next turn different from all others, or None when the run is over."""
        over = self.spec.turns and self.begun >= self.spec.turns
        if over or self.unexpected or time.perf_counter() >= self.stop:
            return None
        self.begun += 1
        return f"{self.name}{self.begun:08x}".encode()

    def answered(self, step: int, answer: bytes) -> None:
        """Count one answer; one that was not expected ends the run."""
        match = _STATUS.match(answer)
        status = match[1] if match else b"?"
        word = status.decode()
        self.statuses[word] = self.statuses.get(word, 0) + 1
        expected, text = self.expect[step]
        if (status != expected or text not in answer) and not self.unexpected:
            self.unexpected = answer[:2000].decode(errors="replace")
        if self.note[step] and self.note[step] in answer:
            self.noted.append(len(self.latencies))

    def finished(self, began: float) -> None:
        """Only a turn that began and ended within the measured part counts."""
        now = time.perf_counter()
        if began >= self.start and now <= self.stop:
            self.latencies.append(now - began)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: sends, waits for the whole answer, sends again."""

    def __init__(self, run: _Run, done: asyncio.Future[None]) -> None:
        self._run = run
        self._done = done
        self._buffer = b""
        self._need = 0
        self._began = 0.0
        self._step = 0
        self._mark = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base
        self._turn()

    def _turn(self) -> None:
        mark = self._run.next_mark()
        if mark is None:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._mark = mark
        self._step = 0
        self._began = time.perf_counter()
        self._send(b"")

    def _send(self, answer: bytes) -> None:
        request = self._run.requests[self._step].replace(MARK.encode(), self._mark)
        if self._step:
            found = _ID.search(answer)
            if found is not None:
                request = request.replace(PREVIOUS.encode(), found[1])
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._need:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head + 2)
            if length is None:
                self._fail(ValueError(f"an answer without Content-Length: {self._buffer[:200]!r}"))
                return
            self._need = head + 4 + int(length[1])
        if len(self._buffer) >= self._need:
            answer, self._buffer = self._buffer[: self._need], self._buffer[self._need :]
            self._need = 0
            self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        self._run.answered(self._step, answer)
        self._step += 1
        if self._step < len(self._run.requests) and not self._run.unexpected:
            self._send(answer)
            return
        self._run.finished(self._began)
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionError("the server closed the connection"))

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


async def _drive(spec: Spec) -> Load:
    loop = asyncio.get_running_loop()
    run = _Run(spec)
    ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(spec.connections)]
    began, cpu = time.perf_counter(), time.process_time()
    ports = itertools.cycle((spec.port, *spec.more_ports))
    for end in ends:
        connection = _Connection(run, end)
        await loop.create_connection(lambda c=connection: c, "127.0.0.1", next(ports))  # type: ignore[misc]  # bound now
    limit = None if spec.turns else spec.warm_seconds + spec.seconds + GRACE_S
    async with asyncio.timeout(limit):
        await asyncio.gather(*ends)
    cores = (time.process_time() - cpu) / (time.perf_counter() - began)
    took = time.perf_counter() - began if spec.turns else spec.seconds
    ordered = sorted(run.latencies)
    return Load(
        per_s=len(ordered) / took,
        turns=len(ordered),
        statuses=run.statuses,
        p50_ms=_at_ms(ordered, 0.5),
        p99_ms=_at_ms(ordered, 0.99),
        max_ms=_at_ms(ordered, 1.0),
        cores=cores,
        unexpected=run.unexpected,
        latencies_ms=[1000 * s for s in run.latencies] if spec.turns else [],
        noted=run.noted if spec.turns else [],
    )


def _at_ms(ordered: list[float], share: float) -> float:
    """The latency below which a share of the turns stayed; 0 when there were none."""
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> None:
    """Read a spec, run it, write the result."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(msgspec.json.encode(runner.run(_drive(spec))))


if __name__ == "__main__":
    main()
