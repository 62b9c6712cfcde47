"""The main job over HTTP: upload, ask, follow, fetch, prove; and every way to do it twice or wrongly."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import anyio
import pytest

from outlast.core.log.proof import parse_proof, verify_proof
from outlast.core.log.signers import verifier_for
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio

PDF = {"content-type": "application/pdf"}


async def request(site: Any, body: dict[str, Any] | None = None, **headers: str) -> Any:
    """Ask for a signature on a fresh document."""
    body = body or {}
    body.setdefault("document", await site.document())
    return await site.client.post("/v1/signature-requests", json=body, headers=headers)


async def test_document_to_signed_file(http_site: Any) -> None:
    """A PDF is uploaded, signed and given back; the file has the size and hash that the request says."""
    accepted = await request(http_site, {"reason": "agreed", "reference": "42"})
    assert accepted.status_code == 202, accepted.text
    assert accepted.headers["location"] == accepted.json()["url"]
    assert accepted.headers["outlast-receipt"] == "accepted"
    shown = await http_site.client.get(accepted.json()["url"], headers={"prefer": "wait=20"})
    assert shown.json()["status"] == "completed", shown.text
    assert shown.json()["reference"] == "42"
    file = await http_site.client.get(accepted.json()["url"] + "/file")
    assert file.headers["content-type"] == "application/pdf"
    assert "attachment" in file.headers["content-disposition"]
    assert len(file.content) == shown.json()["file"]["size"]
    assert file.headers["etag"] == f'"{shown.json()["file"]["sha256"]}"'
    assert file.content.startswith(b"%PDF-")


async def test_waiting_for_the_result_in_the_same_request(http_site: Any) -> None:
    """With Prefer: wait, the answer to the request itself is the finished request."""
    answer = await request(http_site, prefer="wait=20")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "completed"
    assert answer.headers["preference-applied"] == "wait"


async def test_detached_signature_of_another_file(http_site: Any) -> None:
    """A file that is no PDF gets a detached CMS."""
    added = await http_site.client.post(
        "/v1/documents", content=b"a,b\n1,2\n", headers={"content-type": "text/csv"}
    )
    assert added.status_code == 201, added.text
    answer = await request(http_site, {"document": added.json()["id"]}, prefer="wait=20")
    file = await http_site.client.get(f"/v1/signature-requests/{answer.json()['id']}/file")
    assert file.headers["content-type"] == "application/pkcs7-signature"
    assert file.content[0] == 0x30


async def test_document_comes_back_unchanged(http_site: Any) -> None:
    """A document's content is byte for byte what was uploaded, and never to be rendered by a browser."""
    body = plain_pdf(3)
    added = await http_site.client.post(
        "/v1/documents?title=Three%20pages", content=body, headers=PDF
    )
    assert added.json()["document"]["pages"] == 3
    view = await http_site.client.get(added.json()["url"])
    assert view.json()["title"] == "Three pages"
    content = await http_site.client.get(added.json()["url"] + "/content")
    assert content.content == body
    assert content.headers["x-content-type-options"] == "nosniff"
    assert "attachment" in content.headers["content-disposition"]


async def test_same_key_same_body_is_the_same_answer(http_site: Any) -> None:
    """A repeated request with its Idempotency-Key is answered alike, marked as replayed, and done once."""
    body = {"document": await http_site.document()}
    headers = {"idempotency-key": '"once-and-only-once"'}
    first = await http_site.client.post("/v1/signature-requests", json=body, headers=headers)
    again = await http_site.client.post("/v1/signature-requests", json=body, headers=headers)
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


async def test_same_key_other_body_is_refused(http_site: Any) -> None:
    """An Idempotency-Key that comes with another body is refused and says so."""
    headers = {"idempotency-key": "reused"}
    body = {"document": await http_site.document()}
    await http_site.client.post("/v1/signature-requests", json=body, headers=headers)
    other = await http_site.client.post(
        "/v1/signature-requests", json={**body, "reason": "x"}, headers=headers
    )
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency-key-reused"


async def test_uploads_are_idempotent(http_site: Any) -> None:
    """A repeated upload yields the same document; another file under its key is refused."""
    headers = {**PDF, "idempotency-key": "upload-1"}
    first = await http_site.client.post("/v1/documents", content=plain_pdf(1), headers=headers)
    again = await http_site.client.post("/v1/documents", content=plain_pdf(1), headers=headers)
    other = await http_site.client.post("/v1/documents", content=plain_pdf(2), headers=headers)
    assert first.json()["id"] == again.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert other.status_code == 422


