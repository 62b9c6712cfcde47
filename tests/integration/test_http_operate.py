"""Operating a site over HTTP: modes, providers, jobs, keys, health, metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from outlast.core.pki import certificate_pem
from outlast.core.replicas.health import StoreHealth
from outlast.wiring.embedded import certify, site_authority

pytestmark = pytest.mark.anyio


async def job_of(site: Any, request_id: str) -> dict[str, Any]:
    """The job that a request made."""
    jobs = (await site.client.get("/v1/jobs?limit=200")).json()["items"]
    found: dict[str, Any] = next(j for j in jobs if j["stream"].endswith(request_id))
    return found


async def test_mode_by_hand_stops_new_work(http_site: Any) -> None:
    """Read-only by hand: new work is refused with 503 and when to come back, readyz says so, every answer carries
    the mode; released, all is as before."""
    document = await http_site.document()
    set_ = await http_site.client.put("/v1/mode", json={"mode": "read-only", "reason": "moving"})
    assert set_.status_code == 200, set_.text
    try:
        refused = await http_site.client.post("/v1/signature-requests", json={"document": document})
        assert (refused.status_code, refused.json()["code"]) == (503, "read-only")
        assert refused.headers["outlast-mode"] == "read-only"
        assert int(refused.headers["retry-after"]) >= 1
        ready = await http_site.client.get("/readyz")
        assert ready.status_code == 503
        assert (await http_site.client.get("/livez")).status_code == 200
        mode = await http_site.client.get("/v1/mode")
        assert mode.json()["by_hand"]
        assert "moving" in mode.json()["reasons"][0]
    finally:
        released = await http_site.client.put("/v1/mode", json={"mode": None, "reason": "done"})
    assert released.status_code == 200
    assert (await http_site.client.get("/readyz")).status_code == 200


async def test_mode_only_at_the_version_known(http_site: Any) -> None:
    """If-Match with another version is 412."""
    answer = await http_site.client.put(
        "/v1/mode", json={"mode": "degraded", "reason": "x"}, headers={"if-match": '"999"'}
    )
    assert answer.status_code == 412


async def test_disabled_provider_holds_work_until_enabled(http_site: Any) -> None:
    """With its only provider disabled a request waits; it is signed when the provider is enabled."""
    off = await http_site.client.post("/v1/providers/local:disable", json={"reason": "test"})
    assert off.status_code == 200, off.text
    listed = (await http_site.client.get("/v1/providers")).json()
    assert listed["signers"][0]["disabled"] == "test"
    document = await http_site.document()
    asked = await http_site.client.post("/v1/signature-requests", json={"document": document})
    url = asked.json()["url"]
    waiting = await http_site.client.get(url, headers={"prefer": "wait=0.3"})
    assert waiting.json()["status"] != "completed"
    await http_site.client.post("/v1/providers/local:enable", json={"reason": "test over"})
    done = await http_site.client.get(url, headers={"prefer": "wait=30"})
    assert done.json()["status"] == "completed", done.text


async def test_blob_stores_are_listed_with_the_providers(
    http_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are disabled and enabled like providers, so their names must be found beside them."""
    assert (await http_site.client.get("/v1/providers")).json()["blob_stores"] == []
    health = StoreHealth(["a", "b"], http_site.site.clock)
    monkeypatch.setattr(http_site.site.blobs, "snapshots", health.router.snapshot)
    listed = (await http_site.client.get("/v1/providers")).json()["blob_stores"]
    assert [store["provider"] for store in listed] == ["blobs.a", "blobs.b"]


async def test_unknown_provider(http_site: Any) -> None:
    """Disabling a provider that is not configured is 404; without a reason it is refused."""
    answer = await http_site.client.post("/v1/providers/hsm-9:disable", json={"reason": "x"})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown-provider")
    answer = await http_site.client.post("/v1/providers/local:disable", json={})
    assert answer.status_code == 400


