"""Three nodes of one site as they are run: real processes on PostgreSQL and an S3 store, killed and restarted under load.

In `make test` with 100 requests; `make nodes REQUESTS=2000` runs the same with more.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import httpx2
import pytest

from outlast.core.log.archive import TileArchive
from outlast.core.log.checkpoint import Checkpoint, open_checkpoint
from outlast.core.log.fsck import verify_log
from outlast.core.log.merkle import CompactRange, consistency_proof, leaf_hash, verify_consistency
from outlast.core.log.signers import verifier_for
from outlast.core.log.tiles import tiles_between
from outlast.core.store.postgres.engine import PostgresStore
from outlast.testing.audit import Audit, audit
from outlast.testing.cluster import Cluster
from outlast.testing.pdfs import plain_pdf
from outlast.testing.seaweed import SeaweedServer
from outlast.wiring.site import _deciders

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

REQUESTS = int(os.environ.get("OUTLAST_NODES_REQUESTS", "100"))
CLIENTS = 8
DOCUMENTS = 4
NODES = ("a", "b", "c")
PATIENCE_S = 60.0
"""How long a client goes on trying, and how long signing may take; restarts on a busy machine included."""


@pytest.fixture
def cluster(database: str, free_ports: Callable[[], int]) -> Iterator[Cluster]:
    """Three nodes that run, and what they share."""
    folder = Path(tempfile.mkdtemp(prefix="outlast-nodes-"))
    documents = SeaweedServer(folder / "s3", free_ports)
    nodes = Cluster(folder, database, documents, free_ports)
    try:
        documents.start()
        nodes.start("a")
        nodes.start("b", "c")
        yield nodes
    finally:
        nodes.stop_all()
        documents.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Client:
    """Talks to all nodes in turn, as a load balancer would, and to the next one where one does not answer."""

    def __init__(self, cluster: Cluster) -> None:
        headers = {"authorization": f"Bearer {cluster.token}"}
        self.of = {
            name: httpx2.AsyncClient(base_url=cluster.url(name), headers=headers, timeout=30)
            for name in NODES
        }
        self.turns = itertools.cycle(NODES)
        self.troubles: Counter[str] = Counter()
        self.checkpoints: dict[str, list[bytes]] = {name: [] for name in NODES}

    async def send(self, method: str, path: str, **given: Any) -> httpx2.Response:
        """The answer of whichever node gives one that is no error; only errors that invite to try again are borne."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                name = next(self.turns)
                try:
                    answer = await self.of[name].request(method, path, **given)
                except httpx2.TransportError as error:
                    self.troubles[type(error).__name__] += 1
                else:
                    if answer.status_code < 400:
                        return answer
                    problem = answer.json()
                    assert problem["retry"] in ("same", "later", "elsewhere"), problem
                    self.troubles[problem["code"]] += 1
                await asyncio.sleep(0.1)

    async def look(self) -> None:
        """Keep the checkpoints that the nodes serve now."""
        for name, client in self.of.items():
            try:
                answer = await client.get("/log/checkpoint")
            except httpx2.TransportError:
                continue
            if answer.status_code == 200:
                self.checkpoints[name].append(answer.content)

    async def close(self) -> None:
        """Hang up."""
        for client in self.of.values():
            await client.aclose()


async def requests_through_all(
    client: Client, documents: list[str], done: list[dict[str, Any]]
) -> None:
    """Ask for all signatures, each under a key of its own; ``done`` gets the receipts."""
    numbers = iter(range(REQUESTS))

    async def ask() -> None:
        for number in numbers:
            answer = await client.send(
                "POST",
                "/v1/signature-requests",
                json={"document": documents[number % DOCUMENTS], "reference": f"r{number}"},
                headers={"idempotency-key": f"key-{number}"},
            )
            done.append(answer.json())
            await client.look()

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))


async def accepted(done: list[dict[str, Any]], share: float) -> None:
    """Wait until that share of the requests has been accepted."""
    async with asyncio.timeout(PATIENCE_S):
        while len(done) < REQUESTS * share:
            await asyncio.sleep(0.02)


async def trouble(cluster: Cluster, client: Client, done: list[dict[str, Any]]) -> None:
    """Kill one node with work in its hands, start it again; then restart the others one by one, in good order."""
    await accepted(done, 0.25)
    cluster.documents.process.suspend()  # whatever is claimed now waits for its document
    await until_leased(client, "b")
    await anyio.to_thread.run_sync(cluster.kill, "b")
    cluster.documents.process.resume()
    async with asyncio.timeout(
        PATIENCE_S
    ):  # the server notices at its own pace that nobody is there
        while await states(client, "a") != {"a": "up", "b": "gone", "c": "up"}:
            await asyncio.sleep(0.1)
    await accepted(done, 0.5)
    await anyio.to_thread.run_sync(cluster.start, "b")
    for name in ("a", "c"):
        status = await anyio.to_thread.run_sync(cluster.stop, name)
        assert status == 0, cluster.output(name)[-2_000:]
        assert (await states(client, "b"))[name] == "stopped"
        await anyio.to_thread.run_sync(cluster.start, name)


