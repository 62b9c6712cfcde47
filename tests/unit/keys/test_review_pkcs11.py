"""A token that hangs for hours: what it costs the process that goes on trying."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from outlast.adapters.keys.pkcs11 import Pkcs11Signer
from outlast.core.errors import Unavailable

pytestmark = pytest.mark.anyio


class HangingToken:
    """Stands for module, pool and session: every call blocks until ``resume``."""

    generation = 0

    def __init__(self) -> None:
        self.session = self
        self.signing = False
        self.inside = 0
        self._go_on = threading.Event()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        with self._lock:
            self.inside += 1
        try:
            assert self._go_on.wait(20)
            yield
        finally:
            with self._lock:
                self.inside -= 1

    def take(self) -> HangingToken:
        return self

    def give(self, session: HangingToken) -> None:
        """Nothing to keep."""

    def resume(self) -> None:
        self._go_on.set()


def signer_over(token: Any, sessions: int) -> Pkcs11Signer:
    """A signer that is connected to the token already."""
    signer = Pkcs11Signer(Path("none"), token_label="t", pin=b"1", sessions=sessions)
    signer._module = signer._pool = token
    return signer


async def test_calls_left_behind_in_a_hanging_token_are_bounded(tmp_path: Path) -> None:
    """Each caller gives up in time and leaves its thread behind; beyond a bound nobody goes in any more."""
    token = HangingToken()
    signer = signer_over(token, sessions=4)
    codes = []
    for _ in range(20):
        try:
            async with asyncio.timeout(0.02):
                await signer._run(lambda _: None)
        except TimeoutError:
            codes.append("timeout")
        except Unavailable as error:
            codes.append(error.code)
    assert token.inside <= 8
    assert codes[-1] == "provider-busy"
    token.resume()
    async with asyncio.timeout(10):
        while token.inside:
            await asyncio.sleep(0.01)
    assert await signer._run(lambda _: "back") == "back"
