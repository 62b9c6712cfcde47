"""A TCP proxy that spoils connections on command: what a network and a dying server do, without root.

Modes, which also take hold of connections that are open already:

    pass         bytes go through
    blackhole    connections are taken, bytes vanish, nothing ever answers
    refuse       nobody listens: connection refused; open ones are reset
    reset        connections are taken and reset (RST)
    half-close   bytes go to the server, the client sees the end of the stream instead of an answer

``latency_ms`` delays every piece on its way back to the client, in mode ``pass``. On loopback only.

    python -m outlast.testing.faultproxy --target HOST:PORT [--port N] [--control N]

takes the commands ``pass``, ``blackhole``, ``refuse``, ``reset``, ``half-close``, ``latency MS``, ``status`` and ``quit``,
a line each, on standard input and on the control port; answers ``ok MODE LATENCY_MS CONNECTIONS`` or ``error WHY``.
It begins with ``listening PORT CONTROL_PORT`` and ends with its standard input, unless it has a control port.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import sys
import threading
from collections.abc import Awaitable, Callable
from typing import Literal, get_args

Mode = Literal["pass", "blackhole", "refuse", "reset", "half-close"]
MODES: tuple[str, ...] = get_args(Mode)

HOST = "127.0.0.1"
PIECE_BYTES = 64 * 1024
MAX_LATENCY_MS = 600_000
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class FaultProxy:
    """A proxy to one server. Use as an async context manager; ``port`` is where clients connect."""

    def __init__(self, target_host: str, target_port: int, port: int = 0) -> None:
        self._target = (target_host, target_port)
        self.port = port
        self.mode: Mode = "pass"
        self.latency_ms = 0
        self.accepted = 0
        """Connections taken so far."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FaultProxy:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop_listening()
        self._reset_all()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # aborted transports close their sockets in the loop's next round

    @property
    def connections(self) -> int:
        """Client connections open now."""
        return len(self._tasks)

    async def set(self, mode: Mode, *, latency_ms: int = 0) -> None:
        """Change the mode, for new and open connections."""
        self.mode, self.latency_ms = mode, latency_ms
        if mode in {"refuse", "reset"}:
            self._reset_all()
        if mode == "refuse":
            await self._stop_listening()
        else:
            await self._listen()

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def _reset_all(self) -> None:
        for writer in tuple(self._open):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        self.accepted += 1
        try:
            await self._connection(reader, writer)
        except OSError:
            _reset(writer)  # the server is not there: passed on as a forwarder does
        except asyncio.CancelledError:
            pass  # the proxy is closed
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "reset":
            _reset(writer)
            return
        if self.mode == "blackhole":
            await self._swallow(reader)
            return
        server_reader, server_writer = await asyncio.open_connection(*self._target)
        self._open.add(server_writer)
        try:
            ways = {
                asyncio.create_task(self._pump(reader, server_writer, back=False)),
                asyncio.create_task(self._pump(server_reader, writer, back=True)),
            }
            try:
                # one side's reset ends both ways, one side's end of stream only its own
                await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._open.discard(server_writer)
            server_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool
    ) -> None:
        """Carry bytes one way until the stream ends; ``back`` is towards the client."""
        while piece := await reader.read(PIECE_BYTES):
            if back and self.mode == "pass" and self.latency_ms:
                await asyncio.sleep(self.latency_ms / 1000)
            if self.mode == "blackhole":
                continue
            if back and self.mode == "half-close":
                writer.write_eof()
                await self._swallow(reader)
                return
            writer.write(piece)
            await writer.drain()
        if self.mode == "blackhole":
            await asyncio.Event().wait()  # not even the end of the stream comes through
        if writer.can_write_eof():
            writer.write_eof()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(PIECE_BYTES):
            pass


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()


async def obey(proxy: FaultProxy, line: str) -> str:
    """Carry out one command; the line to answer with."""
    word, _, rest = line.strip().partition(" ")
    if word in MODES:
        mode: Mode = next(mode for mode in get_args(Mode) if mode == word)
        await proxy.set(mode)
    elif word == "latency" and rest.isascii() and rest.isdigit() and int(rest) <= MAX_LATENCY_MS:
        await proxy.set("pass", latency_ms=int(rest))
    elif word != "status":
        return f"error unknown command {word[:40]!r}"
    return f"ok {proxy.mode} {proxy.latency_ms} {proxy.connections}"


async def run(target: tuple[str, int], port: int, control_port: int | None) -> None:
    """The proxy as a process, until ``quit`` or the end of its input."""
    stop = asyncio.Event()
    async with FaultProxy(*target, port=port) as proxy:

        async def command(line: str) -> str:
            if line.strip() == "quit":
                stop.set()
                return "ok bye"
            return await obey(proxy, line)

        async def control(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                writer.write(f"{await command(line.decode(errors='replace'))}\n".encode())
                await writer.drain()
            writer.close()

        server = None
        if control_port is not None:
            server = await asyncio.start_server(control, HOST, control_port)
            control_port = server.sockets[0].getsockname()[1]
        print(f"listening {proxy.port} {control_port or 0}", flush=True)
        _obey_standard_input(command, stop, ends=server is None)
        await stop.wait()
        if server is not None:
            server.close()


def _obey_standard_input(
    command: Callable[[str], Awaitable[str]], stop: asyncio.Event, *, ends: bool
) -> None:
    loop = asyncio.get_running_loop()

    async def answer(line: str) -> None:
        print(await command(line), flush=True)

    def read() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(answer(line), loop).result()
        if ends:
            loop.call_soon_threadsafe(stop.set)

    # a daemon: a read of a terminal cannot be interrupted, and must not keep the process
    threading.Thread(target=read, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m outlast.testing.faultproxy")
    parser.add_argument("--target", required=True, metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=0, help="where to listen (0: any)")
    parser.add_argument("--control", type=int, default=None, help="control port (0: any)")
    options = parser.parse_args(arguments)
    host, _, port = options.target.rpartition(":")
    asyncio.run(run((host, int(port)), options.port, options.control))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
