"""Serves a site's API with uvicorn (httptools, uvloop): loopback by default, no access log, graceful end."""

from __future__ import annotations

import asyncio
import socket

import uvicorn

from outlast import __version__
from outlast.surfaces.http.app import HttpApi
from outlast.surfaces.http.context import HttpOptions
from outlast.surfaces.http.protocol import SWEEP_S, LimitedProtocol
from outlast.wiring.site import Site

KEEP_ALIVE_S = 75
"""An idle connection is closed after this."""
GRACE_S = 10
"""How long requests under way may take when the server ends."""
BACKLOG = 1_024
"""Connections that may wait to be taken."""


class HttpServer(uvicorn.Server):
    """A server that lets go of streams when it ends, and leaves signals to whoever runs it."""

    def __init__(self, config: uvicorn.Config, api: HttpApi) -> None:
        super().__init__(config)
        self._api = api

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and begin to sweep."""
        await super().startup(sockets)
        self._sweeper = asyncio.create_task(self._sweep(), name="http-sweep")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more, let what is under way end, then close."""
        self._api.close()
        await super().shutdown(sockets)
        self._sweeper.cancel()

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            for connection in list(self.server_state.connections):
                if isinstance(connection, LimitedProtocol):
                    connection.sweep(loop.time())


def build_server(
    site: Site,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    fd: int | None = None,
    uds: str | None = None,
    options: HttpOptions | None = None,
) -> HttpServer:
    """A server over the site, not yet started. ``fd``: an open listening socket; ``uds``: a socket's path.

    ``await server.serve()`` runs it until ``server.should_exit`` is set, or SIGINT or SIGTERM in the main thread.
    """
    api = HttpApi(site, options, __version__)
    config = uvicorn.Config(
        api,
        host=host,
        port=port,
        fd=fd,
        uds=uds,
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )
    return HttpServer(config, api)


async def serve(
    site: Site,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    fd: int | None = None,
    uds: str | None = None,
    options: HttpOptions | None = None,
) -> None:
    """Serve until told to end; see `build_server`."""
    await build_server(site, host=host, port=port, fd=fd, uds=uds, options=options).serve()
