"""Two nodes of one site on a real PostgreSQL: what one of them knows, the other knows without a restart."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from outlast.core.access import SCOPES
from outlast.core.errors import Refused, Unavailable
from outlast.operations.model.mode import KIND as MODE
from outlast.surfaces.http.server import build_server
from outlast.testing.pdfs import plain_pdf
from outlast.wiring.config import Config, SiteSection, StoreSection, WorkSection, check
from outlast.wiring.nodes import NAME_LOOK_S, Nodes
from outlast.wiring.site import Site, open_site, run_site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

BOUND_S = 1.0
"""In which a revoked key must be refused everywhere."""
SOON_S = 5.0
"""In which everything else must have happened on a busy machine; it takes 0.1 s."""


class Node:
    """A running node and a client of it."""

    def __init__(self, site: Site, port: int, client: httpx2.AsyncClient) -> None:
        self.site, self.port, self.client = site, port, client

    def client_of(self, token: str) -> httpx2.AsyncClient:
        """Another client, to be closed."""
        return httpx2.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {token}"},
            timeout=30,
        )

    async def post(self, path: str, key: str = "", **body: Any) -> httpx2.Response:
        """A command that must be taken."""
        headers = {"idempotency-key": key} if key else {}
        answer = await self.client.post(path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer


def config_of(data: Path, dsn: str, *, works: bool = True) -> Config:
    """A node called like its data folder."""
    data.parent.mkdir(parents=True, exist_ok=True)
    secret = data.parent / f"{data.name}.dsn"
    secret.touch(mode=0o600)
    secret.write_text(dsn)
    return check(
        Config(
            site=SiteSection(data=str(data), node=data.name),
            store=StoreSection(dsn_file=str(secret)),
            work=WorkSection(enabled=works, lease_ms=2_000),
        )
    )


@asynccontextmanager
async def running(config: Config, port: int, token: str = "") -> AsyncIterator[Node]:
    """A node with its server."""
    async with open_site(config) as site:
        await site.nodes.join()
        if not token:
            made = await site.access.create(by="test", tenant="default", scopes=SCOPES)
            assert made.token is not None
            token = made.token
        loops = asyncio.create_task(run_site(site))
        server = build_server(site, port=port)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        headers = {"authorization": f"Bearer {token}"}
        url = f"http://127.0.0.1:{port}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as client:
            yield Node(site, port, client)
        server.should_exit = True
        await serving
        await site.nodes.leave()
        loops.cancel()
        await asyncio.gather(loops, return_exceptions=True)


def join_as(first: Path, second: Path) -> None:
    """Give a second node what it must share with the first."""
    for folder in ("secrets", "keys", "pki"):
        shutil.copytree(first / folder, second / folder)


@pytest.fixture
async def pair(
    tmp_path: Path,
    database: str,
    free_ports: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Node, Node]]:
    """Node ``a``, which works, and node ``b``, which only accepts. Documents are taken and signed on ``a`` alone: what
    refuses the second node for its folder of documents is not in the way here."""

    async def unchecked(_self: Nodes) -> None:
        pass

    monkeypatch.setattr(Nodes, "check", unchecked)
    async with running(config_of(tmp_path / "a", database), free_ports()) as a:
        join_as(tmp_path / "a", tmp_path / "b")
        token = a.client.headers["authorization"].removeprefix("Bearer ")
        b_config = config_of(tmp_path / "b", database, works=False)
        async with running(b_config, free_ports(), token) as b:
            yield a, b


async def until(what: Callable[[], Awaitable[bool]], within_s: float = SOON_S) -> float:
    """Wait until something holds; returns how long that took."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not await what():
        assert loop.time() - began < within_s, "it did not happen in time"
        await asyncio.sleep(0.02)
    return loop.time() - began


