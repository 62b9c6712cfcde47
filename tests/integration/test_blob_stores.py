"""A site whose documents are in two real object stores, which are killed, damaged and brought back."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from outlast.core.errors import OutlastError, Refused, Unavailable
from outlast.core.replicas import mend, scrub
from outlast.core.replicas.scrubmodel import ScrubOptions
from outlast.ports.blob import BlobStore
from outlast.signing.api import Caller, SignatureAsk
from outlast.testing.pdfs import plain_pdf
from outlast.testing.seaweed import SeaweedServer
from outlast.wiring.config import Config, FilesystemBlobStore, S3BlobStore, SiteSection, check
from outlast.wiring.site import Site, open_site, run_site

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CALLER = Caller("default", "test")
WAIT_S = 30.0


@pytest.fixture(scope="module")
def servers(free_ports: Callable[[], int]) -> Iterator[tuple[SeaweedServer, SeaweedServer]]:
    """Two object stores for all tests here; each test has a prefix of its own and leaves both running."""
    folder = Path(tempfile.mkdtemp(prefix="outlast-seaweed-"))
    made = SeaweedServer(folder / "a", free_ports), SeaweedServer(folder / "b", free_ports)
    try:
        for server in made:
            server.start()
        yield made
    finally:
        for server in made:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def section(server: SeaweedServer, prefix: str) -> S3BlobStore:
    """A store's table."""
    return S3BlobStore(
        endpoint=server.endpoint,
        bucket=server.bucket,
        prefix=prefix,
        access_key_file=str(server.access_key_file),
        secret_key_file=str(server.secret_key_file),
    )


def config_of(tmp_path: Path, *servers: SeaweedServer) -> Config:
    """A site over these stores, called a, b, …"""
    blobs = {name: section(s, tmp_path.name) for name, s in zip("abc", servers, strict=False)}
    return check(Config(site=SiteSection(data=str(tmp_path / "data")), blobs=dict(blobs)))


@asynccontextmanager
async def running(config: Config) -> AsyncIterator[Site]:
    """A site with its loops."""
    async with open_site(config) as site:
        loops = asyncio.create_task(run_site(site))
        try:
            yield site
        finally:
            loops.cancel()
            await asyncio.wait([loops])


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def sign_one(site: Site, title: str = "") -> str:
    """Upload a document and ask for a signature; the request's id."""
    added = await site.signing.add_document(CALLER, _once(plain_pdf(1)), title=title)
    asked = await site.signing.request(CALLER, SignatureAsk(document=added.stream))
    return asked.stream


async def until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(timeout_s):
        while True:
            result = condition()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return
            await asyncio.sleep(0.05)


async def signed_file(site: Site, request: str) -> bytes:
    """A signed file, whole."""
    _, _, pieces = await site.signing.signed_file(CALLER, request)
    return b"".join([piece async for piece in pieces])


async def is_signed(site: Site, request: str) -> bool:
    """Whether a request has come to its end."""
    view = await site.signing.get(CALLER, request)
    assert view.status != "failed", view
    return view.status == "completed"


async def contents(store: BlobStore) -> dict[str, str | None]:
    """All names in a store with their digests."""
    return {blob.name: await store.digest(blob.name) for blob in await store.page()}


