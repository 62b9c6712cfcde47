"""A whole site, as `outlast serve` runs it, on a primary with a synchronous standby: the primary is killed while clients
upload and ask for signatures over HTTP. Whatever was accepted gets signed, and the log verifies."""

from __future__ import annotations

import asyncio
import itertools
import json
import pathlib
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest

from outlast.testing.pdfs import plain_pdf
from outlast.testing.postgres_pair import PostgresPair, running_pair

pytestmark = pytest.mark.anyio

OUTLAST = pathlib.Path(sys.executable).with_name("outlast")
CLIENTS = 6
PATIENCE_S = 60.0
RETRYABLE = {429, 502, 503}
"""What the API says where the same request may be sent again."""


@contextmanager
def serving(folder: pathlib.Path, dsn: str) -> Iterator[Any]:
    """A site on the database, and what it said when it was ready."""
    secret = folder / "dsn"
    secret.touch(mode=0o600)
    secret.write_text(dsn)
    (folder / "outlast.toml").write_text('[store]\ndsn_file = "dsn"\n[work]\nlease_ms = 3000\n')
    with (folder / "serve.err").open("w") as errors:
        site = subprocess.Popen(
            [OUTLAST, "serve", "--json", "--port", "0"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert site.stdout is not None
        line = site.stdout.readline()
        assert line, (folder / "serve.err").read_text()
        yield json.loads(line)
        site.terminate()
        assert site.wait(30) == 0, (folder / "serve.err").read_text()
    finally:
        site.kill()
        site.communicate()


def outlast(folder: pathlib.Path, *arguments: str) -> None:
    """A command that succeeds."""
    words = [str(OUTLAST), *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done


class Clients:
    """They upload a document, ask for a signature, and begin again; what they were told is kept."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http
        self._numbers = itertools.count()
        self.accepted: dict[str, str] = {}
        self.answers: Counter[str] = Counter()
        self.stopping = False

    async def run(self) -> None:
        """One client."""
        while not self.stopping:
            number = next(self._numbers)
            added = await self._until_accepted(f"doc-{number}", "/v1/documents", plain_pdf())
            ask = json.dumps({"document": added["id"], "reference": str(number)}).encode()
            asked = await self._until_accepted(f"ask-{number}", "/v1/signature-requests", ask)
            assert asked["id"] not in self.accepted
            self.accepted[asked["id"]] = str(number)

    async def until(self, count: int) -> None:
        """Wait until so many more have been accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(PATIENCE_S):
            while len(self.accepted) < wanted:
                await asyncio.sleep(0.02)

    async def _until_accepted(self, key: str, path: str, body: bytes) -> Any:
        is_pdf = body.startswith(b"%PDF")
        headers = {
            "idempotency-key": key,
            "content-type": "application/pdf" if is_pdf else "application/json",
        }
        while True:
            answer = await self._http.post(path, content=body, headers=headers)
            if answer.status_code in (201, 202):
                return answer.json()
            problem = answer.json()
            self.answers[problem["code"]] += 1
            assert answer.status_code in RETRYABLE, problem
            await asyncio.sleep(0.05)

    async def check_signed(self) -> None:
        """Every accepted request has been completed, within a minute."""
        async with asyncio.timeout(PATIENCE_S):
            for request, reference in self.accepted.items():
                while True:
                    answer = await self._http.get(
                        f"/v1/signature-requests/{request}", headers={"prefer": "wait=5"}
                    )
                    if answer.status_code == 200 and answer.json()["status"] == "completed":
                        break
                    await asyncio.sleep(0.05)
                assert answer.json()["reference"] == reference
                file = await self._http.get(f"/v1/signature-requests/{request}/file")
                assert file.content.startswith(b"%PDF-")


@pytest.fixture
def servers(free_ports: Callable[[], int]) -> Iterator[PostgresPair]:
    """Two servers."""
    with running_pair((free_ports(), free_ports())) as pair:
        yield pair


@pytest.mark.slow
async def test_a_site_signs_all_it_accepted_across_a_failover(
    tmp_path: pathlib.Path, servers: PostgresPair
) -> None:
    """Clients over HTTP, SIGKILL of the primary, promotion of the standby; nobody touches the site."""
    dsn = servers.dsn(servers.create_database())
    with serving(tmp_path, dsn) as site:
        token = {"authorization": f"Bearer {site['token']}"}
        async with httpx2.AsyncClient(base_url=site["url"], headers=token, timeout=60) as http:
            clients = Clients(http)
            async with asyncio.TaskGroup() as group:
                for _ in range(CLIENTS):
                    group.create_task(clients.run())
                await clients.until(20)
                await asyncio.to_thread(servers.primary.power_off)
                await asyncio.sleep(1.0)
                await asyncio.to_thread(servers.promote)
                await clients.until(20)
                clients.stopping = True
            await clients.check_signed()
            jobs = (await http.get("/v1/jobs", params={"state": "dead"})).json()
            assert jobs["items"] == []
            ready = await http.get("/readyz")
            assert ready.status_code == 200, ready.text
        await asyncio.to_thread(
            outlast, tmp_path, "log", "verify", "--log-key", site["log_keys"][0]
        )
    assert clients.answers.keys() & {"storage-unreachable", "storage-read-only"}, clients.answers
    await asyncio.to_thread(outlast, tmp_path, "log", "fsck")
