"""A whole site behind a real server on a loopback port, as HTTP tests ask for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import httpx2
import pytest

from outlast.core.access import SCOPES
from outlast.signing.classes import DocumentClass
from outlast.surfaces.http.context import HttpOptions
from outlast.surfaces.http.server import HttpServer, build_server
from outlast.testing.pdfs import plain_pdf
from outlast.wiring.config import Config, SiteSection, check
from outlast.wiring.site import Site, open_site, run_site

SMALL_BYTES = 64 * 1024
"""Most that the class ``small`` takes."""


class HttpSite:
    """A running site and a client with all scopes."""

    def __init__(self, site: Site, server: HttpServer, port: int, token: str) -> None:
        self.site = site
        self.server = server
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.token = token
        self.client = self.client_of(token)
        self._clients = [self.client]

    def client_of(self, token: str | None) -> httpx2.AsyncClient:
        """A client with another token, or none."""
        headers = {"authorization": f"Bearer {token}"} if token else {}
        client = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30)
        if hasattr(self, "_clients"):
            self._clients.append(client)
        return client

    async def key(
        self, *scopes: str, tenant: str = "default", per_s: float = 0.0
    ) -> httpx2.AsyncClient:
        """A client with a fresh key of these scopes (none given: all)."""
        made = await self.site.access.create(
            by="test", tenant=tenant, scopes=scopes or SCOPES, per_s=per_s
        )
        assert made.token is not None
        return self.client_of(made.token)

    async def document(self, pages: int = 1) -> str:
        """The id of a fresh document."""
        answer = await self.client.post(
            "/v1/documents", content=plain_pdf(pages), headers={"content-type": "application/pdf"}
        )
        assert answer.status_code == 201, answer.text
        id_: str = answer.json()["id"]
        return id_

    async def close(self) -> None:
        """Close all clients."""
        for client in self._clients:
            await client.aclose()


def _config(folder: Path) -> Config:
    classes = {
        "default": DocumentClass(),
        "approved": DocumentClass(manual_approval=True),
        "small": DocumentClass(max_bytes=SMALL_BYTES),
    }
    return check(Config(site=SiteSection(data=str(folder)), classes=classes))


@contextlib.asynccontextmanager
async def run_http_site(
    folder: Path, port: int, options: HttpOptions | None = None
) -> AsyncIterator[HttpSite]:
    """A site and its server, ended in order."""
    async with open_site(_config(folder)) as site:
        made = await site.access.create(by="test", tenant="default", scopes=SCOPES)
        assert made.token is not None
        loops = asyncio.create_task(run_site(site))
        server = build_server(site, port=port, options=options)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            assert not serving.done(), "the server ended before it had started"
            await asyncio.sleep(0.01)
        running = HttpSite(site, server, port, made.token)
        try:
            yield running
        finally:
            await running.close()
            server.should_exit = True
            await serving
            loops.cancel()
            await asyncio.gather(loops, return_exceptions=True)


@pytest.fixture(scope="module")
async def http_site(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[], int]
) -> AsyncIterator[HttpSite]:
    """One site for a whole file of tests."""
    async with run_http_site(tmp_path_factory.mktemp("site"), free_ports()) as running:
        yield running


@pytest.fixture(scope="session")
def running_site() -> Callable[..., AbstractAsyncContextManager[HttpSite]]:
    """``async with running_site(folder, port, options)``: a site of a test's own."""
    return run_http_site
