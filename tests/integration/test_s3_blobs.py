"""The S3 adapter against a real server: pre-signed URLs, TLS, what is told of a store that fails."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from outlast.adapters.blob.s3 import PART_BYTES, S3Blobs, S3Settings
from outlast.core.clock import SystemClock
from outlast.core.errors import Corrupt, Refused, Unavailable
from outlast.testing.seaweed import SeaweedServer
from outlast.testing.servers import make_tls_ca, make_tls_files
from outlast.testing.suites.blob import body, pieces, read

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module")
def server(free_ports: Callable[[], int]) -> Iterator[SeaweedServer]:
    """A store over TLS, with a CA of its own."""
    folder = Path(tempfile.mkdtemp(prefix="outlast-seaweed-"))
    clock = SystemClock()
    ca = make_tls_ca(folder, clock)
    files = make_tls_files(folder, ca, "store", "server", clock)
    made = SeaweedServer(folder / "s3", free_ports, tls=(files.certificate, files.key))
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder, ignore_errors=True)


def opened(server: SeaweedServer, **given: object) -> S3Blobs:
    """The store, with what is given instead of the usual settings."""
    settings: dict[str, object] = {
        "endpoint": server.endpoint,
        "bucket": server.bucket,
        "prefix": "test",
        "ca_pem": (server.folder.parent / "ca.pem").read_bytes(),
        "timeout_s": 5.0,
        "read_timeout_s": 1.0,
        "retries": 1,
        **given,
    }
    access, secret = (
        f.read_text().strip() for f in (server.access_key_file, server.secret_key_file)
    )
    return S3Blobs(S3Settings(**settings), access, secret)  # type: ignore[arg-type]  # as given


async def test_the_servers_certificate_must_be_known(server: SeaweedServer) -> None:
    """With the CA's certificate it is spoken to; without it is not."""
    await opened(server).check()
    with pytest.raises(Unavailable, match="unreachable"):
        await opened(server, ca_pem=b"").check()


async def test_presigned_urls_need_no_credentials(server: SeaweedServer) -> None:
    """A plain HTTP client reads and writes one blob by URL, with that method and for that name only; what is not
    ciphertext of ours stays whatever it is."""
    store = opened(server)
    await store.put("presigned", pieces(body(5_000)))
    context = ssl.create_default_context(cafile=str(server.folder.parent / "ca.pem"))
    async with httpx2.AsyncClient(verify=context) as client:
        url = await store.presign("presigned", "GET", 60)
        got = await client.get(url)
        assert (got.status_code, got.content) == (200, body(5_000))
        assert (await client.put(url, content=b"x")).status_code == 403
        assert (await client.get(url.replace("presigned", "another"))).status_code == 403
        put = await store.presign("uploaded", "PUT", 60)
        assert (await client.put(put, content=body(300))).status_code == 200
        soon = await store.presign("presigned", "GET", 1)
        await asyncio.sleep(2.1)
        assert (await client.get(soon)).status_code == 403
    assert await read(store, "uploaded") == body(300)
    assert await store.digest("uploaded") is None
    assert await read(store, "presigned") == body(5_000)
    for ttl in (0, 3_601):
        with pytest.raises(Refused, match="presign-ttl"):
            await store.presign("presigned", "GET", ttl)


async def test_a_wrong_bucket_is_told(server: SeaweedServer) -> None:
    """It is no missing blob, and the hint says what to check."""
    store = opened(server, bucket="nobody-has-this")
    for attempt in (store.check(), store.put("x", pieces(b"x"))):
        with pytest.raises(Refused) as refused:
            await attempt
        assert refused.value.code == "bucket-not-found"
        assert refused.value.hint


async def test_an_overwritten_object_is_corrupt(server: SeaweedServer) -> None:
    """Bytes that are not those of the digest kept with them are never given out as if they were."""
    store = opened(server)
    await store.put("overwritten", pieces(body(1_000)))
    for volume in server.volumes():
        data = volume.read_bytes()
        if body(1_000)[:500] in data:
            volume.write_bytes(data.replace(body(1_000), body(1_000, seed=9)))
    with pytest.raises((Corrupt, Unavailable)):
        # SeaweedFS has a checksum of its own and may notice first; either way no wrong byte comes out
        await read(store, "overwritten")


PARTS_ARRIVE_S = 1.5


async def test_a_large_upload_that_is_given_up_leaves_no_parts(server: SeaweedServer) -> None:
    """A cancelled multipart upload is aborted, and its name is free."""
    store = opened(server)
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(3 * PART_BYTES // 100_000):
            yield body(100_000)
        begun.set()
        await asyncio.sleep(60)

    task = asyncio.create_task(store.put("given-up", endless()))
    await begun.wait()
    # a part that is still on its way may arrive after the abort and stay, as S3 itself documents
    await asyncio.sleep(PARTS_ARRIVE_S)
    assert len(server.uploads()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Refused, match="blob-not-found"):
        await store.size("given-up")
    assert server.uploads() == []


async def test_a_silent_server_is_unavailable_in_time(server: SeaweedServer) -> None:
    """Each call ends within what its settings say, and reading that stops midway does too."""
    store = opened(server, timeout_s=1.0, retry_timeout_s=2.0)
    await store.put("long", pieces(body(3_000_000)))
    stream = store.get("long")
    await anext(stream)
    server.process.suspend()
    try:
        async with asyncio.timeout(8):
            for attempt in (store.put("x", pieces(b"x")), store.size("long"), store.check()):
                with pytest.raises(Unavailable):
                    await attempt
    finally:
        server.process.resume()
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