async def test_bulk_items_succeed_and_fail_alone(http_site: Any) -> None:
    """A bulk call answers every item by itself, in order, and repeating it creates nothing."""
    document = await http_site.document()
    items = [{"document": document}, {"document": 5}, {"document": document, "class": "none"}]
    answers = [
        await http_site.client.post(
            "/v1/signature-requests:bulk", json=items, headers={"idempotency-key": "bulk-1"}
        )
        for _ in range(2)
    ]
    first, again = (answer.json() for answer in answers)
    assert answers[0].status_code == 207
    assert [item["status"] for item in first["items"]] == [202, 400, 422]
    assert first["accepted"] == 1
    assert first["items"][1]["problem"]["code"] == "request-malformed"
    assert first["items"][2]["problem"]["code"] == "unknown-class"
    assert first["items"][0]["accepted"]["id"] == again["items"][0]["accepted"]["id"]


async def test_bulk_takes_lines_of_json(http_site: Any) -> None:
    """The same as application/x-ndjson."""
    document = await http_site.document()
    lines = "\n".join(json.dumps({"document": document}) for _ in range(20)) + "\n"
    answer = await http_site.client.post(
        "/v1/signature-requests:bulk",
        content=lines,
        headers={"content-type": "application/x-ndjson"},
    )
    assert answer.status_code == 207
    assert answer.json()["accepted"] == 20


async def test_listing_goes_through_all_pages_once(http_site: Any) -> None:
    """Cursor pages, newest first, show each request exactly once."""
    tenant = await http_site.key(tenant="pages")
    document = await tenant.post("/v1/documents", content=b"x", headers={"content-type": "text/x"})
    keys = {"document": document.json()["id"]}
    refused = await tenant.post("/v1/signature-requests", json=keys)
    assert refused.json()["code"] == "key-not-found"  # another tenant's key is not this one's
    mine = [(await request(http_site)).json()["id"] for _ in range(5)]
    seen: list[str] = []
    cursor = ""
    while len(seen) < 500:
        page = await http_site.client.get(f"/v1/signature-requests?limit=2{cursor}")
        seen += [item["id"] for item in page.json()["items"]]
        if page.json()["next"] is None:
            break
        cursor = f"&cursor={page.json()['next']}"
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen))
    assert set(mine) <= set(seen)


async def test_etag_and_not_modified(http_site: Any) -> None:
    """A request's ETag is its version; the version known already is not sent again."""
    accepted = await request(http_site)
    url = accepted.json()["url"]
    done = await http_site.client.get(url, headers={"prefer": "wait=20"})
    same = await http_site.client.get(url, headers={"if-none-match": done.headers["etag"]})
    assert same.status_code == 304
    assert same.content == b""
    old = await http_site.client.get(url, headers={"if-none-match": '"1"'})
    assert old.status_code == 200


async def test_waiting_for_a_change(http_site: Any) -> None:
    """With If-None-Match and Prefer: wait, the answer comes when the version changes, or 304 after the time."""
    accepted = await request(http_site, {"class": "approved"})
    url, tag = accepted.json()["url"], accepted.headers["etag"]
    headers = {"if-none-match": tag, "prefer": "wait=0.3"}
    assert (await http_site.client.get(url, headers=headers)).status_code == 304
    answers = []

    async def wait() -> None:
        headers = {"if-none-match": tag, "prefer": "wait=20"}
        answers.append(await http_site.client.get(url, headers=headers))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.sleep(0.1)
        await http_site.client.post(url + "/cancel", json={"reason": "no longer needed"})
    assert answers[0].json()["status"] == "cancelled"


async def test_cancel_only_at_the_version_known(http_site: Any) -> None:
    """If-Match with an old version is 412 and changes nothing; with the newest it goes through."""
    accepted = await request(http_site, {"class": "approved"})
    url = accepted.json()["url"] + "/cancel"
    stale = await http_site.client.post(url, headers={"if-match": '"7"'})
    assert stale.status_code == 412
    assert stale.json()["code"] == "version-conflict"
    fresh = await http_site.client.post(url, headers={"if-match": accepted.headers["etag"]})
    assert fresh.status_code == 200
    assert fresh.headers["etag"] == '"2"'


