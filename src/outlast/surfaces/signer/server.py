"""The appliance as a server: TLS 1.3 with client certificates required, and uvicorn.

No plain HTTP, no older TLS, no session resumption (each connection shows its certificate), no proxy headers. uvicorn
does not hand the client's certificate to the application; `PeerCertificateProtocol` adds it to each scope as the
ASGI TLS extension describes (asgi.readthedocs.io, specs/tls).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from outlast.core.clock import Clock
from outlast.core.telemetry import Tracer
from outlast.ports.keys import Signer
from outlast.surfaces.signer.access import ClientRule
from outlast.surfaces.signer.app import MAX_IN_FLIGHT, SIGN_TIMEOUT_S, SignerApp
from outlast.surfaces.signer.memory import REMEMBERED_OPERATIONS

MAX_CONNECTIONS = 512
KEEPALIVE_S = 75
"""Longer than our client keeps an idle connection, so that it is never the server who closes one in use."""
GRACEFUL_STOP_S = 3
LISTEN_BACKLOG = 256


class SignerServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where to listen, as whom (PEM files), and for whom. ``port`` 0 takes a free one."""

    certificate_file: Path
    key_file: Path
    client_ca_file: Path
    clients: tuple[ClientRule, ...]
    host: str = "127.0.0.1"
    port: int = 0
    sign_timeout_s: float = SIGN_TIMEOUT_S
    max_in_flight: int = MAX_IN_FLIGHT
    remembered_operations: int = REMEMBERED_OPERATIONS


async def serve_signer(
    config: SignerServerConfig,
    signer: Signer,
    clock: Clock,
    *,
    on_listening: Callable[[str, int], None] | None = None,
    tracer: Tracer | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT (or cancelled), then close ``signer``.

    ``on_listening(host, port)`` is called once connections are taken. Raises OSError where it cannot listen, and
    ssl.SSLError or OSError where a PEM file cannot be used.
    """
    app = SignerApp(
        signer,
        config.clients,
        clock,
        sign_timeout_s=config.sign_timeout_s,
        max_in_flight=config.max_in_flight,
        remembered_operations=config.remembered_operations,
        tracer=tracer,
    )
    server = _Server(_uvicorn_config(app, server_tls(config)))
    listener = _listen(config.host, config.port)
    try:
        if on_listening is not None:
            host, port = listener.getsockname()[:2]
            server.announce = partial(on_listening, host, port)
        await server.serve(sockets=[listener])
    finally:
        listener.close()
        with anyio.move_on_after(GRACEFUL_STOP_S, shield=True):
            await signer.aclose()


def server_tls(config: SignerServerConfig) -> ssl.SSLContext:
    """TLS 1.3 only, a certificate of the clients' CA required."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _AlertingSSLObject
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    context.load_verify_locations(cafile=config.client_ca_file)
    context.load_cert_chain(config.certificate_file, config.key_file)
    return context


class _AlertingSSLObject(ssl.SSLObject):
    """TLS that tells a client why it is turned away.

    asyncio and uvloop drop what OpenSSL still has to send when a handshake fails, so a client with the wrong
    certificate would see a connection that merely closes, and take it for a broken server. Here a failure first
    asks for more input, which makes them flush the alert, and counts at the next call.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """As in the base class, one call later where it fails."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._failure = error
            raise ssl.SSLWantReadError from error


class PeerCertificateProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, which also tells the application who the client is."""

    _tls: dict[object, object]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it the same way
        super().connection_made(transport)
        peer: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        der = peer.getpeercert(binary_form=True) if peer is not None else None
        chain = (ssl.DER_cert_to_PEM_cert(der),) if der else ()
        self._tls = {"server_cert": None, "client_cert_chain": chain, "client_cert_name": None}

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {"tls": self._tls}

    def shutdown(self) -> None:
        """When the server stops: an idle connection ends at once, without waiting for the client's close_notify."""
        idle = self.cycle is None or self.cycle.response_complete
        super().shutdown()
        if idle:
            self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server, but a signal to stop ends `serve` and nothing more.

    uvicorn's own raises the signal again after serving, which would end the process before the signer is closed.
    """

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


def _uvicorn_config(app: SignerApp, tls: ssl.SSLContext) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PeerCertificateProtocol,
        ssl_context_factory=lambda _config, _default: tls,
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEPALIVE_S,
        timeout_graceful_shutdown=GRACEFUL_STOP_S,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(LISTEN_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