async def test_one_store_dies_under_load_and_comes_back(
    servers: tuple[SeaweedServer, SeaweedServer], tmp_path: Path
) -> None:
    """kill -9 of one store while documents come in: every upload is taken and every request signed; what it missed is
    owed, on record and in the status; when it is back the debts settle by themselves and both stores are equal."""
    _, second = servers
    async with running(config_of(tmp_path, *servers)) as site:
        requests: list[str] = []

        async def load(count: int) -> None:
            for _ in range(count):
                requests.append(await sign_one(site))

        before = [asyncio.create_task(load(8)) for _ in range(4)]
        await until(lambda: len(requests) >= 8)
        second.kill()
        try:
            await asyncio.gather(*before)
            assert len(requests) == 32
            for request in requests:
                await until(lambda r=request: is_signed(site, r))
            await until(lambda: not site.blobs.health.in_use("b"))
            debts = await site.blobs.ledger.debts(limit=200)
            assert debts
            assert all(debt.stores == ("b",) and debt.want == "kept" for debt in debts)
            await site.watch.recount()
            page = await site.watch.status()
            assert page.copies_owed >= len(debts)
            assert page.mode == "degraded"
            assert any("blobs.b" in reason for reason in page.reasons)
        finally:
            second.start()
        await until(lambda: site.blobs.health.in_use("b"))

        async def all_settled() -> bool:
            return not await site.blobs.ledger.debts()

        await until(all_settled)
        a, b = site.blobs.stores["a"], site.blobs.stores["b"]
        assert await contents(a) == await contents(b) != {}
        assert len([await signed_file(site, request) for request in requests]) == 32


async def test_both_stores_dead_refuses_cleanly(
    servers: tuple[SeaweedServer, SeaweedServer], tmp_path: Path
) -> None:
    """With no store at all an upload is refused to be tried again later, nothing is on record of it, and what was
    taken in before is there when the stores are back."""
    async with running(config_of(tmp_path, *servers)) as site:
        request = await sign_one(site)
        await until(lambda: is_signed(site, request))
        kept = await signed_file(site, request)
        size = (await site.store.head()).size
        for server in servers:
            server.kill()
        try:
            for _ in range(4):
                with pytest.raises(Unavailable) as refused:
                    await sign_one(site)
                assert refused.value.retry_after_s
            kinds = [b"signing." in leaf for leaf in await site.store.entries(size, 100)]
            assert not any(kinds)
        finally:
            for server in servers:
                server.start()
        await until(lambda: site.blobs.health.in_use("a") and site.blobs.health.in_use("b"))
        assert await signed_file(site, request) == kept
        again = await sign_one(site)
        await until(lambda: is_signed(site, again))


# obstore 0.12 panics ("no reactor running") while it drops a request that was given up; nothing of ours is left undone
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_store_that_hangs_does_not_hold_up_the_site(
    servers: tuple[SeaweedServer, SeaweedServer], tmp_path: Path
) -> None:
    """A stopped store costs the first uploads a bounded time and the later ones none."""
    first, _ = servers
    async with running(config_of(tmp_path, *servers)) as site:
        first.process.suspend()
        try:
            requests = [await sign_one(site) for _ in range(4)]
            async with asyncio.timeout(2.0):
                requests.append(await sign_one(site))
            for request in requests:
                await until(lambda r=request: is_signed(site, r))
        finally:
            first.process.resume()


def flip(server: SeaweedServer, marker: bytes) -> int:
    """Damage every place in the server's volumes where these bytes are; how many there were."""
    found = 0
    for volume in server.volumes():
        data = bytearray(volume.read_bytes())
        at = data.find(marker)
        while at >= 0:
            data[at] ^= 0xFF
            found += 1
            at = data.find(marker, at + 1)
        volume.write_bytes(data)
    return found


