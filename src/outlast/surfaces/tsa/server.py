"""The local authority as a server: its configuration, and uvicorn around `TsaApp`.

Plain HTTP: a token proves itself, and RFC 3161 clients mostly speak no TLS. For a network, put a proxy before it.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import uvicorn

from outlast.core.asymmetric import KeyAlgorithm
from outlast.core.clock import SystemClock
from outlast.core.errors import Refused
from outlast.core.tsa import DEFAULT_ACCURACY_MS, LocalAuthority
from outlast.surfaces.tsa.app import TsaApp
from outlast.surfaces.tsa.identity import load_or_make_identity

MAX_CONFIG_BYTES = 64 * 1024
MAX_IN_FLIGHT = 512
"""Connections and requests at once; beyond, uvicorn answers 503."""
KEEPALIVE_S = 75
"""Longer than our client keeps an idle connection, so that it is never the server who closes one in use."""
GRACEFUL_STOP_S = 3


class TsaConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file, TOML. ``directory`` holds the identity (relative to the file; made at the first start). ``port`` 0
    takes a free one. ``accuracy_ms``: what this machine's clock is good for; stated in every token."""

    directory: str
    name: str = "Local TSA"
    host: str = "127.0.0.1"
    port: int = 0
    algorithm: KeyAlgorithm = "ecdsa-p256-sha256"
    accuracy_ms: int = DEFAULT_ACCURACY_MS


def read_tsa_config(path: Path) -> TsaConfig:
    """The configuration in a file. Raises Refused ``config-invalid``, OSError."""
    data = path.read_bytes()
    try:
        if len(data) > MAX_CONFIG_BYTES:
            raise ValueError(f"more than {MAX_CONFIG_BYTES} bytes")
        config = msgspec.convert(tomllib.loads(data.decode()), TsaConfig)
    except ValueError as error:  # msgspec's, tomllib's and Unicode's errors are all of this kind
        raise Refused("config-invalid", f"{path.name}: {error}") from error
    directory = str((path.parent / config.directory).absolute())
    return msgspec.structs.replace(config, directory=directory)


async def serve_tsa(
    config: TsaConfig, *, on_listening: Callable[[str, int], None] | None = None
) -> None:
    """Serve until SIGTERM, SIGINT, or cancelled. ``on_listening(host, port)`` is called once connections are taken.

    Raises OSError where it cannot listen, Corrupt where the identity cannot be read.
    """
    clock = SystemClock()
    signer = load_or_make_identity(
        Path(config.directory), config.name, clock, algorithm=config.algorithm
    )
    signer = msgspec.structs.replace(signer, accuracy_ms=config.accuracy_ms)
    authority = LocalAuthority(
        signer, clock, time_is_sound=lambda: clock.stepped_back_ms() <= config.accuracy_ms
    )
    listener = _listen(config.host, config.port)
    server = _Server(
        uvicorn.Config(
            TsaApp(authority),
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_IN_FLIGHT,
            timeout_keep_alive=KEEPALIVE_S,
            timeout_graceful_shutdown=GRACEFUL_STOP_S,
        )
    )
    try:
        if on_listening is not None:
            host, port = listener.getsockname()[:2]
            server.announce = partial(on_listening, host, port)
        await server.serve(sockets=[listener])
    finally:
        listener.close()


class _Server(uvicorn.Server):
    """uvicorn's server, but a signal to stop ends `serve` and nothing more: it would raise it again afterwards."""

    announce: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Announce it once connections are taken, and signals too: whoever hears of it may end us at once."""
        await super().startup(sockets)
        if self.announce is not None:
            self.announce()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {s: signal.signal(s, self.handle_exit) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(MAX_IN_FLIGHT)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
