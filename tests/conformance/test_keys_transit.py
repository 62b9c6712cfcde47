"""Vault/OpenBao Transit passes the suite of the keys port, against a real OpenBao."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest

from outlast.adapters.exchange import ExchangeLimits
from outlast.adapters.keys.transit import TransitSigner
from outlast.ports.keys import Algorithm, Signer
from outlast.testing.servers import OpenBao, start_openbao
from outlast.testing.suites.keys import Check, SignerBench, checks_for

pytestmark = pytest.mark.anyio

WRONG_TOKEN = "s.not-the-token-of-anybody"

TYPES: dict[Algorithm, str] = {
    "rsa-pkcs1-sha256": "rsa-3072",
    "ecdsa-p256-sha256": "ecdsa-p256",
    "ed25519": "ed25519",
}


def start_with_keys(folder: Path) -> OpenBao:
    """OpenBao with a transit mount and a key of each algorithm, named as its type."""
    bao = start_openbao(folder)
    with httpx2.Client(base_url=bao.url, headers={"X-Vault-Token": bao.token}) as client:
        client.post("/v1/sys/mounts/transit", json={"type": "transit"}).raise_for_status()
        for key_type in TYPES.values():
            client.post(f"/v1/transit/keys/{key_type}", json={"type": key_type}).raise_for_status()
    return bao


@asynccontextmanager
async def connected(bao: OpenBao, token: str = "") -> AsyncIterator[TransitSigner]:
    """A signer of it, closed at the end."""
    limits = ExchangeLimits(connect_timeout_s=10.0, answer_timeout_s=10.0)
    signer = TransitSigner(bao.url, token or bao.token, limits=limits)
    try:
        yield signer
    finally:
        await signer.aclose()


class HungVault:
    """An OpenBao stopped by SIGSTOP after its first answer."""

    def __init__(self, signer: Signer, resume: Callable[[], None]) -> None:
        self.signer = signer
        self.resume = resume


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerBench]:
    """One OpenBao for most checks, another for each that harms it."""
    shared = start_with_keys(tmp_path_factory.mktemp("openbao"))

    @asynccontextmanager
    async def open_signer() -> AsyncIterator[Signer]:
        async with connected(shared) as signer:
            yield signer

    @asynccontextmanager
    async def killed() -> AsyncIterator[Signer]:
        victim = start_with_keys(tmp_path_factory.mktemp("killed"))
        async with connected(victim) as signer:
            await signer.describe("ecdsa-p256:1")
            victim.process.kill()
            yield signer

    @asynccontextmanager
    async def hung() -> AsyncIterator[HungVault]:
        victim = start_with_keys(tmp_path_factory.mktemp("hung"))
        try:
            async with connected(victim) as signer:
                await signer.describe("ecdsa-p256:1")
                victim.process.suspend()
                yield HungVault(signer, victim.process.resume)
        finally:
            victim.process.stop()

    @asynccontextmanager
    async def wrong_credentials() -> AsyncIterator[Signer]:
        async with connected(shared, WRONG_TOKEN) as signer:
            yield signer

    yield SignerBench(
        keys={algorithm: f"{key_type}:1" for algorithm, key_type in TYPES.items()},
        missing_key_ref="missing:1",
        open_signer=open_signer,
        killed=killed,
        hung=hung,
        wrong_credentials=wrong_credentials,
        secret=WRONG_TOKEN,
    )
    shared.process.stop()


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=name)
        for name, check in checks_for(killed=True, hung=True, wrong_credentials=True)
    ],
)
async def test_transit(bench: SignerBench, check: Check) -> None:
    """Transit is a signer."""
    await check(bench)