async def test_damage_is_survived_and_mended(
    servers: tuple[SeaweedServer, SeaweedServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bytes flipped inside a store's volume, an object overwritten, one deleted: every file still reads right, and a
    scrub says what it found, mends it, and leaves both stores equal."""
    monkeypatch.setattr(scrub, "YOUNG_S", 0.0)
    # SeaweedFS finds the damage itself, and then says nothing for long
    monkeypatch.setattr(mend, "NEXT_BYTES_S", 1.5)
    first, _ = servers
    async with running(config_of(tmp_path, *servers)) as site:
        # the scrub that a new site begins by itself looks at nothing yet
        await until(lambda: has_ended(site, 1))
        requests = [await sign_one(site) for _ in range(3)]
        for request in requests:
            await until(lambda r=request: is_signed(site, r))
        a, b = site.blobs.stores["a"], site.blobs.stores["b"]
        names = sorted(await contents(a))
        bodies = {name: b"".join([p async for p in a.get(name)]) for name in names}
        documents = [n for n in names if len(bodies[n]) > 400][:3]
        assert flip(first, bodies[documents[0]][200:264])
        await b.delete(documents[1])
        await b.put(documents[1], _once(b"something else"))
        await b.delete(documents[2])
        site.world.bodies._recent._bodies.clear()  # what was put lately is not read from memory
        for request in requests:
            assert (await signed_file(site, request)).startswith(b"%PDF-")
        await site.blobs.scrubber.begin("test", ScrubOptions())
        await until(lambda: has_ended(site, 2))
        now = await site.blobs.scrubber.state()
        # overwritten with a digest of its own, the second is a dispute: a person decides
        assert {f.problem for f in now.findings} == {"disputed"}
        assert {f.blob for f in now.findings} == {documents[1]}
        await b.delete(documents[1])
        await site.blobs.scrubber.begin("test", ScrubOptions())
        await until(lambda: has_ended(site, 3))
        now = await site.blobs.scrubber.state()
        assert (now.tally.dead, now.findings, now.references.lost_count) == (0, (), 0)
        assert await contents(a) == await contents(b)
        for name in names:
            for store in (a, b):
                assert b"".join([p async for p in store.get(name)]) == bodies[name]


async def has_ended(site: Site, run: int) -> bool:
    """Whether that scrub is over."""
    now = await site.blobs.scrubber.state()
    return now.run == run and now.complete


async def test_a_site_with_a_folder_gets_a_second_store(
    servers: tuple[SeaweedServer, SeaweedServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents of a site that had the default folder are copied by the first scrub; leaving the folder out of the
    configuration is refused."""
    monkeypatch.setattr(scrub, "YOUNG_S", 0.0)
    alone = check(Config(site=SiteSection(data=str(tmp_path / "data"))))
    async with running(alone) as site:
        request = await sign_one(site)
        await until(lambda: is_signed(site, request))
        kept = await signed_file(site, request)
    s3 = section(servers[0], tmp_path.name)
    with pytest.raises(Refused, match="blob-store-dropped"):
        async with open_site(check(Config(site=alone.site, blobs={"s3": s3}))):
            pass
    both = check(Config(site=alone.site, blobs={"local": FilesystemBlobStore(), "s3": s3}))
    async with running(both) as site:
        await until(lambda: has_ended(site, 1))
        local, remote = site.blobs.stores["local"], site.blobs.stores["s3"]
        assert await contents(local) == await contents(remote) != {}
    (tmp_path / "data" / "blobs").rename(tmp_path / "away")
    async with running(check(Config(site=alone.site, blobs={"s3": s3}))) as site:
        assert await signed_file(site, request) == kept


async def test_wrong_credentials_are_told_and_kept_secret(
    servers: tuple[SeaweedServer, SeaweedServer], tmp_path: Path
) -> None:
    """A store with a wrong secret is out of use, the reason has a hint, and the secret is nowhere in it."""
    secret = tmp_path / "wrong.key"
    secret.touch(mode=0o600)
    secret.write_text("0123456789wrongsecret0123456789")
    config = config_of(tmp_path, *servers)
    wrong = section(servers[0], "wrong")
    fields = {n: getattr(wrong, n) for n in wrong.__struct_fields__}
    bad = S3BlobStore(**{**fields, "secret_key_file": str(secret)})
    config = check(Config(site=config.site, blobs={"a": bad, "b": config.blobs["b"]}))
    async with running(config) as site:
        with pytest.raises(OutlastError) as refused:
            await site.blobs.stores["a"].check()
        assert refused.value.code == "credentials-refused"
        assert refused.value.hint
        assert (
            "wrongsecret" not in f"{refused.value} {refused.value.hint} {refused.value.__cause__}"
        )
        request = await sign_one(site)
        await until(lambda: is_signed(site, request))
        assert await site.blobs.ledger.debts()
