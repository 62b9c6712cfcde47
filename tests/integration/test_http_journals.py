"""POST /v1/log/entries: other systems' entries in the log."""

from __future__ import annotations

from typing import Any

import pytest

from outlast.core.store.port import StreamKey
from outlast.operations.model.journal import KIND

pytestmark = pytest.mark.anyio

PATH = "/v1/log/entries"
NDJSON = {"content-type": "application/x-ndjson"}


async def test_batch_is_recorded_published_and_provable(http_site: Any) -> None:
    """A batch is answered with its range; published, each entry has a proof and is read back as it was sent."""
    lines = [b'{"user":"%d", "action":"login"}' % n for n in range(300)]
    answer = await http_site.client.post(
        f"{PATH}?journal=audit",
        content=b"\n".join(lines),
        headers={**NDJSON, "prefer": "receipt=published"},
    )
    assert answer.status_code == 200, answer.text
    receipt = answer.json()["receipt"]
    assert (receipt["stage"], receipt["count"]) == ("published", 300)
    assert answer.headers["preference-applied"] == "receipt=published"
    first = await http_site.client.get(f"/v1/receipts/{receipt['index']}")
    assert first.status_code == 200
    assert '"data":{"data":{"user":"0", "action":"login"}}' in first.json()["entry"]
    last = await http_site.client.get(receipt["proof"])
    assert '"seq":300' in last.json()["entry"]


async def test_the_same_key_appends_once(http_site: Any) -> None:
    """A repeated batch gets the first answer; the log has it once."""
    given = {"content": b'{"n":1}\n{"n":2}\n', "headers": {**NDJSON, "idempotency-key": "batch-1"}}
    first = await http_site.client.post(PATH, **given)
    again = await http_site.client.post(PATH, **given)
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["receipt"]["index"] == first.json()["receipt"]["index"]
    given["content"] = b'{"n":3}\n'
    assert (await http_site.client.post(PATH, **given)).json()["code"] == "idempotency-key-reused"


@pytest.mark.parametrize(
    ("body", "headers", "status", "code", "scope"),
    [
        (b'{"n":1}\n[2]\n', NDJSON, 422, "entry-malformed", "line/2"),
        (b'{"n":1,"n":2}', NDJSON, 422, "entry-malformed", "line/1"),
        (b'{}\n{"n":"' + b"x" * 66_000 + b'"}', NDJSON, 422, "entry-too-large", "line/2"),
        (b"", NDJSON, 413, "batch-size", ""),
        (b"{}\n" * 1001, NDJSON, 413, "batch-size", ""),
        (b" " * (1024 * 1024 + 1), NDJSON, 413, "body-too-large", ""),
        (b"{}", {"content-type": "application/json"}, 415, "content-type", ""),
    ],
)
async def test_bad_batches_are_refused_whole(
    http_site: Any, body: bytes, headers: dict[str, str], status: int, code: str, scope: str
) -> None:
    """The problem names the line, and the journal has nothing of the batch."""
    answer = await http_site.client.post(f"{PATH}?journal=bad", content=body, headers=headers)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert problem.get("scope", "") == scope
    assert await http_site.site.store.stream(StreamKey("default", KIND, "bad")) is None


async def test_needs_its_own_scope(http_site: Any) -> None:
    """Reading the log does not permit writing to it."""
    reader = await http_site.key("log:read", "operate")
    answer = await reader.post(PATH, content=b"{}", headers=NDJSON)
    assert (answer.status_code, answer.json()["code"]) == (403, "scope-missing")
    writer = await http_site.key("log:append")
    assert (await writer.post(PATH, content=b"{}", headers=NDJSON)).status_code == 200


async def test_read_only_site_takes_nothing(http_site: Any) -> None:
    """A full disk, or a person, stops appends as it stops requests."""
    mode = {"mode": "read-only", "reason": "test"}
    assert (await http_site.client.put("/v1/mode", json=mode)).status_code == 200
    try:
        answer = await http_site.client.post(PATH, content=b"{}", headers=NDJSON)
        assert (answer.status_code, answer.json()["code"]) == (503, "read-only")
    finally:
        await http_site.client.put("/v1/mode", json={"mode": None, "reason": "done"})
