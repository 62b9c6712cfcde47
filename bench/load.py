"""An HTTP load generator in one process: N connections, one request outstanding on each, back to back.

The same generator drives every variant, and it is run as a process of its own:

    python bench/load.py < spec.json > result.json

It writes requests to the socket as bytes and reads no more of an answer than it must (status and Content-Length;
with ``keep`` also the bodies), so that the server is what is measured: 64 connections cost it about 15 us a
request. ``MARK`` in path, headers or body is replaced by 16 characters that are different in each request.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import time
from typing import cast

import msgspec
import uvloop

MARK = b"@@@@@@@@@@@@@@@@"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
GRACE_S = 10.0
"""How long the last answers may take after the end."""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to send. ``requests`` ends the run by count instead of time; ``keep`` returns the last bodies."""

    port: int
    path: str
    method: str = "POST"
    headers: dict[str, str] = {}
    body: str = ""
    connections: int = 64
    seconds: float = 4.0
    warm_seconds: float = 1.0
    requests: int = 0
    keep: int = 0


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Latencies are of the measured part, in milliseconds."""

    per_s: float
    answered: int
    statuses: dict[str, int]
    p50_ms: float
    p99_ms: float
    max_ms: float
    first_bad: str = ""
    kept: list[str] = []


class _State:
    """What all connections share."""

    def __init__(self, spec: Spec) -> None:
        lines = [f"{spec.method} {spec.path} HTTP/1.1", f"Host: 127.0.0.1:{spec.port}"]
        lines += [f"{name}: {value}" for name, value in spec.headers.items()]
        if spec.method != "GET":
            lines.append(f"Content-Length: {len(spec.body.encode())}")
        self.request = ("\r\n".join(lines) + "\r\n\r\n" + spec.body).encode()
        self.run = os.urandom(4).hex()
        self.spec = spec
        self.sent = 0
        self.start = time.perf_counter() + (0 if spec.requests else spec.warm_seconds)
        self.stop = float("inf") if spec.requests else self.start + spec.seconds
        self.latencies: list[float] = []
        self.statuses: dict[str, int] = {}
        self.first_bad = ""
        self.kept: list[str] = []

    def next(self) -> bytes | None:
        """The next request, or None when the run is over."""
        over = self.sent >= self.spec.requests if self.spec.requests else False
        if over or time.perf_counter() >= self.stop:
            return None
        self.sent += 1
        return self.request.replace(MARK, f"{self.run}{self.sent:08x}".encode())

    def answered(self, began: float, status: bytes, answer: bytes) -> None:
        """Count one answer; only what began and ended within the measured part has a latency."""
        now = time.perf_counter()
        word = status.decode()
        self.statuses[word] = self.statuses.get(word, 0) + 1
        if not word.startswith("2") and not self.first_bad:
            self.first_bad = answer[:2000].decode(errors="replace")
        if len(self.kept) < self.spec.keep:
            self.kept.append(answer.partition(b"\r\n\r\n")[2].decode())
        if began >= self.start and now <= self.stop:
            self.latencies.append(now - began)


class _Connection(asyncio.Protocol):
    """One keep-alive connection: sends, waits for the whole answer, sends again."""

    def __init__(self, state: _State, done: asyncio.Future[None]) -> None:
        self._state = state
        self._done = done
        self._buffer = b""
        self._need = 0
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no such base
        self._send()

    def _send(self) -> None:
        request = self._state.next()
        if request is None:
            self._finish()
            return
        self._began = time.perf_counter()
        self._transport.write(request)

    def _finish(self) -> None:
        self._transport.close()
        if not self._done.done():
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        if not self._need:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            length = _LENGTH.search(self._buffer, 0, head + 2)
            if length is None:
                raise ValueError(f"an answer without Content-Length: {self._buffer[:200]!r}")
            self._need = head + 4 + int(length[1])
        if len(self._buffer) < self._need:
            return
        answer, self._buffer = self._buffer[: self._need], self._buffer[self._need :]
        self._need = 0
        status = _STATUS.match(answer)
        assert status is not None
        self._state.answered(self._began, status[1], answer)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(exc or ConnectionError("the server closed the connection"))


async def _run(spec: Spec) -> Load:
    loop = asyncio.get_running_loop()
    state = _State(spec)
    ends = [loop.create_future() for _ in range(spec.connections)]
    began = time.perf_counter()
    for end in ends:
        await loop.create_connection(
            lambda end=end: _Connection(state, end),  # type: ignore[misc]  # bound per turn
            "127.0.0.1",
            spec.port,
        )
    limit = None if spec.requests else spec.warm_seconds + spec.seconds + GRACE_S
    async with asyncio.timeout(limit):
        await asyncio.gather(*ends)
    took = time.perf_counter() - began if spec.requests else spec.seconds
    latencies = sorted(state.latencies)
    return Load(
        per_s=len(latencies) / took,
        answered=len(latencies),
        statuses=state.statuses,
        p50_ms=_at_ms(latencies, 0.5),
        p99_ms=_at_ms(latencies, 0.99),
        max_ms=_at_ms(latencies, 1.0),
        first_bad=state.first_bad,
        kept=state.kept,
    )


def _at_ms(ordered: list[float], share: float) -> float:
    """The latency below which a share of the requests stayed; 0 when there were none."""
    return 1000 * ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def main() -> None:
    """Read a spec, run it, write the result."""
    spec = msgspec.json.decode(sys.stdin.buffer.read(), type=Spec)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(msgspec.json.encode(runner.run(_run(spec))))


if __name__ == "__main__":
    main()
