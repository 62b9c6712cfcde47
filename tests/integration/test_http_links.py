"""Short-lived links: one thing with one resource, without an API key, for a while, on record."""

from __future__ import annotations

import base64
import json

import pytest

from outlast.core.links import KIND
from outlast.core.store.port import StreamKey
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio


def code_of(answer) -> str:  # type: ignore[no-untyped-def]  # a response
    """The problem's code."""
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["code"])


async def test_a_document_is_downloaded_without_a_key(http_site) -> None:  # type: ignore[no-untyped-def]
    """Whoever has the link gets the bytes as taken in, as often as it says, and every use is on record."""
    document = await http_site.document()
    made = await http_site.client.post(f"/v1/documents/{document}/link", json={"uses": 2})
    assert made.status_code == 201, made.text
    link = made.json()
    stranger = http_site.client_of(None)
    for _ in range(2):
        got = await stranger.get(link["url"])
        assert got.status_code == 200
        assert got.content == plain_pdf(1)
        assert got.headers["content-disposition"].startswith("attachment")
    third = await stranger.get(link["url"])
    assert (third.status_code, code_of(third)) == (410, "link-used-up")
    assert " of " in third.json()["detail"]
    key = StreamKey("default", KIND, link["id"])
    leaves = [json.loads(leaf) for _, leaf in await http_site.site.store.stream_entries(key)]
    assert [leaf["type"] for leaf in leaves] == [
        "access.link_made", "access.link_used", "access.link_used"
    ]  # fmt: skip
    assert leaves[1]["actor"] == f"link:{link['id']}"


async def test_a_signed_file_is_downloaded_without_a_key(http_site) -> None:  # type: ignore[no-untyped-def]
    """Before it is signed the link says so and is not used up; after, it gives the file."""
    document = await http_site.document()
    asked = await http_site.client.post(
        "/v1/signature-requests", json={"document": document}, headers={"prefer": "wait=20"}
    )
    id_ = asked.json()["id"]
    made = await http_site.client.post(f"/v1/signature-requests/{id_}/file-link", json={})
    got = await http_site.client_of(None).get(made.json()["url"])
    assert got.status_code == 200
    assert got.content.startswith(plain_pdf(1))


async def test_a_document_is_uploaded_without_a_key(http_site) -> None:  # type: ignore[no-untyped-def]
    """One document, of the type and size that the link says; sent again it is the same one, another is refused."""
    made = await http_site.client.post(
        "/v1/upload-links", json={"title": "a contract", "max_bytes": 100_000}
    )
    link, stranger = made.json(), http_site.client_of(None)
    pdf = {"content-type": "application/pdf"}
    wrong = await stranger.put(link["url"], content=b"x", headers={"content-type": "text/plain"})
    assert (wrong.status_code, code_of(wrong)) == (415, "link-other-type")
    large = await stranger.put(link["url"], content=b"%PDF-" + b"x" * 100_000, headers=pdf)
    assert (large.status_code, code_of(large)) == (413, "body-too-large")
    first = await stranger.put(link["url"], content=plain_pdf(1), headers=pdf)
    assert first.status_code == 201, first.text
    again = await stranger.put(link["url"], content=plain_pdf(1), headers=pdf)
    assert again.json()["id"] == first.json()["id"]
    other = await stranger.put(link["url"], content=plain_pdf(2), headers=pdf)
    assert (other.status_code, code_of(other)) == (422, "idempotency-key-reused")
    shown = await http_site.client.get(f"/v1/documents/{first.json()['id']}")
    assert shown.json()["title"] == "a contract"


async def test_a_link_is_for_nothing_else(http_site) -> None:  # type: ignore[no-untyped-def]
    """Changed anywhere, used with another method, or dropped, it is refused; nothing in it makes it another's."""
    document = await http_site.document()
    made = (await http_site.client.post(f"/v1/documents/{document}/link", json={})).json()
    stranger, token = http_site.client_of(None), made["url"].rsplit("/", 1)[1]
    body, _, mac = token.partition(".")
    grant = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    forged = base64.urlsafe_b64encode(json.dumps({**grant, "tenant": "other"}).encode())
    for wrong in (
        f"{forged.decode().rstrip('=')}.{mac}",
        f"{body}.{mac[:-2]}AA",
        f"{body}.",
        f"{body}",
        "x" * 3_000,
        "....",
    ):
        answer = await stranger.get(f"/v1/links/{wrong}")
        assert (answer.status_code, code_of(answer)) == (403, "link-invalid"), wrong
    put = await stranger.put(
        made["url"], content=plain_pdf(1), headers={"content-type": "application/pdf"}
    )
    assert (put.status_code, code_of(put)) == (403, "link-other-method")
    assert (await http_site.client.delete(f"/v1/links/{made['id']}")).status_code == 200
    dropped = await stranger.get(made["url"])
    assert (dropped.status_code, code_of(dropped)) == (410, "link-dropped")


async def test_links_live_an_hour_at_most(http_site) -> None:  # type: ignore[no-untyped-def]
    """A longer life is refused, as is a link to what is not the caller's."""
    document = await http_site.document()
    long = await http_site.client.post(
        f"/v1/documents/{document}/link", json={"expires_in_s": 3601}
    )
    assert long.status_code == 400
    other = await http_site.key(tenant="another")
    assert (await other.post(f"/v1/documents/{document}/link", json={})).status_code == 404
    reader = await http_site.key("documents:read")
    assert (await reader.post("/v1/upload-links", json={})).status_code == 403


async def test_an_expired_link_is_gone(http_site, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """After its time it is refused, whatever is left of its uses."""
    document = await http_site.document()
    made = (
        await http_site.client.post(f"/v1/documents/{document}/link", json={"expires_in_s": 1})
    ).json()
    clock = http_site.site.links._clock

    class Later:
        def now_ms(self) -> int:
            return clock.now_ms() + 1_001

    monkeypatch.setattr(http_site.site.links, "_clock", Later())
    answer = await http_site.client_of(None).get(made["url"])
    assert (answer.status_code, code_of(answer)) == (410, "link-expired")
