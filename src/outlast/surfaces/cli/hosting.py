"""The HTTP API over a site in this process, for `serve` and for embedded sites alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from outlast import __version__
from outlast.surfaces.http.app import HttpApi
from outlast.surfaces.http.context import HttpOptions
from outlast.wiring.config import Config
from outlast.wiring.site import Site


def options(config: Config) -> HttpOptions:
    """What the configuration says about the API."""
    http = config.http
    return HttpOptions(
        public_log=http.public_log, principal_per_s=http.rate_per_s, principal_burst=http.burst
    )


@asynccontextmanager
async def application(site: Site) -> AsyncIterator[HttpApi]:
    """The application; its streams and long polls end with the context."""
    api = HttpApi(site, options(site.config), __version__)
    try:
        yield api
    finally:
        api.close()
