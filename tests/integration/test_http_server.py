"""The server itself: options, sockets, and an orderly end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from outlast.surfaces.http import server
from outlast.surfaces.http.context import HttpOptions
from outlast.surfaces.http.server import build_server

pytestmark = pytest.mark.anyio


async def test_end_lets_go_of_streams_and_polls(
    running_site: Any, tmp_path: Path, free_ports: Callable[[], int]
) -> None:
    """When the server ends, streams get a last event, long polls their answer, and nobody is cut off."""
    async with running_site(tmp_path, free_ports()) as site:
        document = await site.document()
        asked = await site.client.post(
            "/v1/signature-requests", json={"document": document, "class": "approved"}
        )
        polling = asyncio.create_task(
            site.client.get(asked.json()["url"], headers={"prefer": "wait=60"})
        )
        async with site.client.stream("GET", "/v1/events") as stream:
            await asyncio.sleep(0.1)
            site.server.should_exit = True
            async with asyncio.timeout(8):
                text = (await stream.aread()).decode()
                polled = await polling
    assert "event: outlast.bye" in text
    assert polled.json()["status"] == "awaiting-approval"


async def test_options(running_site: Any, tmp_path: Path, free_ports: Callable[[], int]) -> None:
    """A public log needs no key, other Hosts are refused, each key's rate and the number of streams are bounded."""
    port = free_ports()
    options = HttpOptions(
        public_log=True,
        hosts=(f"127.0.0.1:{port}",),
        principal_per_s=5.0,
        principal_burst=5.0,
        followers=1,
    )
    async with running_site(tmp_path, port, options) as site:
        anybody = site.client_of(None)
        assert await site.site.publisher.wait_for(0, 5)
        assert (await anybody.get("/log/checkpoint")).status_code == 200
        assert (await anybody.get("/v1/status")).status_code == 401
        answer = await anybody.get("/livez", headers={"host": "evil.example"})
        assert (answer.status_code, answer.json()["code"]) == (400, "host-not-allowed")
        async with site.client.stream("GET", "/v1/events"):
            second = await site.client.get("/v1/events")
        assert (second.status_code, second.json()["code"]) == (503, "overloaded")
        answers = [await site.client.get("/v1/mode") for _ in range(6)]
        assert answers[-1].status_code == 429
        assert answers[-1].json()["scope"] == "api-key"


async def test_idle_connections_are_closed(
    running_site: Any,
    tmp_path: Path,
    free_ports: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection with nothing to say is closed after its time, not before; one in use stays."""
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)
    monkeypatch.setattr(server, "SWEEP_S", 0.1)
    port = free_ports()
    async with running_site(tmp_path, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
            await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(8):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began > 0.3
        writer.close()


async def test_unix_socket(http_site: Any, tmp_path: Path) -> None:
    """The same API on a Unix socket."""
    path = tmp_path / "outlast.sock"
    server = build_server(http_site.site, uds=str(path))
    serving = asyncio.create_task(server.serve())
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        transport = httpx2.AsyncHTTPTransport(uds=str(path))
        async with httpx2.AsyncClient(transport=transport, base_url="http://site") as client:
            assert (await client.get("/livez")).status_code == 200
    finally:
        server.should_exit = True
        await serving


async def test_head_has_no_body(http_site: Any) -> None:
    """HEAD is GET without the body, for good answers and refusals, and the connection stays in step."""
    for path in ("/v1/status", "/v1/nothing", "/openapi.json", "/livez"):
        head, get = await http_site.client.head(path), await http_site.client.get(path)
        assert head.status_code == get.status_code
        assert head.content == b""
        assert head.headers["content-type"] == get.headers["content-type"]


async def test_old_protocol(http_site: Any) -> None:
    """HTTP/1.0 is answered and the connection closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", http_site.port)
    writer.write(
        f"GET /v1/mode HTTP/1.0\r\nAuthorization: Bearer {http_site.token}\r\n\r\n".encode()
    )
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert b"200 OK" in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["mode"]


async def test_callers_wait_for_their_turn_to_upload(http_site: Any) -> None:
    """More uploads than are taken at once wait their turn; all succeed."""
    ids = await asyncio.gather(*(http_site.document() for _ in range(40)))
    assert len(set(ids)) == 40
