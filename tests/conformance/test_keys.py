"""Every key provider passes the one suite of its port (`outlast.testing.suites.keys`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from outlast.adapters.keys.software import SoftwareSigner
from outlast.ports.keys import Signer
from outlast.testing.keys import FakeSigner, Fault
from outlast.testing.suites.keys import ALGORITHMS, Check, SignerBench, checks_for

pytestmark = pytest.mark.anyio

PASSPHRASE = b"correct horse battery staple"


class HungFake:
    """A fake told to hang, and the way back."""

    def __init__(self, signer: FakeSigner) -> None:
        self.signer = signer
        signer.always(Fault(kind="hang"))

    def resume(self) -> None:
        """Heal it."""
        self.signer.always(None)


@pytest.fixture(scope="module")
def fake_bench() -> SignerBench:
    """The fake: all states on command."""
    fake = FakeSigner.with_all_algorithms()

    @asynccontextmanager
    async def open_signer() -> AsyncIterator[Signer]:
        yield fake

    @asynccontextmanager
    async def killed() -> AsyncIterator[Signer]:
        fake.down = True
        try:
            yield fake
        finally:
            fake.down = False

    @asynccontextmanager
    async def hung() -> AsyncIterator[HungFake]:
        yield HungFake(fake)

    return SignerBench(
        keys={a: a for a in ALGORITHMS},
        missing_key_ref="missing",
        open_signer=open_signer,
        killed=killed,
        hung=hung,
    )


@pytest.fixture(scope="module")
def software_bench(tmp_path_factory: pytest.TempPathFactory) -> SignerBench:
    """Key files; killed means the directory is gone, which only a cold signer notices."""
    directory = tmp_path_factory.mktemp("software-keys")

    async def generate() -> None:
        signer = SoftwareSigner(directory, PASSPHRASE)
        for algorithm in ALGORITHMS:
            await signer.generate(algorithm, algorithm)

    anyio.run(generate)

    # one signer for all checks: opening a key file costs 0.3 s by design
    warm = SoftwareSigner(directory, PASSPHRASE)

    @asynccontextmanager
    async def open_signer() -> AsyncIterator[Signer]:
        yield warm

    @asynccontextmanager
    async def killed() -> AsyncIterator[Signer]:
        gone = directory.with_name("gone")
        signer = SoftwareSigner(directory, PASSPHRASE)
        directory.rename(gone)
        try:
            yield signer
        finally:
            gone.rename(directory)

    @asynccontextmanager
    async def wrong_credentials() -> AsyncIterator[Signer]:
        yield SoftwareSigner(directory, b"a wrong secret")

    return SignerBench(
        keys={a: a for a in ALGORITHMS},
        missing_key_ref="missing",
        open_signer=open_signer,
        killed=killed,
        wrong_credentials=wrong_credentials,
        secret="a wrong secret",
    )


def each(check: str, *, killed: bool, hung: bool, wrong_credentials: bool) -> pytest.MarkDecorator:
    """One test per check that applies."""
    checks = checks_for(killed=killed, hung=hung, wrong_credentials=wrong_credentials)
    return pytest.mark.parametrize(check, [pytest.param(c, id=name) for name, c in checks])


@each("check", killed=True, hung=True, wrong_credentials=False)
async def test_fake(fake_bench: SignerBench, check: Check) -> None:
    """The fake signer is a signer."""
    await check(fake_bench)


@each("check", killed=True, hung=False, wrong_credentials=True)
async def test_software(software_bench: SignerBench, check: Check) -> None:
    """Key files are a signer."""
    await check(software_bench)