async def test_approval_is_another_persons(http_site: Any) -> None:
    """Whoever asked cannot approve; another key with the scope can, and then it is signed."""
    accepted = await request(http_site, {"class": "approved"})
    url = accepted.json()["url"]
    own = await http_site.client.post(url + "/approve")
    assert (own.status_code, own.json()["code"]) == (403, "self-approval")
    other = await http_site.key("signatures:approve")
    assert (await other.post(url + "/approve")).status_code == 200
    done = await http_site.client.get(url, headers={"prefer": "wait=20"})
    assert done.json()["status"] == "completed"


async def test_file_before_it_is_signed(http_site: Any) -> None:
    """Asking too early is a conflict that says to come back."""
    accepted = await request(http_site, {"class": "approved"})
    early = await http_site.client.get(accepted.json()["url"] + "/file")
    assert early.status_code == 409
    assert early.json()["retry"] == "later"
    assert int(early.headers["retry-after"]) >= 1


async def test_evidence_bundle(http_site: Any) -> None:
    """The bundle is a zip with the signed file and proofs in it."""
    answer = await request(http_site, prefer="wait=20")
    bundle = await http_site.client.get(f"/v1/signature-requests/{answer.json()['id']}/evidence")
    assert bundle.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(bundle.content)) as archive:
        names = archive.namelist()
    assert "signed.pdf" in names
    assert any(name.endswith(".tlog-proof") for name in names)


async def test_receipt_proves_the_entry(http_site: Any) -> None:
    """A published receipt's proof verifies with nothing but the entry's bytes and the log's keys."""
    accepted = await request(http_site, prefer="receipt=published")
    assert accepted.headers["outlast-receipt"] == "published"
    url = accepted.json()["receipt"]["proof"]
    answer = (await http_site.client.get(url)).json()
    keys = [verifier_for(text) for text in answer["log_keys"]]
    opened = verify_proof(
        parse_proof(answer["proof"].encode()), answer["entry"].encode(), keys, need=2
    )
    assert opened.checkpoint.size > answer["index"]
    text = await http_site.client.get(url, headers={"accept": "text/plain"})
    assert text.text.startswith("c2sp.org/tlog-proof@v1\n")


async def test_receipts_of_another_tenant_are_not_found(http_site: Any) -> None:
    """Nobody reads another tenant's entries through their receipts."""
    accepted = await request(http_site, prefer="receipt=published")
    other = await http_site.key(tenant="other")
    answer = await other.get(accepted.json()["receipt"]["proof"])
    assert (answer.status_code, answer.json()["code"]) == (404, "receipt-not-found")


async def test_another_tenant_finds_nothing(http_site: Any) -> None:
    """To another tenant, documents, requests and their files are not there."""
    accepted = await request(http_site, prefer="wait=20")
    other = await http_site.key(tenant="other")
    document = await http_site.document()
    for path in (
        f"/v1/signature-requests/{accepted.json()['id']}",
        f"/v1/signature-requests/{accepted.json()['id']}/file",
        f"/v1/signature-requests/{accepted.json()['id']}/evidence",
        f"/v1/documents/{document}",
        f"/v1/documents/{document}/content",
    ):
        assert (await other.get(path)).status_code == 404, path
    asked = await other.post("/v1/signature-requests", json={"document": document})
    assert asked.status_code == 404


async def test_tiles_are_served_as_named(http_site: Any) -> None:
    """Checkpoint, tile and bundle are served; what is written otherwise than the standard says is not found."""
    await request(http_site, prefer="receipt=published")
    checkpoint = await http_site.client.get("/log/checkpoint")
    size = int(checkpoint.text.splitlines()[1])
    tile = await http_site.client.get(f"/log/tile/0/000.p/{size}")
    assert len(tile.content) == 32 * size
    assert "immutable" in tile.headers["cache-control"]
    assert "public" not in tile.headers["cache-control"]  # this log needs an API key
    bundle = await http_site.client.get(f"/log/tile/entries/000.p/{size}")
    assert bundle.status_code == 200
    for wrong in ("0/0", "0/000.p/999", "00/000", "-1/000", "0/000/", "entries/000.p/0"):
        assert (await http_site.client.get(f"/log/tile/{wrong}")).status_code == 404, wrong