async def test_paused_kind_parked_and_replayed_job(http_site: Any) -> None:
    """A kind of job can be paused; its job parked and replayed, on record; then it runs."""
    kinds = (await http_site.client.get("/v1/job-kinds")).json()["items"]
    assert not next(k for k in kinds if k["kind"] == "signing.sign")["paused"]
    paused = await http_site.client.post(
        "/v1/job-kinds/signing.sign:pause", json={"reason": "look"}
    )
    assert paused.status_code == 200, paused.text
    try:
        document = await http_site.document()
        asked = await http_site.client.post("/v1/signature-requests", json={"document": document})
        job = await job_of(http_site, asked.json()["id"])
        assert job["state"] == "ready"
        url = f"/v1/jobs/{job['id']}"
        nothing = await http_site.client.post(f"{url}:replay", json={"reason": "try"})
        assert (nothing.status_code, nothing.json()["code"]) == (409, "job-state")
        parked = await http_site.client.post(f"{url}:park", json={"reason": "look first"})
        assert parked.status_code == 200, parked.text
        assert (await http_site.client.get(url)).json()["state"] == "parked"
        headers = {"idempotency-key": "replay-it"}
        for _ in range(2):
            replayed = await http_site.client.post(
                f"{url}:replay", json={"reason": "looked"}, headers=headers
            )
            assert replayed.status_code == 200, replayed.text
        assert replayed.headers["idempotent-replayed"] == "true"
    finally:
        await http_site.client.post("/v1/job-kinds/signing.sign:resume", json={"reason": "seen"})
    done = await http_site.client.get(asked.json()["url"], headers={"prefer": "wait=20"})
    assert done.json()["status"] == "completed"
    stream = await http_site.site.store.entries(0, 10_000)
    moved = [leaf for leaf in stream if b'"work.job_moved"' in leaf]
    assert any(b"look first" in leaf and b"api-key:" in leaf for leaf in moved)


async def test_discarded_job_never_runs(http_site: Any) -> None:
    """A discarded job is done, and the request that hung on it has failed with the reason."""
    await http_site.client.post("/v1/job-kinds/signing.sign:pause", json={"reason": "x"})
    try:
        document = await http_site.document()
        asked = await http_site.client.post("/v1/signature-requests", json={"document": document})
        job = await job_of(http_site, asked.json()["id"])
        url = f"/v1/jobs/{job['id']}"
        ended = await http_site.client.post(f"{url}:discard", json={"reason": "a test"})
        assert ended.status_code == 200
        again = await http_site.client.post(f"{url}:discard", json={"reason": "a test"})
        assert again.status_code == 409
    finally:
        await http_site.client.post("/v1/job-kinds/signing.sign:resume", json={"reason": "seen"})
    shown = (await http_site.client.get(asked.json()["url"])).json()
    assert (shown["status"], shown["reason"]) == ("failed", "job-discarded: a test")


async def test_the_sites_own_jobs_are_every_operators(http_site: Any) -> None:
    """A scrub's job belongs to no tenant: any operator sees it in the list and can act on it."""
    client, kind = http_site.client, "/v1/job-kinds/blobs.scrub"
    await client.post(f"{kind}:pause", json={"reason": "look"})
    try:
        begun = await client.post("/v1/blobs/scrub", json={})
        assert begun.status_code == 200, begun.text
        items = (await client.get("/v1/jobs?limit=200&state=ready")).json()["items"]
        assert [job["id"] for job in items] == sorted(job["id"] for job in items)
        job = next(j for j in items if j["kind"] == "blobs.scrub")
        after = await client.get(f"/v1/jobs?limit=1&cursor={job['id'] - 1}")
        assert [j["id"] for j in after.json()["items"]] == [job["id"]]
        url = f"/v1/jobs/{job['id']}"
        assert (await client.get(url)).json()["kind"] == "blobs.scrub"
        for verb, state in (("park", "parked"), ("replay", "ready"), ("discard", "done")):
            moved = await client.post(f"{url}:{verb}", json={"reason": "test"})
            assert moved.status_code == 200, moved.text
            assert (await client.get(url)).json()["state"] == state
    finally:
        await client.post("/v1/blobs/scrub:stop", json={})
        await client.post(f"{kind}:resume", json={"reason": "seen"})