async def until_leased(client: Client, node: str) -> None:
    """Wait until a node holds jobs, as another one sees it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            page = (await client.of["a"].get("/v1/jobs?state=leased&limit=200")).json()
            if any(job["worker"].startswith(f"site/{node}/") for job in page["items"]):
                return
            await asyncio.sleep(0.02)


async def states(client: Client, at: str) -> dict[str, str]:
    """The nodes as one of them sees them."""
    page = (await client.of[at].get("/v1/status")).json()
    return {node["name"]: node["state"] for node in page["nodes"]}


async def test_a_site_outlives_its_nodes(cluster: Cluster) -> None:
    """Every request acknowledged is signed exactly once; the log has no gap; what each node ever signed of the log
    fits the others'; the tiles of all nodes are the same; a switch moved at one is moved at all."""
    client = Client(cluster)
    documents = [
        (
            await client.send(
                "POST",
                "/v1/documents",
                content=plain_pdf(1 + i),
                headers={"content-type": "application/pdf", "idempotency-key": f"document-{i}"},
            )
        ).json()["id"]
        for i in range(DOCUMENTS)
    ]
    done: list[dict[str, Any]] = []
    await asyncio.gather(
        requests_through_all(client, documents, done), trouble(cluster, client, done)
    )
    assert len({request["id"] for request in done}) == REQUESTS
    for request in done:
        view = await client.send("GET", request["url"], headers={"prefer": "wait=20"})
        assert view.json()["status"] == "completed", view.text
    await switches_reach_all(client)
    await tiles_agree(client, await every_node_has_published(client, cluster))
    assert await states(client, "a") == dict.fromkeys(NODES, "up")
    await client.close()
    for name in NODES:
        assert await anyio.to_thread.run_sync(cluster.stop, name) == 0
        assert "Traceback" not in cluster.output(name)
    found, leaves = await whole_record(cluster)
    signed_once(found, done)
    checkpoints_agree(client, cluster, leaves)
    await anyio.to_thread.run_sync(logs_are_sound, cluster)


async def whole_record(cluster: Cluster) -> tuple[Audit, list[bytes]]:
    """All that is on record, checked against itself, and the log's entries."""
    store = await PostgresStore.open(cluster.dsn)
    try:
        found = await audit(store, _deciders())
        return found, await store.entries(0, len(found.entries))
    finally:
        await store.close()


async def switches_reach_all(client: Client) -> None:
    """A provider disabled at one node is so at all, within a second and without a restart."""
    for at, verb, word in (("a", "disable", "drill"), ("c", "enable", "")):
        answer = await client.of[at].post(f"/v1/providers/local:{verb}", json={"reason": "drill"})
        assert answer.status_code == 200, answer.text
        for name in NODES:
            async with asyncio.timeout(5):
                while (await _disabled(client.of[name])) != word:
                    await asyncio.sleep(0.05)


async def _disabled(client: httpx2.AsyncClient) -> str:
    page = (await client.get("/v1/providers")).json()
    word: str = page["signers"][0]["disabled"]
    return word


async def every_node_has_published(client: Client, cluster: Cluster) -> int:
    """Wait until all nodes speak of a tree of one size, the whole log's; returns it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            await client.look()
            sizes = {opened(cluster, client.checkpoints[name][-1]).size for name in NODES}
            page = (await client.of["a"].get("/v1/status")).json()
            size: int = page["log"]["committed"]
            if sizes == {size}:
                return size
            await asyncio.sleep(0.1)


def opened(cluster: Cluster, checkpoint: bytes) -> Checkpoint:
    """A checkpoint whose signatures by all of the log's keys hold."""
    return open_checkpoint(checkpoint, [verifier_for(key) for key in cluster.log_keys]).checkpoint


def signed_once(found: Audit, done: list[dict[str, Any]]) -> None:
    """Of each request one signature is on record; every receipt names its entry; no job is left."""
    signatures = Counter(
        entry.stream for entry in found.entries if entry.type == "signing.revision_signed"
    )
    assert signatures == {f"signing.request/{request['id']}": 1 for request in done}
    for request in done:
        entry = found.entries[request["receipt"]["index"]]
        assert (entry.type, entry.stream) == (
            "signing.requested",
            f"signing.request/{request['id']}",
        )
    left = [job for job in found.jobs.values() if job.state != "done"]
    assert left == []


def checkpoints_agree(client: Client, cluster: Cluster, leaves: list[bytes]) -> None:
    """Whatever any node has signed is the log at that size, and proven to be a beginning of the last."""
    hashes = [leaf_hash(leaf) for leaf in leaves]
    seen = {opened(cluster, note) for notes in client.checkpoints.values() for note in set(notes)}
    last = max(seen, key=lambda checkpoint: checkpoint.size)

    def node(level: int, index: int) -> bytes:
        tree = CompactRange()
        tree.extend(hashes[index << level : (index + 1) << level])
        return tree.root()

    assert last.size <= len(leaves)
    assert len({checkpoint.size for checkpoint in seen}) == len(seen), "two trees of one size"
    for checkpoint in seen:
        proof = consistency_proof(checkpoint.size, last.size, node)
        verify_consistency(checkpoint.size, checkpoint.root, last.size, last.root, proof)
    tree = CompactRange()
    tree.extend(hashes[: last.size])
    assert tree.root() == last.root


async def tiles_agree(client: Client, size: int) -> None:
    """Every node serves the same tiles and bundles of the tree."""
    tiles = list(tiles_between(0, size))
    assert len(tiles) >= 2, "entries and their hashes at least"
    for tile in tiles:
        answers = [await one.get(f"/log/{tile.path}") for one in client.of.values()]
        assert {answer.status_code for answer in answers} == {200}, tile
        assert len({answer.content for answer in answers}) == 1, tile


def logs_are_sound(cluster: Cluster) -> None:
    """What each node has published is right when computed anew from its entries' bytes."""
    verifiers = [verifier_for(key) for key in cluster.log_keys]
    for name in NODES:
        report = verify_log(TileArchive(cluster.data(name) / "log"), verifiers)
        assert report.ok, (name, report.findings)
