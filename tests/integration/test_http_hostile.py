"""What nobody polite would send: each gets a clear refusal, and costs neither memory nor the others' time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from outlast.surfaces.http import protocol
from outlast.surfaces.http.call import MAX_JSON_BYTES
from outlast.surfaces.http.protocol import MAX_HEADER_BYTES
from outlast.testing.pdfs import plain_pdf

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
UPLOAD_BYTES = 500 * MIB
ROOM_BYTES = 48 * MIB
"""By how much the process may grow while 500 MiB are thrown at it (the test's own buffers included)."""
ASK = "/v1/signature-requests"
JSON = {"content-type": "application/json"}


async def talk(site: Any, data: bytes, *, auth: bool = True, timeout_s: float = 10) -> bytes:
    """Send bytes as they are; everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    if auth:
        data = data.replace(b"TOKEN", site.token.encode())
    writer.write(data)
    answer = b""
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await reader.read(65_536):
                answer += piece
    except TimeoutError:
        assert answer, "no answer in time"
    finally:
        writer.close()
    return answer


def problem(answer: bytes) -> dict[str, Any]:
    """The problem details in a raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer[:500]
    parsed: dict[str, Any] = json.loads(body)
    return parsed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"document": 5}',
        b'{"document": "x", "unknown": 1}',
        b'{"document": "x", "signatures": {}}',
        b'{"document": "x", "signatures": [{"key": "k", "x": 1}]}',
        b'{"document": "x", "format": "xades"}',
        b'{"document": "\xff\xfe"}',
        b"\xef\xbb\xbf{}",
        b'{"document": "x"} trailing',
        b'{"document": "\\ud800"}',
        b"[" * 100_000,
        b'{"document":' * 50_000,
        b'{"signatures": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b"1" * 100_000,
        b'{"document": 1e99999}',
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_bodies_that_are_no_request(http_site: Any, body: bytes) -> None:
    """Broken, nested, mistyped and ill-encoded JSON is refused as malformed; the site goes on."""
    answer = await http_site.client.post(ASK, content=body, headers=JSON)
    assert answer.status_code == 400, answer.text
    assert answer.json()["code"] == "request-malformed"
    assert len(answer.content) < 2_000


async def test_wrong_place_is_named(http_site: Any) -> None:
    """The refusal says which member is wrong."""
    answer = await http_site.client.post(ASK, json={"document": "x", "signatures": [{"key": 7}]})
    assert "$.signatures[0].key" in answer.json()["detail"]