async def test_switches_hold_on_every_node(pair: tuple[Node, Node]) -> None:
    """Mode, provider and kind of job, switched at one node, hold at the other, and so does taking them back."""
    a, b = pair

    async def mode_at_b(mode: str) -> bool:
        return (await b.client.get("/v1/status")).json()["mode"] == mode

    async def disabled_at_b(why: str) -> bool:
        return b.site.world.signer_router.snapshot()[0].disabled == why

    async def paused_at_b(paused: bool) -> bool:
        return ("signing.sign" in b.site.runner.paused) == paused

    set_ = await a.client.put("/v1/mode", json={"mode": "read-only", "reason": "moving"})
    assert set_.status_code == 200
    await until(lambda: mode_at_b("read-only"))
    refused = await b.client.post("/v1/signature-requests", json={"document": "x"})
    assert refused.json()["code"] == "read-only"
    released = await b.client.put("/v1/mode", json={"mode": None, "reason": "moved"})
    assert released.status_code == 200, released.text
    await until(lambda: mode_at_b("normal"))
    assert (await a.client.get("/v1/mode")).json()["mode"] == "normal"

    await a.post("/v1/providers/local:disable", reason="looking")
    await until(lambda: disabled_at_b("looking"))
    await b.post("/v1/providers/local:enable", reason="looked")
    assert await disabled_at_b("")

    await a.post("/v1/job-kinds/signing.sign:pause", reason="wait")
    await until(lambda: paused_at_b(True))
    listed = (await b.client.get("/v1/job-kinds")).json()["items"]
    sign = next(kind for kind in listed if kind["kind"] == "signing.sign")
    assert (sign["paused"], sign["reason"]) == (True, "wait")
    assert sign["actor"].startswith("api-key:")
    await a.post("/v1/job-kinds/signing.sign:resume", reason="go")
    await until(lambda: paused_at_b(False))


async def test_a_revoked_key_is_refused_everywhere_within_a_second(
    pair: tuple[Node, Node],
) -> None:
    """A key that node b knows and believes is refused there soon after node a has revoked it; a new one is good at
    once; and while b does not hear of anything, it asks the database instead of believing."""
    a, b = pair
    keys = []
    for _ in range(2):
        made = await a.post("/v1/api-keys", scopes=["operate"])
        client = b.client_of(made.json()["token"])
        assert (await client.get("/v1/job-kinds")).status_code == 200
        keys.append((made.json()["id"], client))

    async def is_refused(client: httpx2.AsyncClient) -> bool:
        return (await client.get("/v1/job-kinds")).json().get("code") == "token-revoked"

    (first, client), (second, other) = keys
    assert (await a.client.delete(f"/v1/api-keys/{first}")).status_code == 200
    await until(lambda: is_refused(client), BOUND_S)

    follower = b.site.follower
    assert follower is not None
    heads = b.site.store.head

    async def away() -> Any:
        raise Unavailable("storage-unreachable", "this read fails")

    follower._store = type("Away", (), {"head": staticmethod(away)})()  # type: ignore[assignment]  # a store that fails
    await asyncio.sleep(BOUND_S)
    assert not follower.is_current()
    assert (await a.client.delete(f"/v1/api-keys/{second}")).status_code == 200
    assert await is_refused(other)
    assert (await heads()).size > 0
    await client.aclose()
    await other.aclose()


async def test_a_client_of_one_node_sees_and_awaits_what_another_does(
    pair: tuple[Node, Node],
) -> None:
    """Events committed at either node arrive at a stream on node b in the log's order; a request that a signs wakes
    who waits for it on b; so does a receipt's publication."""
    a, b = pair
    seen: list[int] = []
    started = asyncio.Event()

    async def follow() -> None:
        async with b.client.stream("GET", "/v1/events?from=0") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("id: "):
                    seen.append(int(line[4:]))
                    started.set()

    following = asyncio.create_task(follow())
    async with asyncio.timeout(SOON_S):
        await started.wait()
    added = await a.client.post(
        "/v1/documents", content=plain_pdf(1), headers={"content-type": "application/pdf"}
    )
    assert added.status_code == 201, added.text
    await a.post("/v1/job-kinds/signing.sign:pause", reason="until b waits")
    asked = await a.post("/v1/signature-requests", document=added.json()["id"])
    url, loop = asked.json()["url"], asyncio.get_running_loop()
    waiting = asyncio.create_task(b.client.get(url, headers={"prefer": "wait=20"}))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await a.post("/v1/job-kinds/signing.sign:resume", reason="b waits")
    done = await a.client.get(url, headers={"prefer": "wait=20"})
    completed = loop.time()
    answer = await waiting
    assert loop.time() - completed < BOUND_S
    assert answer.json()["status"] == done.json()["status"] == "completed"
    last = await a.site.store.head()
    assert await b.site.publisher.wait_for(last.size - 1, SOON_S)
    own = {
        index
        for index, leaf in enumerate(await a.site.store.entries(0, 1_000))
        if msgspec.json.decode(leaf)["tenant"] == "default"
    }

    async def all_seen() -> bool:
        return own <= set(seen)

    await until(all_seen)
    assert seen == sorted(set(seen))
    following.cancel()


