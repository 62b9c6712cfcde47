"""The remote appliance, as a real process reached over mutual TLS, passes the suite of the keys port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from outlast.adapters.exchange import ExchangeLimits
from outlast.adapters.keys.remote import RemoteSigner, client_tls
from outlast.adapters.keys.software import SoftwareSigner
from outlast.core.clock import SystemClock
from outlast.ports.keys import Signer
from outlast.testing.servers import (
    Appliance,
    TlsFiles,
    make_tls_ca,
    make_tls_files,
    start_appliance,
    write_secret,
)
from outlast.testing.suites.keys import ALGORITHMS, Check, SignerBench, checks_for

pytestmark = pytest.mark.anyio

PASSPHRASE = b"appliance passphrase"


class ApplianceSite:
    """Everything an appliance needs on disk, and as many of them as a test starts."""

    def __init__(self, folder: Path) -> None:
        clock = SystemClock()
        self.folder = folder
        ca = make_tls_ca(folder, clock)
        self.server_tls = make_tls_files(folder, ca, "appliance", "server", clock)
        self.client_tls = make_tls_files(folder, ca, "site-a", "client", clock)
        other_ca = make_tls_ca(folder / "other", clock, "Somebody else's CA")
        stranger = make_tls_files(folder / "other", other_ca, "site-a", "client", clock)
        self.stranger_tls = TlsFiles(
            ca=self.client_tls.ca, certificate=stranger.certificate, key=stranger.key
        )
        write_secret(folder / "passphrase", PASSPHRASE)
        anyio.run(self._generate)
        self._started = 0

    async def _generate(self) -> None:
        signer = SoftwareSigner(self.folder / "keys", PASSPHRASE)
        for algorithm in ALGORITHMS:
            await signer.generate(algorithm, algorithm)

    def start(self) -> Appliance:
        """Another appliance over the same keys."""
        self._started += 1
        return start_appliance(
            self.folder / f"run-{self._started}",
            tls=self.server_tls,
            clients=[{"name": "site-a", "common_name": "site-a", "keys": ["*"]}],
            keystore={
                "kind": "software",
                "directory": str(self.folder / "keys"),
                "passphrase_file": str(self.folder / "passphrase"),
            },
        )

    def connect(self, url: str, tls: TlsFiles | None = None) -> RemoteSigner:
        """A client of it."""
        tls = tls or self.client_tls
        return RemoteSigner(
            url,
            client_tls(tls.ca, tls.certificate, tls.key),
            limits=ExchangeLimits(connect_timeout_s=10.0, answer_timeout_s=10.0),
        )


@asynccontextmanager
async def closing(signer: RemoteSigner) -> AsyncIterator[RemoteSigner]:
    """The signer, closed at the end."""
    try:
        yield signer
    finally:
        await signer.aclose()


class HungAppliance:
    """An appliance stopped by SIGSTOP after its first answer."""

    def __init__(self, signer: Signer, resume: Callable[[], None]) -> None:
        self.signer = signer
        self.resume = resume


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> ApplianceSite:
    """Keys and certificates."""
    return ApplianceSite(tmp_path_factory.mktemp("appliance"))


@pytest.fixture(scope="module")
def bench(site: ApplianceSite) -> Iterator[SignerBench]:
    """One appliance for most checks, another for each that harms it."""
    shared = site.start()

    @asynccontextmanager
    async def open_signer() -> AsyncIterator[Signer]:
        async with closing(site.connect(shared.url)) as signer:
            yield signer

    @asynccontextmanager
    async def killed() -> AsyncIterator[Signer]:
        victim = site.start()
        async with closing(site.connect(victim.url)) as signer:
            await signer.check()
            victim.process.kill()
            yield signer

    @asynccontextmanager
    async def hung() -> AsyncIterator[HungAppliance]:
        victim = site.start()
        try:
            async with closing(site.connect(victim.url)) as signer:
                await signer.describe("ecdsa-p256-sha256")
                victim.process.suspend()
                yield HungAppliance(signer, victim.process.resume)
        finally:
            victim.process.stop()

    @asynccontextmanager
    async def wrong_credentials() -> AsyncIterator[Signer]:
        async with closing(site.connect(shared.url, site.stranger_tls)) as signer:
            yield signer

    yield SignerBench(
        keys={a: a for a in ALGORITHMS},
        missing_key_ref="missing",
        open_signer=open_signer,
        killed=killed,
        hung=hung,
        wrong_credentials=wrong_credentials,
        secret=PASSPHRASE.decode(),
    )
    assert shared.process.stop() == 0


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=name)
        for name, check in checks_for(killed=True, hung=True, wrong_credentials=True)
    ],
)
async def test_remote(bench: SignerBench, check: Check) -> None:
    """An appliance in another process is a signer."""
    await check(bench)