@pytest.mark.parametrize("id_", ["x", "0" * 36, "..%2f..%2fetc", "%00", "\N{SNOWMAN}", "a" * 3000])
async def test_ids_that_are_none(http_site: Any, id_: str) -> None:
    """An id that cannot be is not found, not an error."""
    for path in (f"{ASK}/{id_}", f"/v1/documents/{id_}"):
        assert (await http_site.client.get(path)).status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/log/tile/../checkpoint",
        "/log/tile/..%2f..%2fsite.db",
        "/log/tile/%2e%2e/%2e%2e/secrets/root.key",
        "/log/tile/0//000",
        "/log/tile/0/000%00",
        "/log/tile/entries/../../../../etc/passwd",
        "/log/../v1/status",
        "//v1/status",
    ],
)
async def test_paths_do_not_wander(http_site: Any, path: str) -> None:
    """No spelling of a path leads out of the log's directory, or around the table of operations."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nConnection: close\r\n\r\n"
    answer = await talk(http_site, request.encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer[:200]


async def test_unknown_method_and_path(http_site: Any) -> None:
    """Another method is 405 with what is allowed; another path 404 that points to the description."""
    answer = await http_site.client.patch("/v1/documents")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    answer = await http_site.client.get("/v1/nothing")
    assert "openapi.json" in answer.json()["hint"]


async def test_content_types_that_are_not_taken(http_site: Any) -> None:
    """A form, a missing content type, and something that is no content type are 415 and say what to send."""
    for given in (
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "x",
        "a/b c",
    ):
        answer = await http_site.client.post(
            "/v1/documents", content=b"x", headers={"content-type": given}
        )
        assert (answer.status_code, answer.json()["code"]) == (415, "content-type"), given
    answer = await http_site.client.post(ASK, content=b"{}", headers={"content-type": "text/xml"})
    assert answer.status_code == 415


@pytest.mark.parametrize("key", ['""', "x" * 256, "\x7f", 'a"b', "a b"])
async def test_idempotency_keys_that_are_none(http_site: Any, key: str) -> None:
    """A key that is empty, too long or not visible ASCII is refused."""
    answer = await http_site.client.post(
        ASK, json={"document": "x"}, headers={"idempotency-key": key}
    )
    assert answer.status_code == 400
    assert answer.json()["code"] in ("idempotency-key-invalid", "request-malformed")


async def test_request_ids_are_repeated_only_if_safe(http_site: Any) -> None:
    """A sane X-Request-Id and traceparent come back; others do not, and an error makes its own id."""
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"x-request-id": "abc-1.2_3", "traceparent": trace}
    answer = await http_site.client.get("/v1/nothing", headers=headers)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "abc-1.2_3"
    assert answer.headers["traceparent"] == trace
    headers = {"x-request-id": "<script>", "traceparent": "00-zz"}
    answer = await http_site.client.get("/v1/nothing", headers=headers)
    assert answer.headers["x-request-id"] == answer.json()["request_id"] != "<script>"
    assert "traceparent" not in answer.headers


async def test_json_body_has_a_limit(http_site: Any) -> None:
    """A JSON body above its limit is 413, whether its length is declared or not."""
    big = b'{"document":"' + b"x" * MAX_JSON_BYTES + b'"}'
    answer = await http_site.client.post(ASK, content=big, headers=JSON)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(big), 65_536):
            yield big[at : at + 65_536]

    answer = await http_site.client.post(ASK, content=chunks(), headers=JSON)
    assert answer.status_code == 413


async def test_declared_upload_is_refused_unread(http_site: Any) -> None:
    """An upload that declares 500 MiB is refused before a byte of it is sent."""
    head = (
        f"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n"
        f"Content-Type: application/pdf\r\nContent-Length: {UPLOAD_BYTES}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", http_site.port)
    writer.write(head.replace("TOKEN", http_site.token).encode())
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(
            int(answer.lower().split(b"content-length: ")[1].split()[0])
        )
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413")
    assert json.loads(body)["code"] == "body-too-large"


@pytest.mark.slow
@pytest.mark.parametrize("declared", [True, False])
async def test_huge_upload_costs_no_memory(http_site: Any, declared: bool) -> None:
    """500 MiB, declared or chunked, are refused with 413 while this process hardly grows."""
    process = psutil.Process()
    await http_site.document()
    before = process.memory_info().rss
    piece = b"%PDF-1.7\n".ljust(256 * 1024, b"\x00")
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < UPLOAD_BYTES:
            sent += len(piece)
            yield piece

    headers = {"content-type": "application/pdf"}
    if declared:
        headers["content-length"] = str(UPLOAD_BYTES)
    status, peak = 0, before
    watching = asyncio.create_task(_peak(process))
    try:
        answer = await http_site.client.post("/v1/documents", content=chunks(), headers=headers)
        status = answer.status_code
        assert answer.json()["code"] == "body-too-large"
    finally:
        watching.cancel()
        peak = await watching
    assert status == 413
    assert peak - before < ROOM_BYTES, f"grew by {(peak - before) / MIB:.0f} MiB"


async def _peak(process: psutil.Process) -> int:
    peak = 0
    try:
        while True:
            peak = max(peak, process.memory_info().rss)
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        return peak


async def test_class_has_its_own_limit(http_site: Any) -> None:
    """A class's max_bytes holds, whether the length is declared or not, and names the limit."""
    body = plain_pdf(1).ljust(70 * 1024, b"\n")

    async def chunks() -> AsyncIterator[bytes]:
        for at in range(0, len(body), 4096):
            yield body[at : at + 4096]

    for content in (body, chunks()):
        answer = await http_site.client.post(
            "/v1/documents?class=small",
            content=content,
            headers={"content-type": "application/pdf"},
        )
        assert answer.status_code == 413, answer.text
        assert "65536" in answer.json()["detail"]