async def test_each_node_has_the_rules_mode_of_its_own(pair: tuple[Node, Node]) -> None:
    """A full disk at one node stops that one; the other takes work, and neither overrules the other again and again."""
    a, b = pair
    free = b.site.watch._blobs.free_bytes

    async def none_left() -> int:
        return 0

    b.site.watch._blobs.free_bytes = none_left  # type: ignore[method-assign]  # this disk is full
    await b.site.watch.recount()

    async def stopped() -> bool:
        return b.site.watch.mode.label == "read-only"

    await until(stopped)
    assert (await b.client.get("/readyz")).status_code == 503
    assert (await a.client.get("/readyz")).status_code == 200
    entries = (await a.site.store.head()).size
    await asyncio.sleep(1.0)
    assert (await a.site.store.head()).size == entries, "the nodes contradict each other"
    page = (await a.client.get("/v1/status")).json()
    assert page["mode"] == "normal"
    assert [(n["name"], n["state"], n["mode"]) for n in page["nodes"]] == [
        ("a", "up", "normal"),
        ("b", "up", "read-only"),
    ]
    assert "disk-low" in page["nodes"][1]["reasons"][0]
    assert [item.id for item in await b.site.store.streams("-", MODE)] == ["b"]
    b.site.watch._blobs.free_bytes = free  # type: ignore[method-assign]
    await b.site.watch.recount()

    async def goes_on() -> bool:
        return b.site.watch.mode.label == "normal"

    await until(goes_on)


async def test_switches_outlive_a_restart_and_answer_a_repeat_as_before(
    tmp_path: Path, database: str, free_ports: Callable[[], int]
) -> None:
    """A paused kind stays paused in the next process. A repeated call with its key gets its first answer and does not
    undo what came after. Of two that set the mode at one version, one is refused."""
    config = config_of(tmp_path / "a", database)
    async with running(config, free_ports()) as a:
        token = a.client.headers["authorization"].removeprefix("Bearer ")
        await a.post("/v1/job-kinds/signing.sign:pause", key="k1", reason="hold")
        first = await a.post("/v1/providers/local:disable", key="k2", reason="look")
        await a.post("/v1/providers/local:enable", reason="seen")
        again = await a.post("/v1/providers/local:disable", key="k2", reason="look")
        assert again.headers["idempotent-replayed"] == "true"
        assert again.json()["receipt"] == first.json()["receipt"]
        assert a.site.world.signer_router.snapshot()[0].disabled == ""
        etag = (await a.client.get("/v1/mode")).headers["etag"]
        both = await asyncio.gather(
            *(
                a.client.put(
                    "/v1/mode",
                    json={"mode": mode, "reason": "race"},
                    headers={"if-match": etag},
                )
                for mode in ("read-only", "degraded")
            )
        )
        assert sorted(answer.status_code for answer in both) == [200, 412]
        refused = await a.client.post("/v1/job-kinds/no.such:pause", json={"reason": "x"})
        assert (refused.status_code, refused.json()["code"]) == (404, "unknown-job-kind")
    async with running(config, free_ports(), token) as a:
        assert "signing.sign" in a.site.runner.paused
        assert a.site.watch.mode.held
        again = await a.post("/v1/job-kinds/signing.sign:pause", key="k1", reason="hold")
        assert again.headers["idempotent-replayed"] == "true"
        history = await a.site.store.entries(0, 1_000)
        assert sum(b"job_kind_paused" in leaf for leaf in history) == 1


async def test_who_is_there(
    tmp_path: Path, database: str, free_ports: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that stops says so; one that is cut off is shown as gone; a name in use is not taken; and a second node
    is refused where documents lie in each node's own folder."""
    monkeypatch.setattr("outlast.wiring.nodes.NAME_WAIT_S", NAME_LOOK_S)
    a_config, b_config = config_of(tmp_path / "a", database), config_of(tmp_path / "b", database)
    async with running(a_config, free_ports()) as a:
        join_as(tmp_path / "a", tmp_path / "b")
        with pytest.raises(Refused, match="documents-not-shared"):
            async with open_site(b_config):
                pass
        async with open_site(a_config) as twin:
            with pytest.raises(Refused, match="node-name-taken"):
                await twin.nodes.join()
        monkeypatch.setattr(Nodes, "check", _no_check)

        async def states() -> dict[str, str]:
            return {view.name: view.state for view in await a.site.nodes.view()}

        async with open_site(b_config) as b:
            await b.nodes.join()
            assert await states() == {"a": "up", "b": "up"}
            await b.nodes.leave()
            assert await states() == {"a": "up", "b": "stopped"}
            await b.nodes.join()
        assert await states() == {"a": "up", "b": "gone"}
        size = (await a.site.store.head()).size
        await asyncio.sleep(0.5)
        assert (await a.site.store.head()).size == size, "a node at rest writes nothing"


async def _no_check(_self: Nodes) -> None:
    pass