async def test_jobs_of_another_tenant_are_not_found(http_site: Any) -> None:
    """An operator of one tenant sees no jobs of another, only those of the site itself."""
    body = {"document": await http_site.document()}
    asked = await http_site.client.post("/v1/signature-requests", json=body)
    job = await job_of(http_site, asked.json()["id"])
    other = await http_site.key("operate", tenant="other")
    kinds = {j["kind"] for j in (await other.get("/v1/jobs")).json()["items"]}
    assert kinds <= {"blobs.scrub", "blobs.references"}
    assert (await other.get(f"/v1/jobs/{job['id']}")).status_code == 404
    assert (await other.get("/v1/jobs/99999999999999999999")).status_code == 404


async def test_key_is_enrolled_disabled_and_enabled(http_site: Any) -> None:
    """A key is enrolled with its certificate chain; disabled it takes no requests; a wrong certificate is refused."""
    site = http_site.site
    info = await site.world.signers["local"].describe("default")
    chain = certify(site_authority(site.config, site.clock), info, "board", site.clock)
    pem = "".join(_pem(der) for der in chain)
    body = {"key_ref": "default", "chain_pem": pem}
    put = await http_site.client.put("/v1/keys/board/bindings/local", json=body)
    assert put.status_code == 200, put.text
    again = await http_site.client.put("/v1/keys/board/bindings/local", json=body)
    assert again.json()["receipt"]["count"] == 0
    names = [key["name"] for key in (await http_site.client.get("/v1/keys")).json()["items"]]
    assert names == ["board", "default"]
    await http_site.client.post("/v1/keys/board:disable", json={"reason": "lost"})
    ask = {"document": await http_site.document(), "signatures": [{"key": "board"}]}
    refused = await http_site.client.post("/v1/signature-requests", json=ask)
    assert refused.json()["code"] == "key-disabled"
    await http_site.client.post("/v1/keys/board:enable")
    assert (await http_site.client.post("/v1/signature-requests", json=ask)).status_code == 202
    wrong = {"key_ref": "default", "chain_pem": _ca_pem(site.config.data)}
    bad = await http_site.client.put("/v1/keys/board/bindings/local", json=wrong)
    assert bad.status_code == 422, bad.text
    for name, status in (("a%20b", 422), ("x" * 101, 422)):
        answer = await http_site.client.put(f"/v1/keys/{name}/bindings/local", json=body)
        assert answer.status_code == status


def _pem(der: bytes) -> str:
    from cryptography import x509

    return certificate_pem(x509.load_der_x509_certificate(der)).decode()


def _ca_pem(data: Path) -> str:
    return (data / "pki" / "ca.pem").read_text()


async def test_status_page(http_site: Any) -> None:
    """The status page names mode, providers, work and how far the log has got; any key may see it."""
    reader = await http_site.key("documents:read")
    page = (await reader.get("/v1/status")).json()
    assert page["verdict"] in ("operational", "degraded")
    assert page["signers"][0]["provider"] == "local"
    assert page["log"]["committed"] >= page["log"]["published"] > 0


async def test_metrics_are_prometheus(http_site: Any) -> None:
    """The metrics name what the site does, and no tenant, key or id."""
    await http_site.document()
    with anyio.fail_after(10):
        text = (await http_site.client.get("/metrics")).text
    for name in (
        'outlast_http_requests_total{operation="addDocument",status="201"}',
        "outlast_flush_entries_bucket",
        'outlast_mode{mode="normal"}',
        'outlast_jobs{kind="signing.sign",state="ready"}',
        "outlast_log_next_index",
        "outlast_log_signed_entries",
        "outlast_timestamps_owed",
        'outlast_provider_usable{provider="local",role="signer"}',
        "process_resident_memory_bytes",
    ):
        assert name in text, name
    assert "default" not in text