async def test_not_a_pdf_is_refused_by_its_first_bytes(http_site: Any) -> None:
    """Something else under application/pdf is refused as such, with what to do."""
    answer = await http_site.client.post(
        "/v1/documents", content=b"MZ" * 1000, headers={"content-type": "application/pdf"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "not-a-pdf")
    assert answer.json()["hint"]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (MAX_HEADER_BYTES + 1),
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET /" + b"a" * (MAX_HEADER_BYTES + 1) + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    ],
    ids=["unfinished", "value", "target", "many"],
)
async def test_huge_headers(http_site: Any, data: bytes) -> None:
    """Headers above the limit are refused with 431 and the connection is closed."""
    answer = await talk(http_site, data)
    assert answer.startswith(b"HTTP/1.1 431"), answer[:200]
    assert problem(answer)["code"] == "headers-too-large"


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/documents HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nBad Header: x\r\n\r\n",
    ],
    ids=["tls", "version", "line", "lengths", "smuggle", "header"],
)
async def test_not_http(http_site: Any, data: bytes) -> None:
    """What is not HTTP/1.1, or could be read in two ways, is 400 and the connection is closed."""
    answer = await talk(http_site, data)
    assert answer.startswith(b"HTTP/1.1 400"), answer[:200]
    assert problem(answer)["code"] == "request-malformed"


@pytest.mark.parametrize(
    ("line", "status"),
    [
        (b"OPTIONS * HTTP/1.1", (400, 404)),
        (b"CONNECT example.org:443 HTTP/1.1", (400, 404)),
        (b"GET http://example.org/livez HTTP/1.1", (200,)),
        (b"GET /livez#part HTTP/1.1", (200, 400)),
        (b"GET /%zz HTTP/1.1", (404,)),
        (b"GET /%ff%fe HTTP/1.1", (404,)),
        (b"GET /v1/signature-requests?limit=%00 HTTP/1.1", (400,)),
        (b"GET /v1/signature-requests?limit=5&limit=6&&=&%= HTTP/1.1", (200,)),
        (b"GET /livez HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade", (200,)),
        (b"TRACE /livez HTTP/1.1", (405,)),
        (b"BREW /livez HTTP/1.1", (400,)),
    ],
)
async def test_odd_request_lines(http_site: Any, line: bytes, status: tuple[int, ...]) -> None:
    """Targets and methods that are legal but odd, or neither, get an answer and harm nothing."""
    head = b"\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\nConnection: close\r\n\r\n"
    if b"Upgrade" in line:
        head = head.replace(b"Connection: close\r\n", b"")
    answer = await talk(http_site, line + head, timeout_s=3 if b"Upgrade" not in line else 1)
    assert int(answer.split()[1]) in status, answer[:300]


async def test_slow_headers_and_bodies_are_cut(
    http_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that says nothing, or its headers or body too slowly, is closed."""
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(protocol, "BODY_WINDOW_S", 0.1)
    body = (
        b"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n"
        b"Content-Type: text/x\r\nContent-Length: 1000\r\n\r\nslow"
    )
    answers = await asyncio.gather(
        *(
            _cut(http_site, data)
            for data in (b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nA: b", body)
        )
    )
    assert answers == [b"", b"", b"", b""]


async def _cut(site: Any, data: bytes) -> bytes:
    try:
        return await talk(site, data, timeout_s=5)
    except ConnectionResetError:
        return b""


async def test_requests_in_a_pipeline(http_site: Any) -> None:
    """Pipelined requests are answered each, in order."""
    one = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /v1/nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = await talk(http_site, one * 5 + last)
    assert answer.count(b"HTTP/1.1 200") == 5
    assert answer.count(b"HTTP/1.1 404") == 1


async def test_caller_who_hangs_up_in_the_middle(http_site: Any) -> None:
    """An upload that is broken off leaves nothing behind and the site unimpressed."""
    data = (
        b"POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer TOKEN\r\n"
        b"Content-Type: text/x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000
    )
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", http_site.port)
        writer.write(data.replace(b"TOKEN", http_site.token.encode()))
        await writer.drain()
        writer.close()
    assert (await http_site.client.get("/v1/status")).status_code == 200


async def test_security_headers_are_on_every_answer(http_site: Any) -> None:
    """Good answers, refusals and files all carry them; no cross-origin access is granted to anybody."""
    for path in ("/livez", "/v1/status", "/v1/nothing", "/openapi.json", "/metrics"):
        answer = await http_site.client.get(path, headers={"origin": "https://evil.example"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "outlast-mode" in answer.headers
        assert "access-control-allow-origin" not in answer.headers
        assert "server" not in answer.headers
