"""The fault proxy does what it is told, to open and to new connections, in this process and as its own."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from outlast.testing.faultproxy import FaultProxy, Mode

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """Sends every line back."""

    tasks: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            while line := await reader.readline():
                writer.write(line)
                await writer.drain()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running)
        await asyncio.sleep(0)


class Line:
    """A client connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int) -> Line:
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, text: bytes = b"hello\n") -> bytes:
        """Send a line and wait half a second for the answer."""
        self.writer.write(text)
        return await asyncio.wait_for(self.reader.readline(), 0.5)

    async def close(self) -> None:
        """Drop it."""
        self.writer.transport.abort()
        await asyncio.sleep(0)


async def test_pass_and_back_again() -> None:
    """Every mode can be left again."""
    async with echo_server() as port, FaultProxy("127.0.0.1", port) as proxy:
        modes: tuple[Mode, ...] = ("pass", "blackhole", "refuse", "reset", "half-close")
        before = proxy.port
        for mode in modes:
            await proxy.set(mode)
            await proxy.set("pass")
            line = await Line.to(proxy.port)
            assert await line.ask() == b"hello\n"
            await line.close()
        assert proxy.port == before


@pytest.mark.parametrize("opened", [True, False], ids=["open connection", "new connection"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("blackhole", TimeoutError),
        ("refuse", ConnectionError),
        ("reset", ConnectionError),
        ("half-close", None),
    ],
)
async def test_faults(mode: Mode, expected: type[Exception] | None, opened: bool) -> None:
    """Silence is a timeout, refusal and reset are errors, a half-closed connection ends without an answer."""
    async with echo_server() as port, FaultProxy("127.0.0.1", port) as proxy:
        line = await Line.to(proxy.port) if opened else None
        if line is not None:
            assert await line.ask() == b"hello\n"
        await proxy.set(mode)
        if expected is None:
            line = line or await Line.to(proxy.port)
            assert await line.ask() == b""
        else:
            with pytest.raises(expected):
                line = await asked(proxy.port, line)
        if line is not None:
            await line.close()


async def asked(port: int, line: Line | None) -> Line:
    """Connect, unless there is a connection, and ask."""
    line = line or await Line.to(port)
    try:
        await line.ask()
    except BaseException:
        await line.close()
        raise
    return line


async def test_latency() -> None:
    """An answer comes later by the latency asked for."""
    async with echo_server() as port, FaultProxy("127.0.0.1", port) as proxy:
        await proxy.set("pass", latency_ms=150)
        line = await Line.to(proxy.port)
        start = time.monotonic()
        await line.ask()
        assert 0.14 < time.monotonic() - start < 0.5
        await line.close()


async def test_much_data() -> None:
    """More than any buffer goes through whole."""
    async with echo_server() as port, FaultProxy("127.0.0.1", port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, limit=1 << 22)
        sent = b"x" * 40_000 + b"\n"

        async def send() -> None:
            for _ in range(50):
                writer.write(sent)
                await writer.drain()

        sending = asyncio.create_task(send())
        for _ in range(50):
            assert await reader.readline() == sent
        await sending
        writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("by", ["stdin", "control port"])
async def test_as_a_process(by: str) -> None:
    """Commands on standard input and on the control port."""
    async with echo_server() as port:
        arguments = ["--target", f"127.0.0.1:{port}"]
        if by == "control port":
            arguments += ["--control", "0"]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "outlast.testing.faultproxy", *arguments,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        _, listen, control = (await process.stdout.readline()).split()
        if by == "stdin":
            reader, writer = process.stdout, process.stdin
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(control))

        async def tell(text: bytes) -> bytes:
            writer.write(text + b"\n")
            return (await reader.readline()).strip()

        line = await Line.to(int(listen))
        assert await line.ask() == b"hello\n"
        assert await tell(b"status") == b"ok pass 0 1"
        assert (await tell(b"nonsense")).startswith(b"error")
        assert await tell(b"latency 5") == b"ok pass 5 1"
        assert (await tell(b"refuse")).startswith(b"ok refuse 0")
        with pytest.raises(ConnectionError):
            await Line.to(int(listen))
        assert (await tell(b"pass")).startswith(b"ok pass 0")
        assert await tell(b"quit") == b"ok bye"
        assert await asyncio.wait_for(process.wait(), 10) == 0
        await line.close()
        writer.close()


async def test_the_target_may_be_gone() -> None:
    """With nothing behind it, the proxy resets, as a forwarder does."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with FaultProxy("127.0.0.1", unused.getsockname()[1]) as proxy:
            line = await Line.to(proxy.port)
            with pytest.raises(ConnectionError):
                assert await line.ask() == b"never"
            await line.close()
