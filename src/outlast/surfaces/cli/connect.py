"""Finds the site a command is for: one elsewhere (--url), the one running here, or this data folder opened inside
this process, behind the same API."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx2

from outlast.core.access import SCOPES
from outlast.core.errors import Refused, Unavailable
from outlast.surfaces.cli.client import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, Api
from outlast.surfaces.cli.endpoint import Endpoint, find_endpoint, tls_context
from outlast.surfaces.cli.invocation import Invocation

T = TypeVar("T")

TOKEN_VARIABLE = "OUTLAST_TOKEN"  # noqa: S105 - the variable's name, not a token
EMBEDDED_URL = "http://localhost"
EMBEDDED_KEY_MS = 24 * 3_600_000
"""How long the API key of an embedded site lasts at most; it is revoked when the command ends."""


def call_site(
    cli: Invocation, work: Callable[[Api], Awaitable[T]], *, make: bool = False, embed: bool = True
) -> T:
    """Run ``work`` with the site. ``make``: a data folder may be made for it; ``embed`` False: it must be running."""

    async def run() -> T:
        async with connected(cli, make=make, embed=embed) as api:
            return await work(api)

    return asyncio.run(run())


def need_scheme(url: str) -> None:
    """Raise Refused ``usage`` for an address that is no http or https URL."""
    if not url.startswith(("http://", "https://")):
        raise Refused(
            "usage", f"{url} is not the URL of a site", hint=f"For example: https://{url}"
        )


@asynccontextmanager
async def connected(
    cli: Invocation, *, make: bool = False, embed: bool = True
) -> AsyncIterator[Api]:
    """The site's API. Raises Refused ``no-token``, ``no-site``; Unavailable ``site-not-running``."""
    token = os.environ.get(TOKEN_VARIABLE, "")
    if cli.url:
        need_scheme(cli.url)
        if not token:
            raise Refused(
                "no-token",
                f"{cli.url} needs an API key",
                hint=f"Put its token into the environment variable {TOKEN_VARIABLE}.",
            )
        async with over(Endpoint(url=cli.url, token=token, pid=0)) as api:
            yield api
        return
    endpoint = find_endpoint(cli.config.data)
    if endpoint is not None:
        async with over(endpoint, cli) as api:
            yield api
        return
    database_here = cli.config.store.dsn_file or (cli.config.data / "site.db").exists()
    if not make and not database_here:
        raise Refused(
            "no-site",
            f"there is no site in {cli.config.data}",
            hint="`outlast serve` starts one; --data or --config name another place.",
        )
    if not embed:
        raise Unavailable(
            "site-not-running",
            f"no site is running over {cli.config.data}",
            hint="`outlast serve` starts it.",
        )
    async with embedded(cli) as api:
        yield api


@asynccontextmanager
async def over(endpoint: Endpoint, here: Invocation | None = None) -> AsyncIterator[Api]:
    """The API of a site that runs; ``here``: over this data folder, so that it is found again when it is killed
    and started again meanwhile, with another token and perhaps another port."""

    def renew(http: httpx2.AsyncClient) -> None:
        found = find_endpoint(here.config.data) if here is not None else None
        if found is not None:
            http.base_url = httpx2.URL(found.url)
            http.headers["authorization"] = f"Bearer {found.token}"

    transport = None
    if endpoint.uds:
        transport = httpx2.AsyncHTTPTransport(uds=endpoint.uds)
    async with httpx2.AsyncClient(
        base_url=endpoint.url,
        headers={"authorization": f"Bearer {endpoint.token}"},
        timeout=httpx2.Timeout(ANSWER_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        transport=transport,
        verify=tls_context(endpoint),
        # a proxy from the environment must never be sent a token for this machine
        trust_env=False,
    ) as http:
        yield Api(
            http,
            f"the site at {endpoint.uds or endpoint.url}",
            renew=None if here is None else renew,
            notice=None if here is None else here.note,
        )


@asynccontextmanager
async def embedded(cli: Invocation) -> AsyncIterator[Api]:
    """This data folder's site, opened and kept working in this process while the context lasts."""
    from outlast.surfaces.cli.hosting import application
    from outlast.wiring.site import DEFAULT_TENANT, open_site, run_site

    cli.note(f"No site is running: opening {cli.config.data} in this process.")
    async with open_site(cli.config) as site, application(site) as app:
        made = await site.access.create(
            by="command line",
            tenant=DEFAULT_TENANT,
            scopes=SCOPES,
            title="an embedded site's own command",
            expires_ms=site.clock.now_ms() + EMBEDDED_KEY_MS,
        )
        async with asyncio.TaskGroup() as group:
            loops = group.create_task(run_site(site))
            try:
                async with httpx2.AsyncClient(
                    base_url=EMBEDDED_URL,
                    headers={"authorization": f"Bearer {made.token}"},
                    timeout=ANSWER_TIMEOUT_S,
                    transport=httpx2.ASGITransport(app),
                ) as http:
                    yield Api(http, "the embedded site")
            finally:
                await site.access.revoke(by="command line", key_id=made.id, reason="command ended")
                loops.cancel()
