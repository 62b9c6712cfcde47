"""A PKCS#11 token passes the suite of the keys port, against a real SoftHSM."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from outlast.adapters.keys.pkcs11 import Pkcs11Signer
from outlast.ports.keys import Signer
from outlast.testing.servers import SoftHsm, make_softhsm_token
from outlast.testing.suites.keys import ALGORITHMS, Check, SignerBench, checks_for

pytestmark = pytest.mark.anyio

WRONG_PIN = "97531-wrong"

LOCK_ALL_FILES = """
import fcntl, pathlib, sys, time
files = [p.open("rb+") for p in pathlib.Path(sys.argv[1]).rglob("*") if p.is_file()]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
time.sleep(60)
"""


class HungToken:
    """A SoftHSM whose calls block: another process holds the locks of its files."""

    def __init__(self, signer: Signer, tokens: Path) -> None:
        self.signer = signer
        self._locker = subprocess.Popen(
            [sys.executable, "-c", LOCK_ALL_FILES, str(tokens)], stdout=subprocess.PIPE
        )
        assert self._locker.stdout is not None
        assert self._locker.stdout.readline() == b"locked\n"

    def resume(self) -> None:
        """Let go of the locks."""
        self._locker.kill()
        self._locker.wait()
        assert self._locker.stdout is not None
        self._locker.stdout.close()


@asynccontextmanager
async def opened(hsm: SoftHsm, pin: bytes = b"") -> AsyncIterator[Pkcs11Signer]:
    """A signer of the token, closed at the end."""
    signer = Pkcs11Signer(hsm.module, token_label=hsm.token_label, pin=pin or hsm.pin)
    try:
        yield signer
    finally:
        await signer.aclose()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignerBench]:
    """Two tokens of one SoftHSM: logging in is per process, so wrong PINs need one of their own."""
    folder = tmp_path_factory.mktemp("softhsm")
    hsm = make_softhsm_token(folder, "outlast-test")
    other = make_softhsm_token(folder, "outlast-other")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(hsm.conf)

    async def generate() -> None:
        async with opened(hsm) as signer:
            for algorithm in ALGORITHMS:
                await signer.generate(algorithm, algorithm)

    anyio.run(generate)

    @asynccontextmanager
    async def open_signer() -> AsyncIterator[Signer]:
        async with opened(hsm) as signer:
            yield signer

    @asynccontextmanager
    async def killed() -> AsyncIterator[Signer]:
        gone = hsm.tokens.with_name("gone")
        async with opened(hsm) as signer:
            await signer.describe("ecdsa-p256-sha256")
            hsm.tokens.rename(gone)
            try:
                yield signer
            finally:
                gone.rename(hsm.tokens)
            # the same signer finds the token again
            await signer.check()

    @asynccontextmanager
    async def hung() -> AsyncIterator[HungToken]:
        async with opened(hsm) as signer:
            await signer.describe("ecdsa-p256-sha256")
            token = HungToken(signer, hsm.tokens)
            try:
                yield token
            finally:
                token.resume()

    @asynccontextmanager
    async def wrong_credentials() -> AsyncIterator[Signer]:
        async with opened(other, WRONG_PIN.encode()) as signer:
            yield signer

    yield SignerBench(
        keys={a: a for a in ALGORITHMS},
        missing_key_ref="missing",
        open_signer=open_signer,
        killed=killed,
        hung=hung,
        wrong_credentials=wrong_credentials,
        secret=WRONG_PIN,
    )
    if before is None:
        del os.environ["SOFTHSM2_CONF"]
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(check, id=name)
        for name, check in checks_for(killed=True, hung=True, wrong_credentials=True)
    ],
)
async def test_pkcs11(bench: SignerBench, check: Check) -> None:
    """A token is a signer."""
    await check(bench)
